"""A gateway as a course writes it: Flask, TensorFlow's own tensors, and a stub for the model."""

import os

import grpc
import tensorflow as tf
from flask import Flask, jsonify, request
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from work import read_pixels

channel = grpc.insecure_channel(os.environ["MODEL_ADDRESS"])
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
app = Flask("course")


@app.post("/predict")
def predict():
    """Return a score for each label."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name = os.environ["MODEL_NAME"]
    message.model_spec.signature_name = "serving_default"
    pixels = read_pixels(request.files["file"].read())
    message.inputs[os.environ["INPUT"]].CopyFrom(tf.make_tensor_proto(pixels))
    [scores] = stub.Predict(message, timeout=20.0).outputs.values()
    return jsonify({str(i): score for i, score in enumerate(scores.float_val)})
