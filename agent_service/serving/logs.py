"""Logging setup: one line per event, as text for people or JSON for machines.

An event's context is in its fields (`extra={"run": ..., "controller": ...}`) as well as in its
message.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum

from agent_service.text import printable

_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """Format of a log line."""

    TEXT = "text"
    """Time, service and message."""
    JSON = "json"
    """An object: time (UTC), level, service, logger, event, the event's fields, traceback."""


def start_logging(service: str, form: LogFormat, **fields: str) -> None:
    """Set up logging to standard error.

    Args:
        service: name of the service, in each line.
        form: format of the lines.
        fields: fields of all events of this process, for example its run.
    """
    about = "".join(f" {name} {value}:" for name, value in fields.items())
    formatter = (
        _Json({"service": service, **fields})
        if form is LogFormat.JSON
        else _Text(f"%(asctime)s {service}{about} %(message)s")
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("agent_service", "trainer_service"):
        logging.getLogger(ours).setLevel(logging.INFO)
    logging.captureWarnings(True)


class _Text(logging.Formatter):
    """One line per event; only tracebacks take more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), kept="\t\n")


class _Json(logging.Formatter):
    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        # Libraries, such as Ray, add attributes of their own, whose names begin so.
        names = (name for name in vars(record) if not name.startswith("_"))
        extra = {name: vars(record)[name] for name in names if name not in _OF_EVERY_RECORD}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._fields,
            **extra,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
