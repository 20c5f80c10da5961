"""Tables of a study file made into studies and suites; what is wrong is told by its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from agent_service.domain.errors import InvalidArgument
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.registry import KINDS
from trainer_service.study.spec import StudySpec
from trainer_service.study.suite import Suite, SuiteProblem
from trainer_service.study.toml_places import Place, WrongField, place_of
from trainer_service.training.spec import TrainingSpec

T = TypeVar("T")

PER_METHOD = {"method", "values", "sites", "seed"}
"""Fields of a training that differ between children of a study."""
PER_PROBLEM = ("name", "seeds")
"""Keys of a problem beside those of its training."""
LENGTHS = ("chunks", "epochs")
"""Keys of a training of which one is given."""


def study_of(content: Mapping[str, Any]) -> StudySpec:
    """Return the study of a file without problems; raises WrongField."""
    _check_head(content)
    _check_per_method(content["training"], ("training",))
    return _study(content, content["training"], _methods(content["methods"]))


def suite_of(content: Mapping[str, Any]) -> Suite:
    """Return the suite of a file with problems; raises WrongField."""
    head = {name: value for name, value in content.items() if name != "problems"}
    _check_head({"training": {}} | head)
    base: Mapping[str, Any] = head.get("training", {})
    _check_names(_names(TrainingSpec), base, ("training",))
    _check_per_method(base, ("training",))
    if not _is_tables(content["problems"]):
        raise WrongField(("problems",), "is no list of tables; write each as [[problems]]")
    tables = [_table(i, table) for i, table in enumerate(content["problems"])]
    problems = _problems(tables, base, head, _methods(head["methods"]))
    return made(Suite, {"title": head.get("title", ""), "problems": problems}, ())


def _check_head(content: Mapping[str, Any]) -> None:
    """Check the keys at the top of a file, and that the tables are there."""
    _check_names([*_names(StudySpec), "problems"], content, ())
    for name, kind, written in (
        ("training", dict, "[training]"),
        ("methods", list, "[[methods]]"),
    ):
        if not isinstance(content.get(name), kind):
            raise WrongField((name,), f"is missing; write it as {written}")


def _check_per_method(training: Mapping[str, Any], place: Place) -> None:
    for name in PER_METHOD.intersection(training):
        raise WrongField((*place, name), "is set for each child by its method; leave it out")


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)


def _methods(tables: Sequence[Any]) -> tuple[Entry, ...]:
    return tuple(_entry(table, ("methods", place)) for place, table in enumerate(tables))


def _study(
    content: Mapping[str, Any], training: Mapping[str, Any], methods: tuple[Entry, ...]
) -> StudySpec:
    trained = made(TrainingSpec, training, ("training",))
    return made(StudySpec, {**content, "training": trained, "methods": methods}, ())


def _entry(table: Any, place: Place) -> Entry:
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise WrongField((*place, "kind"), f"{kind!r} is not one of {', '.join(KINDS)}")
    types = get_type_hints(KINDS[kind])
    values = {
        name: made(types[name], value, (*place, name))
        for name, value in table.items()
        if isinstance(value, dict) and is_dataclass(types.get(name))
    }
    entry: Entry = made(KINDS[kind], {**table, **values}, place)
    return entry


# Problems


@dataclass(frozen=True, slots=True)
class _ProblemTable:
    """A table of `[[problems]]`."""

    place: Place
    name: str
    changes: Mapping[str, Any]
    """Keys of the training that it sets, instead of `[training]`."""
    seeds: Mapping[str, Any]
    """Its own seeds, if it sets them."""


def _table(number: int, table: Mapping[str, Any]) -> _ProblemTable:
    place: Place = ("problems", number)
    trained = _names(TrainingSpec)
    _check_names([*PER_PROBLEM, *(n for n in trained if n not in PER_METHOD)], table, place)
    if not isinstance(table.get("name"), str):
        raise WrongField((*place, "name"), "is missing; name each problem, it gets a folder")
    return _ProblemTable(
        place,
        table["name"],
        changes={key: value for key, value in table.items() if key in trained},
        seeds={key: value for key, value in table.items() if key == "seeds"},
    )


def _problems(
    tables: Sequence[_ProblemTable],
    base: Mapping[str, Any],
    head: Mapping[str, Any],
    methods: tuple[Entry, ...],
) -> tuple[SuiteProblem, ...]:
    """Return all problems; raises WrongField, which says of which one it is, where it is of one."""
    made_of, wrong = [], []
    for table in tables:
        try:
            made_of.append(_problem(table, base, head, methods))
        except WrongField as error:
            place = _place_in_file(error.place, table, base)
            wrong.append((table.name, WrongField(place, error.message)))
    if not wrong:
        return tuple(made_of)
    name, first = wrong[0]
    is_of_all = len(wrong) == len(tables) and len({e.message for _, e in wrong}) == 1
    if first.place[:1] == ("problems",) or is_of_all:
        raise first
    raise WrongField(first.place, f"for problem {name}: {first.message}")


def _problem(
    table: _ProblemTable,
    base: Mapping[str, Any],
    head: Mapping[str, Any],
    methods: tuple[Entry, ...],
) -> SuiteProblem:
    # A length in epochs takes the place of one in chunks, and the other way round.
    is_length_given = any(name in table.changes for name in LENGTHS)
    kept = {k: v for k, v in base.items() if not (is_length_given and k in LENGTHS)}
    title = ": ".join(filter(None, (str(head.get("title", "")), table.name)))
    study = _study({**head, **table.seeds, "title": title}, {**kept, **table.changes}, methods)
    return made(SuiteProblem, {"name": table.name, "study": study}, table.place)


def _place_in_file(place: Place, table: _ProblemTable, base: Mapping[str, Any]) -> Place:
    """Return where a problem's field is written: with the problem, or for all of them."""
    if place == ("seeds",) and table.seeds:
        return (*table.place, "seeds")
    is_shared = len(place) > 1 and place[1] in base and place[1] not in table.changes
    if place[:1] == ("training",) and not is_shared:
        return (*table.place, *place[1:])
    return place


# Values


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def _check_names(known: Iterable[str], table: Mapping[str, Any], place: Place) -> None:
    """Check that all keys of a table are known; raises WrongField."""
    for name in table:
        if name not in known:
            raise WrongField((*place, name), f"is not known here; known are {', '.join(known)}")


def made(kind: type[T], table: Mapping[str, Any], place: Place) -> T:
    """Return a table as a dataclass; raises WrongField."""
    _check_names(_names(kind), table, place)
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongField((*place, *first["loc"]), first["msg"].lower()) from None
    except InvalidArgument as error:
        violation = error.violations[0]
        raise WrongField((*place, *place_of(violation.field)), violation.description) from None
