"""An image file's pixels as a viewer shows them: upright, in 8 bits, on a white ground."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageOps

from agent_service.domain.errors import AgentError

# Pillow only warns of images up to twice its limit, which are refused here. The filter is set once:
# threads decode, and to change it around each image is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_GREY = ("1", "L", "LA", "La")
"""Modes of 8 bits or fewer that hold no colour."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""Formats that are read, whatever the suffix: Pillow runs Ghostscript for PostScript."""
_WHITE_IS_ZERO = 0
"""Photometric interpretation of TIFF in which 0 is white; its tag is 262."""
_DEEP = 65535 // 255
"""Levels of a 16-bit image for each of an 8-bit one."""


class DataError(AgentError):
    """A data set is not there or not as it should be; the message names the file and the fix."""


def form_of(path: str) -> tuple[int, tuple[int, int]]:
    """Return an image's channels, one if it is grey without alpha, else three, and its size.

    Raises:
        DataError: naming the file, where it cannot be read.
    """
    with _opened(path) as image:
        return (1 if _is_grey(image) else 3), (image.height, image.width)


def has_colour(path: str) -> bool:
    """Whether an image's header names colour, a palette or alpha; False if it is damaged."""
    with suppress(Exception), open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
        return not _is_grey(image)
    return False


def decoded_pixels(path: str, *, channels: int) -> np.ndarray:
    """Return uint8[h, w] for one channel, uint8[h, w, 3] for three.

    Raises:
        DataError: naming the file, where it cannot be read, or has colour and one channel is asked.
    """
    with _opened(path) as image:
        shown = _shown(image, path)
        if channels == 3:
            return np.array(shown.convert("RGB"))
        pixels = np.array(shown)
        # Some formats have colour only; lossy WebP then moves grey by one level.
        if shown.mode == "L" or (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 1:
            return np.array(shown.convert("L"))
        raise DataError(
            f"{path} is of mode {image.mode}, others are grey (L); bring all to one mode"
        )


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Yield an image, or the first frame of several, turned as its EXIF says."""
    try:
        # By the file: Pillow maps a TIFF that it has by its path, and then turns the wrong pixels.
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            _check_form(image, path)
            image.load()
            with suppress(Exception):  # viewers pass over a damaged EXIF block, too
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down or remove it"
        ) from error
    except Exception as error:
        # A damaged image raises most of what Pillow and its decoders can; all mean the same.
        why = "the file is cut" if "truncated" in str(error).lower() else type(error).__name__
        raise DataError(f"{path} is no readable image; remove or replace it ({why})") from error


def _check_form(image: Image.Image, path: str) -> None:
    """Raise DataError for what Pillow would show wrong; `image` is not loaded yet."""
    # Pillow brings the pixels of a PNG to 8 bits, and not the colour that is transparent.
    stored = {tile[3] for tile in getattr(image, "tile", ())}
    if stored & {"L;2", "L;4", "RGB;16B"} and "transparency" in image.info:
        raise DataError(f"{path} has a transparent colour, not in 8 bits; save it in 8 bits")
    inverted = getattr(image, "tag_v2", {}).get(262) == _WHITE_IS_ZERO
    if inverted and image.mode not in _GREY:
        raise DataError(f"{path} counts from white (0) to black; save it with 0 as black")


def _shown(image: Image.Image, path: str) -> Image.Image:
    """Return an image of mode L, if it is grey, or RGB."""
    if _is_deep(image):
        deep = np.asarray(image)
        pixels = _eight_bits(deep, path)
        if image.format == "PNG" and "transparency" in image.info:
            pixels[deep == image.info["transparency"]] = 255
        return Image.fromarray(pixels)
    mode = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return image.convert(mode)


def _is_grey(image: Image.Image) -> bool:
    """Whether an image has neither colour nor alpha."""
    return image.mode in ("1", "L") or _is_deep(image)


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is grey in more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _eight_bits(pixels: np.ndarray, path: str) -> np.ndarray:
    """Scale 16-bit pixels, or floats from 0 to 1; raises DataError for unknown whites."""
    if pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + _DEEP // 2) // _DEEP).astype(np.uint8)
    if pixels.dtype.kind == "f" and pixels.min() >= 0.0 and pixels.max() <= 1.0:
        return np.round(pixels * 255.0).astype(np.uint8)
    found = f"{pixels.dtype} pixels from {pixels.min():g} to {pixels.max():g}"
    raise DataError(f"{path} has {found}; convert it to 8 or 16 bits, or to floats from 0 to 1")
