"""The README's examples run as they stand there."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agent_service.client import (
    AgentClient,
    ControllerSpec,
    Dropout,
    FleetReport,
    GaussianNoise,
    Hyperparameter,
    Schedule,
    Scores,
)
from tests.conftest import ServedAgent

README = (Path(__file__).parent.parent / "README.md").read_text()


def examples(heading: str) -> Iterator[str]:
    """Yield the indented blocks of a section."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for block in re.findall(r"(?:^    .*\n|^\n)+", section, re.MULTILINE):
        if block.strip():
            yield textwrap.dedent(block).strip()


def network() -> nn.Module:
    model = nn.Sequential()
    for number, width in enumerate((6, 8, 8, 8), start=1):
        model.add_module(f"layer{number}", nn.Sequential(nn.Linear(width, 8), nn.Dropout(0.1)))
    model.add_module("head", nn.Linear(8, 3))
    return model


@pytest.fixture
def names(client: AgentClient) -> dict[str, Any]:
    """What a script has when it comes to the README's lines."""
    torch.manual_seed(0)
    batches = [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(40)]
    for name, driven in (
        ("one", ("rate",)),
        ("two", ("rate", "noise")),
        ("early-late", ("rate-early", "rate-late")),
    ):
        ranges = tuple(Hyperparameter(name=h, low=0.0, high=0.5) for h in driven)
        client.create_controller(ControllerSpec(name=name, hyperparameters=ranges))
    return {
        "agent": client,
        "model": network(),
        "loader": batches,
        "criterion": nn.functional.cross_entropy,
        "validation_loader": batches[:2],
        "Dropout": Dropout,
        "GaussianNoise": GaussianNoise,
        "Schedule": Schedule,
        "FleetReport": FleetReport,
        "Scores": Scores,
    }


def test_the_examples_of_a_training_script_run(
    served: ServedAgent,
    client: AgentClient,
    names: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each block of the section, in order, as a script that has a model and its batches."""
    monkeypatch.chdir(tmp_path)
    losses = [1.0] * 20
    with client.run("one", run_id="run-1") as run:
        run.report_chunk(losses, training_score=0.5, validation_score=0.5)
    names |= {"run": client.run("two"), "losses": losses}
    blocks = list(examples("Your own training script"))
    assert len(blocks) >= 4
    for block in blocks:
        code = block.replace("localhost:50051", served.address).replace(
            "Scores(...), ...", "Scores(training=0.5, validation=0.5))"
        )
        code = code.replace("Scores(...)", "Scores(training=0.5, validation=0.5)").replace(
            ", ...]", "]"
        )
        names |= {"agent": client, "model": network()}
        exec(compile(code, block, "exec"), names)

    (trained,) = [r for r in client.list_runs() if r.controller == "fer-dropout"]
    assert trained.reported_chunks == 2
    assert names["errors"] == [None]
