"""The filled store of the benchmarks is one that the service could have written."""

from pathlib import Path

from agent_service.app import verify_store
from agent_service.client import AgentClient, ControllerSpec, Hyperparameter
from tests.benchmarks.filled_store import decide_template, fill
from tests.given import ServedAgent


def test_each_copy_verifies_and_the_store_goes_on(tmp_path: Path) -> None:
    """Every row is read with its checksum and derived again, and a new run is decided after it."""
    path = tmp_path / "agent.db"
    dropout = Hyperparameter(name="dropout", low=0.0, high=0.9)
    with ServedAgent(path) as agent:
        with AgentClient(agent.address) as client:
            client.create_controller(
                ControllerSpec(name="c", hyperparameters=(dropout,), chunk_size=20)
            )
        decide_template(agent.address, "c", chunks=9)
    assert fill(path, rows=300, told=lambda _count: None) == 300

    assert verify_store(f"sqlite:///{path}") == 300
    with ServedAgent(path) as agent, AgentClient(agent.address) as client:
        with client.run("c") as run:
            run.report_chunk([1.0] * 20, training_score=0.5, validation_score=0.5)
        assert sum(1 for _ in client.transitions(run_id="copy-30")) == 9
        assert [t.position for t in client.transitions(run_id=run.run_id)] == [302]
