"""A training script with a model: the scores reported, the actions applied, the model restored."""

from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from agent_service.client import AgentClient, Dropout, Mode
from agent_service.client.limits import RunLimiter
from agent_service.domain.errors import InvalidArgument, NotFound

CLASSES = 5
Batch = tuple[torch.Tensor, torch.Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, CLASSES))


def batches(count: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(12, 4, generator=generator)
        yield x, torch.randint(CLASSES, (12,), generator=generator)


def macro_f1(batches: Iterable[Batch]) -> float:
    """Return the score of all samples of these batches."""
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    predictions = logits.detach().argmax(1)
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def test_a_short_script_trains_under_the_agent(client: AgentClient) -> None:
    """Each chunk runs under its action; losses and macro F1 are those of its passes."""
    model = network()
    losses, passes, rates = [], [], []
    with client.run("c", run_id="r", model=model) as run:
        for x, y in batches(8):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            run.step(loss, logits, y)
            assert model[2].p == run.hyperparameters["dropout"]
            rates.append(model[2].p)
            losses.append(loss.item())
            passes.append((logits, y))
            if run.chunk_full:
                model.eval()
                run.report((model(x), y) for x, y in batches(3))
                model.train()
        model.eval()
        validation = macro_f1((model(x), y) for x, y in batches(3))

    assert len(set(rates)) == 2, "each chunk has its action"
    assert model[2].p == 0.25
    first, second = client.transitions(run_id="r")
    assert [*first.next_state, *second.next_state] == pytest.approx(losses, abs=1e-6)
    assert first.scores.training == pytest.approx(macro_f1(passes[:4]), abs=1e-6)
    assert second.scores.training == pytest.approx(macro_f1(passes[4:]), abs=1e-6)
    assert second.scores.validation == pytest.approx(validation, abs=1e-6)


def test_a_step_of_several_passes_has_their_samples_score(client: AgentClient) -> None:
    """With accumulated gradients, in bfloat16."""
    model = network()
    drawn = list(batches(8))
    losses, passes = [], []
    with client.run("c", run_id="r", model=model) as run:
        for pair in zip(drawn[::2], drawn[1::2], strict=True):
            own = []
            for x, y in pair:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(x)
                    own.append(nn.functional.cross_entropy(logits, y))
                assert logits.dtype == torch.bfloat16
                run.add_pass(logits, y)
                passes.append((logits, y))
            run.step(torch.stack(own).mean())
            losses.append(torch.stack(own).mean().item())
        run.report([(logits, y)])
        assert run.action.chunk_index == 2

    (transition,) = client.transitions(run_id="r")
    assert list(transition.next_state) == pytest.approx(losses)
    assert transition.scores.training == pytest.approx(macro_f1(passes))


def test_an_error_leaves_the_model_unchanged(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the script, of an unknown controller, of unknown sites, or late in the start."""
    model = network()
    with pytest.raises(ZeroDivisionError), client.run("c", model=model):
        _ = 1 / ("__reduce_ex__" not in vars(model[2]))
    with pytest.raises(NotFound, match=r"'nobody'; create it first, or .* its spec instead"):
        client.run("nobody", model=model)
    with pytest.raises(InvalidArgument, match=r"sites\[nowhere\]"):
        client.run("c", model=model, sites={"nowhere": Dropout()})
    monkeypatch.setattr(RunLimiter, "limited", Mock(side_effect=KeyError))
    with pytest.raises(KeyError):
        client.run("c", model=model)

    assert "__reduce_ex__" not in vars(model[2])
    assert model[2].p == 0.25


def test_a_wrong_step_names_the_right_one(client: AgentClient) -> None:
    """No score, logits without a model, two kinds of score in one chunk, a step without a pass."""
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


def test_a_shadow_run_reports_its_models_rates(
    client: AgentClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It changes none; if the script sets them apart, their mean is reported, with one warning."""
    first, second = nn.Dropout(0.25), nn.Dropout(0.25)
    model = nn.Sequential(first, second)
    with client.run("c", run_id="r", mode=Mode.SHADOW, model=model) as run:
        for rates in ((0.25, 0.25), (0.1, 0.1), (0.25, 0.5), (0.25, 0.5)):
            first.p, second.p = rates
            for _ in range(4):
                run.step(1.0, score=0.5)
            run.report(0.5)
            assert (first.p, second.p) == rates
            assert "__reduce_ex__" not in vars(first)

    log = list(client.transitions(run_id="r"))
    assert [t.applied.values["dropout"] for t in log] == [0.25, 0.1, 0.375, 0.375]
    assert all(t.action.values["dropout"] != t.applied.values["dropout"] for t in log)
    assert sum("different rates" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (network(), {"sites": {"0": Dropout()}}, "adds nothing"),
        (nn.Linear(2, 2), {}, "reads no rate for it: the model has no dropout"),
        (
            nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2)),
            {},
            r"one rate for it, but the model has \[0.1, 0.2\].* drives=",
        ),
    ],
)
def test_a_shadow_run_that_cannot_report_is_refused(
    client: AgentClient, model: nn.Module, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        client.run("c", mode=Mode.SHADOW, model=model, **arguments)
