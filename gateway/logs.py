"""Logs that programs can read: one JSON object a line, with the id of the request it belongs to.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from typing import Any

SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the request at hand


def choose_id(proposed: str | None) -> str:
    """The id that came with a request, where it is a sane one; else a new one."""
    return proposed if proposed and SANE_ID.fullmatch(proposed) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what a call gave as `extra={"fields": {…}}` is part of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, message, and whatever else there is."""
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
    """For logging.config.dictConfig: all that is logged goes to stderr, gunicorn's lines too."""
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
        "loggers": {"gunicorn.error": {"propagate": True}},  # gunicorn says no itself
    }
