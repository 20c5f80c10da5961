"""The trainer contract: values survive the round trip, and errors name their field."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_service.domain.errors import InvalidArgument
from agent_service.domain.runs import Mode
from trainer_service.rpc import convert
from trainer_service.runs.run import (
    ChunkTrained,
    Event,
    Finished,
    Planned,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.training.child.models import traits_of
from trainer_service.training.chunk import Chunk, FinalScores
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import (
    Augment,
    Execution,
    MemoryFormat,
    Model,
    Precision,
    Score,
    Sites,
    Start,
    Stem,
    TrainingSpec,
)
from trainer_service.v1 import trainer_pb2 as pb

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 2**31 - 1)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    method = draw(st.sampled_from([*training_methods()]))
    in_chunks = draw(st.booleans())
    length = draw(COUNTS)
    model = draw(st.sampled_from(Model))
    traits = traits_of(model)
    named = draw(st.sampled_from([(), ("cat", "dög"), ("a, b", "c", "d")]))
    is_scratch = not traits.has_imagenet or draw(st.booleans())
    training = TrainingSpec(
        dataset=draw(st.sampled_from(["digits", "fer2013", "folder:faces", "npz:fer/2013"])),
        training_size=draw(st.none() | COUNTS),
        label_noise=draw(st.floats(0, 0.99)),
        data_seed=draw(SEEDS),
        image_size=draw(st.none() | st.integers(8, 1024)),
        classes=draw(st.none() | (st.just(2) if named else st.integers(2, 2**31 - 1))),
        class_names=named,
        validation_share=draw(st.floats(0.01, 0.99)),
        deduplicate=draw(st.booleans()),
        augment=draw(st.sampled_from(Augment)),
        model=model,
        width=draw(st.floats(0.01, 1)) if is_scratch and traits.has_width else 1.0,
        depth=draw(st.sampled_from([None, *list(traits.stages_by_depth)[1:]])),
        stem=draw(st.sampled_from(Stem)) if is_scratch and traits.has_stem else Stem.AUTO,
        start=Start.SCRATCH if is_scratch else Start.IMAGENET,
        method=method,
        sites=draw(st.sampled_from(Sites)),
        values=draw(st.fixed_dictionaries({}, optional={"noise-strength": st.floats(0, 10)}))
        if method == "dni"
        else {},
        chunks=length if in_chunks else None,
        epochs=None if in_chunks else length,
        batch_size=draw(COUNTS),
        learning_rate=draw(st.floats(1e-9, 1e3)),
        chunk_size=draw(COUNTS),
        validation_batches=draw(COUNTS),
        precision=draw(st.sampled_from(Precision)),
        memory_format=draw(st.sampled_from(MemoryFormat)),
        score=draw(st.sampled_from(Score)),
        execution=draw(st.sampled_from(Execution)),
        seed=draw(SEEDS),
    )
    return RunSpec(
        training=training,
        controller="c" if training_methods()[method].is_reinforced else "",
        mode=draw(st.sampled_from([None, Mode.LEARNING, Mode.FROZEN])),
        keep=draw(st.booleans()),
        parent=draw(st.sampled_from(["", "r-1"])),
    )


CHUNKS = st.builds(
    Chunk,
    index=COUNTS,
    losses=st.lists(FLOATS, min_size=1, max_size=5).map(tuple),
    training_score=SHARES,
    validation_score=SHARES,
    validation_loss=FLOATS,
    values=st.dictionaries(st.sampled_from(["dropout", "noise"]), SHARES),
    epochs=FLOATS,
    training_images=COUNTS,
    validation_images=COUNTS,
    seconds=FLOATS,
)
SCORES = st.builds(
    FinalScores,
    best_epoch=COUNTS,
    **{name: SHARES for name in FinalScores.__dataclass_fields__ if name != "best_epoch"},
)
EVENTS = st.builds(
    Event,
    index=COUNTS,
    # Whole seconds: a message's time is in nanoseconds, finer than a float's resolution today.
    time=st.integers(0, 4 * 10**9).map(float),
    what=st.builds(StateChanged, state=st.sampled_from(RunState), cause=st.text(max_size=20))
    | st.builds(Planned, chunks=COUNTS)
    | st.builds(ChunkTrained, chunk=CHUNKS, policy_version=COUNTS, agent_seconds=FLOATS)
    | st.builds(
        Finished,
        scores=SCORES,
        diverged=st.booleans(),
        seconds=FLOATS,
        device=st.text(),
        weights_digest=st.text(),
    ),
)


@given(specs())
def test_a_spec_arrives_as_it_was_sent(spec: RunSpec) -> None:
    """Every field, through the serialized message."""
    data = convert.spec_to_message(spec).SerializeToString()

    assert convert.spec_from_message(pb.RunSpec.FromString(data)) == spec


@given(EVENTS)
def test_an_event_arrives_as_it_was_sent(event: Event) -> None:
    """Every field of every kind, floats bit by bit."""
    data = convert.event_to_message(event).SerializeToString()

    assert convert.event_from_message(pb.Event.FromString(data)) == event


def test_an_event_of_an_unknown_kind_is_refused() -> None:
    """As of a newer service; it is not taken for a result."""
    with pytest.raises(InvalidArgument, match="upgrade this client"):
        convert.event_from_message(pb.Event(index=1))


def test_an_empty_message_is_the_documented_default() -> None:
    """Only method and length are required; other defaults are those of the contract."""
    spec = convert.spec_from_message(pb.RunSpec(method=pb.METHOD_VANILLA, epochs=1))

    assert spec == RunSpec(training=TrainingSpec(epochs=1))


WRONG: list[tuple[dict[str, object], str]] = [
    ({"method": 0}, "method"),
    ({"method": 99}, "method"),
    ({"sites": 9}, "sites"),
    ({"chunks": 0}, "chunks"),
    ({"chunks": -4}, "chunks"),
    ({"epochs": 0}, "epochs"),
    ({"batch_size": -1}, "batch_size"),
    ({"chunk_size": -1}, "chunk_size"),
    ({"validation_batches": -1}, "validation_batches"),
    ({"learning_rate": -0.1}, "learning_rate"),
    ({"learning_rate": math.nan}, "learning_rate"),
    ({"learning_rate": math.inf}, "learning_rate"),
    ({"precision": "fp8"}, "precision"),
    ({"memory_format": "rows"}, "memory_format"),
    ({"score": "accuracy"}, "score"),
    ({"execution": "fast"}, "execution"),
    ({"seed": 2**63}, "seed"),
    ({"child": pb.Child(model="vgg")}, "child.model"),
    ({"child": pb.Child(model="vgg11", width=0.5)}, "child.width"),
    ({"child": pb.Child(model="resnext50_32x4d", width=0.5)}, "child.width"),
    ({"child": pb.Child(model="vgg11", stem="small")}, "child.stem"),
    ({"child": pb.Child(stem="big")}, "child.stem"),
    ({"child": pb.Child(start="random")}, "child.start"),
    ({"child": pb.Child(width=1.5)}, "child.width"),
    ({"child": pb.Child(width=0.5, start="imagenet")}, "child.width"),
    ({"child": pb.Child(stem="small", start="imagenet")}, "child.stem"),
    ({"child": pb.Child(model="cnn", start="imagenet")}, "child.start"),
    ({"child": pb.Child(model="cnn", stem="small")}, "child.stem"),
    ({"child": pb.Child(model="mlp", depth=6)}, "child.depth"),
    ({"child": pb.Child(model="cnn", depth=5)}, "child.depth"),
    ({"child": pb.Child(model="cnn", depth=-1)}, "child.depth"),
    ({"child": pb.Child(depth=2)}, "child.depth"),
    ({"method": pb.METHOD_NI, "child": pb.Child(model="mlp", depth=1)}, "method"),
    ({"data": pb.Data(dataset="cifar")}, "data.dataset"),
    ({"data": pb.Data(dataset="folder:../secret")}, "data.dataset"),
    ({"data": pb.Data(dataset="npz:/etc/passwd")}, "data.dataset"),
    ({"data": pb.Data(dataset="npz:a/../../x")}, "data.dataset"),
    ({"data": pb.Data(dataset="folder:a/..")}, "data.dataset"),
    ({"data": pb.Data(dataset="folder:a\0b")}, "data.dataset"),
    ({"data": pb.Data(dataset="folder:a\nb")}, "data.dataset"),
    ({"data": pb.Data(training_size=-1)}, "data.training_size"),
    ({"data": pb.Data(label_noise=1.0)}, "data.label_noise"),
    ({"data": pb.Data(seed=2**63)}, "data.seed"),
    ({"data": pb.Data(image_size=7)}, "data.image_size"),
    ({"data": pb.Data(classes=1)}, "data.classes"),
    ({"data": pb.Data(class_names=["cat"])}, "data.class_names"),
    ({"data": pb.Data(class_names=["cat", "dog", "cat"])}, "data.class_names"),
    ({"data": pb.Data(class_names=["cat", "dog"], classes=3)}, "data.classes"),
    ({"data": pb.Data(validation_share=1.0)}, "data.validation_share"),
    ({"data": pb.Data(augment="mixup")}, "data.augment"),
    ({"values": {"dropout": 0.5}}, "values[dropout]"),
    ({"method": pb.METHOD_D, "values": {"dropout": 0.95}}, "values[dropout]"),
    ({"method": pb.METHOD_D, "values": {"dropout": math.nan}}, "values[dropout]"),
    ({"method": pb.METHOD_RD, "values": {"dropout": 0.5}}, "values[dropout]"),
    ({"method": pb.METHOD_RD}, "controller"),
    ({"method": pb.METHOD_D, "method_name": "d"}, "method_name"),
    ({"controller": "c"}, "controller"),
    ({"mode": 7}, "mode"),
]


@pytest.mark.parametrize(("changes", "field"), WRONG)
def test_a_wrong_spec_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    """With the field's path in the contract."""
    content: dict[str, object] = {"method": pb.METHOD_VANILLA} | changes
    if not {"chunks", "epochs"} & set(content):
        content["chunks"] = 3

    with pytest.raises(InvalidArgument) as raised:
        convert.spec_from_message(pb.RunSpec(**content))  # type: ignore[arg-type]

    assert [v.field for v in raised.value.violations] == [f"spec.{field}"]
