"""Pictures: reading image files into [1, 3, H, W] in [-1, 1], or masks, and writing PNG files that carry text.

Imports neither torch nor Pillow at module level. Files are judged by their content, never by their name.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np

from ..authoring import Fact, carrier, reader, writer
from ..errors import InputError, PortError
from .kinds import Image, Mask

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

T = TypeVar("T")

MAX_PIXELS = 64 * 2**20
MAX_TEXT_BYTES = 16 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values by which height and width change places


def measure_image(data: bytes) -> tuple[int, ...]:
    """The shape of what read_image makes of a picture, from its head."""
    return 1, 3, *_measured(data)


def measure_mask(data: bytes) -> tuple[int, ...]:
    """The shape of what read_mask makes of a picture, from its head."""
    return 1, 1, *_measured(data)


@reader("Image", suffixes=(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), measure=measure_image)
def read_image(data: bytes) -> Annotated[Image, "1 3 H W", Fact(space="pixel")]:
    """One picture as float32 [1, 3, H, W] in [-1, 1].

    Turned as its EXIF says; transparency is laid on white; grey, palette, CMYK and 16-bit pictures become RGB. Raises
    InputError where it is not a PNG, JPEG, WebP, BMP or GIF, is damaged or cut short, is animated, or has more than 64
    Mi pixels, which is known before anything is decoded.
    """

    def in_range(values: Any) -> Image:
        import torch

        image = torch.empty(1, 3, *values.shape[:2])
        image[0] = torch.from_numpy(values).permute(2, 0, 1)
        return image.div_(127.5).sub_(1)

    return _decoded(data, in_range)


@reader("Mask", suffixes=(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), measure=measure_mask)
def read_mask(data: bytes) -> Annotated[Mask, "1 1 H W"]:
    """A picture as a mask, float32 [1, 1, H, W] in [0, 1]: 1, which is repainted, where it is white or transparent, and 0
    where it is black. Colours count by their luma (0.299 R + 0.587 G + 0.114 B).

    Raises InputError as read_image does.
    """

    def luma(values: Any) -> Mask:
        import torch

        share = np.array((0.299, 0.587, 0.114) if values.shape[2] == 3 else (1.0,), dtype=np.float32) / 255
        return torch.from_numpy((values @ share).clip(0, 1))[None, None]

    return _decoded(data, luma)


def read_points(data: bytes) -> Any:
    """A picture on white as uint8 [H, W, 3], turned as its EXIF says. Raises InputError as read_image does."""

    def whole(values: Any) -> Any:
        return np.rint(values).astype(np.uint8).repeat(3, axis=2) if values.shape[2] == 1 else values

    return _decoded(data, whole)


def _decoded(data: bytes, convert: Callable[[Any], T]) -> T:
    """What `convert` makes of a picture on white, in 0..255: uint8 [H, W, 3], or float32 [H, W, 1] where it is grey of 16
    bits.
    """
    from PIL import ImageOps

    with _opened(data) as file:
        if file.format == "PNG":
            _check_rows(data)
        file.load()
        return convert(_rgb(ImageOps.exif_transpose(file)))


def _measured(data: bytes) -> tuple[int, int]:
    """Height and width of a picture when it is turned as its EXIF says."""
    with _opened(data) as file:
        width, height = file.size
        return (width, height) if file.getexif().get(_ORIENTATION, 1) in _LYING else (height, width)


@contextmanager
def _opened(data: bytes) -> Iterator[Picture]:
    """A picture of which the head was read. Raises InputError, also for what its decoder says while it is open."""
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about oddities that do not change the pixels
            with pillow.open(BytesIO(_without_texts(data)), formats=FORMATS) as file:
                _check_size(file)
                yield file
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("this is no picture that can be read", hint="give a PNG, JPEG, WebP, BMP or GIF") from None
    except pillow.DecompressionBombError:
        raise InputError(f"the picture is too large; at most {MAX_PIXELS:,} pixels are read") from None
    except MemoryError:
        raise InputError("the picture does not fit in memory", hint="make it smaller first") from None
    except Exception as error:  # a decoder may raise anything at damaged data
        raise InputError(f"the picture is damaged: {error}", hint="open it in a viewer and save it again") from None


def _check_size(file: Picture) -> None:
    """Refuses what is too large or moves, from the header alone."""
    width, height = file.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(
            f"the picture is {width} x {height}; at most {MAX_PIXELS:,} pixels are read", hint="make it smaller first"
        )
    if file.format in ("GIF", "PNG", "WEBP") and getattr(file, "is_animated", False):
        raise InputError("the picture is animated", hint="save the frame that you want as a picture of its own")


_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type of a PNG
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _check_rows(data: bytes) -> None:
    """Refuses a PNG whose pixels end before its last row, which Pillow would leave black."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    grids = _ADAM7 if interlaced else ((0, 0, 1, 1),)  # first column, first row, and the strides
    missing = 0
    for x, y, across, down in grids:
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        missing += rows * (1 + (columns * depth * _CHANNELS.get(colour, 1) + 7) // 8) if columns > 0 < rows else 0
    unpacker = zlib.decompressobj()
    for kind, body, _ in _chunks(data):
        while kind == b"IDAT" and body and missing > 0:
            missing -= len(unpacker.decompress(body, 1 << 20))
            body = unpacker.unconsumed_tail
    if missing > 0:
        raise InputError("the picture is damaged: it ends before its last row", hint="it is cut short, or was changed")


def _rgb(picture: Picture) -> Any:
    """The picture on white, in 0..255: uint8 [H, W, 3], or float32 [H, W, 1] where it is grey of 16 bits."""
    from PIL import Image as pillow

    if picture.mode.startswith("I"):
        grey = np.array(picture)
        hidden = picture.info.get("transparency")
        grey = np.where(grey == hidden, 65535, grey) if isinstance(hidden, int) else grey
        return (grey.clip(0, 65535) / np.float32(257)).astype(np.float32)[:, :, None]
    if picture.has_transparency_data:
        white = pillow.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    return np.array(picture.convert("RGB"))


@writer("Image", suffix=".png")
def write_image(value: Any, metadata: dict[str, str]) -> list[bytes]:
    """Each picture of [B, 3, H, W] (or [B, 1, H, W], grey) in [-1, 1] as the bytes of an 8-bit PNG, with texts in it.

    A value x becomes round((x + 1) * 127.5), clipped to 0..255. metadata: by key (1 to 79 Latin-1 characters), written
    as iTXt chunks in the order of the keys; the same input gives the same bytes. Raises PortError for another shape, or
    values that are not finite.
    """
    from PIL import Image as pillow
    from PIL.PngImagePlugin import PngInfo

    if value.ndim != 4 or value.shape[1] not in (1, 3) or 0 in value.shape:
        raise PortError("image", f"shape {list(value.shape)} is no picture; expected [B, 3, H, W]")
    pixels = value.detach().float().cpu().numpy()
    if not np.isfinite(pixels).all():
        raise PortError("image", "holds values that are not finite")
    rounded = np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)  # B H W C
    texts = PngInfo()
    for key, text in sorted(metadata.items()):
        if not re.fullmatch(r"[\x20-\x7e\xa1-\xff]{1,79}", key):
            raise PortError("metadata", f"the key {key!r} is not 1 to 79 printable Latin-1 characters")
        try:
            texts.add_itxt(key, text, zip=len(text) > 1024)
        except UnicodeEncodeError as error:
            raise PortError("metadata", f"the text of {key!r} cannot be written: {error}") from None
    files = []
    for row in rounded:
        buffer = BytesIO()
        pillow.fromarray(row[:, :, 0] if row.shape[2] == 1 else row).save(
            buffer, "PNG", pnginfo=texts, compress_level=6
        )
        files.append(buffer.getvalue())
    return files


