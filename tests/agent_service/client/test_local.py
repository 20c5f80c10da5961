"""A script's own agent service: it works as a shared one, and leaves no process behind."""

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
import sys
from agent_service.client import AgentClient
agent = AgentClient.local(sys.argv[1])
print(agent._local._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/agent.db"


def test_a_local_agents_store_outlives_it(url: str) -> None:
    """The next one continues the run, and all decisions verify."""
    for chunk in (1, 2):
        with AgentClient.local(url) as agent:
            agent.create_controller(spec())
            run = agent.run("c", run_id="r")
            assert run.action.chunk_index == chunk
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            pid = agent._local._process.pid  # type: ignore[union-attr]
        assert not is_alive(pid)
    assert verify_store(url) == 3


def test_a_local_agent_ends_with_a_script_that_is_killed(url: str) -> None:
    """The script needs no `__main__` guard."""
    command = [sys.executable, "-c", SCRIPT, url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        agent = int(script.stdout.readline())
        assert is_alive(agent)
        script.kill()
        wait_for(lambda: not is_alive(agent))


def test_a_local_agent_that_hangs_is_waited_for_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that ends of runs waited counts towards the time to its kill."""
    monkeypatch.setattr(delivery, "END_SECONDS", 1.0)
    waits = []
    with AgentClient.local(url) as agent:
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


def test_the_cause_of_a_failed_start_is_named(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any missing part of the extra, or a store that cannot be opened."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for module in ("click", "sqlalchemy"):
        (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{module}'] = None")
        with pytest.raises(
            AgentError, match=rf"{module} is not installed; pip install .*\[agent\]"
        ):
            AgentClient.local(url)
    (tmp_path / "sitecustomize.py").unlink()
    (tmp_path / "agent.db").write_text("no database, but some text that is long enough " * 9)
    with pytest.raises(AgentError, match=r"agent\.db"):
        AgentClient.local(url)
