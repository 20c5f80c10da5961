"""Messages to values and back, by field names; only this module touches the trainer contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

from agent_service.domain.checks import member
from agent_service.domain.errors import FieldViolation, InvalidArgument, invalid, within
from agent_service.wire.convert import timestamp
from agent_service.wire.fields import arguments, contents, plain
from trainer_service.runs.run import (
    ChunkTrained,
    Event,
    EventContent,
    Finished,
    Planned,
    Run,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.training.chunk import Chunk, FinalScores, Which
from trainer_service.training.spec import Method, TrainingSpec
from trainer_service.v1 import trainer_pb2 as pb


def _view(*values: Any, **others: Any) -> SimpleNamespace:
    """Return an object with the fields of several dataclasses, and others, as attributes."""
    shown = {f.name: getattr(value, f.name) for value in values for f in fields(value)}
    return SimpleNamespace(**shown | others)


def checked_fields(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a dataclass's fields, with texts of enum fields as members.

    Raises:
        InvalidArgument: an enum has no such member.
    """
    enums = _enums(kind)
    own = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    return {
        name: member(enums[name], value, name) if name in enums else value
        for name, value in own.items()
    }


@cache
def _enums(kind: Any) -> dict[str, type[StrEnum]]:
    """Return the enum types of a dataclass's fields, also of optional ones."""
    return {
        name: each
        for name, hint in get_type_hints(kind).items()
        for each in (hint, *get_args(hint))
        if isinstance(each, type) and issubclass(each, StrEnum)
    }


_DATA = {"seed": "data_seed"}
"""Fields of Data that have another name in a TrainingSpec."""
_PATHS = {
    **{_DATA.get(f.name, f.name): f"data.{f.name}" for f in pb.Data.DESCRIPTOR.fields},
    **{f.name: f"child.{f.name}" for f in pb.Child.DESCRIPTOR.fields},
}
"""Paths in the message of those fields of the flat TrainingSpec that it nests."""


@contextmanager
def spec_paths() -> Iterator[None]:
    """Rename the fields `spec.NAME` of an InvalidArgument within to their paths in the message."""
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
    with spec_paths(), within("spec."):
        if not (message.method or message.method_name):
            raise invalid("method", f"is not set; set one of {', '.join(Method)}")
        if message.method and message.method_name:
            raise invalid("method_name", "is set beside method; set one of the two")
        data = contents(message.data, TrainingSpec)
        training = (
            contents(message, TrainingSpec)
            | {_DATA.get(name, name): value for name, value in data.items()}
            | contents(message.child, TrainingSpec)
            | ({} if message.method else {"method": message.method_name})
        )
        return RunSpec(
            training=TrainingSpec(**checked_fields(TrainingSpec, training)),
            **checked_fields(RunSpec, contents(message, RunSpec)),
        )


def spec_to_message(spec: RunSpec) -> pb.RunSpec:
    """Return the message of a spec, with all defaults filled in."""
    return pb.RunSpec(**arguments(_spec_view(spec), pb.RunSpec.DESCRIPTOR))


def _spec_view(spec: RunSpec) -> SimpleNamespace:
    data = _view(spec.training, seed=spec.training.data_seed)
    # A row of Table 1 has a number, any other method goes by its name.
    row = {each.value: each for each in Method}.get(spec.training.method)
    name = spec.training.method if row is None else ""
    return _view(spec, spec.training, data=data, child=spec.training, method=row, method_name=name)


def run_to_message(run: Run) -> pb.Run:
    """Return the message of a run."""
    view = _view(
        run,
        run_id=run.id,
        spec=_spec_view(run.spec),
        result=None if run.result is None else _view(run.result, run.result.scores),
        create_time=timestamp(run.created_at),
    )
    return pb.Run(**arguments(view, pb.Run.DESCRIPTOR))


def event_to_message(event: Event) -> pb.Event:
    """Return the message of an event."""
    message = pb.Event(index=event.index, time=timestamp(event.time))
    match event.what:
        case StateChanged(state=state, cause=cause):
            message.state = pb.RunState.Value(f"RUN_STATE_{state.name}")
            message.cause = cause
        case Planned(chunks=chunks):
            message.planned_chunks = chunks
        case ChunkTrained(chunk=chunk) as trained:
            view = _view(trained, chunk)
            message.chunk.CopyFrom(pb.Chunk(**arguments(view, pb.Chunk.DESCRIPTOR)))
        case Finished(scores=scores) as result:
            view = _view(result, scores)
            message.result.CopyFrom(pb.Result(**arguments(view, pb.Result.DESCRIPTOR)))
    return message


def event_from_message(message: pb.Event) -> Event:
    """Return the event of a message; raises InvalidArgument for a kind unknown here."""
    what: EventContent
    match message.WhichOneof("kind"):
        case "state":
            what = StateChanged(**checked_fields(StateChanged, contents(message)))
        case "planned_chunks":
            what = Planned(chunks=message.planned_chunks)
        case "chunk":
            values = contents(message.chunk)
            chunk = Chunk(**checked_fields(Chunk, values))
            what = ChunkTrained(chunk=chunk, **checked_fields(ChunkTrained, values))
        case "result":
            values = contents(message.result)
            scores = FinalScores(**checked_fields(FinalScores, values))
            what = Finished(scores=scores, **checked_fields(Finished, values))
        case _:
            raise invalid("event.kind", "is unknown to this version; upgrade this client")
    return Event(index=message.index, time=message.time.ToNanoseconds() / 1e9, what=what)


def weights_request(run_id: str, which: Which) -> pb.GetWeightsRequest:
    """Return the request for a run's weights."""
    number = pb.Weights.Value(f"WEIGHTS_{which.name}")
    return pb.GetWeightsRequest(run_id=run_id, weights=number)


def which_from_message(request: pb.GetWeightsRequest) -> Which:
    """Return the weights that GetWeights asks for, the best by default; raises InvalidArgument."""
    text = plain(pb.GetWeightsRequest.DESCRIPTOR.fields_by_name["weights"], request.weights)
    return member(Which, text, "weights") if request.weights else Which.BEST


def state_from_message(message: pb.ListRunsRequest | pb.Run) -> RunState | None:
    """Return the state of a run, or that a filter asks for; None if unspecified.

    Raises:
        InvalidArgument: the state is unknown.
    """
    text = plain(message.DESCRIPTOR.fields_by_name["state"], message.state)
    return member(RunState, text, "state") if message.state else None
