"""A run's schedule, saved and replayed without an agent."""

from pathlib import Path

import pytest
from torch import nn

from agent_service.client import AgentClient, Mode, PPOSettings, Run, Schedule
from agent_service.domain.errors import InvalidArgument, NotFound
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent


def train(run: Run, chunks: int) -> list[dict[str, float]]:
    values = []
    for chunk in range(1, chunks + 1):
        values.append(run.hyperparameters)
        run.report_chunk([1.0 / chunk] * 4, training_score=0.5, validation_score=0.5)
    return values


def test_a_saved_schedule_repeats_a_policys_values_to_the_bit(
    client: AgentClient, served: ServedAgent, tmp_path: Path
) -> None:
    """Those of a policy that has learned; after its end, its last values."""
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,))
    client.create_controller(spec("small", algorithm=small))
    with client.run("small") as run:
        train(run, 5)
    assert learn_once(served.store)
    client.set_mode("small", Mode.FROZEN)
    with client.run("small", run_id="r") as run:
        assert run.action.policy_version == 2
        decided = train(run, 5)

    for name in ("schedule.json", "schedule.csv"):
        client.schedule("r").save(tmp_path / name)
        with Schedule.load(tmp_path / name).run() as run:
            assert train(run, 7) == [*decided, decided[-1], decided[-1]]


def test_a_schedule_drives_a_model() -> None:
    """Until the run's end, as an agent does."""
    schedule = Schedule(chunk_size=2, values=({"dropout": 0.0}, {"dropout": 0.25}))
    dropout = nn.Dropout(0.9)
    with schedule.run(model=nn.Sequential(dropout)) as run:
        assert dropout.p == 0.0
        run.step(1.0, score=0.5)
        run.step(1.0, score=0.5)
        run.report(0.5)
        assert dropout.p == 0.25
    assert dropout.p == 0.9


NOT_ONE = "is not a schedule; give a file of `Schedule.save`"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", "[", NOT_ONE),
        ("s.json", "[" * 100_000, NOT_ONE),
        ("s.json", '{"format": 2, "chunk_size": 20, "values": []}', "format 2, but this release"),
        ("s.json", '{"format": 1, "chunk_size": 20, "values": []}', "at least one chunk"),
        ("s.json", '{"format": 1, "chunk_size": 0, "values": [{"p": 1}]}', "chunk_size: 0"),
        ("s.json", '{"format": 1, "chunk_size": 1, "values": [{"p": NaN}]}', "not finite"),
        ("s.json", '{"format": 1, "chunk_size": 1, "values": [{"p": 1}, {}]}', r"values\[2\]"),
        ("s.json", '{"format": 1, "chunk_size": 1, "values": [1]}', NOT_ONE),
        ("s.json", '{"format": 1, "chunk_size": Infinity, "values": []}', NOT_ONE),
        ("s.CSV", "chunk,steps,p\n1,20,0.5\n3,20,0.5\n", "must count from 1"),
        ("s.csv", "chunk,steps,p\n1,20,0.5\n2,10,0.5\n", NOT_ONE),
        ("s.csv", "chunk,steps,p\n1,20,half\n", "half"),
        ("s.csv", "chunk,p\n1,0.5\n", "steps"),
        ("s.csv", "chunk,steps,p\n1,20\n", "one hyperparameter"),
        ("s.csv", "chunk,steps,p\n1,20,0.5,7\n", "line 2: has 4 columns, not 3"),
        ("s.csv", "chunk,steps,größe\n", "is not in UTF-8 .*save it as UTF-8"),
        ("s.json", '["größe"]', "is not in UTF-8 .*save it as UTF-8"),
    ],
)
def test_an_invalid_file_is_named_with_its_fault(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match=rf"^{path}[:,].*{message}"):
        Schedule.load(path)


@pytest.mark.parametrize("name", ["nope.csv", "nope.json", "."])
def test_a_file_that_cannot_be_read_is_named_with_the_fix(tmp_path: Path, name: str) -> None:
    message = rf"^{tmp_path / name}: cannot be read: [\w ]+; give a file of `Schedule.save`$"
    with pytest.raises(InvalidArgument, match=message):
        Schedule.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nodir/x.csv", "cannot be written: .*; create the folder .*nodir first"),
        ("nodir/x.json", "cannot be written: .*; create the folder .*nodir first"),
        ("x.txt", "has no known suffix; name it .json or .csv"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_with_the_fix(
    tmp_path: Path, name: str, message: str
) -> None:
    schedule = Schedule(chunk_size=2, values=({"dropout": 0.25},))
    with pytest.raises(InvalidArgument, match=rf"^{tmp_path / name}: {message}$"):
        schedule.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_chunks_has_no_schedule(client: AgentClient) -> None:
    """Nor has an unknown run."""
    with pytest.raises(NotFound):
        client.schedule("nobody")
    client.run("c", run_id="r")
    with pytest.raises(InvalidArgument, match="at least one chunk"):
        client.schedule("r")
