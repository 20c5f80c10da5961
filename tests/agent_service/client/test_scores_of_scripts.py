"""What a script may score its batches by, and that no score waits for the device in a chunk."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, r2_score
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# First, since torchmetrics imports torchvision, which does not load beside every torch.
import trainer_service.training.vision  # noqa: F401
from agent_service.client import AgentClient
from agent_service.client.model.scores import LateScore, scoring_of
from agent_service.domain.errors import AgentError, InvalidArgument
from tests.agent_service.specs import spec

Batch = tuple[Tensor, Tensor]


def classes(size: int) -> Batch:
    return torch.randn(size, 3), torch.randint(3, (size,))


def binary(size: int) -> Batch:
    return torch.randn(size, 1), torch.randint(2, (size,)).float()


def multilabel(size: int) -> Batch:
    return torch.randn(size, 4), torch.randint(2, (size, 4)).float()


def regression(size: int) -> Batch:
    targets = torch.randn(size)
    return (targets + 0.3 * torch.randn(size)).unsqueeze(1), targets


def sklearn_f1(logits: Tensor, labels: Tensor) -> float:
    """Macro F1 of labels that are set where a logit is above 0; plain F1 of one."""
    predictions, average = (logits > 0).int().squeeze(1), "binary" if labels.ndim == 1 else "macro"
    return float(f1_score(labels.int(), predictions, average=average, zero_division=0))


NAMED: dict[str, tuple[Callable[[int], Batch], Callable[[Tensor, Tensor], float]]] = {
    "binary-f1": (binary, sklearn_f1),
    "multilabel-f1": (multilabel, sklearn_f1),
    "r2": (regression, lambda predictions, targets: float(r2_score(targets, predictions))),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_score_by_name_is_scikit_learns(client: AgentClient, name: str) -> None:
    """The mean over a chunk's batches, in training and in validation."""
    torch.manual_seed(0)
    make, expected = NAMED[name]
    client.create_controller(spec())
    training = [make(size) for size in (12, 12, 12, 7)]
    validation = [make(9), make(5)]
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=name) as run:
        for logits, labels in training:
            run.step(1.0, logits, labels)
        run.report(validation)

    (told,) = client.transitions(run_id="r")
    for batches, score in ((training, told.scores.training), (validation, told.scores.validation)):
        assert score == pytest.approx(sum(expected(*b) for b in batches) / len(batches), abs=1e-5)


def test_a_regression_worse_than_the_mean_counts_as_0() -> None:
    """R2 has no lower bound; a score has."""
    targets = torch.tensor([0.0, 1.0, 2.0])
    scoring = scoring_of("r2")
    worse, perfect = scoring.keep(9 * targets, targets), scoring.keep(targets, targets)

    assert scoring.mean([worse]) == 0.0
    assert scoring.mean([worse, perfect]) == 0.5


def test_a_metric_of_torchmetrics_scores_each_batch_by_itself() -> None:
    """In place of F1; the script's own metric keeps what it has seen."""
    from torchmetrics.classification import MulticlassAccuracy

    torch.manual_seed(0)
    metric = MulticlassAccuracy(num_classes=3, average="micro")
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    batches = [classes(8), classes(5)]
    scoring = scoring_of(metric)
    mean = scoring.mean([scoring.keep(*batch) for batch in batches])

    own = [float((logits.argmax(1) == labels).float().mean()) for logits, labels in batches]
    assert mean == pytest.approx(sum(own) / 2)
    assert float(metric.compute()) == 0.5


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes a program wait for a device: numbers read, sizes that depend on data."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "bincount", "unique", "_to_copy", "equal")
        self.count += any(name in str(func) for name in waits)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["macro-f1", *NAMED])
def test_no_score_waits_for_the_device_inside_a_chunk(client: AgentClient, name: str) -> None:
    """Steps read no number; the report does, once the chunk is full."""
    client.create_controller(spec())
    make = NAMED[name][0] if name in NAMED else classes
    weight = torch.ones(1, requires_grad=True)
    batches = [make(6) for _ in range(4)]
    waits = Waits()  # type: ignore[no-untyped-call]
    with client.run("c", model=nn.Dropout(0.1), score=name) as run, waits:
        for logits, labels in batches:
            run.step((weight * 2).sum(), logits * weight, labels)
        assert waits.count == 0
        run.report([make(6)])
        assert waits.count > 0


def test_what_is_kept_of_a_batch_is_a_copy() -> None:
    """A CUDA graph, or a loader with one buffer, may overwrite what it gave."""
    for scoring, make in ((scoring_of(None), classes), (scoring_of("multilabel-f1"), multilabel)):
        logits, labels = make(6)
        kept = [scoring.keep(logits, labels)]
        before = scoring.mean(kept)
        logits.neg_()
        labels.copy_(labels.flip(0))
        assert scoring.mean(kept) == before


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3), r"labels: torch.float32\[4, 3\] .*'multilabel-f1'"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), "are no classes"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), r"int\[4\]"),
        (torch.zeros(4, 1), torch.zeros(4), "logits: .*'binary-f1'"),
        (torch.zeros(4), torch.zeros(4), "has no classes"),
    ],
)
def test_macro_f1_says_what_it_cannot_score(logits: Tensor, labels: Tensor, message: str) -> None:
    """At the step, and what to give instead."""
    with pytest.raises(InvalidArgument, match=message):
        scoring_of(None).keep(logits, labels)


def test_a_score_that_is_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, an error for a score, several numbers, and torchmetrics not installed."""
    from torchmetrics import MeanSquaredError
    from torchmetrics.classification import MulticlassF1Score

    with pytest.raises(InvalidArgument, match=r"'f2' is none of \['macro-f1', 'binary-f1'"):
        scoring_of("f2")
    with pytest.raises(InvalidArgument, match="MeanSquaredError is lower for better"):
        scoring_of(MeanSquaredError())
    scoring = scoring_of(MulticlassF1Score(num_classes=3, average=None))
    with pytest.raises(InvalidArgument, match="let it give one number"):
        scoring.mean([scoring.keep(*classes(6))])
    assert isinstance(scoring, LateScore)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(AgentError, match=r"pip install 'reinforced-regularization\[torchmetrics\]"):
        scoring_of("r2")
