"""What a script may score its batches by, and that no score waits for the device in a chunk."""

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


def score_of(batches: Iterable[Batch], score: Score | None = None) -> float:
    tally = scoring_of(score)()
    for batch in batches:
        tally.add(*batch)
    return tally.value()


def as_one(batches: Sequence[Batch]) -> Batch:
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


@pytest.mark.parametrize("name", NAMED)
def test_a_score_by_name_is_scikit_learns(client: AgentClient, name: str) -> None:
    """Over all samples of a chunk, in training and in validation."""
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
        assert score == pytest.approx(expected(*as_one(batches)), abs=1e-5)


@pytest.mark.parametrize("name", ["macro-f1", *NAMED])
def test_the_batch_size_does_not_change_a_score(name: str) -> None:
    """The gap of a training batch of 64 and a validation batch of 1,000 is none of the batches."""
    torch.manual_seed(0)
    logits, labels = (NAMED[name][0] if name in NAMED else classes)(96)

    scores = {
        score_of(zip(torch.split(logits, size), torch.split(labels, size), strict=True), name)
        for size in (4, 32, 96)
    }
    assert max(scores) - min(scores) < 1e-6


def test_the_mean_over_batches_is_an_option() -> None:
    """As the paper has it; a batch whose labels are all ignored counts for nothing."""
    torch.manual_seed(0)
    batches = [classes(8), classes(5)]
    ignored = (torch.randn(4, 3), torch.full((4,), -100))

    own = [f1_score(labels, logits.argmax(1), average="macro") for logits, labels in batches]
    score = score_of([*batches, ignored], "macro-f1-of-batches")
    assert score == pytest.approx(sum(own) / 2)


@pytest.mark.parametrize("name", ["macro-f1", "macro-f1-of-batches"])
@pytest.mark.parametrize("ignored", [-100, -1, 3, 255])
def test_ignored_labels_count_for_nothing(name: str, ignored: int) -> None:
    """No class in [0, 3) is one that the loss has ignored, whatever was predicted there."""
    torch.manual_seed(0)
    logits, labels = classes(40)
    places = torch.arange(40) % 3 == 0
    masked = labels.masked_fill(places, ignored)

    assert score_of([(logits, masked)], name) == score_of([(logits[~places], labels[~places])])
    assert score_of([(logits, masked.to(torch.int16))], name) == score_of([(logits, masked)])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("macro-f1", lambda: (torch.randn(4, 3), torch.full((4,), -100))),
        ("r2", lambda: regression(1)),
    ],
)
def test_a_chunk_that_has_no_score_is_dropped(
    client: AgentClient, caplog: pytest.LogCaptureFixture, name: str, make: Callable[[], Batch]
) -> None:
    """All labels ignored, or one sample for R2: the training goes on, and the reason is logged."""
    layouts.warn_once.cache_clear()
    client.create_controller(spec())
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=name) as run:
        for _ in range(2):
            for loss in (1.0, 2.0, 3.0, 4.0):
                run.step(loss, *NAMED.get(name, (classes,))[0](6))
            run.report([make()])
    assert client.get_run("r").reported_chunks == 0
    assert caplog.text.count("has no score") == 1


class Fault:
    """What breaks a script's score, and mends it."""

    is_there = False

    def check(self) -> None:
        if self.is_there:
            raise ZeroDivisionError


def function_with(fault: Fault) -> Score:
    def score(_logits: Tensor, _labels: Tensor) -> float:
        fault.check()
        return 0.5

    return score


def metric_with(fault: Fault) -> Score:
    from torchmetrics.classification import MulticlassAccuracy

    class Accuracy(MulticlassAccuracy):
        def update(self, *batch: Tensor) -> None:
            fault.check()
            super().update(*batch)

    return Accuracy(num_classes=3)


@pytest.mark.parametrize("score_with", [function_with, metric_with])
def test_a_score_that_fails_at_first_raises(
    client: AgentClient, score_with: Callable[[Fault], Score]
) -> None:
    """As the script's author is to see it; the chunk is kept, to be reported again."""
    client.create_controller(spec())
    fault = Fault()
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=score_with(fault)) as run:
        for _ in range(4):
            run.step(1.0, torch.eye(3), torch.arange(3))
        fault.is_there = True
        with pytest.raises(ZeroDivisionError):
            run.report([classes(6)])
        fault.is_there = False
        run.report(0.5)
    (told,) = client.transitions(run_id="r")
    assert told.scores.training == (1.0 if score_with is metric_with else 0.5)


