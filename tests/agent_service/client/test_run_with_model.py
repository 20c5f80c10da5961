"""A training script with a model: what is scored, what is applied, and what is left at the end."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from agent_service.client import AgentClient, Dropout, Mode
from agent_service.domain.errors import InvalidArgument, NotFound
from tests.agent_service.specs import spec

CLASSES = 5


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, CLASSES))


def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(12, 4, generator=generator)
        yield x, torch.randint(CLASSES, (12,), generator=generator)


def macro_f1(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the score of all samples of these batches."""
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    predictions = logits.detach().argmax(1)
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def test_a_script_of_a_few_lines_trains_under_the_agent(client: AgentClient) -> None:
    """Each action is in the model for its chunk; losses and macro F1 are those of the passes."""
    client.create_controller(spec())
    model = network()
    losses, told, rates = [], [], []
    with client.run("c", run_id="r", model=model) as run:
        for x, y in batches(8):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            run.step(loss, logits, y)
            rates.append((model[2].p, run.hyperparameters["dropout"]))
            losses.append(loss.item())
            told.append((logits, y))
            if run.chunk_full:
                model.eval()
                run.report((model(x), y) for x, y in batches(3))
                model.train()
        model.eval()
        validation = macro_f1((model(x), y) for x, y in batches(3))

    assert all(applied == decided for applied, decided in rates)
    assert len({applied for applied, _ in rates}) == 2, "an action a chunk"
    assert model[2].p == 0.25, "left as it was"
    first, second = client.transitions(run_id="r")
    assert [*first.next_state, *second.next_state] == pytest.approx(losses, abs=1e-6)
    assert first.scores.training == pytest.approx(macro_f1(told[:4]), abs=1e-6)
    assert second.scores.training == pytest.approx(macro_f1(told[4:]), abs=1e-6)
    assert second.scores.validation == pytest.approx(validation, abs=1e-6)


def test_mixed_precision_and_accumulated_gradients_are_told_as_they_are(
    client: AgentClient,
) -> None:
    """A step of two passes in bfloat16: their mean loss, and the score of all their samples."""
    client.create_controller(spec())
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    drawn = list(batches(8))
    losses, passes = [], []
    with client.run("c", run_id="r", model=model) as run:
        for both in zip(drawn[::2], drawn[1::2], strict=True):
            optimizer.zero_grad()
            told = []
            for x, y in both:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(x)
                    loss = nn.functional.cross_entropy(logits, y)
                (loss / 2).backward()  # type: ignore[no-untyped-call]
                run.add_pass(logits, y)
                told.append(loss.detach())
                passes.append((logits, y))
            optimizer.step()
            assert logits.dtype == torch.bfloat16
            run.step(torch.stack(told).mean())
            losses.append(torch.stack(told).mean().item())
        run.report([(logits, y)])
        assert run.action.chunk_index == 2

    (transition,) = client.transitions(run_id="r")
    assert list(transition.next_state) == pytest.approx(losses)
    assert transition.scores.training == pytest.approx(macro_f1(passes))


def test_a_score_of_ones_own_takes_the_place_of_f1(client: AgentClient) -> None:
    """Any function of logits and labels."""
    client.create_controller(spec())
    model = network()

    def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits.argmax(1) == labels).float().mean()

    with client.run("c", run_id="r", model=model, score=accuracy) as run:
        kept = []
        for x, y in batches(4):
            logits = model(x)
            run.step(1.0, logits, y)
            kept.append(float(accuracy(logits, y)))
        run.report(0.5)

    (transition,) = client.transitions(run_id="r")
    assert transition.scores.training == pytest.approx(sum(kept) / 4)


def test_the_model_is_left_as_it_was_whatever_ends_the_run(client: AgentClient) -> None:
    """An exception of the script; a controller that is not there; sites that are not there."""
    client.create_controller(spec())
    model = network()
    with pytest.raises(ZeroDivisionError), client.run("c", model=model):
        _ = 1 / ("__reduce_ex__" not in vars(model[2]))
    with pytest.raises(NotFound):
        client.run("nobody", model=model)
    with pytest.raises(InvalidArgument, match=r"sites\[nowhere\]"):
        client.run("c", model=model, sites={"nowhere": Dropout()})

    assert "__reduce_ex__" not in vars(model[2])
    assert model[2].p == 0.25


