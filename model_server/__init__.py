"""A stand-in for TensorFlow Serving on a machine without Docker: same flags, same API, same words.

`python -m model_server` runs it: `__main__`, with the command line's `flags` and the files they
name read by `config`. A `repository` holds the models that are served, `versions` the versions of
one of them, and `runtime` runs a version. `calls` is what can be asked for: over gRPC
(`grpc_services`, `profiler`) and over HTTP (`rest`). `monitoring` counts, `errors` are what can go
wrong.
"""
