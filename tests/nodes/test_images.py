"""Reading pictures, writing them with texts, and refusing what is no picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pillow
from PIL.PngImagePlugin import PngInfo

from diffgraph.errors import InputError, PortError
from diffgraph.nodes.images import (
    MAX_PIXELS,
    measure_image,
    measure_mask,
    read_image,
    read_mask,
    read_metadata,
    write_image,
)


def encoded(picture: pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    """What was read, as 0..255, [H, W, 3]; its shape was known from the head of the file."""
    image = read_image(data)
    assert measure_image(data) == tuple(image.shape)
    assert measure_mask(data) == tuple(read_mask(data).shape)
    assert image.dtype == torch.float32
    assert image.shape[:2] == (1, 3)
    assert image.isfinite().all()
    assert image.abs().max() <= 1
    return np.asarray(((image[0].permute(1, 2, 0) + 1) * 127.5).numpy())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def png(*chunks: bytes, width: int = 2, height: int = 2, rows: bytes = b"") -> bytes:
    """A PNG made by hand: grey, 8 bits, with other chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(rows or b"\0\x10\x20\0\x30\x40")
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IDAT", body), chunk(b"IEND", b"")])


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})], ids=["png", "bmp", "webp"]
)
def test_lossless_formats(kind: str, options: dict[str, Any]) -> None:
    data = encoded(pillow.fromarray(COLOURS), kind, **options)
    np.testing.assert_allclose(pixels(data), COLOURS, atol=1e-3)


@pytest.mark.parametrize(("kind", "colour"), [("JPEG", (200, 40, 90)), ("WEBP", (200, 40, 90)), ("GIF", (255, 0, 0))])
def test_lossy_formats(kind: str, colour: tuple[int, int, int]) -> None:
    data = encoded(pillow.new("RGB", (16, 8), colour), kind)
    assert read_image(data).shape == (1, 3, 8, 16)
    np.testing.assert_allclose(pixels(data), np.broadcast_to(colour, (8, 16, 3)), atol=4)


def test_the_ends_of_the_range() -> None:
    image = read_image(encoded(pillow.fromarray(np.array([[0, 255]], dtype=np.uint8))))
    assert image[0, :, 0].tolist() == [[-1, 1]] * 3


def test_modes() -> None:
    """Grey, two-colour, palette and CMYK pictures become RGB."""
    grey = pillow.fromarray(COLOURS[:, :, 0])
    np.testing.assert_allclose(pixels(encoded(grey)), np.repeat(COLOURS[:, :, :1], 3, 2), atol=1e-3)
    assert np.unique(pixels(encoded(grey.convert("1")))).tolist() == [0, 255]
    palette = pillow.new("P", (2, 1))
    palette.putpalette([250, 10, 20, 0, 90, 180])
    palette.putdata([0, 1])
    np.testing.assert_allclose(pixels(encoded(palette)), [[[250, 10, 20], [0, 90, 180]]], atol=1e-3)
    cmyk = pillow.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = pixels(encoded(cmyk, "JPEG", quality=95))[0, 0]
    assert red < 30
    assert green > 200
    assert blue > 200


def test_sixteen_bits_keep_their_digits() -> None:
    values = np.array([[0, 1, 257, 30000, 65535]], dtype=np.uint16)
    np.testing.assert_allclose(pixels(encoded(pillow.fromarray(values)))[:, :, 1], values / 257, atol=1e-3)


