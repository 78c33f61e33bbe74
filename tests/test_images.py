"""Any photo becomes an upright RGB picture, or an error that says what to do."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence2 import images
from florence2.config import ImageConfig
from florence2.errors import Florence2Error, ImageError


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Red grows to the right, green downwards, blue marks the top left corner: no turn leaves it unchanged."""
    y, x = np.mgrid[:height, :width]
    corner = (x < width // 3) & (y < height // 3)
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), corner * 255], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def distance(a: Image.Image, b: Image.Image) -> int:
    assert a.size == b.size
    assert a.mode == b.mode == "RGB"
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


# Where a photo comes from


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    photo = gradient()
    data = encoded(photo)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(0, io.SEEK_END)  # as left by whoever wrote it
    with open(path, "rb") as file:
        for source in (path, str(path), data, bytearray(data), stream, file, photo, np.asarray(photo)):
            assert distance(images.load(source), photo) == 0
        assert not file.closed
    with Image.open(path) as lazy:
        assert distance(images.load(lazy), photo) == 0


def test_stream_that_cannot_go_back() -> None:
    class Socket(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.data = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.data.read(size)

        def seekable(self) -> bool:
            return False

    assert distance(images.load(Socket(encoded(gradient()))), gradient()) == 0


def test_loading_twice_changes_nothing_and_copies_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = images.load(encoded(gradient(), "JPEG", exif=exif))
    assert images.load(once) is once


def test_the_given_picture_is_left_as_it_was() -> None:
    photo = gradient().convert("RGBA")
    photo.info["note"] = "mine"
    before = photo.tobytes()
    images.load(photo)
    assert photo.mode == "RGBA"
    assert photo.info == {"note": "mine"}
    assert photo.tobytes() == before


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 3), (40, 60, 4), (1, 1), (3, 20, 3)])
def test_arrays(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = np.asarray(images.load(array))
    assert picture.shape == (*shape[:2], 3)
    if len(shape) == 3 and shape[2] == 4:
        alpha = array[..., 3:].astype(float) / 255
        assert np.abs(picture - (array[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    else:
        assert (picture == (array if shape[2:] == (3,) else array.reshape(*shape[:2], 1))).all()


def test_array_views_that_are_not_contiguous() -> None:
    array = np.asarray(gradient())
    assert (np.asarray(images.load(array[::-1, ::2])) == array[::-1, ::2]).all()


# Modes


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_modes_without_alpha(mode: str) -> None:
    photo = gradient().convert(mode)
    assert distance(images.load(photo), photo.convert("RGB")) == 0


def test_lab() -> None:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(profiles[0], profiles[1], "RGB", "LAB")
    grey = Image.linear_gradient("L").convert("RGB")
    lab = ImageCms.applyTransform(grey, to_lab)
    assert lab is not None
    assert lab.mode == "LAB"
    assert distance(images.load(lab), grey) <= 4  # 8-bit L*a*b* is coarser than RGB


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    photo = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        photo.putpixel((x, 0), (40, 40, 40, alpha))
    middle = {"PA": "RGBA", "La": "LA"}.get(mode, mode)
    photo = photo.convert(middle)
    if mode == "PA":
        palette = Image.new("PA", (3, 1))
        palette.putpalette([40, 40, 40])
        for x, alpha in enumerate((0, 128, 255)):
            palette.putpixel((x, 0), (0, alpha))
        photo = palette
    elif mode == "La":
        photo = photo.convert("La")
    pixels = np.asarray(images.load(photo))[0, :, 0]
    assert pixels[0] == 255
    assert abs(int(pixels[1]) - 147) <= 1  # 40 * 128/255 + 255 * 127/255
    assert pixels[2] == 40


def test_transparency_of_palette_grey_and_rgb_files() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    picture = images.load(encoded(palette, transparency=0))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((1, 0)) == (200, 100, 0)
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 9)
    assert images.load(encoded(grey, transparency=7)).getpixel((0, 0)) == (255, 255, 255)
    assert images.load(encoded(grey, transparency=7)).getpixel((1, 0)) == (9, 9, 9)
    colour = Image.new("RGB", (1, 1), (1, 2, 3))
    assert images.load(encoded(colour, transparency=(1, 2, 3))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(kind: str) -> None:
    values = np.array([[0, 128, 129, 32768, 65535]], np.uint16)
    picture = images.load(encoded(Image.fromarray(values), kind))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bit_modes(mode: str) -> None:
    order = ">" if mode == "I;16B" else "<"
    photo = Image.frombytes(mode, (3, 1), struct.pack(f"{order}3H", 0, 257 * 77, 65535))
    assert np.asarray(images.load(photo))[0, :, 0].tolist() == [0, 77, 255]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 100, 255], [0, 100, 255]),
        ("I", [0, 257, 65535], [0, 1, 255]),
        ("I", [-100, 0, 100], [0, 128, 255]),
        ("I", [0, 500_000, 1_000_000], [0, 128, 255]),
        ("F", [0.0, 0.5, 1.0], [0, 128, 255]),
        ("F", [0.0, 99.6, 255.0], [0, 100, 255]),
        ("F", [0.0, 257.0, 65535.0], [0, 1, 255]),
        ("F", [-1.0, 0.0, 1.0], [0, 128, 255]),
        ("F", [-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_32_bit_and_float_greys(mode: str, values: list[float], expected: list[int]) -> None:
    photo = Image.new(mode, (3, 1))
    for x, value in enumerate(values):
        photo.putpixel((x, 0), value)
    assert np.asarray(images.load(photo))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_greys_that_are_not_finite(value: float) -> None:
    with pytest.raises(ImageError, match="not finite"):
        images.load(Image.new("F", (2, 2), value))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert images.load(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Stored as a camera held that way would store it: turned back by loading."""
    store = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    loaded = images.load(encoded(store(gradient()), kind, exif=exif, **options))
    assert distance(loaded, gradient()) <= 6
    assert not loaded.info
    assert dict(loaded.getexif()) == {}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_reason_to_refuse_a_photo() -> None:
    data = encoded(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12 nonsense")
    assert images.load(data).size == (60, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_measuring_says_what_loading_shows() -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        data = encoded(gradient(), "JPEG", exif=exif)
        assert images.measure(data) == images.load(data).size
    damaged = encoded(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12 nonsense")
    assert images.measure(damaged) == (60, 40)
    for photo in (b"", b"not an image", "no-such-photo.jpg"):
        with pytest.raises(ImageError):
            images.measure(photo)


# What is refused, and what the message says


def refused(photo: Any, *parts: str, max_pixels: int = images.MAX_PIXELS) -> None:
    with pytest.raises(ImageError) as caught:
        images.load(photo, max_pixels)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, Florence2Error)
    assert isinstance(caught.value, ValueError)


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "none.jpg does not exist")
    refused("none.jpg", "none.jpg does not exist in ", str(Path.cwd()))
    refused(tmp_path, "is a folder")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    refused(empty, "empty.jpg", "0 bytes")
    refused(b"", "0 bytes")
    refused("a\0b", "cannot be opened")
    refused("x" * 5000, "cannot be opened", "...")


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://bucket/a.jpg", "file:///a.jpg"])
def test_urls_are_not_fetched(url: str) -> None:
    refused(url, url, "URL", "fetch it first")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"hello", "not an image"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "video"),
        (b"PK\x03\x04...", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
    ],
)
def test_what_is_not_an_image_is_called_by_its_name(tmp_path: Path, data: bytes, part: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    refused(path, "photo.jpg", part)


def test_truncated_jpeg(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:20_000])
    refused(path, "photo.jpg", "20,000 bytes", "truncated JPEG", "copy or download the file again")
    refused(data[:20_000], "truncated JPEG")
    with Image.open(path) as lazy:
        refused(lazy, "photo.jpg", "cannot be decoded")


def test_truncated_webp_names_both_lengths() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    data = encoded(noise, "WEBP", lossless=True)
    refused(data[: len(data) // 2], f"{len(data) // 2:,} of {len(data):,} bytes", "truncated WebP")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises any size; its pixels are not there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_decompression_bomb_is_refused_from_its_header() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    refused(bomb(20_000, 20_000), "20,000 x 20,000", "400,000,000", "200,000,000", "max_pixels=400000000")
    refused(encoded(gradient()), "60 x 40", "2,399", max_pixels=2399)
    refused(gradient(), "60 x 40", max_pixels=2399)
    assert images.load(encoded(gradient()), max_pixels=2400).size == (60, 40)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_of_this_library_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert images.load(encoded(gradient())).size == (60, 40)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((4, 4, 3), np.float32), "(array * 255).round()"),
        (np.zeros((4, 4), bool), "* 255"),
        (np.zeros((4, 4), np.uint16), "// 257"),
        (np.zeros((4, 4, 3), np.int64), "astype('uint8')"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((3, 40, 60), np.uint8), "array.transpose(1, 2, 0)"),
        (np.zeros((2, 40, 60, 3), np.uint8), "one photo at a time"),
        (np.zeros((40, 60, 5), np.uint8), "drop the other channels"),
        (np.zeros(40, np.uint8), "expected (height, width)"),
    ],
)
def test_arrays_that_are_no_photos(array: Any, part: str) -> None:
    refused(array, part)


def test_other_things_that_are_no_photos(tmp_path: Path) -> None:
    refused(None, "NoneType")
    refused(42, "int")
    refused(io.StringIO("x"), "mode 'rb'")
    closed = io.BytesIO(b"x")
    closed.close()
    refused(closed, "closed")
    refused(Image.new("RGB", (0, 5)), "no pixels")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "ICO"])
def test_damaged_files_give_a_picture_or_an_image_error(kind: str) -> None:
    chance = random.Random(kind)
    whole = encoded(gradient(), kind)
    refusals = 0
    for number in range(60):
        data = bytearray(whole)
        if number % 2:
            del data[chance.randrange(len(data)) :]
        else:
            for _ in range(4):
                data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
        try:
            assert images.load(bytes(data), max_pixels=10_000_000).mode == "RGB"
        except ImageError:
            refusals += 1
    assert refusals > 5  # the damage was real


# To the model


def test_pixel_values() -> None:
    config = ImageConfig(size=(24, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    photos = [gradient(60, 40), gradient(7, 90), gradient(32, 24)]
    values = images.to_pixel_values(photos, config)
    assert values.shape == (3, 1, 3, 24, 32)
    assert values.dtype.is_floating_point
    assert values.is_contiguous()
    for row, photo in zip(values, photos, strict=True):
        pixels = np.asarray(photo.resize((32, 24), Image.Resampling.BICUBIC), np.float64) / 255
        expected = ((pixels - config.mean) / config.std).transpose(2, 0, 1)
        assert np.abs(row[0].numpy() - expected).max() < 1e-6
        assert (images.to_pixel_values([photo], config)[0] == row).all()  # alone as in the batch
    assert images.to_pixel_values([], config).shape == (0, 1, 3, 24, 32)


def test_pixel_values_want_rgb() -> None:
    with pytest.raises(ImageError, match=r"mode L.*images\.load"):
        images.to_pixel_values([Image.new("L", (4, 4))], ImageConfig())


def test_importing_the_module_brings_neither_torch_nor_numpy() -> None:
    code = "import sys, florence2.images; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
