"""Lines of the log: one an event, whatever is in it, and JSON that carries its fields."""

import json
import logging
import warnings

import pytest

from agent_service.serving.logs import LogFormat, start_logging

log = logging.getLogger("agent_service.test")


def test_an_event_is_a_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With the fields of the process and of the event, and the error; none that a library adds."""
    start_logging("trainer", LogFormat.JSON, run="r")
    fields = {"controller": "c", "state": "queued", "_of_a_library": 1}
    log.info("run %s:\n%s", "r", "queued", extra=fields)
    try:
        raise ValueError("torn")
    except ValueError:
        log.exception("failed")

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "agent_service.test",
        "event": "run r:\nqueued",
        "service": "trainer",
        "run": "r",
        "controller": "c",
        "state": "queued",
    }
    assert (second["level"], second["error"].splitlines()[-1]) == ("error", "ValueError: torn")


def test_an_event_is_a_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody writes lines of his own by a name with line ends in it."""
    start_logging("trainer", LogFormat.TEXT, run="r")
    log.info("a name: %s", "x\n2026-01-01 trainer all is well\r")

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"trainer run r: a name: x\n2026-01-01 trainer all is well\r")


def test_others_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The libraries' warnings are logged, their other messages are not."""
    start_logging("agent", LogFormat.TEXT)
    logging.getLogger("alembic").info("plugin")
    logging.getLogger("alembic").warning("odd")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)

    told = capsys.readouterr().err
    assert "plugin" not in told
    assert "agent odd" in told
    assert "old" in told
