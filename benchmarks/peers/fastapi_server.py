"""A model inside FastAPI: each request runs in a thread."""

import os
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File
from work import Model, read_pixels

app, model = FastAPI(), Model()


@app.post("/predict")
def predict(file: Annotated[bytes, File()]) -> dict[str, float]:
    """Return a score for each label."""
    return model(read_pixels(file))[0]


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
