"""A stand-in for TensorFlow Serving on a machine without Docker: the same flags and the same API.

Read in this order: `__main__` reads the `flags`, and `server` starts with them and the files that
they name (`config`). A `repository` holds the models, `versions` the versions of one model. A
`servable` is one loaded version: it checks a request against the signature, and runs it in an
engine (`engines`), alone or in a batch (`batching`), with as many threads as suit it (`tuning`).
Callers reach it over gRPC (`grpc_services`) and over HTTP (`rest`). `monitoring` counts the
requests.
"""
