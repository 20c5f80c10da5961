"""Augmentation of a batch on its device: random crops after padding, and horizontal flips.

torchvision's transforms draw once for a whole batch, and kornia's work on floats; here each image
of a uint8 batch has its own crop and flip, by one gather.
"""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = 1 / 8
"""Zeros at each edge, as a share of the image: 4 pixels of 32, usual for CIFAR."""


def crop_flip(images: Tensor, draws: torch.Generator) -> Tensor:
    """Return each image moved by up to an eighth of its size, half of them mirrored.

    Args:
        images: uint8[b, c, h, w].
        draws: on the CPU, so that any device has the same draws; three numbers an image are drawn.
    """
    count, channels, height, width = images.shape
    pads = (round(height * PADDING), round(width * PADDING))
    down, right = (torch.randint(0, 2 * pad + 1, (count, 1), generator=draws) for pad in pads)
    is_flipped = torch.randint(0, 2, (count, 1), generator=draws).bool()
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(is_flipped, width - 1 - columns, columns)
    rows = (torch.arange(height) + down).to(images.device, non_blocking=True)
    columns = (columns + right).to(images.device, non_blocking=True)
    padded = torch.nn.functional.pad(images, (pads[1], pads[1], pads[0], pads[0]))
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    # In the order of memory that the images had: with channels last, torch 2.13 crashed in a narrow
    # child's backward pass on a CPU.
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
