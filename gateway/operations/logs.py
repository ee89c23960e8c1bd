"""Write logs that programs can read: one JSON object a line, with the id of its request."""

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from typing import Any

SAFE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the current request


def choose_id(proposed: str | None) -> str:
    """Return the id that came with a request if it is safe to log, else a new one."""
    return proposed if proposed and SAFE_ID.fullmatch(proposed) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Format a record as one line of JSON, with what the call gave as `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message, and the other fields."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configuration(level: str) -> dict[str, Any]:
    """Return the dictConfig that sends all logs to stderr, gunicorn's too."""
    style = "plain" if sys.stderr.isatty() else "json"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": JsonFormatter},
            "plain": {"format": "%(asctime)s %(levelname)-7s %(message)s"},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": style}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {"gunicorn.error": {"propagate": True}},  # gunicorn switches it off
    }
