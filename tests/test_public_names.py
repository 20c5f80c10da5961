"""Public names, of imports and of commands: they change on purpose alone.

`python -m tests.test_public_names` writes the lists in tests/data/public anew.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import click
import pytest

from agent_service.cli.main import cli as agent_service
from agent_service.domain.specs import Settings
from trainer_service.cli.main import cli as trainer_service

FOLDER = Path(__file__).parent / "data/public"
MODULES = (
    "agent_service.client",
    "agent_service.client.ignite",
    "agent_service.client.lightning",
    "agent_service.client.model",
    "agent_service.client.transformers",
    "agent_service.torchvision_operators",
    "trainer_service.client",
    "trainer_service.environment",
)
MADE_BY_US = ("ReportStream", "Run")


def names() -> Iterator[str]:
    """Yield each public name of the modules, with its parameters and their defaults."""
    for path in MODULES:
        module = importlib.import_module(path)
        yield path
        public = getattr(module, "__all__", None) or [
            name
            for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", "") == path
        ]
        for name in sorted(public):
            yield from _lines(f"{path}.{name}", getattr(module, name))


def _lines(path: str, thing: object) -> Iterator[str]:
    is_made = not inspect.isclass(thing) or thing.__name__ not in MADE_BY_US
    yield path + (_parameters(thing) if is_made else "")
    if not inspect.isclass(thing):
        return
    for name in sorted(n for n in dir(thing) if not n.startswith("_")):
        member = inspect.getattr_static(thing, name)
        # Those of torch, a callback's framework or an enumeration's base are not ours.
        owner = next(c for c in thing.__mro__ if name in vars(c))
        if issubclass(thing, Settings) and name not in inspect.signature(thing).parameters:
            continue  # what the services ask of any algorithm
        if owner.__module__.split(".")[0] in ("agent_service", "trainer_service"):
            yield f"{path}.{name}" + _parameters(getattr(member, "__func__", member))


def _parameters(thing: object) -> str:
    """Return the parameters as text, without types, which name modules that may move."""
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, Enum)):
        return ""
    signature = inspect.signature(thing)
    plain = [
        p.replace(
            annotation=p.empty, default=p.empty if p.default is p.empty else _Plain(p.default)
        )
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


class _Plain:
    """A default as a reader would write it, not as where it is made."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "..." if " at 0x" in repr(self._value) else repr(self._value)


def commands(group: Any, path: str) -> Iterator[str]:
    """Yield each command, and a line for each of its options and arguments."""
    yield path
    for parameter in group.get_params(click.Context(group)):
        about = parameter.to_info_dict()
        parts = [" ".join([*parameter.opts, *parameter.secondary_opts])]
        parts += ["required"] if parameter.required else []
        choices = about["type"].get("choices", ())
        parts += [f"one of {' '.join(choices)}"] if choices else []
        default = about.get("default")
        parts += [] if default in (None, False) or callable(default) else [f"default {default}"]
        yield "    " + ", ".join(parts)
    for name in sorted(getattr(group, "commands", {})):
        yield from commands(group.commands[name], f"{path} {name}")


LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "names": names,
    "agent-service": lambda: commands(agent_service, "agent-service"),
    "trainer-service": lambda: commands(trainer_service, "trainer-service"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("which", LISTS)
def test_public_names_are_as_they_were(which: str) -> None:
    """A line that is gone breaks somebody's script; a new one is added to the list."""
    assert list(LISTS[which]()) == (FOLDER / f"{which}.txt").read_text().splitlines()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for which, lines in LISTS.items():
        (FOLDER / f"{which}.txt").write_text("".join(f"{line}\n" for line in lines()))
