"""The README's examples run as they stand there."""

import asyncio
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# First, since frameworks import torchvision, which does not load beside every torch.
import trainer_service.training.vision  # noqa: F401
from agent_service.client import AgentClient, ControllerSpec, Hyperparameter
from agent_service.v1 import agent_pb2 as pb
from tests.given import ServedAgent

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
    """The variables that the README's lines expect."""
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
        "optimizer": torch.optim.Adam(network().parameters()),
        "criterion": nn.functional.cross_entropy,
        "validation_loader": batches[:2],
    }


def test_the_examples_of_a_training_script_run(
    served: ServedAgent,
    client: AgentClient,
    names: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each block of the section in order, given a model and batches."""
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

    described, trained = [r for r in client.list_runs() if r.controller == "fer-dropout"]
    assert trained.reported_chunks == 2
    about = described.problem
    assert (about.batch_size, about.classes, about.sites, described.planned_chunks) == (
        256,
        3,
        4,
        20,
    )
    assert names["errors"] == [None]


def test_reports_of_one_event_loop_do_not_wait_for_each_other(client: AgentClient) -> None:
    """By the README's line for asyncio."""
    (line,) = re.findall(r"`await (asyncio\.to_thread\([^`]+\))`", README)
    dropout = Hyperparameter(name="dropout", low=0.0, high=0.5)
    spec = ControllerSpec(name="c", chunk_size=1, hyperparameters=(dropout,))
    runs = [client.run(spec) for _ in range(3)]
    for run in runs:
        run.step(1.0, score=0.5)

    async def report() -> list[Any]:
        names = {"asyncio": asyncio, "score": 0.5}
        return await asyncio.gather(*(eval(line, {**names, "run": run}) for run in runs))

    reports = asyncio.run(report())
    assert reports == [run.hyperparameters for run in runs]
    assert [run.reported_chunks for run in client.list_runs()] == [1, 1, 1]


def lightning_names() -> dict[str, Any]:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x)
            return logits

        def training_step(self, batch: Any, index: int) -> dict[str, torch.Tensor]:
            logits = self(batch[0])
            loss = nn.functional.cross_entropy(logits, batch[1])
            return {"loss": loss, "logits": logits, "labels": batch[1]}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    return {"module": Module(), **loaders()}


def transformers_names() -> dict[str, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    data = [
        {"input_ids": torch.randint(20, (6,)), "labels": torch.tensor(i % 2)} for i in range(64)
    ]
    loader = DataLoader(data, 8)  # type: ignore[arg-type, var-annotated]
    model = BertForSequenceClassification(config)
    return {"model": model, "dataset": data, "validation_loader": loader}


def ignite_names() -> dict[str, Any]:
    from ignite.engine import Engine

    model = network()
    optimizer = torch.optim.Adam(model.parameters())

    def step(_engine: Engine, batch: Any) -> tuple[torch.Tensor, ...]:
        logits = model(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss, logits, batch[1]

    return {"model": model, "engine": Engine(step), **loaders()}


def numpy_names() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8, 5))
    y = x[..., 0] > 0
    return {
        "np": np,
        "rng": rng,
        "batches": zip(x, y, strict=True),
        "weights": np.zeros(5),
        "validation_x": x[0],
        "validation_y": y[0],
    }


def loaders() -> dict[str, Any]:
    data = TensorDataset(torch.randn(24, 6), torch.randint(3, (24,)))
    return {"loader": DataLoader(data, 4), "validation_loader": DataLoader(data, 8)}


FRAMEWORKS = {
    "lightning": lightning_names,
    "transformers": transformers_names,
    "ignite": ignite_names,
    "np.": numpy_names,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_example_of_each_framework_runs(
    client: AgentClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    """Unchanged, to its end: its run has reported, and is terminated."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    dropout = Hyperparameter(name="dropout", low=0.0, high=0.5)
    client.create_controller(ControllerSpec(name="fer-dropout", hyperparameters=(dropout,)))
    blocks = list(examples("With a framework, or with none"))
    (block,) = [block for block in blocks if framework in block]
    assert len(blocks) == len(FRAMEWORKS)
    exec(compile(block, block, "exec"), {"agent": client, **FRAMEWORKS[framework]()})

    (run,) = client.list_runs()
    assert run.reported_chunks >= 1
    assert run.outcome == pb.OUTCOME_TERMINATED
