"""Scores of a script's batches, none of which waits for the device within a chunk."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, r2_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

# First, since torchmetrics imports torchvision, which does not load beside every torch.
import trainer_service.training.vision  # noqa: F401
from agent_service.client import AgentClient
from agent_service.client.model import layouts, scores
from agent_service.client.model.scores import Score, scoring_of
from agent_service.domain.errors import AgentError, InvalidArgument

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
    layouts.warn_once.cache_clear()


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
    """Return macro F1 over labels, predicted where a logit is above 0; plain F1 of one label."""
    predictions, average = (logits > 0).int().squeeze(1), "binary" if labels.ndim == 1 else "macro"
    return float(f1_score(labels.int(), predictions, average=average, zero_division=0))


def sklearn_macro_f1(logits: Tensor, labels: Tensor) -> float:
    return float(f1_score(labels, logits.argmax(1), average="macro"))


NAMED: dict[str, tuple[Callable[[int], Batch], Callable[[Tensor, Tensor], float]]] = {
    "macro-f1": (classes, sklearn_macro_f1),
    "binary-f1": (binary, sklearn_f1),
    "multilabel-f1": (multilabel, sklearn_f1),
    "r2": (regression, lambda predictions, targets: float(r2_score(targets, predictions))),
}


def score_of(batches: Iterable[Batch], score: Score | None = None) -> float:
    tally = scoring_of(score)()
    for batch in batches:
        tally.add(*batch)
    return tally.value()


def as_one(batches: Sequence[Batch]) -> Batch:
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that wait for a device: numbers read, sizes that depend on data."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "bincount", "unique", "_to_copy", "equal")
        self.count += any(name in str(func) for name in waits)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_score_is_scikit_learns_over_the_chunk(client: AgentClient, name: str) -> None:
    """In training and validation; steps read no number, only the report does."""
    make, expected = NAMED[name]
    weight = torch.ones(1, requires_grad=True)
    training = [make(size) for size in (12, 12, 12, 7)]
    validation = [make(9), make(5)]
    waits = Waits()  # type: ignore[no-untyped-call]
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=name) as run, waits:
        for logits, labels in training:
            run.step((weight * 2).sum(), logits * weight, labels)
        assert waits.count == 0
        run.report(validation)
        assert waits.count > 0

    (reported,) = client.transitions(run_id="r")
    assert reported.scores.training == pytest.approx(expected(*as_one(training)), abs=1e-5)
    assert reported.scores.validation == pytest.approx(expected(*as_one(validation)), abs=1e-5)


def test_the_mean_over_batches_is_an_option() -> None:
    """As in the paper; a batch whose labels are all ignored does not count."""
    batches = [classes(8), classes(5)]
    ignored = (torch.randn(4, 3), torch.full((4,), -100))

    score = score_of([*batches, ignored], "macro-f1-of-batches")
    assert score == pytest.approx(sum(sklearn_macro_f1(*batch) for batch in batches) / 2)


@pytest.mark.parametrize("name", ["macro-f1", "macro-f1-of-batches"])
@pytest.mark.parametrize("ignored", [-100, -1, 3, 255])
def test_ignored_labels_do_not_count(name: str, ignored: int) -> None:
    """Those outside [0, 3), whatever was predicted there."""
    logits, labels = classes(40)
    places = torch.arange(40) % 3 == 0
    masked = labels.masked_fill(places, ignored)

    assert score_of([(logits, masked)], name) == score_of([(logits[~places], labels[~places])])
    assert score_of([(logits, masked.to(torch.int16))], name) == score_of([(logits, masked)])


@pytest.mark.parametrize("name", ["multilabel-f1", "binary-f1"])
def test_named_scores_ignore_labels_below_zero(name: str) -> None:
    """Samples of which not all labels are known."""
    logits, labels = multilabel(30)
    some = labels.clone()
    some[:10] = -1

    score = score_of([(logits, some)], name)
    assert score == pytest.approx(score_of([(logits[10:], labels[10:])], name))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("macro-f1", lambda: (torch.randn(4, 3), torch.full((4,), -100))),
        ("r2", lambda: regression(1)),
    ],
)
def test_a_chunk_without_a_score_is_dropped(
    client: AgentClient, caplog: pytest.LogCaptureFixture, name: str, make: Callable[[], Batch]
) -> None:
    """All labels ignored, or one sample for R2: the training continues; logged once."""
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=name) as run:
        for _ in range(2):
            for loss in (1.0, 2.0, 3.0, 4.0):
                run.step(loss, *NAMED[name][0](6))
            run.report([make()])
    assert client.get_run("r").reported_chunks == 0
    assert caplog.text.count("has no score") == 1


class Fault:
    """Breaks a script's score while it is there."""

    is_there = False

    def check(self) -> None:
        if self.is_there:
            raise ZeroDivisionError


