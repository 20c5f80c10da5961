"""Pixels are what a viewer shows; what cannot be shown is an error that names its file."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer_service.training.datasets import DataError
from trainer_service.training.datasets.decoding import decoded_pixels, form_of

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
SHADES = np.arange(256, dtype=np.uint8).reshape(16, 16)


CORNERS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
"""Where the first pixel of a file is shown, by EXIF orientation: row and column of the corner."""


def written(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_an_image_stands_as_its_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The corner that is white in the file is where the EXIF puts it, in any format."""
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels).convert("RGB")
    path = written(tmp_path, image, f"image.{suffix}", exif=exif)

    shown = decoded_pixels(path, channels=3)

    height, width = (16, 32) if orientation < 5 else (32, 16)
    assert shown.shape == (height, width, 3)
    assert form_of(path) == (3, (height, width))
    row, column = CORNERS[orientation]
    white = shown[row * (height - 8) :, column * (width - 8) :][:8, :8]
    assert white.mean() > 200
    assert shown.sum() == pytest.approx(white.sum(), rel=0.2)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_an_uncompressed_tiff_is_turned_whole(tmp_path: Path, mode: str) -> None:
    """Its pixels are what they were; Pillow maps such a file, and then turns it wrong."""
    kind: Any = np.uint16 if mode == "I;16" else np.uint8
    pixels = np.arange(48, dtype=kind).reshape(6, 8) * (5 * 257 if mode == "I;16" else 5)
    image = Image.fromarray(
        np.dstack([pixels] * 3 + [pixels * 0 + 255]) if mode == "RGBA" else pixels
    )
    path = written(tmp_path, image, "image.tif", tiffinfo={0x0112: 6})

    shown = decoded_pixels(path, channels=3)[..., 0]

    assert np.array_equal(shown, np.rot90(np.arange(48).reshape(6, 8) * 5, -1))


def test_only_the_formats_that_are_named_are_read(tmp_path: Path) -> None:
    """Whatever the suffix: for PostScript, Pillow would start another program."""
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "page.png").write_bytes(page)

    with pytest.raises(DataError, match=r"page\.png is no readable image.*Unidentified"):
        form_of(str(tmp_path / "page.png"))


@pytest.mark.parametrize("key", [0, 1, 300])
def test_the_transparent_grey_of_16_bits_is_white(tmp_path: Path, key: int) -> None:
    """That level alone, not its neighbours that are the same in 8 bits."""
    levels = np.array([[0, 1, 2, 300, 301, 65535]], np.uint16)

    shown = decoded_pixels(written(tmp_path, Image.fromarray(levels), transparency=key), channels=1)

    assert shown.tolist() == [[255 if x == key else round(x / 257) for x in levels[0].tolist()]]


def png(*head: int, **chunks: bytes) -> bytes:
    """Return a PNG of a head's numbers and chunks by their kinds, whatever they hold."""
    parts = {"IHDR": struct.pack(">II5B", *head), **chunks, "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((name.encode(), data) for name, data in parts.items())
    )


def test_what_pillow_would_show_wrong_is_refused(tmp_path: Path) -> None:
    """A transparent colour of other than 8 bits, and 16 bits that count from white."""
    clear = tmp_path / "image.png"
    # One pixel of 16-bit RGB.
    clear.write_bytes(png(1, 1, 16, 2, 0, 0, 0, tRNS=bytes(6), IDAT=zlib.compress(bytes(7))))
    path = Path(written(tmp_path, Image.fromarray(SHADES.astype(np.uint16) * 257), "white.tif"))
    field = struct.pack("<HHIH", 262, 3, 1, 1)  # tag, type, count, black is zero
    assert field in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(field, struct.pack("<HHIH", 262, 3, 1, 0)))

    for read in (form_of, lambda name: decoded_pixels(name, channels=1)):
        with pytest.raises(DataError, match=r"image\.png has a transparent colour, not in 8 bits"):
            read(str(clear))
        with pytest.raises(DataError, match=r"white\.tif counts from white"):
            read(str(path))


GREY = Image.fromarray(SHADES)
FLOATS = Image.fromarray(RAMP.astype(np.float32))
FRAMES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
RED = np.array(FRAMES[0])


