"""All kinds of methods, by their names in study files."""

from __future__ import annotations

from typing import Any

from pydantic import FieldSerializationInfo, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from agent_service.domain.checks import quoted
from trainer_service.study.methods.carried import Carried
from trainer_service.study.methods.derived import MeanOf, Replayed
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.learning import Bayesian, Learned
from trainer_service.study.methods.pbt import PopulationBased
from trainer_service.study.methods.pretrained import Pretrained
from trainer_service.study.methods.searches import Grid, RandomSearch
from trainer_service.study.methods.steered import Drawn, Scheduled

KINDS: dict[str, type[Entry]] = {
    "fixed": Fixed,
    "grid": Grid,
    "random-search": RandomSearch,
    "bayesian": Bayesian,
    "schedule": Scheduled,
    "random": Drawn,
    "ppo": Learned,
    "pretrained": Pretrained,
    "replay": Replayed,
    "mean": MeanOf,
    "carried": Carried,
    "pbt": PopulationBased,
}


def read_entry(content: Any) -> Entry:
    """Return a method given as such or as stored content; a pydantic validator."""
    if isinstance(content, Entry):
        return content
    word = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(word, str) or word not in KINDS:
        text = f"kind {quoted(word)} is not one of {', '.join(KINDS)}"
        raise PydanticCustomError("kind", "{text}", {"text": text})
    try:
        return TypeAdapter(KINDS[word]).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        text = ": ".join((".".join(map(str, first["loc"])), first["msg"]))
        raise PydanticCustomError("method", "{text}", {"text": text}) from None


def write_entry(entry: Entry, info: FieldSerializationInfo) -> Any:
    """Return the stored content of a method; a pydantic serializer."""
    adapter = TypeAdapter(type(entry))
    return adapter.dump_python(entry, mode=info.mode, exclude_none=info.exclude_none)  # type: ignore[arg-type]