def test_a_model_is_driven_by_one_run_at_a_time(client: AgentClient) -> None:
    """A second one is refused, and the first goes on undisturbed."""
    client.create_controller(spec())
    model = network()
    dropout: Any = model[2]
    with client.run("c", model=model) as run:
        with pytest.raises(InvalidArgument, match="finish that one first"):
            client.run("c", model=model)
        assert dropout.p == run.hyperparameters["dropout"]
    assert dropout.p == 0.25


def test_wrong_steps_say_what_is_wrong(client: AgentClient) -> None:
    """No score, logits without a model, two kinds of score in one chunk, a pass of no step."""
    client.create_controller(spec())
    logits, labels = torch.zeros(2, CLASSES), torch.zeros(2, dtype=torch.int64)
    with client.run("c") as run:
        with pytest.raises(TypeError, match=r"run.step\(loss, logits, labels\)"):
            run.step(1.0)
        with pytest.raises(TypeError, match="model=model"):
            run.step(1.0, logits, labels)
    with client.run("c", model=network()) as run:
        run.step(1.0, logits, labels)
        with pytest.raises(TypeError, match="in one way"):
            run.step(1.0, score=0.5)
        with pytest.raises(TypeError, match=r"run.step\(loss, logits, labels\)"):
            run.step(1.0)
        assert len(run._losses) == 1


def test_a_shadow_run_changes_nothing_and_tells_both(client: AgentClient) -> None:
    """The model's own rate is reported beside what would have been set, also where it changes."""
    client.create_controller(spec())
    model = network()
    dropout: Any = model[2]
    with client.run("c", run_id="r", mode=Mode.SHADOW, model=model) as run:
        for rate in (0.25, 0.1):
            dropout.p = rate
            for x, y in batches(4):
                logits = model(x)
                run.step(nn.functional.cross_entropy(logits, y), logits, y)
            run.report(0.5)
            assert dropout.p == rate
            assert "__reduce_ex__" not in vars(dropout)

    told = list(client.transitions(run_id="r"))
    assert [dict(t.applied.values) for t in told] == [{"dropout": 0.25}, {"dropout": 0.1}]
    assert all(dict(t.action.values) != dict(t.applied.values) for t in told)


def test_a_shadow_run_says_what_it_cannot_tell(client: AgentClient) -> None:
    """Sites that it would have to add, no dropout at all, and modules of different rates."""
    client.create_controller(spec())
    with pytest.raises(InvalidArgument, match="adds nothing"):
        client.run("c", mode=Mode.SHADOW, model=network(), sites={"0": Dropout()})
    with pytest.raises(InvalidArgument, match="reads no rate for it: the model has no dropout"):
        client.run("c", mode=Mode.SHADOW, model=nn.Linear(2, 2))
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2))
    with pytest.raises(InvalidArgument, match=r"one rate for it, but the model has \[0.1, 0.2\]"):
        client.run("c", mode=Mode.SHADOW, model=model)
    client.run("c", mode=Mode.SHADOW, model=model, drives={"dropout": "1"}).finish()


def test_a_shadow_run_goes_on_where_rates_part_later(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A schedule of the script's own sets them apart: their mean is told, with one warning."""
    client.create_controller(spec())
    later = nn.Dropout(0.25)
    model = nn.Sequential(nn.Dropout(0.25), later)
    with client.run("c", run_id="r", mode=Mode.SHADOW, model=model) as run:
        for rate in (0.25, 0.5, 0.5):
            later.p = rate
            for _ in range(4):
                run.step(1.0, score=0.5)
            run.report(0.5)

    told = [t.applied.values["dropout"] for t in client.transitions(run_id="r")]
    assert told == [0.25, 0.375, 0.375]
    assert sum("different rates" in message for message in caplog.messages) == 1
