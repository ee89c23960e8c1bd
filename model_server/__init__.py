"""A stand-in for TensorFlow Serving on a machine without Docker: same flags, same API, same words.

`python -m model_server` runs it. `config` reads configuration files, `versions` decides which
version folders are served, `runtime` runs one SavedModel, `batching` groups requests for it,
`inference` makes tf.Examples its inputs, `warmup` replays its warm-up requests, `tensors` turns
messages into arrays and back, `monitoring` counts. `calls` is what can be asked for: over gRPC
(`grpc_services`, `profiler`) and over HTTP (`rest`, with JSON read by `rest_requests` and written
by `rest_responses`). `__main__` is the command line.
"""
