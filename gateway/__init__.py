"""The service between the internet and the model: fetches pictures, asks the model, answers."""

# How it introduces itself to servers that it fetches from: the project, and where it is described.
USER_AGENT = "keras-to-kubernetes/1.0 (+https://github.com/DataTalksClub/machine-learning-zoomcamp)"
