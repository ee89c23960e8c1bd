"""Count and log every request, under an id that goes back with the answer."""

import logging
import time

from flask import Flask, Response, g, request

from gateway.operations.cancellation import CancelledWork
from gateway.operations.logs import choose_id, request_id
from gateway.operations.metrics import Metrics

log = logging.getLogger("gateway.requests")


class RequestLog:
    """Give each request of an app an id; count and log how it ended."""

    def __init__(self, app: Flask, metrics: Metrics) -> None:
        """Add the log to `app`; other hooks come after it."""
        self._metrics, self._cancelled = metrics, CancelledWork(metrics)
        self._paths = {rule.rule for rule in app.url_map.iter_rules() if not rule.arguments}
        app.before_request(self._begin)
        app.after_request(self._log_at_the_end)

    def _begin(self) -> None:
        g.begun = time.monotonic()
        g.request_id = choose_id(request.headers.get("X-Request-ID"))
        request_id.set(g.request_id)

    def _log_at_the_end(self, response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        environ, begun = request.environ, g.begun
        response.direct_passthrough = False  # a file passed through is never closed
        response.call_on_close(lambda: self._finish(environ, response.status_code, begun))
        return response

    def _finish(self, environ: dict, status: int, begun: float) -> None:
        seconds, path = time.monotonic() - begun, environ.get("PATH_INFO", "")
        stages = environ.get("gateway.stages", {})
        label = path if path in self._paths else "other"
        self._metrics.requests.labels(label, status).inc()
        self._metrics.request_seconds.labels(label).observe(seconds)
        for stage, took in stages.items():
            self._metrics.stage_seconds.labels(stage).observe(took)
        fields = {
            "method": environ["REQUEST_METHOD"],
            "path": path[:200],
            "status": status,
            "seconds": round(seconds, 4),
            "stages": {stage: round(took, 4) for stage, took in stages.items()},
            "caller": environ.get("REMOTE_ADDR"),
        }
        reason = environ.get("gateway.reason", "")
        self._cancelled.count(stages, reason)
        if reason:
            self._metrics.rejected.labels(reason).inc()
            fields["reason"] = reason
        log.info("%(method)s %(path)s %(status)s", fields, extra={"fields": fields})
        request_id.set("")