@pytest.mark.parametrize(
    ("image", "options", "channels", "expected"),
    [
        # All shades of floats from 0 to 1 are kept.
        (FLOATS, {}, 1, SHADES),
        # Half of black on white is grey.
        (Image.new("RGBA", (16, 16), (0, 0, 0, 128)), {}, 3, np.full((16, 16, 3), 127)),
        # The first frame of several is read.
        (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, 3, RED),
        # Viewers, too, pass over a damaged EXIF block.
        (GREY.convert("RGB"), {"exif": b"Exif\0\0garbage"}, 3, np.dstack([SHADES] * 3)),
        # Grey that is written as colour loses nothing.
        (GREY.convert("RGB"), {}, 1, SHADES),
        (GREY.convert("LA"), {}, 1, SHADES),
    ],
)
def test_pixels_are_those_that_a_viewer_shows(
    tmp_path: Path, image: Image.Image, options: Any, channels: int, expected: np.ndarray
) -> None:
    """Level by level."""
    name = "i.gif" if "save_all" in options else "i.tif" if image.mode == "F" else "i.png"

    shown = decoded_pixels(written(tmp_path, image, name, **options), channels=channels)

    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str, byte_order: str) -> None:
    """Each of 256 levels is kept, in grey and where the set is of colour."""
    deep = (SHADES.astype(np.uint16) * 257).astype(byte_order)
    path = written(tmp_path, Image.fromarray(deep), f"image.{suffix}")

    assert form_of(path) == (1, (16, 16))
    assert np.array_equal(decoded_pixels(path, channels=1), SHADES)
    assert np.array_equal(decoded_pixels(path, channels=3)[..., 2], SHADES)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("I", 1), ("F", 1), ("LA", 3), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_what_is_grey_without_alpha_has_one_channel(
    tmp_path: Path, mode: str, channels: int
) -> None:
    """Black and white, too, and what is deeper than 8 bits."""
    path = written(tmp_path, Image.new(mode, (4, 2)), "i.png" if mode == "P" else "i.tif")

    assert form_of(path) == (channels, (2, 4))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (RAMP.astype(np.float32) * 255, "float32 pixels from 0 to 255; convert it"),
        (RAMP.astype(np.float32) - 0.5, "float32 pixels from -0.5 to 0.5"),
        (np.full((4, 4), np.nan, np.float32), "float32 pixels from nan to nan"),
        (SHADES.astype(np.int32), "int32 pixels from 0 to 255; convert it"),
    ],
)
def test_pixels_without_a_known_white_are_refused(
    tmp_path: Path, pixels: np.ndarray, message: str
) -> None:
    """Cut or clipped they would be other images."""
    path = written(tmp_path, Image.fromarray(pixels), "image.tif")

    with pytest.raises(DataError, match=rf"image\.tif has {message}"):
        decoded_pixels(path, channels=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_shows_white(tmp_path: Path, mode: str) -> None:
    """The hidden pixels are black; the others stay as they are, half of them half grey."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[2:] = (60, 60, 60, 255)
    image = Image.fromarray(pixels)
    if mode == "RGB":
        path = written(tmp_path, image.convert("RGB"), transparency=(0, 0, 0))
    elif mode == "P":
        palette = Image.fromarray((pixels[..., 0] > 0).astype(np.uint8), mode="P")
        palette.putpalette([0, 0, 0, 60, 60, 60])
        path = written(tmp_path, palette, transparency=0)
    else:
        path = written(tmp_path, image.convert(mode))

    shown = decoded_pixels(path, channels=3)

    assert np.unique(shown[:2]).tolist() == [255]
    assert np.unique(shown[2:]).tolist() == [60]


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("1", "i.png"),
        ("L", "i.png"),
        ("LA", "i.png"),
        ("P", "i.gif"),
        ("RGB", "i.webp"),
        ("RGBA", "i.png"),
        ("CMYK", "i.tif"),
        ("RGB", "i.bmp"),
    ],
)
def test_opaque_images_of_8_bits_are_read_as_pillow_converts_them(
    tmp_path: Path, mode: str, name: str
) -> None:
    """Nothing is scaled or composed, so results of such data sets stay as they were."""
    image = Image.fromarray(np.stack([SHADES, SHADES.T, SHADES[::-1]], axis=-1)).convert(mode)
    path = written(tmp_path, image, name)

    with Image.open(path) as file:
        expected = np.array(file.convert("RGB"))
    assert np.array_equal(decoded_pixels(path, channels=3), expected)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("read", [form_of, lambda path: decoded_pixels(path, channels=1)])
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_by_name(tmp_path: Path, side: int, read: object) -> None:
    """Also one of which Pillow only warns; first or later in its folder."""
    assert callable(read)
    file = png(side, side, 8, 0, 0, 0, 0, IDAT=zlib.compress(bytes(1000)))
    (tmp_path / "bomb.png").write_bytes(file)

    with pytest.raises(DataError, match=r"bomb\.png has more than 89,478,485 pixels"):
        read(str(tmp_path / "bomb.png"))


@pytest.mark.parametrize("kept", [0, 30, 200])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_a_file_that_was_cut_is_refused_by_name(tmp_path: Path, suffix: str, kept: int) -> None:
    """Wherever: an empty one, in the header, in the pixels; in words, where Pillow knows."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = Path(written(tmp_path, Image.fromarray(noise), f"image.{suffix}"))
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])

    for read in (form_of, lambda path: decoded_pixels(path, channels=3)):
        with pytest.raises(DataError, match=rf"image\.{suffix} is no readable image"):
            read(str(path))
    if suffix == "jpg":
        path.write_bytes(whole[:-100])
        with pytest.raises(DataError, match=r"\(the file is cut\)"):
            form_of(str(path))
