"""Training loops of others, for real: each step is told, each action is in the model."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# First, since the libraries import torchvision, which does not load beside every torch.
import trainer_service.training.vision  # noqa: F401
from agent_service.client import AgentClient
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec

CLASSES = 3


def data(count: int) -> TensorDataset:
    torch.manual_seed(0)
    x = torch.randn(count, 4)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, CLASSES))


def pairwise_means(losses: list[float]) -> list[float]:
    """Return the losses of steps that take two passes each."""
    return [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]


def check_log(client: AgentClient, losses: list[float], *, chunks: int) -> None:
    """Check that the log holds the losses of the training in order, and that its run is ended."""
    log = list(client.transitions(run_id="r"))
    told = [loss for t in log for loss in t.next_state]
    assert len(log) == chunks
    assert told == pytest.approx(losses[: 4 * chunks], rel=1e-5)
    assert all(0 < t.scores.validation <= 1 for t in log)
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


def test_lightning(client: AgentClient, tmp_path: Path) -> None:
    """Ten batches, two a step: five optimizer steps, of which four are a chunk."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from lightning.pytorch import LightningModule, Trainer

    from agent_service.client.lightning import ReinforcedRegularization, Validation

    losses: list[float] = []
    rates: list[float] = []

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x)
            return logits

        def training_step(self, batch: Any, index: int) -> dict[str, torch.Tensor]:
            x, labels = batch
            logits = self(x)
            loss = nn.functional.cross_entropy(logits, labels)
            losses.append(loss.item())
            rates.append(self.net.get_submodule("2").p)  # type: ignore[arg-type]
            return {"loss": loss, "logits": logits, "labels": labels}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    client.create_controller(spec())
    module = Module()
    callback = ReinforcedRegularization(
        client, "c", Validation(DataLoader(data(40), 8), batches=3), run_id="r"
    )
    trainer = Trainer(
        max_epochs=1,
        callbacks=[callback],
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(data(80), 8))

    check_log(client, pairwise_means(losses), chunks=1)
    assert len(set(rates[:8])) == 1
    assert rates[8] != rates[0], "the next chunk has the next action"
    assert module.net.get_submodule("2").p == 0.25


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_ignite(client: AgentClient) -> None:
    """Nine steps are two chunks; an exception ends the run as truncated, and is not swallowed."""
    from ignite.engine import Engine

    from agent_service.client.ignite import ReinforcedRegularization, Validation

    client.create_controller(spec())
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    losses: list[float] = []

    def step(_engine: Engine, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, labels = batch
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        return loss, logits, labels

    validation = Validation(DataLoader(data(40), 8), batches=7)
    trainer = Engine(step)
    ReinforcedRegularization(client, "c", model, validation, run_id="r").attach(trainer)
    trainer.run(DataLoader(data(72), 8), max_epochs=1)
    check_log(client, losses, chunks=2)

    broken = Engine(lambda _engine, _batch: 1 / 0)
    ReinforcedRegularization(client, "c", model, validation, run_id="broken").attach(broken)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    with pytest.raises(ZeroDivisionError):
        broken.run([1], max_epochs=1)
    assert client.get_run("broken").outcome == pb.OUTCOME_TRUNCATED
    assert model.get_submodule("2").p == 0.25


def test_transformers(client: AgentClient, tmp_path: Path) -> None:
    """A small BERT with accumulated gradients: its dropout and its attention's follow the agent."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from agent_service.client.transformers import ReinforcedRegularization, Validation

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    config.num_labels = CLASSES
    model = BertForSequenceClassification(config)
    items = [
        {"input_ids": torch.randint(20, (6,)), "labels": torch.tensor(i % CLASSES)}
        for i in range(64)
    ]
    losses: list[float] = []
    rates: list[float] = []

    def keep(_model: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        if model.training:
            losses.append(output.loss.item())
            rates.append(model.get_submodule("dropout").p)  # type: ignore[arg-type]

    model.register_forward_hook(keep, with_kwargs=True)
    client.create_controller(spec())
    loader: Any = DataLoader(items, 8)  # type: ignore[arg-type]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    callback = ReinforcedRegularization(client, "c", Validation(loader, batches=2), run_id="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(model=model, args=arguments, train_dataset=items, callbacks=[callback]).train()

    check_log(client, pairwise_means(losses), chunks=2)
    assert len(set(rates)) == 2, "an action a chunk"
    assert model.get_submodule("dropout").p == 0.1
