"""Run the gateway in production: settings, logs, metrics, health, limits and the worker."""
