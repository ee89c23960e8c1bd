"""Running one version of a model.

`servable` answers requests by a model's signatures; an engine runs the graph for it:
`tensorflow_engine` a SavedModel, `tflite_engine` a TensorFlow Lite model. `batching` lets requests
run together, `inference` makes tf.Examples inputs, `tensors` turns messages into arrays and back,
`warmup` replays the requests that come with a version.
"""
