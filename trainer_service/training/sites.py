"""Where regularizers stand in a child, found by watching a pass through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agent_service.domain.errors import invalid
from trainer_service.training.child.models import STAGES, Model, traits_of

STANDARD_SIZE = 224
"""Pixels at which every model's stages differ in size, so that they can be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a module in a pass."""

    name: str
    """The module's place in the child."""
    shape: tuple[int, ...]
    """Shape of its output for one image, without the batch."""
    input_shape: tuple[int, ...]
    """Shape of its first input, likewise."""
    follows_norm: bool
    """Whether its input is a batch norm's output."""
    is_leaf: bool
    """Whether it has no modules of its own."""


def watch_pass(child: nn.Module, shape: tuple[int, ...]) -> list[Call]:
    """Return the calls of a child's modules in one pass of an image, in eval mode.

    Nothing is computed: the pass runs on torch's `meta` device, which knows shapes only.

    Args:
        child: stays as it is, and where it is.
        shape: of the image, (c, h, w).

    Raises:
        InvalidArgument: where the child does not take images of this shape.
    """
    tensors = chain(child.named_parameters(), child.named_buffers())
    shadow = {name: tensor.detach().to("meta") for name, tensor in tensors}
    was_training = child.training
    watch = _Watch()
    with ExitStack() as stack, torch.no_grad():
        for name, module in child.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(watch.enter, name)).remove)
            stack.callback(module.register_forward_hook(partial(watch.leave, name)).remove)
        try:
            functional_call(child.eval(), shadow, torch.zeros(1, *shape, device="meta"))
        except (RuntimeError, AssertionError, ValueError) as error:
            text = f"it takes no images of shape {shape}: {str(error).splitlines()[0]}"
            raise invalid("model", text) from error
        finally:
            child.train(was_training)
    return watch.calls


class _Watch:
    """Notes the calls of a pass."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        # Outputs of batch norms, kept so that no other tensor takes their identity, with their
        # versions: a block adds its shortcut to one in place, which then is no norm's output.
        self._normed: list[tuple[Tensor, int]] = []
        self._follows_norm: dict[str, bool] = {}

    def enter(self, name: str, _module: nn.Module, inputs: tuple[object, ...]) -> None:
        # Before the call: a ReLU may change its input in place.
        self._follows_norm[name] = bool(inputs) and any(
            inputs[0] is tensor and tensor._version == version for tensor, version in self._normed
        )

    def leave(
        self, name: str, module: nn.Module, inputs: tuple[object, ...], output: object
    ) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        call = Call(
            name=name,
            shape=tuple(output.shape[1:]),
            input_shape=tuple(inputs[0].shape[1:]),
            follows_norm=self._follows_norm[name],
            is_leaf=next(module.children(), None) is None,
        )
        self.calls.append(call)
        if isinstance(module, nn.BatchNorm2d):
            self._normed.append((output, output._version))


def stage_ends(child: nn.Module, model: Model, *, channels: int) -> tuple[str, ...]:
    """Return the modules that end a child's stages, by their places in it.

    The stages of a ResNet, an mlp and a cnn are modules of their names, up to four of them. The
    others have four. A vision transformer's are quarters of its encoder. Of the rest a stage is
    what works at one size of features, and the last four sizes count: the module that ends one is
    the last before the size changes.
    """
    if traits_of(model).names_stages:
        return tuple(name for name in STAGES if hasattr(child, name))
    if layers := [n for n, _m in child.named_modules() if re.search(r"encoder_layer_\d+$", n)]:
        return tuple(layers[len(layers) * quarter // 4 - 1] for quarter in (1, 2, 3, 4))
    head = classifier_name(child).partition(".")[0]
    units = {name for name in _units(child) if name.partition(".")[0] != head}
    # By size, so that the last one of a size stays; the second dimension is of the image whether
    # channels stand first or last.
    ends = {
        call.shape[1]: call.name
        for call in watch_pass(child, (channels, STANDARD_SIZE, STANDARD_SIZE))
        if call.name in units and len(call.shape) == 3
    }
    return tuple(ends[size] for size in sorted(ends, reverse=True)[-len(STAGES) :])


def _units(module: nn.Module, place: str = "") -> Iterator[str]:
    """Yield the modules that features go through one after another, containers opened."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _units(child, f"{place}{name}.")
        elif not isinstance(child, nn.AdaptiveAvgPool2d | nn.Dropout):
            yield f"{place}{name}"


def classifier_name(child: nn.Module) -> str:
    """Return the place of the last linear layer; SqueezeNet's is a convolution."""
    linear = [n for n, m in child.named_modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else convolution_names(child)[-1]


def convolution_names(child: nn.Module) -> list[str]:
    """Return the places of the convolutions, the stem's first."""
    return [n for n, m in child.named_modules() if isinstance(m, nn.Conv2d)]
