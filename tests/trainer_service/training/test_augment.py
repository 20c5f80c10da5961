"""Augmentation: each image of a batch has a crop and a flip of its own, and is drawn by seed."""

import pytest
import torch

from trainer_service.training.feed.augment import crop_flip


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (3, 48, 40)])
def test_every_result_is_a_crop_of_the_padded_image_or_its_mirror(
    channels: int, height: int, width: int
) -> None:
    """Padded by an eighth of its size with zeros, each image by itself."""
    images = torch.randint(1, 256, (20, channels, height, width), dtype=torch.uint8)
    pad_y, pad_x = round(height / 8), round(width / 8)
    padded = torch.nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))

    results = crop_flip(images, draws())

    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert results.is_contiguous()
    for source, result in zip(padded, results, strict=True):
        crops = [
            source[:, y : y + height, x : x + width]
            for y in range(2 * pad_y + 1)
            for x in range(2 * pad_x + 1)
        ]
        assert any(result.equal(crop) or result.equal(crop.flip(-1)) for crop in crops)


def test_crops_and_flips_differ_within_a_batch_and_cover_what_they_may() -> None:
    """Of one image 500 times: all 9 x 9 places, and both sides."""
    image = torch.arange(1, 33, dtype=torch.uint8)
    image = image[:, None] * 0 + image[None]  # a column's value is its place
    results = crop_flip(image.expand(2000, 1, 32, 32), draws())

    middle = results[:, 0, 16]
    is_flipped = middle[:, 15] > middle[:, 16]
    assert 900 < int(is_flipped.sum()) < 1100
    shifts = middle[~is_flipped][:, 16]
    assert len(torch.unique(shifts)) == 9
    assert len(torch.unique(results.flatten(1), dim=0)) == 2 * 81
