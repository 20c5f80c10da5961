"""Bare PyTorch loops: what a person writes who wants no score, no agent and no service."""

import time

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from trainer_service.training.child.network import build_child
from trainer_service.training.datasets import Images
from trainer_service.training.spec import Precision, TrainingSpec

Weights = dict[str, Tensor]


class BareLoop:
    """The child of a spec with PyTorch's own dropout at the same sites, trained as usual."""

    def __init__(self, spec: TrainingSpec, images: Images, device: torch.device) -> None:
        self.device, self.batch = device, spec.batch_size
        self.is_bf16 = spec.precision is Precision.BF16
        self.format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.images, self.labels = (t.to(device) for t in _tensors(images))
        child = build_child(spec, tuple(self.images.shape[1:]), classes=len(images.class_names))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            child.set_submodule(stage, nn.Sequential(child.get_submodule(stage), nn.Dropout(0.2)))
        child.set_submodule("fc", nn.Sequential(nn.Dropout(0.2), child.get_submodule("fc")))
        self.child = child.to(device).to(memory_format=self.format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.child.parameters(), lr=spec.learning_rate, fused=True
        )

    def pixels(self, places: Tensor) -> Tensor:
        pixels = self.images[places].float().div_(255.0).sub_(0.5).div_(0.25)
        return pixels.contiguous(memory_format=self.format)

    def logits(self, places: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits: Tensor = self.child(self.pixels(places))
        return logits.float()

    def train(self, steps: int) -> Tensor:
        """Train some steps; return the last loss."""
        self.child.train()
        order = torch.randperm(len(self.labels)).to(self.device)
        for step in range(steps):
            places = order[step * self.batch % (len(order) - self.batch) :][: self.batch]
            loss = nn.functional.cross_entropy(self.logits(places), self.labels[places])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return loss

    @torch.no_grad()
    def evaluate(self, batches: int) -> Tensor:
        """Pass over some batches without gradient; return the last logits."""
        self.child.eval()
        for _ in range(batches):
            places = torch.randperm(len(self.labels))[: self.batch].to(self.device)
            logits = self.logits(places)
        return logits


class VmappedLoop:
    """K children without regularizers through torch.func.vmap."""

    def __init__(self, spec: TrainingSpec, images: Images, children: int) -> None:
        self.images, self.labels = _tensors(images)
        self.shape = (children, spec.batch_size)
        networks = [
            build_child(spec, tuple(self.images.shape[1:]), classes=len(images.class_names))
            for _ in range(children)
        ]
        weights, self.buffers = stack_module_state(networks)
        self.weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        self.network = networks[0].to("meta")
        self.optimizer = torch.optim.Adam(
            list(self.weights.values()), lr=spec.learning_rate, fused=True
        )

    def train(self, steps: int) -> None:
        def one(weights: Weights, buffers: Weights, pixels: Tensor) -> Tensor:
            logits: Tensor = functional_call(self.network, (weights, buffers), (pixels,))
            return logits

        for _ in range(steps):
            places = torch.randint(len(self.labels), self.shape)
            pixels = self.images[places].float().div_(255.0).sub_(0.5).div_(0.25)
            logits = torch.func.vmap(one)(self.weights, self.buffers, pixels)
            labels = self.labels[places].flatten()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels) * self.shape[0]
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


def _tensors(images: Images) -> tuple[Tensor, Tensor]:
    assert isinstance(images.training.images, Tensor)
    return images.training.images, images.training.labels


def seconds(call: object, device: torch.device) -> float:
    """Return the time of a call, until the device has done it."""
    assert callable(call)
    before = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - before