def test_transparency_is_laid_on_white() -> None:
    rgba = pillow.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    wanted = [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
    np.testing.assert_allclose(pixels(encoded(rgba)), wanted, atol=1)
    np.testing.assert_allclose(pixels(encoded(rgba, "WEBP", lossless=True)), wanted, atol=1)
    palette = pillow.new("P", (2, 1))
    palette.putpalette([250, 10, 20, 0, 90, 180])
    palette.putdata([0, 1])
    np.testing.assert_allclose(pixels(encoded(palette, transparency=1))[0, 1], [255] * 3, atol=1)
    np.testing.assert_allclose(pixels(encoded(palette, "GIF", transparency=1))[0, 1], [255] * 3, atol=1)
    colour = pillow.new("RGB", (1, 1), (9, 8, 7))
    np.testing.assert_allclose(pixels(encoded(colour, transparency=(9, 8, 7)))[0, 0], [255] * 3, atol=1)
    grey = pillow.fromarray(np.array([[300, 40000]], dtype=np.uint16))
    np.testing.assert_allclose(pixels(encoded(grey, transparency=300))[0, 0], [255] * 3, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(orientation: int) -> None:
    """A picture whose left half is dark, stored in each of the eight ways."""
    upright = np.zeros((4, 6), dtype=np.uint8)
    upright[:, 3:] = 255
    undo = {
        2: pillow.Transpose.FLIP_LEFT_RIGHT,
        3: pillow.Transpose.ROTATE_180,
        4: pillow.Transpose.FLIP_TOP_BOTTOM,
        5: pillow.Transpose.TRANSPOSE,
        6: pillow.Transpose.ROTATE_90,
        7: pillow.Transpose.TRANSVERSE,
        8: pillow.Transpose.ROTATE_270,
    }
    stored = pillow.fromarray(upright)
    stored = stored.transpose(undo[orientation]) if orientation in undo else stored
    exif = pillow.Exif()
    exif[0x0112] = orientation
    np.testing.assert_allclose(pixels(encoded(stored, exif=exif))[:, :, 0], upright, atol=1e-3)


# --- refusing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"\xff\xd8\xff", bytes(5000)],
)
def test_no_picture(data: bytes) -> None:
    with pytest.raises(InputError):
        read_image(data)


def test_other_formats_are_refused() -> None:
    """By content: what the file is called does not matter."""
    for kind in ("TIFF", "ICO", "PPM"):
        with pytest.raises(InputError, match="no picture that can be read"):
            read_image(encoded(pillow.new("RGB", (16, 16)), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_cut_short(kind: str) -> None:
    data = encoded(pillow.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(InputError):
            read_image(data[: int(len(data) * share)])


def test_too_large_is_known_from_the_header() -> None:
    """200 Mpx in a file of some kilobytes, and a width that no memory holds: nothing is decoded."""
    for width, height in ((20000, 10000), (8193, 8192), (2**31 - 1, 2**31 - 1), (30000, 30000)):
        with pytest.raises(InputError, match=r"large|at most"):
            read_image(png(width=width, height=height))
    assert MAX_PIXELS == 8192 * 8192


def test_a_picture_that_lies_about_its_size() -> None:
    """More rows announced than there are; and fewer, where the rest is not read."""
    with pytest.raises(InputError, match="damaged"):
        read_image(png(width=4000, height=4000))
    assert read_image(png(width=2, height=1, rows=b"\0\x10\x20" * 50)).shape == (1, 3, 1, 2)
    with pytest.raises(InputError):
        read_image(png(width=0, height=2))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animated(kind: str) -> None:
    frames = [pillow.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(InputError, match="animated"):
        read_image(data)


def test_texts_of_any_size_do_not_stop_reading() -> None:
    """Pillow by itself refuses a text of more than 1 MiB; a long graph in a picture is no reason to refuse it."""
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(8 * 2**20)))
    assert read_image(png(bomb)).shape == (1, 3, 2, 2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_one_kind_of_error(data: st.DataObject) -> None:
    """Whatever bytes are changed or cut: a picture, or InputError."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]))
    whole = bytearray(encoded(pillow.fromarray(COLOURS), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        for function in (read_image, read_metadata):
            try:
                function(damaged)
            except InputError:
                continue


# --- writing --------------------------------------------------------------------------------------------------------


def test_round_trip() -> None:
    image = torch.from_numpy(COLOURS).permute(2, 0, 1)[None].float() / 127.5 - 1
    batch = torch.cat([image, -image])
    files = write_image(batch, {"prompt": "red apple"})
    assert len(files) == 2
    for row, data in zip(batch, files, strict=True):
        torch.testing.assert_close(read_image(data)[0], row, rtol=0, atol=1e-6)
        assert read_metadata(data) == {"prompt": "red apple"}
    assert write_image(read_image(files[0]), {"prompt": "red apple"})[0] == files[0]


def test_rounding_and_clipping() -> None:
    """A value x is round((x + 1) * 127.5), within 0..255."""
    row = torch.tensor([-7, -1, -0.9963, -0.996, 0.0, 1.0, 1.2]).reshape(1, 1, 1, 7)
    grey = np.asarray(pillow.open(io.BytesIO(write_image(row, {})[0])))
    assert grey.tolist() == [[0, 0, 0, 1, 128, 255, 255]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    assert read_image(write_image(torch.ones(1, 3, 2, 2, dtype=dtype), {})[0]).min() == 1


def test_same_input_same_bytes() -> None:
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    one = write_image(image, {"b": "2", "a": "1" * 3000})
    assert one == write_image(image.clone(), {"a": "1" * 3000, "b": "2"})


def test_metadata_of_all_kinds() -> None:
    texts = {
        "short": "plain",
        "empty": "",
        "long": "graph: {}\n" * 5000,
        "unicode": "día 日本 🙂 \u0000 end",
        "prompt with blanks": "x",
    }
    assert read_metadata(write_image(torch.zeros(1, 3, 2, 2), texts)[0]) == texts
    assert list(read_metadata(write_image(torch.zeros(1, 3, 2, 2), texts)[0])) == sorted(texts)


def test_metadata_that_others_wrote() -> None:
    info = PngInfo()
    info.add_text("plain", "café")
    info.add_text("packed", "p" * 5000, zip=True)
    info.add_itxt("itxt", "日本", lang="ja", tkey="t")
    info.add_text("plain", "second")
    data = encoded(pillow.new("RGB", (2, 2)), pnginfo=info)
    assert read_metadata(data) == {"plain": "café", "packed": "p" * 5000, "itxt": "日本"}
    assert read_metadata(encoded(pillow.new("RGB", (2, 2)))) == {}


def test_metadata_is_bounded() -> None:
    """A bomb of 1 GiB in a few chunks stops at the limit."""
    one = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(17 * 2**20)))
    many = [chunk(b"zTXt", f"k{i}\0\0".encode() + zlib.compress(bytes(2**20))) for i in range(20)]
    for data in (png(one), png(*many), png(chunk(b"tEXt", b"k\0" + bytes(17 * 2**20)))):
        with pytest.raises(InputError, match="more than 16 MiB"):
            read_metadata(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        encoded(pillow.new("RGB", (4, 4)), "JPEG"),
        png()[:-6],
        png()[:20],
        png(chunk(b"zTXt", b"k\0\0not packed")),
        png(chunk(b"iTXt", b"k\0\0\0\0\0\xff\xfe")),
        png(chunk(b"tEXt", b"k\0text")).replace(b"text", b"TEXT"),
    ],
)
def test_metadata_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(InputError):
        read_metadata(data)


@pytest.mark.parametrize(
    ("value", "metadata", "port"),
    [
        (torch.zeros(3, 4, 4), {}, "image"),
        (torch.zeros(1, 4, 4, 4), {}, "image"),
        (torch.zeros(1, 3, 0, 4), {}, "image"),
        (torch.full((1, 3, 2, 2), float("nan")), {}, "image"),
        (torch.full((1, 3, 2, 2), float("inf")), {}, "image"),
        (torch.zeros(1, 3, 2, 2), {"": "x"}, "metadata"),
        (torch.zeros(1, 3, 2, 2), {"k" * 80: "x"}, "metadata"),
        (torch.zeros(1, 3, 2, 2), {"日本": "x"}, "metadata"),
        (torch.zeros(1, 3, 2, 2), {"a\0b": "x"}, "metadata"),
        (torch.zeros(1, 3, 2, 2), {"k": "\ud800"}, "metadata"),
    ],
)
def test_what_cannot_be_written(value: Any, metadata: dict[str, str], port: str) -> None:
    with pytest.raises(PortError) as caught:
        write_image(value, metadata)
    assert caught.value.port == port


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (16, 16), (33, 7)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "I;16"])
def test_every_whole_png_is_read_and_none_that_is_a_row_short(mode: str, size: tuple[int, int]) -> None:
    """The number of bytes that a PNG must hold is worked out from its header."""
    data = encoded(pillow.new(mode, size), "PNG")
    assert read_image(data).shape == (1, 3, size[1], size[0])
    header = struct.pack(">II", size[0], size[1] + 1) + data[24:29]
    with pytest.raises(InputError, match="ends before its last row"):
        read_image(data[:8] + chunk(b"IHDR", header) + data[33:])


def test_interlaced() -> None:
    """The seven passes of Adam7 for 5 x 3 pixels of one byte: the whole is read, a byte less is refused."""
    rows = [(1, 1), (1, 1), (2, 0), (1, 1), (3, 1), (2, 2), (5, 1)]  # columns and rows of each pass
    body = b"".join((b"\0" + b"\x80" * columns) * count for columns, count in rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 1))

    def interlaced(pixels: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")

    assert read_image(interlaced(body)).unique().tolist() == [pytest.approx(128 / 127.5 - 1, abs=1e-6)]
    with pytest.raises(InputError, match="ends before its last row"):
        read_image(interlaced(body[:-1]))


# --- masks ----------------------------------------------------------------------------------------------------------


def test_a_mask_is_1_where_its_picture_is_white() -> None:
    mask = read_mask(encoded(pillow.fromarray(np.array([[0, 255, 51]], dtype=np.uint8))))
    assert (mask.dtype, mask.shape) == (torch.float32, (1, 1, 1, 3))
    torch.testing.assert_close(mask[0, 0, 0], torch.tensor([0, 1, 0.2]), rtol=0, atol=1e-6)
    assert read_mask(encoded(pillow.new("RGB", (2, 2), "white"))).max() <= 1


def test_a_mask_counts_colours_by_their_luma() -> None:
    mask = read_mask(encoded(pillow.fromarray(COLOURS)))
    expected = COLOURS @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(mask[0, 0].numpy(), expected, atol=1e-6)


def test_what_is_transparent_is_repainted() -> None:
    picture = pillow.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    assert read_mask(encoded(picture))[0, 0, 0].tolist() == [0, 1]


def test_a_mask_of_16_bits() -> None:
    grey = pillow.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert read_mask(encoded(grey))[0, 0, 0].tolist() == [0, 1]


def test_what_is_no_picture_is_no_mask() -> None:
    with pytest.raises(InputError, match="no picture"):
        read_mask(b"white")
