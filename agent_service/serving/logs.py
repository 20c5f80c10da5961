"""How our processes log: one line an event, for people or, as JSON, for machines.

What an event is about stands in its fields (`extra={"run": ..., "controller": ...}`) as well as in
its words. The standard library's formatter does all but a few lines of it.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum

from agent_service.text import printable

_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    """Time, service and words."""
    JSON = "json"
    """An object: time (UTC), level, service, logger, event, the event's fields, and its error."""


def start_logging(service: str, form: LogFormat, **fields: str) -> None:
    """Log to standard error from now on.

    Args:
        service: who speaks, in each line.
        form: of the lines.
        fields: of all events of this process, as its run.
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
    """One line an event; only the trace of an error takes more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), kept="\t\n")


class _Json(logging.Formatter):
    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        extra = {k: v for k, v in vars(record).items() if k not in _OF_EVERY_RECORD}
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