@pytest.mark.parametrize("is_in_step", [True, False])
@pytest.mark.parametrize("score_with", [function_with, metric_with])
def test_a_score_that_fails_later_drops_its_chunk(
    client: AgentClient,
    score_with: Callable[[Fault], Score],
    is_in_step: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one warning that has the error: the training and the next chunk go on."""
    client.create_controller(spec())
    fault = Fault()
    with client.run("c", run_id="r", model=nn.Dropout(0.1), score=score_with(fault)) as run:
        for chunk in (1, 2, 3):
            fault.is_there = chunk == 2 and is_in_step
            for _ in range(4):
                run.step(1.0, *classes(6))
            fault.is_there = chunk == 2
            run.report([classes(6), classes(6)])
    assert client.get_run("r").reported_chunks == 2
    (warning,) = caplog.messages
    assert "scoring failed: ZeroDivisionError()" in warning


LAYOUTS: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "classes": ((12, 3), 1, (12,)),
    "a dimension of one": ((12, 3), 1, (12, 1)),
    "pixels": ((2, 3, 4, 5), 1, (2, 4, 5)),
    "pixels of one channel": ((2, 3, 4, 5), 1, (2, 1, 4, 5)),
    "words": ((4, 6, 3), 2, (4, 6)),
    "one word": ((4, 1, 3), 2, (4, 1)),
    "as many words as classes": ((4, 3, 3), 2, (4, 3)),
    "as many rows and columns as classes": ((4, 3, 3, 3), 1, (4, 3, 3)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_labels_shape_tells_where_the_classes_are(name: str) -> None:
    """The second dimension, as of images, or the last, as of language models."""
    shape, axis, labelled = LAYOUTS[name]
    logits, labels = torch.randn(shape), torch.randint(3, labelled)

    expected = f1_score(labels.flatten(), logits.argmax(axis).flatten(), average="macro")
    assert score_of([(logits, labels)]) == pytest.approx(expected)


def sentences(length: int, axis: int) -> Batch:
    """Return perfect logits of 9 classes, which are along this axis."""
    labels = torch.randint(9, (4, length))
    return functional.one_hot(labels, 9).float().movedim(-1, axis), labels


@pytest.mark.parametrize("axis", [1, 2])
def test_other_lengths_tell_where_as_many_words_as_classes_have_them(axis: int) -> None:
    """In the chunk, before and after, and in the run's next chunks."""
    begin = scoring_of(None)
    for lengths in ((9, 7, 12, 9, 5), (9, 9)):
        tally = begin()
        for length in lengths:
            tally.add(*sentences(length, axis))
        assert tally.value() == 1.0


def test_as_many_words_as_classes_alone_are_scored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, with what to give instead; the flat ones that it names show nothing of the others."""
    layouts.warn_once.cache_clear()
    logits, labels = sentences(9, 2)
    assert score_of([(logits, labels), (logits, labels)]) == 1.0
    assert caplog.text.count("logits [b, 9, 9]") == 1
    caplog.clear()
    layouts.warn_once.cache_clear()
    assert score_of([(logits.flatten(0, -2), labels.flatten())]) == 1.0
    assert not caplog.text


def test_a_function_weighs_each_sample_alike() -> None:
    """Nine right and one wrong are 0.9, in one batch or in two; an empty batch is none."""
    logits = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
    labels = logits.argmax(1)
    labels[9] = 1

    def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.argmax(1) == labels).float().mean()

    for sizes in ([10], [9, 1], [9, 0, 1]):
        batches = zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True)
        assert score_of(batches, accuracy) == pytest.approx(0.9)


def test_a_regression_worse_than_the_mean_counts_as_0() -> None:
    """R2 has no lower bound; a score has. Large targets cost no precision."""
    targets = torch.tensor([0.0, 1.0, 2.0])

    assert score_of([(9 * targets, targets)], "r2") == 0.0
    assert score_of([(targets + 1e4, targets + 1e4)], "r2") == 1.0
    assert score_of([(targets + 1e4 + 1, targets + 1e4)], "r2") == 0.0


def test_labels_below_zero_are_ignored_by_named_scores() -> None:
    """Samples of which not all labels are known."""
    torch.manual_seed(0)
    logits, labels = multilabel(30)
    some = labels.clone()
    some[:10] = -1

    for name in ("multilabel-f1", "binary-f1"):
        score = score_of([(logits, some)], name)
        assert score == pytest.approx(score_of([(logits[10:], labels[10:])], name))


def test_a_metric_of_torchmetrics_scores_the_chunk() -> None:
    """In place of F1; the script's own metric keeps what it has seen."""
    from torchmetrics.classification import MulticlassAccuracy

    torch.manual_seed(0)
    metric = MulticlassAccuracy(num_classes=3, average="micro")
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    batches = [classes(8), classes(5)]

    logits, labels = as_one(batches)
    own = float((logits.argmax(1) == labels).float().mean())
    assert score_of(batches, metric) == pytest.approx(own)
    assert score_of(batches, metric) == pytest.approx(own), "each chunk by itself"
    assert float(metric.compute()) == 0.5


@pytest.mark.parametrize("name", ["multilabel-f1", None])
def test_few_batches_wait_to_be_scored(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's logits may be gigabytes; what waits has a limit, and the score is the same."""
    torch.manual_seed(0)
    batches = [(multilabel if name else classes)(16) for _ in range(20)]
    expected = score_of(batches, name)
    monkeypatch.setattr(scores, "LIMIT", 600)
    tally: Any = scoring_of(name)()
    waiting = []
    for batch in batches:
        tally.add(*batch)
        waiting.append(sum(part.nbytes for kept in tally._batches for part in kept))

    assert max(waiting) <= 600
    assert tally.value() == expected


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
    for name, make in ((None, classes), ("multilabel-f1", multilabel)):
        logits, labels = make(6)
        expected = score_of([(logits, labels)], name)
        tally = scoring_of(name)()
        tally.add(logits, labels)
        logits.neg_()
        labels.copy_(labels.flip(0))
        assert tally.value() == expected


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3), r"labels: torch.float32\[4, 3\] .*'multilabel-f1'"),
        (torch.zeros(4, 3), torch.zeros(4, 3), r"argmax\(1\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), "are not classes"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), r"int\[4\]"),
        (torch.zeros(4, 1), torch.zeros(4), "logits: .*'binary-f1'"),
        (torch.zeros(4), torch.zeros(4), "has no classes"),
    ],
)
def test_macro_f1_says_what_it_cannot_score(logits: Tensor, labels: Tensor, message: str) -> None:
    """At the step, and what to give instead."""
    with pytest.raises(InvalidArgument, match=message):
        scoring_of(None)().add(logits, labels)


def test_a_score_that_is_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, an error for a score, several numbers, no batch, no torchmetrics."""
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
