"""Any photo becomes an upright RGB picture, and pictures become ``pixel_values``.

    load(photo) -> PIL.Image             path, bytes, file object, PIL image or uint8 array; upright, RGB, no alpha
    measure(photo) -> (width, height)     the same from the head of the file, nothing decoded
    to_pixel_values(images, config)      -> (B, 1, 3, H, W) float32

The reference hands its processor whatever mode the file has and fails on anything but RGB. Here every mode that
Pillow opens is brought to RGB first, once, with the rules of :func:`load`. From there on the values are the
reference's: squashed to the model's size with Pillow's bicubic filter on 8-bit channels, scaled by 1/255,
normalised per channel (Florence-2's CLIP preprocessing). Colour profiles are left alone, as the reference does.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from PIL import Image, UnidentifiedImageError

from florence2.config import ImageConfig
from florence2.errors import ImageError

if TYPE_CHECKING:
    import numpy
    import torch

Photo = Union[str, "os.PathLike[str]", bytes, BinaryIO, Image.Image, "numpy.ndarray[Any, Any]"]
"""What counts as a photo: a path, the bytes of a file, a file opened for binary reading, a PIL image,
or a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA."""

MAX_PIXELS = 200_000_000
"""Photos with more pixels are refused before they are decoded. The largest phone cameras take 200 megapixels."""


def load(photo: Photo, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as an upright RGB picture without metadata; loading the result again changes nothing.

    EXIF orientation is applied; transparency is laid over white; of an animation the first frame is taken (of an
    opened PIL image: the frame it stands on); 16-bit, 32-bit and float greys are scaled to 8 bits by :func:`_shallow`.

    Raises ImageError where the photo is missing, empty, cut off, not an image, larger than ``max_pixels``, or an
    array of another type or shape.
    """
    if isinstance(photo, Image.Image):
        name = os.path.basename(str(getattr(photo, "filename", ""))) or "the PIL image"
        return _upright_rgb(photo, name, max_pixels, stream=None)
    if isinstance(photo, (str, os.PathLike)):
        path = os.fsdecode(photo)
        with _open_path(path) as stream:
            return _read(stream, _shorten(path), max_pixels)
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(photo), f"the photo of {len(photo):,} bytes", max_pixels)
    if hasattr(photo, "read"):
        return _read(_seekable(photo), _shorten(str(getattr(photo, "name", "the file object"))), max_pixels)
    if hasattr(photo, "__array__"):
        return _from_array(photo)
    raise ImageError(
        f"a photo cannot be a {type(photo).__name__}; give a path, bytes, a file opened with 'rb', a PIL image or a "
        "uint8 array of shape (height, width, 3)"
    )


def measure(photo: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """(width, height) of a photo as :func:`load` shows it, from the head of its file: no pixel is decoded.

    Raises ImageError where the photo is missing, empty or not an image.
    """
    stream: BinaryIO
    if isinstance(photo, bytes):
        stream, name = io.BytesIO(photo), f"the photo of {len(photo):,} bytes"
    else:
        path = os.fsdecode(photo)
        stream, name = _open_path(path), _shorten(path)
    with stream, _opened(stream, name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def to_pixel_values(images: Sequence[Image.Image], config: ImageConfig) -> torch.Tensor:
    """RGB pictures of any sizes -> (B, 1, 3, H, W) float32, one frame each: squashed, scaled, normalised."""
    if len(images) > 1:  # Pillow lets go of the interpreter lock while it resizes
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            return normalise(list(pool.map(lambda image: squash(image, config), images)), config)
    return normalise([squash(image, config) for image in images], config)


def squash(image: Image.Image, config: ImageConfig) -> torch.Tensor:
    """An RGB picture -> (H, W, 3) uint8 of the model's size. No arithmetic of PyTorch: on another thread than the
    model's it would start threads of its own beside those of the model."""
    import torch

    if image.mode != "RGB":
        raise ImageError(f"a picture has mode {image.mode}, expected RGB; pass it through florence2.images.load")
    height, width = config.size
    squashed = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.frombuffer(bytearray(squashed.tobytes()), dtype=torch.uint8).view(height, width, 3)


def normalise(squashed: Sequence[torch.Tensor], config: ImageConfig) -> torch.Tensor:
    """(H, W, 3) uint8 each -> (B, 1, 3, H, W) float32."""
    import torch

    height, width = config.size
    if not squashed:
        return torch.empty(0, 1, 3, height, width)
    pixels = torch.stack(list(squashed))[:, None].permute(0, 1, 4, 2, 3)  # (B, 1, 3, H, W)
    mean = torch.tensor(config.mean).view(3, 1, 1)
    std = torch.tensor(config.std).view(3, 1, 1)
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return values.div_(255).sub_(mean).div_(std)


# From a stream to a decoded picture


def _read(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    with _opened(stream, name) as image:
        return _upright_rgb(image, name, max_pixels, stream)


def _opened(stream: BinaryIO, name: str) -> Image.Image:
    """The picture with its header read and its pixels not."""
    if stream.seek(0, os.SEEK_END) == 0:
        raise ImageError(f"{name} is empty (0 bytes); copy or download the file again")
    try:
        with _pillow_limit_lifted():
            return Image.open(stream)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} {_what_it_is(stream)}") from error
    except _BROKEN as error:
        raise ImageError(_broken(name, stream, error)) from error


def _upright_rgb(image: Image.Image, name: str, max_pixels: int, stream: BinaryIO | None) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width:,} x {height:,} = {width * height:,} pixels, the limit is {max_pixels:,} (a small file "
            f"can unpack to fill the memory); if you trust it, use images.load(photo, max_pixels={width * height}) "
            "and pass on the picture"
        )
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}); give a picture of at least 1 x 1")
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image  # nothing to do: this is what we return ourselves
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image, name)
        if turn is not None:
            rgb = rgb.transpose(turn)
    except (Image.DecompressionBombError, *_BROKEN) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(_broken(name, stream, error)) from error
    rgb.info = {}  # the orientation above all: it has been applied, nobody may apply it twice
    return rgb


