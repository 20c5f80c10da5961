"""How far a report goes through the server: few calls, few files."""

import threading
from pathlib import Path
from types import FrameType

import agent_service
from agent_service.client import AgentClient
from agent_service.domain.store import Durability
from tests.agent_service.specs import spec
from tests.given import ServedAgent

ROOT = f"{Path(agent_service.__file__).parent}/"
MOST_CALLS, MOST_FILES = 69, 28


def test_a_report_passes_few_functions_and_files(tmp_path: Path) -> None:
    """From the message to the answer, of one caller; comprehensions are no calls."""
    called: list[str] = []
    counts = threading.Event()

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and counts.is_set() and code.co_filename.startswith(ROOT):
            name = code.co_filename.removeprefix(ROOT)
            if not code.co_name.startswith("<") and not name.startswith("client/"):
                called.append(name)

    threading.setprofile(profile)
    try:
        with (
            ServedAgent(tmp_path / "agent.db", durability=Durability.PROCESS) as served,
            AgentClient(served.address) as client,
        ):
            client.create_controller(spec())
            run = client.run("c", run_id="r")
            for _ in range(3):
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            counts.set()
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            counts.clear()
    finally:
        threading.setprofile(None)

    assert 40 < len(called) <= MOST_CALLS
    assert 15 <= len(set(called)) <= MOST_FILES
