"""How the server logs: lines for people, or JSON for programs; both know the request."""

from __future__ import annotations

import logging
from typing import Any, Literal

from genrec_serving.surfaces.request_context import CONTEXT

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_JSON = "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s"


class RequestIdFilter(logging.Filter):
    """Adds the id of the request that is being worked on, None outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for every line."""
        context = CONTEXT.get()
        record.request_id = None if context is None else context.request_id
        return True


def logging_config(log_format: LogFormat) -> dict[str, Any]:
    """For `logging.config.dictConfig`."""
    formatters: dict[LogFormat, dict[str, Any]] = {
        "text": {"format": _TEXT},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": _JSON,
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": RequestIdFilter}},
        "formatters": {"chosen": formatters[log_format]},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "chosen",
                "filters": ["request"],
            },
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "genrec_serving": {"level": "INFO"},
            # A handler of its own keeps KServe from setting up its logging over this one.
            "kserve": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }
