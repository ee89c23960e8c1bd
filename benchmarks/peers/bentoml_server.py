"""A model inside BentoML: each request runs in a thread."""

import os
from pathlib import Path

import bentoml
from work import Model, read_pixels


@bentoml.service(workers=1, threads=16, http={"port": int(os.environ["PORT"])})
class Classifier:
    """The service: POST /predict with a picture as the form field `file`."""

    def __init__(self) -> None:
        """Load the model."""
        self.model = Model()

    @bentoml.api
    def predict(self, file: Path) -> dict[str, float]:
        """Return a score for each label."""
        return self.model(read_pixels(file.read_bytes()))[0]