@carrier("Image", suffixes=(".png",))
def read_metadata(data: bytes) -> dict[str, str]:
    """The texts that a PNG carries, by key; the first of two with one key.

    Raises InputError where it is not a PNG, is damaged, or holds more than 16 MiB of text.
    """
    if not data.startswith(_SIGNATURE):
        raise InputError("this is not a PNG, so it carries no graph")
    texts: dict[str, str] = {}
    left = MAX_TEXT_BYTES
    for kind, body, whole in _chunks(data):
        if not whole:
            raise InputError("the PNG is damaged or cut short", hint="it must be the very file that was written")
        if kind in _TEXT_CHUNKS:
            key, text, size = _text(kind, body, left)
            left -= size
            texts.setdefault(key, text)
    return texts


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and content of each chunk of a PNG up to its end, and whether it is whole."""
    place = len(_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[place : place + 8].rjust(8, b"\xff"))
        body, check = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        whole = len(body) == length and check == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        yield kind, body, whole
        if not whole:
            return
        place += 12 + length


def _text(kind: bytes, body: bytes, limit: int) -> tuple[str, str, int]:
    """Key, text and number of bytes of a text chunk."""
    key, _, rest = body.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        rest = rest[1:]
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        rest = rest.split(b"\0", 2)[-1]  # past language and translated key
    try:
        if packed:
            unpacker = zlib.decompressobj()
            rest = unpacker.decompress(rest, limit + 1)
        if len(rest) > limit:
            raise InputError(f"the PNG holds more than {MAX_TEXT_BYTES >> 20} MiB of text")
        return key.decode("latin-1"), rest.decode("utf-8" if kind == b"iTXt" else "latin-1"), len(rest)
    except (zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"the text {key.decode('latin-1')!r} of the PNG is damaged: {error}") from None


def _without_texts(data: bytes) -> bytes:
    """A PNG without its texts, which Pillow would unpack and limit; anything else as it is."""
    if not data.startswith(_SIGNATURE):
        return data
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    for kind, body, whole in _chunks(data):
        if not whole:
            return b"".join([*kept, data[place:]])
        end = place + 12 + len(body)
        if kind not in _TEXT_CHUNKS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)
