"""Grad-CAM maps of trained children (Selvaraju et al. 2017), by the package of that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

# Before the package: it imports torchvision, which fails beside a torch without CUDA, and
# matplotlib, which fails under some MPLBACKEND.
from trainer_service.training import vision  # noqa: F401  # isort: skip
from trainer_service.study.report.drawing import new_figure, png  # isort: skip
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from agent_service.domain.errors import invalid
from trainer_service.training.child.models import Model
from trainer_service.training.child.network import input_size
from trainer_service.training.child_file import TrainedChild
from trainer_service.training.datasets.pixels import read_all
from trainer_service.training.datasets.values import Split
from trainer_service.training.passes import Pixels
from trainer_service.training.sites import stage_ends, watch_pass

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CANDIDATES = 512
"""Training images that are looked at to find what children agree on."""
SHOWN = 8
"""Images of a sheet, each of another class."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Training images, and where children look in them."""

    images: Tensor
    """uint8[n, c, h, w]."""
    labels: Tensor
    """int64[n]: the true classes."""
    class_names: tuple[str, ...]
    predictions: Mapping[str, Tensor]
    """int64[n] of each child, by its name."""
    maps: Mapping[str, npt.NDArray[np.float32]]
    """float32[n, h', w'] of each child, in [0, 1], of the true classes; the size it is fed with."""


def make_sheet(children: Mapping[str, TrainedChild], training: Split) -> Sheet:
    """Choose images of which most children see the true class, one a class, and look at them.

    Args:
        children: on the CPU, by name; of one data set, at least one.
        training: that data set's training split, with true labels.

    Raises:
        InvalidArgument: a child has no maps of features, such as a transformer.
    """
    places = np.random.default_rng(0).permutation(len(training))[:CANDIDATES]
    drawn = read_all(training.take(places))
    assert isinstance(drawn.images, Tensor)
    images = drawn.images
    seen = {name: child(images).argmax(-1) for name, child in children.items()}
    agreeing = torch.stack([found == drawn.labels for found in seen.values()]).sum(0)
    chosen = []
    for label in sorted(set(drawn.labels.tolist()))[:SHOWN]:
        of_class = (drawn.labels == label).nonzero()[:, 0]
        chosen.append(int(of_class[agreeing[of_class].argmax()]))
    images, labels = images[chosen], drawn.labels[chosen]
    return Sheet(
        images=images,
        labels=labels,
        class_names=next(iter(children.values())).manifest.inputs.class_names,
        predictions={name: found[chosen] for name, found in seen.items()},
        maps={name: look(child, images, labels) for name, child in children.items()},
    )


def look(child: TrainedChild, images: Tensor, labels: Tensor) -> npt.NDArray[np.float32]:
    """Return the Grad-CAM map of each image, float32[n, h', w'].

    Each map's least value is 0 and its greatest 1: what is bright in one image is so beside the
    rest of that image, not beside other images.

    Args:
        child: in eval mode, on the CPU.
        images: uint8[n, c, h, w].
        labels: int64[n], the classes that are asked about.
    """
    manifest = child.manifest
    scale, shift = manifest.inputs.normalization()
    pixels = Pixels(scale=scale, shift=shift, size=input_size(manifest.training))(images)
    place = layer_of(child.network, manifest.training.model, tuple(pixels.shape[1:]))
    targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
    layers = [child.network.get_submodule(place)]
    with GradCAM(model=child.network, target_layers=layers) as cam:
        maps: npt.NDArray[np.float32] = cam(input_tensor=pixels, targets=targets)
    return maps


def layer_of(network: nn.Module, model: Model, shape: tuple[int, ...]) -> str:
    """Return the last stage whose features are a map, of more than one pixel, for (c, h, w).

    Raises:
        InvalidArgument: it has no such stage.
    """
    shapes = {call.name: call.shape for call in watch_pass(network, shape)}
    for name in reversed(stage_ends(network, model, channels=shape[0])):
        if len(shapes[name]) == 3 and min(shapes[name][1:]) > 1:
            return name
    raise invalid("model", f"{model} has no map of features to look at")


def draw_sheet(sheet: Sheet, titles: Mapping[str, str]) -> bytes:
    """Draw images, one a row, and beside each where children look, one a column.

    Where a child sees another class than the true one, there is no map, but what it sees.
    """
    rows, columns = len(sheet.labels), len(titles) + 1
    figure = new_figure(1.25 * columns + 0.6, 1.25 * rows + 0.4)
    cells = figure.subplots(rows, columns, squeeze=False)
    for row, (line, label) in enumerate(zip(cells, sheet.labels.tolist(), strict=True)):
        for axes in line:
            axes.set(xticks=[], yticks=[])
            _show(axes, sheet.images[row])
        line[0].set_ylabel(sheet.class_names[label], fontsize="small")
        for axes, child in zip(line[1:], titles, strict=True):
            seen = int(sheet.predictions[child][row])
            if seen == label:
                height, width = sheet.images.shape[-2:]
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                axes.imshow(
                    sheet.maps[child][row], cmap="inferno", alpha=0.6, vmin=0, vmax=1, extent=extent
                )
            else:
                axes.set_xlabel(f"sees {sheet.class_names[seen]}", fontsize="x-small")
    for axes, title in zip(cells[0], ("image", *titles.values()), strict=True):
        axes.set_title(title, fontsize="x-small", wrap=True)
    return png(figure)


def _show(axes: Axes, image: Tensor) -> None:
    """Show an image, uint8[c, h, w], grey or in colours."""
    pixels = image.permute(1, 2, 0).numpy()
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
