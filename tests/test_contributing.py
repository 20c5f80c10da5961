"""CONTRIBUTING names all that something new needs: each of its files is run."""

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.controllers.registry import KINDS
from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import REWARDS, Definition
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec
from agent_service.rules.catalog import Catalog
from agent_service.store.rows.rows import spec_from_text, spec_to_text
from agent_service.wire.convert import spec_from_message
from tests.agent_service.specs import spec
from tests.given import ServedAgent, ServedTrainer
from tests.trainer_service.specs import CHILD
from tests.trainer_service.study.simulated import draw_nothing
from trainer_service.cli.main import cli
from trainer_service.rpc import convert
from trainer_service.runs.run import RunSpec
from trainer_service.study.command import run_study
from trainer_service.study.methods.plan import Phase
from trainer_service.study.methods.registry import KINDS as STUDY_KINDS
from trainer_service.study.methods.searches import Searched
from trainer_service.study.report.flags import departs
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.spec import StudySpec
from trainer_service.study.study_file import parse_study, read_study
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import catalog, load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.regularizers.registry import REGULARIZERS
from trainer_service.training.spec import TrainingSpec, hyperparameters
from trainer_service.training.stacked import StackedTraining

TEXT = (Path(__file__).parent.parent / ".github" / "CONTRIBUTING.md").read_text()
MOST_LINES = 10


def blocks(heading: str) -> list[str]:
    """Return the indented blocks of a section: a new file, and its line in the registry."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n|^\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


@pytest.fixture
def new_file(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The new file of a section, as a module; the section is the parameter."""
    code, _line = blocks(request.param)
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    module = ModuleType("new_file")
    sys.modules["new_file"] = module
    exec(compile(code, "new_file", "exec"), module.__dict__)
    yield module
    del sys.modules["new_file"]


