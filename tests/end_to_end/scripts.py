"""Trainings in the shapes that public scripts have, each with a client or without one.

A script trains 16 optimizer steps, four chunks of four, and returns its model. `watch` is called
before each step: there an agent may be killed, and started again.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F  # noqa: N812  # as all scripts call it
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agent_service.client import AgentClient, ControllerSpec, Hyperparameter, Run
from agent_service.client.model import Validation
from agent_service.controllers.constant import ConstantSettings
from agent_service.domain.rewards import Reward

RATE = 0.25
"""The models' own, and the controller's: steered or not, the rates are the same."""
STEPS, CHUNK = 16, 4
KILLED, BACK = 6, 11
"""Steps before which the agent dies and is started again: a report in between is held."""
Watch = Callable[[int], None]
Script = Callable[[AgentClient | None, Watch], nn.Module]
Batch = tuple[Tensor, Tensor]


def controller(name: str = "c", reward: Reward = Reward.VALIDATION) -> ControllerSpec:
    return ControllerSpec(
        name=name,
        hyperparameters=(Hyperparameter(name="dropout", low=0.0, high=0.5),),
        chunk_size=CHUNK,
        reward=reward,
        algorithm=ConstantSettings(values={"dropout": RATE}),
    )


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(RATE), nn.Linear(16, 3))


def batches(count: int, seed: int, shape: tuple[int, ...] = (8,)) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(*shape, 6, generator=generator) for _ in range(count)]
    return [(x, (x[..., 0] > 0).long() + (x[..., 1] > 0).long()) for x in inputs]


def watched(found: list[Batch], watch: Watch) -> Iterator[Batch]:
    for number, batch in enumerate(found, start=1):
        watch(number)
        yield batch


def begun(
    agent: AgentClient | None, model: nn.Module, **options: Any
) -> AbstractContextManager[Run | None]:
    if agent is None:
        return nullcontext()
    return agent.run(controller(), run_id="r", model=model, **options)


def take(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def accumulation(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """Two passes a step of the optimizer."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters())
    validation = Validation(batches(4, seed=2), batches=2)
    passes: list[tuple[Tensor, Tensor, Tensor]] = []
    with begun(agent, model) as run:
        for number, (x, y) in enumerate(batches(2 * STEPS, seed=1)):
            if number % 2 == 0:
                watch(number // 2 + 1)
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            (loss / 2).backward()  # type: ignore[no-untyped-call]
            passes.append((loss, logits, y))
            if len(passes) < 2:
                continue
            optimizer.step()
            optimizer.zero_grad()
            if run is not None:
                losses, all_logits, labels = zip(*passes, strict=True)
                run.step(torch.stack(losses).mean(), torch.cat(all_logits), torch.cat(labels))
                if run.chunk_full:
                    run.report(validation.of(model))
            passes = []
    return model


def compiled(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """`torch.compile` around the model before the run."""
    torch.compiler.reset()
    plain = classifier()
    model: Any = torch.compile(plain)
    _train(agent, model, watch)
    return plain


def two_optimizers(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """A generator and a discriminator, which alone has dropout and is steered."""
    discriminator = classifier()
    generator = nn.Linear(6, 6)
    for_discriminator = torch.optim.Adam(discriminator.parameters())
    for_generator = torch.optim.Adam(generator.parameters())
    validation = Validation(batches(4, seed=2), batches=2)
    with begun(agent, discriminator) as run:
        for x, y in watched(batches(STEPS, seed=1), watch):
            logits = discriminator(torch.cat([x, generator(x).detach()]))
            labels = torch.cat([y, torch.full_like(y, 2)])
            loss = F.cross_entropy(logits, labels)
            take(for_discriminator, loss)
            take(for_generator, F.cross_entropy(discriminator(generator(x)), y))
            if run is not None:
                run.step(loss, logits, labels)
                if run.chunk_full:
                    run.report(validation.of(discriminator))
    return nn.ModuleList([discriminator, generator])


def ema(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """An average of the weights, made during the run, and the best model so far as a copy."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters())
    validation = Validation(batches(4, seed=2), batches=2)
    with begun(agent, model) as run:
        average: Any = get_ema_multi_avg_fn
        averaged = AveragedModel(model, multi_avg_fn=average(0.9))
        for x, y in watched(batches(STEPS, seed=1), watch):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            take(optimizer, loss)
            averaged.update_parameters(model)
            if run is not None:
                run.step(loss, logits, y)
                if run.chunk_full:
                    run.report(validation.of(model))
        best = copy.deepcopy(model)
    return nn.ModuleList([model, averaged, best])


def token_classification(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """Labels of every word, padding with -100."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters())
    found = batches(STEPS, seed=1, shape=(8, 5))
    for _, labels in (*found, *(held := batches(4, seed=2, shape=(8, 5)))):
        labels[:, -2:] = -100
    validation = Validation(held, batches=2)
    with begun(agent, model) as run:
        for x, y in watched(found, watch):
            logits = model(x)
            loss = F.cross_entropy(logits.transpose(1, 2), y)
            take(optimizer, loss)
            if run is not None:
                run.step(loss, logits, y)
                if run.chunk_full:
                    run.report(validation.of(model))
    return model


def no_labels(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """An autoencoder: its scores are its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(RATE), nn.Linear(16, 6))
    optimizer = torch.optim.Adam(model.parameters())
    held = torch.cat([x for x, _ in batches(4, seed=2)])
    with begun(agent, model) as run:
        for x, _ in watched(batches(STEPS, seed=1), watch):
            loss = F.mse_loss(model(x), x)
            take(optimizer, loss)
            if run is not None:
                run.step(loss, score=torch.exp(-loss))
                if run.chunk_full:
                    model.eval()
                    with torch.no_grad():
                        score = torch.exp(-F.mse_loss(model(held), held))
                    model.train()
                    run.report(score)
    return model


def no_validation_loader(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """No data is held out: the chunk's own fall of the loss is the reward."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters())
    losses: list[float] = []
    run = None
    if agent is not None:
        given = controller(reward=Reward.GIVEN)
        run = agent.run(given, run_id="r", model=model)
    with run or nullcontext():
        for x, y in watched(batches(STEPS, seed=1), watch):
            loss = F.cross_entropy(model(x), y)
            take(optimizer, loss)
            losses.append(loss.item())
            if run is not None and len(losses) == CHUNK:
                run.report_reward(losses, losses[0] - losses[-1])
                losses = []
    return model


def ddp(agent: AgentClient | None, watch: Watch) -> nn.Module:
    """One of two processes that are joined already; each has half of the batches."""
    plain = classifier()
    torch.manual_seed(distributed.get_rank())  # masks of its own
    _train(agent, nn.parallel.DistributedDataParallel(plain), watch, seed=distributed.get_rank())
    return plain


def _train(agent: AgentClient | None, model: nn.Module, watch: Watch, seed: int = 1) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    validation = Validation(batches(4, seed=2), batches=2)
    with begun(agent, model) as run:
        for x, y in watched(batches(STEPS, seed=seed), watch):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            take(optimizer, loss)
            if run is not None:
                run.step(loss, logits, y)
                if run.chunk_full:
                    run.report(validation.of(model))


def main() -> None:
    """Train `ddp` as one of two ranks, and keep the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rank", type=int)
    parser.add_argument("store", help="the file where ranks meet")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--agent", help="its address; none trains without a client")
    parser.add_argument("--fails", type=int, help="the rank that raises in its second chunk")
    given = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{given.store}", rank=given.rank, world_size=2
    )

    def watch(step: int) -> None:
        if given.fails == given.rank and step == CHUNK + 2:
            raise ValueError("boom")
        if given.agent and given.fails is None and given.rank == 0 and step in (KILLED, BACK):
            (given.folder / f"{step}").touch()
            while (given.folder / f"{step}").exists():
                time.sleep(0.02)

    with AgentClient(given.agent) if given.agent else nullcontext() as agent:
        model = ddp(agent, watch)
    if given.rank == 0:
        torch.save(model.state_dict(), given.folder / "weights.pt")
    distributed.barrier()
    distributed.destroy_process_group()