_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise on damaged files (found by feeding them damaged files)."""


def _broken(name: str, stream: BinaryIO | None, error: Exception) -> str:
    """The message for a file that begins well and ends badly."""
    if stream is None:
        return f"{name} cannot be decoded ({error}); open the file again or use another copy"
    head, size = _head(stream)
    kind = next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), "image")
    declared = _declared_bytes(head)
    if declared is not None and declared > size:
        return f"{name} ends after {size:,} of {declared:,} bytes (truncated {kind}); copy or download the file again"
    if "truncated" in str(error) or "Truncated" in str(error):
        return (
            f"{name} ends after {size:,} bytes, before the picture is complete (truncated {kind}); "
            "copy or download the file again"
        )
    return f"{name} is a damaged {kind} of {size:,} bytes ({error}); copy or download the file again"


_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)

_NOT_PHOTOS = (
    (rb"%PDF", "is a PDF document, not an image; render the page to a PNG first"),
    (rb"\s*<(!doctype html|html)", "is a web page, not an image; the download link may have asked for a login"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "is an SVG drawing, not a photo; render it to a PNG first"),
    (
        rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)",
        "is a HEIC photo; pip install pillow-heif and call pillow_heif.register_heif_opener() first",
    ),
    (rb"....ftyp(avif|avis)", "is an AVIF photo, which this Pillow cannot read; pip install -U pillow"),
    (rb"....ftyp|\x1aE\xdf\xa3", "is a video, not an image; extract the frame first"),
    (rb"PK\x03\x04", "is a ZIP archive (or a document made of one), not an image; unpack it first"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the image itself; run 'git lfs pull'"),
)


def _what_it_is(stream: BinaryIO) -> str:
    """Why Pillow could not identify it, as the rest of a sentence."""
    head, size = _head(stream)
    for pattern, sentence in _NOT_PHOTOS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return sentence
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return f"begins like a {kind} but its header cannot be read ({size:,} bytes: damaged or truncated)"
    return (
        f"is not an image that Pillow can read ({size:,} bytes, beginning with {head[:8]!r}); "
        "expected JPEG, PNG, WebP, GIF, TIFF, BMP or another image format"
    )


def _declared_bytes(head: bytes) -> int | None:
    """The length that the file's own header promises, where its format says so (JPEG and PNG do not)."""
    if head[:4] == b"RIFF" and len(head) >= 8:
        return int(struct.unpack("<I", head[4:8])[0]) + 8
    if head[:2] == b"BM" and len(head) >= 6:
        return int(struct.unpack("<I", head[2:6])[0])
    return None


def _head(stream: BinaryIO) -> tuple[bytes, int]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return stream.read(512), size