@pytest.mark.parametrize("new_file", ["Add a controller"], indirect=True)
def test_a_new_controller_is_a_file_and_a_line(
    new_file: ModuleType, served: ServedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decides for a client, is stored, listed and verified, before the contract knows it."""
    line = blocks("Add a controller")[1]
    ((kind, settings),) = eval(f"{{{line}}}", vars(new_file)).items()
    monkeypatch.setitem(KINDS, kind, settings)
    made = spec("new", settings(rate=0.25))

    values, _rewards = trained(served, made)

    assert values == [pytest.approx(0.9 * 0.25**chunk) for chunk in (1, 2, 3)]
    assert spec_from_text(spec_to_text(made)) == made


def test_a_new_reward_is_a_line(served: ServedAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is computed, stored and verified, before the contract knows it."""
    (line,) = blocks("Add a reward")
    name, worst, formula = eval(line.partition(" = ")[2])
    monkeypatch.setitem(REWARDS, name, Definition(worst=worst, formula=formula))
    made = replace(spec("new"), reward=name)

    _values, rewards = trained(served, made)

    assert rewards == [0.25, 0.5, 0.5]
    assert made.reward_of_divergence == worst


def trained(served: ServedAgent, made: ControllerSpec) -> tuple[list[float], list[float]]:
    """Return the values and the rewards of a run, whose controller no client can create."""
    Catalog(served.store).create_controller(made, Mode.LEARNING).result()
    with AgentClient(served.address) as client:
        with pytest.raises(InvalidArgument, match="not in the contract"):
            client.create_controller(replace(made, name="other"))
        (found,) = client.list_controllers()
        with pytest.raises(InvalidArgument, match=r"is not set|is not one of"):
            spec_from_message(found.spec)
        with client.run("new", run_id="r") as run:
            for validation in (0.25, 0.5, 0.75):
                run.report_chunk([1.0] * 4, training_score=0.5, validation_score=validation)
        log = list(client.transitions())
    counted = {"controller": "new", "use": "recorded"}
    seen = served.registry.get_sample_value("agent_transitions_total", counted)
    assert seen is not None
    assert verify_store(served.url) == 4
    return [t.action.values["dropout"] for t in log], [t.reward for t in log]


@pytest.mark.parametrize("new_file", ["Add a regularizer"], indirect=True)
def test_a_new_regularizer_is_a_file_and_a_line(
    new_file: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains under fixed and decided values, alone and stacked, and goes over the wire."""
    line = blocks("Add a regularizer")[1].rstrip(",")
    made = eval(line, vars(new_file))
    monkeypatch.setitem(REGULARIZERS, made.name, made)
    fixed = replace(CHILD, method="smoothing", values={"smoothing": 0.5})
    steered = replace(CHILD, method="reinforced-smoothing")

    assert hyperparameters(steered) == (Hyperparameter("smoothing", low=0.0, high=0.9),)
    for training, controller in ((fixed, ""), (steered, "c")):
        run = RunSpec(training=training, controller=controller)
        assert convert.spec_from_message(convert.spec_to_message(run)) == run
    plain, half = first_chunk(CHILD, {}), first_chunk(fixed, {"smoothing": 0.5})
    assert first_chunk(steered, {"smoothing": 0.0}).losses == plain.losses
    assert half.values == {"smoothing": 0.5}
    assert half.losses[0] != pytest.approx(plain.losses[0], rel=0.01)


@pytest.mark.parametrize("new_file", ["Add a data set"], indirect=True)
def test_a_new_data_set_is_a_file_and_a_line(
    new_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed and checked, its absence is an error, and a child trains on it."""
    here = catalog.__name__.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, f"{here}.stripes", new_file)
    line = blocks("Add a data set")[1]
    for name, place in eval(f"{{{line}}}", {"_HERE": here}).items():
        monkeypatch.setitem(catalog.DATASETS, name, place)
    run = CliRunner()
    check = ["datasets", "check", "stripes", "--data", str(tmp_path)]

    assert "Stripes, 8x8" in run.invoke(cli, ["datasets"]).output
    with pytest.raises(AgentError, match="Get it: ask us"):
        run.invoke(cli, check, catch_exceptions=False)
    (tmp_path / "stripes").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (80, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "stripes" / "stripes.npz", images=images, labels=np.arange(80) % 2)
    shown = run.invoke(cli, check)
    assert "test: 16 drawn from training" in shown.output, shown.output
    training = replace(CHILD, dataset="stripes", training_size=None)
    child = ChildTraining(training, load_images(training, tmp_path), torch.device("cpu"))
    assert len(child.train_chunk({}).losses) == training.chunk_size
    assert child.inputs.class_names == ("left", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Searched):
    """A search over two constants, one child each."""

    kind: Literal["tried"] = "tried"

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        return [(0.1, 0), (0.4, 1)]

    def tuned_children(self, study: StudySpec) -> int:
        return 2

    def children_before(self, study: StudySpec, tuned: int) -> str:
        return "both of them"


STUDY = """
seeds = 2
budget = 4
references = ["gentle"]
[training]
model = "resnet18"
width = 0.0625
training_size = 64
batch_size = 16
chunk_size = 4
chunks = 2
[[methods]]
name = "gentle"
kind = "gentle"
[[methods]]
name = "tried"
kind = "tried"
"""


@pytest.mark.parametrize("new_file", ["Add a kind of method to studies"], indirect=True)
def test_a_new_kind_of_method_is_a_file_and_a_line(
    new_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study of it is read, trained and reported, and written as the same study."""
    draw_nothing(monkeypatch)
    line = blocks("Add a kind of method to studies")[1]
    for word, kind in {**eval(f"{{{line}}}", vars(new_file)), "tried": Tried}.items():
        monkeypatch.setitem(STUDY_KINDS, word, kind)
    study, output = parse_study(STUDY, "study"), tmp_path / "results"

    with ServedTrainer(tmp_path) as trainer:
        run_study(study, output, agent="127.0.0.1:9", trainers=[trainer.address])

    plan = ResultsFolder(output).plan()
    assert plan.spec == study
    assert not [result.key for result in plan.results if departs(result, plan)]
    values = [r.spec.training.values["dropout"] for r in plan.finished("gentle", Phase.JUDGED)]
    assert values == [0.1, 0.1]
    tuned = plan.finished("tried", Phase.TUNING)
    assert [r.spec.training.values["dropout"] for r in tuned] == [0.1, 0.4]
    text = (output / "report.md").read_text()
    assert "| tried | 2 | " in text
    assert "| both of them | dropout 0." in text
    assert read_study(str(output / "report.toml")) == study


def first_chunk(training: TrainingSpec, values: dict[str, float]) -> Chunk:
    """Return the first chunk of a training, which is the same beside another one."""
    images = load_images(training, Path())
    child, twin, other = (
        ChildTraining(replace(training, seed=seed), images, torch.device("cpu"))
        for seed in (0, 0, 1)
    )
    chunk = child.train_chunk(values)
    beside, _other = StackedTraining([twin, other]).train_chunk([values, values])
    assert isinstance(beside, Chunk)
    assert beside.losses == pytest.approx(chunk.losses, rel=2e-3)
    return chunk
