"""A schedule taken home: the same values without an agent."""

from pathlib import Path

import pytest
from torch import nn

from agent_service.client import AgentClient, Mode, PPOSettings, Run, Schedule
from agent_service.domain.errors import InvalidArgument, NotFound
from agent_service.learning.learner import learn_once
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent


def train(run: Run, chunks: int) -> list[dict[str, float]]:
    values = []
    for chunk in range(1, chunks + 1):
        values.append(run.hyperparameters)
        run.report_chunk([1.0 / chunk] * 4, training_score=0.5, validation_score=0.5)
    return values


@pytest.mark.parametrize("name", ["schedule.json", "schedule.csv"])
def test_a_policys_schedule_is_followed_at_home_to_the_bit(
    client: AgentClient, served: ServedAgent, tmp_path: Path, name: str
) -> None:
    """What a policy decided that had learned, and then its last values, without an agent."""
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,))
    client.create_controller(spec(algorithm=small))
    with client.run("c") as run:
        train(run, 5)
    assert learn_once(served.store)
    client.set_mode("c", Mode.FROZEN)
    with client.run("c", run_id="r") as run:
        assert run.action.policy_version == 2
        decided = train(run, 5)
    client.schedule("r").save(tmp_path / name)
    with Schedule.load(tmp_path / name).run() as run:
        followed = train(run, 7)

    assert followed[:5] == decided
    assert followed[5:] == [decided[-1]] * 2


def test_a_schedule_drives_a_model() -> None:
    """As an agent's run does, until its end."""
    schedule = Schedule(chunk_size=2, values=({"dropout": 0.0}, {"dropout": 0.25}))
    dropout = nn.Dropout(0.9)
    with schedule.run(model=nn.Sequential(dropout)) as run:
        assert dropout.p == 0.0
        run.step(1.0, score=0.5)
        run.step(1.0, score=0.5)
        run.report(0.5)
        assert dropout.p == 0.25
    assert dropout.p == 0.9


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", "[", "is no schedule"),
        ("s.json", '{"format": 2, "chunk_size": 20, "values": []}', "format 2, this release"),
        ("s.json", '{"format": 1, "chunk_size": 20, "values": []}', "at least one chunk"),
        ("s.json", '{"format": 1, "chunk_size": 0, "values": [{"p": 1}]}', "chunk_size: 0"),
        ("s.json", '{"format": 1, "chunk_size": 1, "values": [{"p": NaN}]}', "not finite"),
        (
            "s.json",
            '{"format": 1, "chunk_size": 1, "values": [{"p": 1}, {"q": 1}]}',
            r"values\[2\]",
        ),
        ("s.csv", "chunk,steps,p\n1,20,0.5\n3,20,0.5\n", "must count from 1"),
        ("s.csv", "chunk,steps,p\n1,20,0.5\n2,10,0.5\n", "is no schedule"),
        ("s.csv", "chunk,steps,p\n1,20,half\n", "half"),
        ("s.csv", "chunk,p\n1,0.5\n", "steps"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    """And which file it is."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=message) as told:
        Schedule.load(path)
    assert name in str(told.value)


def test_a_run_that_is_not_there_has_no_schedule(client: AgentClient) -> None:
    """Nor has one that has reported nothing."""
    client.create_controller(spec())
    with pytest.raises(NotFound):
        client.schedule("nobody")
    client.run("c", run_id="r")
    with pytest.raises(InvalidArgument, match="at least one chunk"):
        client.schedule("r")