_limit_lock = threading.Lock()


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    """Switch off Pillow's own pixel limit while a header is read.

    That limit is one number for the whole process, its message does not hold the photo's size, and below twice the
    limit it only warns. Ours is checked right after, per call; decoding runs under Pillow's limit again.
    """
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


# From any mode to RGB

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations whose turn swaps width and height."""


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where there is none or the EXIF block is damaged, as every viewer does."""
    try:
        value = image.getexif().get(0x0112, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _shallow(image, name).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied grey converts to LA only
            image = image.convert("LA")
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _shallow(image: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits -> L.

    Mode I;16 spans 0 ... 65535 by declaration. Modes I and F declare nothing: the smallest usual range that holds
    all values (0 ... 1 for floats, 0 ... 255, 0 ... 65535) is taken, and for all else (elevations, depths, HDR)
    the span from the smallest to the largest value.
    """
    values = image.convert("F")
    low, high = values.getextrema()
    if not (isinstance(low, float) and isinstance(high, float) and math.isfinite(low) and math.isfinite(high)):
        raise ImageError(f"{name} holds values that are not finite; replace NaN and infinity first")
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        fitting = [top for top in ranges if low >= 0 and high <= top]
        if fitting:
            low, high = 0.0, fitting[0]
    scale = 255 / max(high - low, 1e-30)
    offset = 0.5 - low * scale  # converting to L cuts off decimals: the half makes it round
    return values.point(lambda value: value * scale + offset).convert("L")


# Paths, files and arrays


def _open_path(path: str) -> BinaryIO:
    name = _shorten(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise ImageError(
            f"{name} is a URL, and nothing is downloaded here; fetch it first and pass the file or its bytes, "
            "e.g. urllib.request.urlopen(url).read()"
        )
    if path.startswith("data:"):
        raise ImageError(f"{name} is a data URL; pass base64.b64decode(url.split(',', 1)[1])")
    if os.path.isdir(path):
        raise ImageError(f"{name} is a folder; give one image file (the command 'florence2 run' takes folders)")
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        where = "" if os.path.isabs(path) else f" in {os.getcwd()}"
        raise ImageError(f"{name} does not exist{where}; check the path") from error
    except (OSError, ValueError) as error:  # no permission, name too long, a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{name} cannot be opened ({reason}); give the path of an image file") from error


def _shorten(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:100]}...{name[-60:]}"


def _seekable(stream: Any) -> BinaryIO:
    """The stream itself, or its contents where it cannot go back (a socket, a pipe)."""
    if isinstance(stream, io.TextIOBase):
        raise ImageError("the file is opened as text; open it with mode 'rb'")
    if getattr(stream, "closed", False):
        raise ImageError("the file is closed; pass it while it is open, or pass its path")
    if hasattr(stream, "seekable") and stream.seekable():
        opened: BinaryIO = stream
        return opened
    return io.BytesIO(stream.read())


def _from_array(photo: Any) -> Image.Image:
    import numpy

    array = numpy.asarray(photo)
    shape = tuple(array.shape)
    found = f"an array of shape {shape} and type {array.dtype}"
    if array.dtype != numpy.uint8:
        raise ImageError(f"{found} was given, expected uint8 from 0 to 255; {_to_uint8_advice(array)}")
    if array.size == 0:
        raise ImageError(f"{found} has no pixels; give one of at least 1 x 1")
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4)):
        return _to_rgb(Image.fromarray(numpy.ascontiguousarray(array)), "the array")
    if array.ndim == 3 and shape[0] in (1, 3, 4):
        advice = "channels come last: array.transpose(1, 2, 0)"
    elif array.ndim == 4:
        advice = "one photo at a time: array[0]"
    else:
        advice = "drop the other channels"
    raise ImageError(f"{found} was given, expected (height, width), (height, width, 3) or (height, width, 4); {advice}")


def _to_uint8_advice(array: numpy.ndarray[Any, Any]) -> str:
    if array.dtype.kind == "f":
        return (
            "convert it with (array * 255).round().clip(0, 255).astype('uint8') where it spans 0 to 1, "
            "or array.round().clip(0, 255).astype('uint8') where it spans 0 to 255"
        )
    if array.dtype.kind == "b":
        return "convert it with array.astype('uint8') * 255"
    if array.dtype == "uint16":
        return "convert it with (array // 257).astype('uint8')"
    return "convert it with array.clip(0, 255).astype('uint8') where it spans 0 to 255"
