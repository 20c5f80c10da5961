"""Children stacked: trained in lockstep as one network, each with results as if it were alone.

The channels of K children stand side by side: convolutions in groups, batch norms over all
channels, linear layers by child. What is a child's own stays so: initial weights, order of batches,
draws, strengths, losses, scores, best weights. Adam works by element, so one optimizer over all
weights steps each child as its own would. Children that validate at the same step do so in passes
of the stack.

The weights, statistics and moments of the children become views into the stack's. So each child
is saved and finishes by itself, as it does alone, and children can be stacked again
after any chunk, fewer or others. Whoever stores a view must clone it first, or stores all children.

Grouped convolutions, not torch.func.vmap: on one CPU thread, ResNet34 of an eighth of the channels,
8x8 images, 8 children, they took 0.5 of the time of one after another, vmap 0.65 to 0.75.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from agent_service.domain.errors import invalid
from trainer_service.training.child.models import traits_of
from trainer_service.training.chunk import Chunk
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.passes import Forward, Passes, Pixels, TrainingStep, adam
from trainer_service.training.regularizers.sites import Draws, Site
from trainer_service.training.spec import TrainingSpec, step_differences

T = TypeVar("T")

FASTER = 3
"""How many times as fast a stack evaluates its children as each would by itself, roughly."""


class StackedTraining:
    """The trainings of K children, chunk by chunk."""

    def __init__(self, children: Sequence[ChildTraining]) -> None:
        """Stack children that stand at the same chunk; use them only through this from now on.

        Raises:
            InvalidArgument: where they differ in what changes network or step, are of a model that
                cannot be stacked, or stand at different chunks.
        """
        first = children[0]
        _check_alike(children)
        if any(child.trained_chunks != first.trained_chunks for child in children):
            raise invalid("together", "children that are stacked must stand at the same chunk")
        self._children = tuple(children)
        self.passes = StackedPasses([child.passes for child in children], children[0].spec)

    def train_chunk(self, values: Sequence[Mapping[str, float]]) -> list[Chunk | Diverged]:
        """Train N steps of each child under its own values, then validate each.

        A child that diverged does not touch the others; stack those anew to go on without it.

        Returns:
            For each child its chunk, whose seconds are those of all, or why it has none.
        """
        for child, its_values in zip(self._children, values, strict=True):
            child.begin_chunk(its_values)
        for _ in range(self._children[0].spec.chunk_size):
            batches = [child.next_batch() for child in self._children]
            results = self.passes.train(batches)
            for child, (loss, predictions) in zip(self._children, results, strict=True):
                child.end_step(loss, predictions)
            self._end_epochs()
        return self._end_chunk()

    def _end_epochs(self) -> None:
        ended = [child for child in self._children if child.is_epoch_over]
        logits = self._evaluate({child: child.all_validation for child in ended})
        for child in ended:
            child.end_epoch(logits[child])

    def _end_chunk(self) -> list[Chunk | Diverged]:
        drawn = {child: _or_diverged(child.draw_validation) for child in self._children}
        logits = self._evaluate({c: p for c, p in drawn.items() if isinstance(p, Tensor)})
        return [
            places if isinstance(places, Diverged) else child.end_chunk(logits[child])
            for child, places in drawn.items()
        ]

    def _evaluate(self, asked: Mapping[ChildTraining, Tensor]) -> dict[ChildTraining, Tensor]:
        """Return the logits of validation images of children at places, float32[n, classes]."""
        if len(asked) * FASTER < len(self._children):
            return {child: child.evaluate(places) for child, places in asked.items()}
        # All children pass; who asks for fewer images, or for none, passes its first one instead.
        most = max(len(places) for places in asked.values())
        size = self._children[0].passes.evaluation_images(len(self._children))
        first_image = torch.zeros(1, dtype=torch.int64, device=next(iter(asked.values())).device)
        by_child = []
        for child in self._children:
            places = asked.get(child, first_image)
            filled = nn.functional.pad(places, (0, most - len(places)))
            by_child.append(child.validation_images(torch.split(filled, size)))
        parts = [self.passes.evaluate(torch.cat(i, dim=1)) for i in zip(*by_child, strict=True)]
        logits = torch.cat(parts).view(most, len(self._children), -1).unbind(1)
        every = dict(zip(self._children, logits, strict=True))
        return {child: every[child][: len(places)] for child, places in asked.items()}


def _check_alike(children: Sequence[ChildTraining]) -> None:
    """Check that children can be one network with one step; raises InvalidArgument."""
    first = children[0]
    if not traits_of(first.spec.model).is_stackable:
        text = f"{first.spec.model} cannot be stacked; only ResNets, mlp and cnn can"
        raise invalid("together", text)
    for child in children[1:]:
        differing = step_differences(child.spec, first.spec)
        if child.batch_shape != first.batch_shape:
            differing.append("the shape of their batches")
        if len(child.inputs.class_names) != len(first.inputs.class_names):
            differing.append("the number of classes")
        if differing:
            text = f"children that are stacked must not differ in {', '.join(differing)}"
            raise invalid("together", text)


def _or_diverged(end: Callable[[], T]) -> T | Diverged:
    try:
        return end()
    except Diverged as diverged:
        return diverged


class Lockstep:
    """Trains one chunk of each child that it is given; which these are may change between two."""

    def __init__(self) -> None:
        """Stack nothing yet."""
        self._children: tuple[ChildTraining, ...] = ()
        self._stack: StackedTraining | None = None

    def train_chunk(
        self, children: Sequence[ChildTraining], values: Sequence[Mapping[str, float]]
    ) -> Sequence[Chunk | Diverged]:
        """Train a chunk of each child; see `StackedTraining.train_chunk`.

        Args:
            children: that stand at the same step. Those that were stacked and are both given again
                must have been given together ever since: they share Adam's count of steps.
            values: one mapping a child.
        """
        if len(children) == 1:
            self._children, self._stack = (), None
            return [_or_diverged(partial(children[0].train_chunk, values[0]))]
        if self._stack is None or self._children != tuple(children):
            self._children, self._stack = tuple(children), StackedTraining(children)
        return self._stack.train_chunk(values)


class StackedPasses:
    """K children as one network with one optimizer."""

    def __init__(self, passes: Sequence[Passes], spec: TrainingSpec) -> None:
        """Stack the children; their tensors become views into the stack's."""
        own = [p.regularization for p in passes]
        draws = _stacked_draws([one.draws for one in own])
        strengths = {name: share([one.strengths[name] for one in own]) for name in own[0].strengths}
        # Sites that read one tensor go on reading one.
        joined = {id(own[0].strengths[name]): strengths[name] for name in strengths}
        network = _Stacking(draws, joined).stacked([p.child for p in passes])
        network.train()
        optimizer = adam(network.parameters(), spec)
        _share_moments(optimizer, network, passes)
        first = passes[0].forward
        pixels = Pixels(
            scale=torch.cat([p.forward.pixels.scale for p in passes], dim=1),
            shift=torch.cat([p.forward.pixels.shift for p in passes], dim=1),
            size=first.pixels.size,
            memory_format=_memory_format(first.pixels),
        )
        self._forward = Forward(network=network, pixels=pixels, is_bf16=first.is_bf16)
        self._step = TrainingStep(
            self._forward,
            optimizer,
            own[0].regularizer,
            strengths,
            draws,
            execution=spec.execution,
        )

    def train(self, batches: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Take one step of each child; see `Passes.train` for what goes in and comes out."""
        images, labels = zip(*batches, strict=True)
        losses, predictions = self.step(torch.cat(images, dim=1), torch.stack(labels, dim=1))
        return list(zip(losses.unbind(), predictions.unbind(1), strict=True))

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step of each child on batches that lie side by side.

        Args:
            images: uint8[b, K c, h, w].
            labels: int64[b, K].

        Returns:
            float32[K] losses and int64[b, K] predictions, on the device.
        """
        if not self._forward.network.training:
            self._forward.network.train()
        return self._step(images, labels)

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits, float32[b, K classes], of uint8[b, K c, h, w] in eval mode."""
        if self._forward.network.training:
            self._forward.network.eval()
        return self._forward(images)


def _memory_format(pixels: Pixels) -> torch.memory_format:
    """Return how the stack's features lie in memory, where a child's own lie as its pixels do.

    On a CPU channels last, unlike a child's own: groups of few channels then took 0.8 to 0.9 of the
    time. It crashes on some shapes of a child alone (see `execution`), on none of 312 stacks.
    """
    is_cpu = pixels.scale.device.type == "cpu"
    return torch.channels_last if is_cpu else pixels.memory_format


def _stacked_draws(draws: Sequence[Draws | None]) -> Draws | None:
    first = draws[0]
    if first is None:
        return None
    return Draws(
        [generator for own in draws if own is not None for generator in own.generators],
        first.shapes,
        is_normal=first.is_normal,
        is_channels_last=first.is_channels_last,
    )


class _Stacking:
    """Makes one network of K."""

    def __init__(self, draws: Draws | None, strengths: Mapping[int, Tensor]) -> None:
        """Take what sites read: random numbers, and strengths by the id of the first child's."""
        self._draws = draws
        self._strengths = strengths

    def stacked(self, children: Sequence[nn.Module]) -> nn.Module:
        """Return the network; layers that have no weights serve all children as they are."""
        network = copy.deepcopy(children[0])
        for name, _module in children[0].named_modules():
            layers = [child.get_submodule(name) for child in children]
            if (layer := self._layer(layers)) is not None:
                network.set_submodule(name, layer)
        return network

    def _layer(self, layers: Sequence[nn.Module]) -> nn.Module | None:
        match layers[0]:
            case nn.Conv2d() as convolution:
                return _convolution(convolution, layers)
            case nn.BatchNorm2d() as norm:
                return _norm(norm, layers)
            case nn.Linear() as linear:
                return _StackedLinear(linear, layers)
            case Site() as site:
                return self._site(site, layers)
        return None

    def _site(self, one: Site, sites: Sequence[nn.Module]) -> nn.Module:
        strengths = self._strengths.get(id(one.strengths))
        if strengths is None:  # the loss trains it
            strengths = nn.Parameter(share([s.strengths for s in sites if isinstance(s, Site)]))
        assert self._draws is not None
        stacked = Site(one.regularizer, strengths, before=one.before)
        stacked.read(self._draws, one.number)
        return stacked


def _convolution(one: nn.Conv2d, layers: Sequence[nn.Module]) -> nn.Module:
    layer = nn.Conv2d(
        one.in_channels * len(layers),
        one.out_channels * len(layers),
        one.kernel_size,  # type: ignore[arg-type]
        one.stride,  # type: ignore[arg-type]
        one.padding,  # type: ignore[arg-type]
        groups=one.groups * len(layers),
        bias=one.bias is not None,
        device="meta",
    )
    layer.weight = _parameter(layers, "weight")
    if one.bias is not None:
        layer.bias = _parameter(layers, "bias")
    return layer


def _norm(one: nn.BatchNorm2d, layers: Sequence[nn.Module]) -> nn.Module:
    layer = nn.BatchNorm2d(one.num_features * len(layers), one.eps, one.momentum, device="meta")
    layer.weight = _parameter(layers, "weight")
    layer.bias = _parameter(layers, "bias")
    layer.running_mean = share([part.get_buffer("running_mean") for part in layers])
    layer.running_var = share([part.get_buffer("running_var") for part in layers])
    # In lockstep all have seen as many batches.
    for part in (layer, *layers):
        part.register_buffer("num_batches_tracked", one.num_batches_tracked)
    return layer


def _parameter(layers: Sequence[nn.Module], name: str) -> nn.Parameter:
    return nn.Parameter(share([layer.get_parameter(name) for layer in layers]))


def share(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts joined along their first dimension; they become views of it."""
    whole = torch.cat([part.detach() for part in parts])
    for part, row in zip(parts, whole.chunk(len(parts)), strict=True):
        part.data = row
    return whole


def _share_moments(
    optimizer: torch.optim.Adam, network: nn.Module, passes: Sequence[Passes]
) -> None:
    """Let Adam over the stack continue with the children's own moments, which become views."""
    by_child = [dict(p.child.named_parameters()) for p in passes]
    for name, parameter in network.named_parameters():
        states = [_moments(p.optimizer, own[name]) for p, own in zip(passes, by_child, strict=True)]
        for state in states:
            state["step"] = states[0]["step"]
        moments = {key: share([s[key] for s in states]) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": states[0]["step"], **moments}


def _moments(optimizer: torch.optim.Adam, parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of a parameter, initialized as Adam does if it is empty."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state


class _StackedLinear(nn.Module):
    """Linear layers of K children: [b, K in] to [b, K out]."""

    def __init__(self, one: nn.Linear, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = _parameter(layers, "weight")
        self.bias = _parameter(layers, "bias")
        self._shape = (len(layers), one.out_features, one.in_features)

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs of each child's own layer."""
        children, _outputs, inputs = self._shape
        by_child = features.view(-1, children, inputs)
        outputs = torch.einsum("bki,koi->bko", by_child, self.weight.view(self._shape))
        return outputs.flatten(1) + self.bias
