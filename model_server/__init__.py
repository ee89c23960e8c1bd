"""A stand-in for TensorFlow Serving on a machine without Docker: same flags, same API, same words.

`python -m model_server` runs it. `versions` decides which version folders are served, `runtime`
runs one SavedModel, `warmup` replays its warm-up requests, `tensors` turns messages into arrays
and back, `grpc_services` answers calls, `__main__` is the command line.
"""
