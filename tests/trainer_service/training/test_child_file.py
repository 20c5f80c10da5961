"""A trained child's file: the same child again, and nothing but a child's file is read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent_service.domain.errors import InvalidArgument
from agent_service.scores import macro_f1
from tests.trainer_service.specs import CHILD, digits, new_child, values
from trainer_service.training.checkpoint import Checkpoints
from trainer_service.training.child_file import TrainedChild, child_file, load_child, read_manifest
from trainer_service.training.chunk import FinalScores, Which
from trainer_service.training.folder import open_folder
from trainer_service.training.loop import ChildTraining
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import Method, Precision

# Epochs of four steps: the last one is cut.
SHAPE = {"chunk_size": 3, "chunks": 3}


def trained(method: str, folder: Path) -> tuple[dict[Which, bytes], FinalScores, str]:
    """Train a child; return its files, made of its last checkpoint, scores and last digest."""
    child = new_child(method=method, **SHAPE)
    for _ in range(3):
        child.train_chunk(values(child.spec))
    checkpoints = Checkpoints(open_folder(str(folder)), origin="o")
    checkpoints.save(3, child.state())
    digest, scores = child.weights_digest(), child.finish()
    state = checkpoints.newest(up_to=3)
    assert state is not None
    return {which: file_of(child, state, scores, which) for which in Which}, scores, digest


def file_of(
    child: ChildTraining, state: dict[str, Any], scores: FinalScores, which: Which
) -> bytes:
    return child_file(
        state, scores, which=which, run_id="r", training=child.spec, inputs=child.inputs
    )


def scores_of(child: TrainedChild) -> tuple[float, float]:
    """Return macro F1 and accuracy on the test split."""
    test = digits().test
    predictions, labels = child(test.images[torch.arange(len(test))]).argmax(-1), test.labels
    score = macro_f1(predictions, labels, classes=len(child.manifest.inputs.class_names))
    return float(score), float((predictions == labels).double().mean())


@pytest.mark.parametrize("method", training_methods())
def test_a_file_is_the_child_that_was_judged(method: str, tmp_path: Path) -> None:
    """Its test scores are the result's to the bit, of the best epoch and of the last weights."""
    files, scores, digest = trained(method, tmp_path)
    drawn = torch.random.get_rng_state()
    best, last = (load_child(files[which]) for which in (Which.BEST, Which.LAST))

    assert scores_of(best) == (scores.test_score_best, scores.test_accuracy_best)
    assert scores_of(last) == (scores.test_score_last, scores.test_accuracy_last)
    assert best.manifest.validation_score == scores.validation_score_best
    assert last.manifest.validation_score == scores.validation_score_last
    assert last.manifest.digest == digest
    assert best.manifest.training == replace(CHILD, method=method, **SHAPE)  # type: ignore[arg-type]
    assert not best.network.training
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_the_cut_epoch_may_be_the_best() -> None:
    """Then the best weights are the last ones, which no epoch's end had kept."""
    child = new_child(chunk_size=3, chunks=1)
    child.train_chunk({})
    state, digest, scores = child.state(), child.weights_digest(), child.finish()
    data = file_of(child, state, scores, Which.BEST)

    assert (state["epoch_scores"], scores.best_epoch) == ([], 1)
    assert read_manifest(data).digest == digest


def _with_manifest(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["reinforced-regularization"])
    change(manifest)
    header["__metadata__"]["reinforced-regularization"] = json.dumps(manifest)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_what_a_gpu_trained_is_read_on_a_cpu(tmp_path: Path) -> None:
    """Parts that only training needs, or only CUDA has, are left out."""
    files, scores, _digest = trained(Method.D, tmp_path)
    cuda = {"precision": "tf32", "execution": "graphs", "memory_format": "channels_last"}
    child = load_child(_with_manifest(files[Which.BEST], lambda m: m["training"].update(cuda)))

    assert child.manifest.training.precision is Precision.TF32
    assert scores_of(child)[0] == scores.test_score_best


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "no safetensors file"),
        (lambda data: data[:100], "no safetensors file"),
        (lambda data: data[:-1], "no intact safetensors"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "damaged"),
        (lambda data: data.replace(b"reinforced-", b"reinforsed-"), "no manifest"),
        (lambda data: _with_manifest(data, lambda m: m.update(format=2)), "of format 2"),
        (lambda data: _with_manifest(data, lambda m: m.pop("inputs")), "inputs"),
        (lambda data: _with_manifest(data, lambda m: m["training"].update(width=7.0)), "width"),
        (lambda data: _with_manifest(data, lambda m: m["training"].update(width=0.1)), "another"),
    ],
)
def test_what_is_no_childs_file_is_refused(
    damage: Callable[[bytes], bytes], says: str, tmp_path: Path
) -> None:
    """Cut, damaged, of another kind or version, or of another child than it says."""
    files, _scores, _digest = trained(Method.VANILLA, tmp_path)

    with pytest.raises(InvalidArgument, match=says) as raised:
        load_child(damage(files[Which.BEST]))

    assert [v.field for v in raised.value.violations] == ["file"]
