"""Messages to values and back: the only place that touches the trainer contract's fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent_service.domain.errors import FieldViolation, InvalidArgument, within
from agent_service.domain.runs import Mode
from agent_service.wire.convert import Numbers, by_number, enum_value, timestamp
from trainer_service.run import (
    ChunkTrained,
    Event,
    Finished,
    Planned,
    Run,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.training.chunk import Chunk
from trainer_service.training.final import FinalScores, Which
from trainer_service.training.spec import (
    Augment,
    Execution,
    MemoryFormat,
    Method,
    Model,
    Precision,
    Score,
    Sites,
    Start,
    Stem,
    TrainingSpec,
)
from trainer_service.v1 import trainer_pb2 as pb

STATES = by_number(pb.RunState, RunState)
METHODS = by_number(pb.Method, Method)
SITES = by_number(pb.Sites, Sites)
WHICH = by_number(pb.Weights, Which)
MODES = {pb.MODE_LEARNING: Mode.LEARNING, pb.MODE_FROZEN: Mode.FROZEN}
_NUMBERS = Numbers(STATES, METHODS, SITES, WHICH, MODES)


def _named(kind: Any, text: str, *, field: str, default: Any) -> Any:
    """Return the member of a string enum, `default` for an empty text."""
    if not text:
        return default
    return enum_value({member.value: member for member in kind}, text, field=field)


_PATHS = {
    "dataset": "data.dataset",
    "training_size": "data.training_size",
    "label_noise": "data.label_noise",
    "data_seed": "data.seed",
    "image_size": "data.image_size",
    "classes": "data.classes",
    "validation_share": "data.validation_share",
    "deduplicate": "data.deduplicate",
    "augment": "data.augment",
    "width": "child.width",
    "stem": "child.stem",
}
"""Where the fields of a TrainingSpec, which is flat, stand in the message, if elsewhere."""


@contextmanager
def spec_paths() -> Iterator[None]:
    """Name fields that an InvalidArgument inside calls `spec.NAME` as the message does."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(_path(v.field), v.description) for v in error.violations)
        ) from None


def _path(field: str) -> str:
    of_spec, _, name = field.partition("spec.")
    return field if of_spec else f"spec.{_PATHS.get(name, name)}"


def spec_from_message(message: pb.RunSpec) -> RunSpec:
    """Return the checked spec; raises InvalidArgument naming each field from `spec.` on."""
    mode = message.mode
    with spec_paths(), within("spec."):
        return RunSpec(
            training=_training_from_message(message),
            controller=message.controller,
            mode=None if not mode else enum_value(MODES, mode, field="mode"),
            keep=message.keep,
            parent=message.parent,
        )


def _training_from_message(message: pb.RunSpec) -> TrainingSpec:
    length = message.WhichOneof("length")
    child = message.child
    return TrainingSpec(
        dataset=message.data.dataset or "digits",
        training_size=message.data.training_size or None,
        label_noise=message.data.label_noise,
        data_seed=message.data.seed,
        image_size=message.data.image_size or None,
        classes=message.data.classes or None,
        validation_share=message.data.validation_share or 0.1,
        deduplicate=message.data.deduplicate,
        augment=_named(Augment, message.data.augment, field="augment", default=Augment.NONE),
        model=_named(Model, child.model, field="child.model", default=Model.RESNET34),
        width=child.width or 1.0,
        stem=_named(Stem, child.stem, field="child.stem", default=Stem.AUTO),
        start=_named(Start, child.start, field="child.start", default=Start.SCRATCH),
        method=enum_value(METHODS, message.method, field="method"),
        sites=enum_value(SITES, message.sites, field="sites", default=Sites.SHARED),
        values=dict(message.values),
        chunks=message.chunks if length == "chunks" else None,
        epochs=message.epochs if length == "epochs" else None,
        batch_size=message.batch_size or 64,
        learning_rate=message.learning_rate or 1e-3,
        chunk_size=message.chunk_size or 20,
        validation_batches=message.validation_batches or 20,
        precision=_named(Precision, message.precision, field="precision", default=Precision.FP32),
        memory_format=_named(
            MemoryFormat, message.memory_format, field="memory_format", default=MemoryFormat.AUTO
        ),
        execution=_named(Execution, message.execution, field="execution", default=Execution.EAGER),
        score=_named(Score, message.score, field="score", default=Score.OF_BATCHES),
        seed=message.seed,
    )


