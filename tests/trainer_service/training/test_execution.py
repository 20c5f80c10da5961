"""How steps are launched: a new value costs nothing, and devices refuse what they lack."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD, CPU, digits, values
from trainer_service.training.child import execution
from trainer_service.training.chunk import Chunk
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import (
    Execution,
    MemoryFormat,
    Method,
    Precision,
)
from trainer_service.training.stacked import StackedTraining

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Count compilations, by a backend that runs what it is given: compiling takes minutes."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(execution, "COMPILER", counter)
    return counter


def make(method: Method, device: torch.device = CPU, **changes: Any) -> ChildTraining:
    spec = replace(CHILD, training_size=256, validation_batches=2, method=method, **changes)
    return ChildTraining(spec, digits(256), device)


@pytest.mark.parametrize("method", [Method.RD, Method.RNI, Method.DNI])
def test_a_new_value_recompiles_nothing(compilations: CompileCounter, method: Method) -> None:
    """One graph, without breaks, serves all values, and trains as without a compiler."""
    child, eager = make(method, execution=Execution.COMPILED), make(method)

    for value in (0.1, 0.5, 0.9):
        its_values = values(child.spec, value)
        assert child.train_chunk(its_values).losses == eager.train_chunk(its_values).losses

    assert compilations.frame_count == 1


def test_new_values_of_stacked_children_recompile_nothing(compilations: CompileCounter) -> None:
    """One graph for two children with values of their own."""
    children = [make(Method.RD, execution=Execution.COMPILED, seed=seed) for seed in (0, 1)]
    stacked = StackedTraining(children)

    for value in (0.1, 0.5):
        chunks = stacked.train_chunk([{"dropout": value}, {"dropout": 2 * value - 0.1}])
        assert all(isinstance(chunk, Chunk) for chunk in chunks)

    assert compilations.frame_count == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"precision": Precision.TF32}, "precision"),
        ({"execution": Execution.GRAPHS}, "execution"),
        ({"memory_format": MemoryFormat.CHANNELS_LAST}, "memory_format"),
    ],
)
def test_what_a_cpu_lacks_is_refused(changes: dict[str, object], field: str) -> None:
    """By the field, with what to use there."""
    with pytest.raises(InvalidArgument, match="CUDA devices only; use") as raised:
        make(Method.VANILLA, CPU, **changes)

    assert [v.field for v in raised.value.violations] == [field]


def test_a_pass_without_gradient_takes_no_more_memory_than_a_step() -> None:
    """By the bytes that are allocated at once; so m batches take few passes."""
    child = make(Method.VANILLA, width=0.25)
    batch, images = child.spec.batch_size, child.passes.evaluation_images()
    step = _largest_alive(child, batch, is_training=True)

    assert images >= 4 * batch
    assert 0 < _largest_alive(child, images, is_training=False) <= step


def _largest_alive(child: ChildTraining, images: int, *, is_training: bool) -> int:
    """Return the most bytes that a pass has allocated at once, as torch's profiler counts them."""
    pixels = torch.zeros(images, 1, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(images, dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True) as profile:
        if is_training:
            child.passes.train(pixels, labels)
        else:
            child.passes.evaluate(pixels)
    alive = largest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            largest = max(largest, alive)
    return largest


@needs_cuda
@pytest.mark.parametrize("execution_", list(Execution))
@pytest.mark.parametrize("method", [Method.RD, Method.DNI])
def test_nothing_waits_for_the_device_inside_a_chunk(method: Method, execution_: Execution) -> None:
    """Steps under a new value: no copy off the device, no new capture or compilation."""
    device = torch.device("cuda")
    child = make(method, device, execution=execution_, precision=Precision.BF16)
    child.train_chunk(values(child.spec, 0.1))
    torch.cuda.set_sync_debug_mode("error")
    try:
        child.begin_chunk(values(child.spec, 0.2))
        for _ in range(child.spec.chunk_size):
            child.end_step(*child.passes.train(*child.next_batch()))
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert child.end_chunk(child.evaluate(child.draw_validation())).index == 2


@needs_cuda
def test_captured_steps_train_as_eager_ones() -> None:
    """Replays of a CUDA graph draw new noise, read new values, and step the same weights."""
    device = torch.device("cuda")
    eager = make(Method.RD, device)
    captured = make(Method.RD, device, execution=Execution.GRAPHS)

    for rate in (0.1, 0.5, 0.9):
        its_values = {"dropout": rate}
        expected = eager.train_chunk(its_values).losses
        assert captured.train_chunk(its_values).losses == pytest.approx(expected, rel=1e-2)
