"""A model inside LitServe, in batches."""

import os

import litserve
import numpy as np
from work import BATCH, Model, read_pixels


class Classifier(litserve.LitAPI):
    """The steps of a request, as LitServe calls them."""

    def setup(self, device):
        """Load the model."""
        self.model = Model()

    def decode_request(self, request):
        """Return the pixels of the picture."""
        return read_pixels(request["file"].file.read())

    def batch(self, inputs):
        """Join the pixels of several requests."""
        return np.concatenate(inputs)

    def predict(self, x):
        """Return the scores of each picture."""
        return self.model(x)

    def unbatch(self, output):
        """Return the scores by request."""
        return output

    def encode_response(self, output):
        """Return the answer."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=0.002, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
