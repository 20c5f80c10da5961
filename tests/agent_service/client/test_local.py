"""An agent service of a script's own: the same answers, and nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, delivery
from agent_service.client.local import STOP_SECONDS
from agent_service.domain.errors import AgentError
from tests.agent_service.specs import spec
from tests.end_to_end.processes import is_alive, wait_for

SCRIPT = """
import os, sys
from agent_service.client import AgentClient
from tests.agent_service.specs import spec
agent = AgentClient.local(sys.argv[1])
agent.create_controller(spec())
run = agent.run("c", run_id="r")
run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
print(agent._local._process.pid, flush=True)
sys.stdin.read()
"""


def test_a_script_has_an_agent_of_its_own_and_what_it_learned_stays(tmp_path: Path) -> None:
    """The store outlives it: the next one goes on with the run, and all decisions verify."""
    url = f"sqlite:///{tmp_path}/agent.db"
    for chunk in (1, 2):
        with AgentClient.local(url) as agent:
            agent.create_controller(spec())
            run = agent.run("c", run_id="r")
            assert run.action.chunk_index == chunk
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            pid = agent._local._process.pid  # type: ignore[union-attr]
        assert not is_alive(pid)
    assert verify_store(url) == 3


def test_it_is_gone_with_a_script_that_is_killed(tmp_path: Path) -> None:
    """No process is left, and no guard around the script is needed."""
    command = [sys.executable, "-c", SCRIPT, f"sqlite:///{tmp_path}/agent.db"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        agent = int(script.stdout.readline())
        assert is_alive(agent)
        script.kill()
        wait_for(lambda: not is_alive(agent))


def test_one_that_hangs_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ends of runs have waited for it, its own end does not wait again."""
    monkeypatch.setattr(delivery, "END_SECONDS", 1.0)
    waits = []
    with AgentClient.local(f"sqlite:///{tmp_path}/agent.db") as agent:
        agent.create_controller(spec())
        process = agent._local._process  # type: ignore[union-attr]
        with agent.run("c"):
            process.send_signal(signal.SIGSTOP)

        def wait(seconds: float | None = None) -> int:
            waits.append(seconds)
            return own_wait(None if seconds is None else 0.0)

        own_wait = process.wait
        monkeypatch.setattr(process, "wait", wait)
    assert waits == [pytest.approx(STOP_SECONDS - 1.0), None]


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """In one line, as the command says it."""
    (tmp_path / "agent.db").write_text("no database, but some text that is long enough " * 9)
    with pytest.raises(AgentError, match=r"agent\.db"):
        AgentClient.local(f"sqlite:///{tmp_path}/agent.db")


def test_what_is_missing_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client alone is installed, whatever part of the service is missing."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for module in ("click", "sqlalchemy"):
        (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{module}'] = None")
        with pytest.raises(
            AgentError, match=rf"{module} is not installed; pip install .*\[agent\]"
        ):
            AgentClient.local(f"sqlite:///{tmp_path}/agent.db")