def spec_to_message(spec: RunSpec) -> pb.RunSpec:
    """Return the message of a spec, every default filled in."""
    training = spec.training
    message = pb.RunSpec(
        data=pb.Data(
            dataset=training.dataset,
            training_size=training.training_size or 0,
            label_noise=training.label_noise,
            seed=training.data_seed,
            image_size=training.image_size or 0,
            classes=training.classes or 0,
            validation_share=training.validation_share,
            deduplicate=training.deduplicate,
            augment=training.augment.value,
        ),
        child=pb.Child(
            model=training.model.value,
            width=training.width,
            stem=training.stem.value,
            start=training.start.value,
        ),
        method=_NUMBERS[training.method],
        sites=_NUMBERS[training.sites],
        values=training.values,
        controller=spec.controller,
        keep=spec.keep,
        parent=spec.parent,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        chunk_size=training.chunk_size,
        validation_batches=training.validation_batches,
        precision=training.precision.value,
        memory_format=training.memory_format.value,
        execution=training.execution.value,
        score=training.score.value,
        seed=training.seed,
    )
    if spec.mode is not None:
        message.mode = _NUMBERS[spec.mode]
    if training.chunks is not None:
        message.chunks = training.chunks
    if training.epochs is not None:
        message.epochs = training.epochs
    return message


def run_to_message(run: Run) -> pb.Run:
    """Return the message of a run."""
    return pb.Run(
        run_id=run.id,
        spec=spec_to_message(run.spec),
        state=_NUMBERS[run.state],
        cause=run.cause,
        trained_chunks=run.trained_chunks,
        planned_chunks=run.planned_chunks,
        result=None if run.result is None else _result_to_message(run.result),
        create_time=timestamp(run.created_at),
    )


_SCORES = (
    "test_score_best",
    "test_score_last",
    "test_accuracy_best",
    "test_accuracy_last",
    "validation_score_best",
    "validation_score_last",
    "best_epoch",
)


def _result_to_message(result: Finished) -> pb.Result:
    return pb.Result(
        diverged=result.diverged,
        seconds=result.seconds,
        device=result.device,
        weights_digest=result.weights_digest,
        **{name: getattr(result.scores, name) for name in _SCORES},
    )


def _result_from_message(message: pb.Result) -> Finished:
    return Finished(
        scores=FinalScores(**{name: getattr(message, name) for name in _SCORES}),
        diverged=message.diverged,
        seconds=message.seconds,
        device=message.device,
        weights_digest=message.weights_digest,
    )


def event_to_message(event: Event) -> pb.Event:
    """Return the message of an event."""
    message = pb.Event(index=event.index, time=timestamp(event.time))
    match event.what:
        case StateChanged(state=state, cause=cause):
            message.state = _NUMBERS[state]
            message.cause = cause
        case Planned(chunks=chunks):
            message.planned_chunks = chunks
        case ChunkTrained():
            message.chunk.CopyFrom(_chunk_to_message(event.what))
        case Finished():
            message.result.CopyFrom(_result_to_message(event.what))
    return message


def event_from_message(message: pb.Event) -> Event:
    """Return the event of a message."""
    kind = message.WhichOneof("kind")
    what: StateChanged | Planned | ChunkTrained | Finished
    if kind == "state":
        what = StateChanged(
            state=enum_value(STATES, message.state, field="state"), cause=message.cause
        )
    elif kind == "planned_chunks":
        what = Planned(chunks=message.planned_chunks)
    elif kind == "chunk":
        what = _chunk_from_message(message.chunk)
    else:
        what = _result_from_message(message.result)
    return Event(index=message.index, time=message.time.ToNanoseconds() / 1e9, what=what)


def _chunk_to_message(trained: ChunkTrained) -> pb.Chunk:
    chunk = trained.chunk
    return pb.Chunk(
        index=chunk.index,
        losses=chunk.losses,
        training_score=chunk.training_score,
        validation_score=chunk.validation_score,
        validation_loss=chunk.validation_loss,
        values=chunk.values,
        policy_version=trained.policy_version,
        epochs=chunk.epochs,
        training_images=chunk.training_images,
        validation_images=chunk.validation_images,
        agent_seconds=trained.agent_seconds,
        seconds=chunk.seconds,
    )


def _chunk_from_message(message: pb.Chunk) -> ChunkTrained:
    chunk = Chunk(
        index=message.index,
        losses=tuple(message.losses),
        training_score=message.training_score,
        validation_score=message.validation_score,
        validation_loss=message.validation_loss,
        values=dict(message.values),
        epochs=message.epochs,
        training_images=message.training_images,
        validation_images=message.validation_images,
        seconds=message.seconds,
    )
    return ChunkTrained(
        chunk=chunk,
        policy_version=message.policy_version,
        agent_seconds=message.agent_seconds,
    )


def weights_request(run_id: str, which: Which) -> pb.GetWeightsRequest:
    """Return the request for a run's weights."""
    return pb.GetWeightsRequest(run_id=run_id, weights=_NUMBERS[which])


def which_from_message(which: int) -> Which:
    """Return the weights that GetWeights asks for; raises InvalidArgument."""
    return Which(enum_value(WHICH, which, field="weights", default=Which.BEST))


def state_from_message(state: int) -> RunState | None:
    """Return the state that ListRuns asks for; None for all; raises InvalidArgument."""
    return None if state == 0 else RunState(enum_value(STATES, state, field="state"))