def function_with(fault: Fault) -> Score:
    def score(_logits: Tensor, _labels: Tensor) -> float:
        fault.check()
        return 1.0

    return score


def metric_with(fault: Fault) -> Score:
    from torchmetrics.classification import MulticlassAccuracy

    class Accuracy(MulticlassAccuracy):
        def update(self, *batch: Tensor) -> None:
            fault.check()
            super().update(*batch)

    return Accuracy(num_classes=3)


@pytest.mark.parametrize("is_in_step", [True, False])
@pytest.mark.parametrize("score_with", [function_with, metric_with])
def test_a_failing_score_raises_at_first_and_later_drops_its_chunk(
    client: AgentClient,
    score_with: Callable[[Fault], Score],
    is_in_step: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until the first report its author is watching, and the chunk is kept; then it is logged."""
    fault, batch = Fault(), (torch.eye(3), torch.arange(3))
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=score_with(fault)) as run:
        for chunk in (1, 2, 3):
            fault.is_there = chunk == 2 and is_in_step
            for _ in range(4):
                run.step(1.0, *batch)
            fault.is_there = chunk < 3
            if chunk == 1:
                with pytest.raises(ZeroDivisionError):
                    run.report([batch, batch])
                fault.is_there = False
            run.report([batch, batch])
    assert [t.scores.training for t in client.transitions(run_id="r")] == [1.0, 1.0]
    (warning,) = caplog.messages
    assert "scoring failed: ZeroDivisionError()" in warning


LAYOUTS: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "a dimension of one": ((12, 3), 1, (12, 1)),
    "pixels": ((2, 3, 4, 5), 1, (2, 4, 5)),
    "pixels of one channel": ((2, 3, 4, 5), 1, (2, 1, 4, 5)),
    "words": ((4, 6, 3), 2, (4, 6)),
    "one word": ((4, 1, 3), 2, (4, 1)),
    "as many words as classes": ((4, 3, 3), 2, (4, 3)),
    "as many rows and columns as classes": ((4, 3, 3, 3), 1, (4, 3, 3)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_labels_shape_determines_the_class_axis(name: str) -> None:
    """The second, as of images, or the last, as of language models."""
    shape, axis, labelled = LAYOUTS[name]
    logits, labels = torch.randn(shape), torch.randint(3, labelled)

    expected = f1_score(labels.flatten(), logits.argmax(axis).flatten(), average="macro")
    assert score_of([(logits, labels)]) == pytest.approx(expected)


def sentences(length: int, axis: int) -> Batch:
    """Return perfect logits of 9 classes along this axis."""
    labels = torch.randint(9, (4, length))
    return functional.one_hot(labels, 9).float().movedim(-1, axis), labels


@pytest.mark.parametrize("axis", [1, 2])
def test_other_batches_determine_an_ambiguous_class_axis(axis: int) -> None:
    """In the chunk, before and after, and for the run's next chunks."""
    begin = scoring_of(None)
    for lengths in ((9, 7, 12, 9, 5), (9, 9)):
        tally = begin()
        for length in lengths:
            tally.add(*sentences(length, axis))
        assert tally.value() == 1.0


def test_an_ambiguous_class_axis_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the fix, flat logits, which log nothing."""
    logits, labels = sentences(9, 2)
    assert score_of([(logits, labels), (logits, labels)]) == 1.0
    assert caplog.text.count("logits [b, 9, 9]") == 1
    caplog.clear()
    layouts.warn_once.cache_clear()
    assert score_of([(logits.flatten(0, -2), labels.flatten())]) == 1.0
    assert not caplog.text


def test_a_functions_scores_are_weighted_by_samples() -> None:
    """Nine right and one wrong are 0.9, in one batch or in two; empty batches do not count."""
    logits = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
    labels = logits.argmax(1)
    labels[9] = 1

    def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.argmax(1) == labels).float().mean()

    for sizes in ([10], [9, 1], [9, 0, 1]):
        batches = zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True)
        assert score_of(batches, accuracy) == pytest.approx(0.9)


def test_r2_is_clipped_at_0_and_exact_for_large_targets() -> None:
    targets = torch.tensor([0.0, 1.0, 2.0])

    assert score_of([(9 * targets, targets)], "r2") == 0.0
    assert score_of([(targets + 1e4, targets + 1e4)], "r2") == 1.0
    assert score_of([(targets + 1e4 + 1, targets + 1e4)], "r2") == 0.0


def test_a_metric_of_torchmetrics_scores_each_chunk() -> None:
    """The script's own metric keeps its state."""
    from torchmetrics.classification import MulticlassAccuracy

    metric = MulticlassAccuracy(num_classes=3, average="micro")
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    batches = [classes(8), classes(5)]

    logits, labels = as_one(batches)
    own = float((logits.argmax(1) == labels).float().mean())
    for _chunk in (1, 2):
        assert score_of(batches, metric) == pytest.approx(own)
    assert float(metric.compute()) == 0.5


@pytest.mark.parametrize("name", ["multilabel-f1", "macro-f1"])
def test_the_size_of_unscored_batches_is_limited(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk's logits may be gigabytes; the score is the same."""
    batches = [NAMED[name][0](16) for _ in range(20)]
    expected = score_of(batches, name)
    monkeypatch.setattr(scores, "LIMIT", 600)
    tally: Any = scoring_of(name)()
    waiting = []
    for batch in batches:
        tally.add(*batch)
        waiting.append(sum(part.nbytes for kept in tally._batches for part in kept))

    assert max(waiting) <= 600
    assert tally.value() == expected


@pytest.mark.parametrize("name", ["multilabel-f1", "macro-f1"])
def test_batches_are_copied(name: str) -> None:
    """A CUDA graph, or a loader with one buffer, may overwrite them."""
    logits, labels = NAMED[name][0](6)
    expected = score_of([(logits, labels)], name)
    tally = scoring_of(name)()
    tally.add(logits, labels)
    logits.neg_()
    labels.copy_(labels.flip(0))
    assert tally.value() == expected


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3), r"labels: .*32\[4, 3\] .*label-f1'.*argmax\(1\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), "are not classes"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), r"int\[4\]"),
        (torch.zeros(4, 1), torch.zeros(4), "logits: .*'binary-f1'"),
        (torch.zeros(4), torch.zeros(4), "has no classes"),
    ],
)
def test_a_batch_without_macro_f1_is_refused_with_the_fix(
    logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        scoring_of(None)().add(logits, labels)


def test_an_invalid_score_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, an error metric, several numbers, no batch, or torchmetrics missing."""
    from torchmetrics import MeanSquaredError
    from torchmetrics.classification import MulticlassF1Score

    with pytest.raises(InvalidArgument, match=r"'f2' is not one of \['macro-f1', .*'binary-f1'"):
        scoring_of("f2")
    with pytest.raises(InvalidArgument, match="smaller is better for MeanSquaredError"):
        scoring_of(MeanSquaredError())
    with pytest.raises(InvalidArgument, match="it must return one number"):
        score_of([classes(6)], MulticlassF1Score(num_classes=3, average=None))
    for score in (None, "r2", lambda _logits, _labels: 0.5):
        with pytest.raises(InvalidArgument, match="has no batch"):
            score_of([], score)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(AgentError, match=r"pip install 'reinforced-regularization\[torchmetrics\]"):
        scoring_of("r2")
