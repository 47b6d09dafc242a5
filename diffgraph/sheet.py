"""Pictures side by side as one PNG, with captions: contact sheets, the grids of sweeps, the samples of a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 128  # points of a place; smaller pictures are shown larger, each point as a square
MOST = 40_000_000  # points of a sheet; beyond, its pictures are shown smaller
GAP, LINES = 4, 4
PAPER, INK = "#ffffff", "#1b1f24"


@dataclass(frozen=True)
class Row:
    """One row: files of pictures (None leaves a place empty), what stands above each, and what stands before them."""

    files: Sequence[bytes | None]
    captions: Sequence[str] = ()
    label: str = ""


def rows_of(files: Sequence[bytes | None], captions: Sequence[str] = (), columns: int = 8) -> list[Row]:
    """Pictures in rows, as many of them as make about a square, but at most `columns` wide."""
    width = min(columns, max(1, round(len(files) ** 0.5 + 0.49)))
    starts = range(0, len(files), width)
    return [Row(files[at : at + width], captions[at : at + width]) for at in starts]


def sheet(rows: Sequence[Row]) -> bytes:
    """The content of the file. Pictures of several sizes stand in the middle of their places."""
    from PIL import Image, ImageDraw

    pictures = [[_opened(data) for data in row.files] for row in rows]
    shown = [picture for line in pictures for picture in line if picture is not None]
    wide, high = (max((getattr(p, side) for p in shown), default=SMALLEST) for side in ("width", "height"))
    count = sum(len(row.files) for row in rows)
    scale: float = max(1, SMALLEST // min(wide, high))
    scale = min(scale, (MOST / (wide * high * count)) ** 0.5)
    wide, high = max(1, round(wide * scale)), max(1, round(high * scale))
    size = min(24, max(11, wide // 10))
    left = [_wrapped(row.label, wide, size) for row in rows]
    above = [[_wrapped(text, wide, size) for text in row.captions] for row in rows]
    heads = [max((len(lines) for lines in line), default=0) * (size + 3) for line in above]
    margin = max((round(_length(line, size)) + 3 * GAP for lines in left for line in lines), default=0)
    columns = max((len(row.files) for row in rows), default=1)
    whole = Image.new(
        "RGB", (margin + columns * (wide + GAP) + GAP, sum(heads) + len(rows) * (high + GAP) + GAP), PAPER
    )
    pen, y = ImageDraw.Draw(whole), GAP
    for line, label, captions, head in zip(pictures, left, above, heads, strict=True):
        _write(pen, label, (GAP, y + head + (high - len(label) * (size + 3)) // 2), size)
        for number, picture in enumerate(line):
            x = margin + GAP + number * (wide + GAP)
            if number < len(captions):
                _write(pen, captions[number], (x, y), size)
            if picture is not None:
                shape = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
                finer = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
                there = picture.resize(shape, finer) if shape != picture.size else picture
                whole.paste(there, (x + (wide - shape[0]) // 2, y + head + (high - shape[1]) // 2))
        y += head + high + GAP
    out = BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def _opened(data: bytes | None) -> Image | None:
    from PIL import Image

    return Image.open(BytesIO(data)).convert("RGB") if data is not None else None


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """A text in lines that are not wider than so many points; what is too long ends in an ellipsis."""
    lines: list[str] = []
    for word in _pieces(text, width, size):
        if lines and _length(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1] + " …"]
        while len(lines[-1]) > 2 and _length(lines[-1], size) > width:
            lines[-1] = lines[-1][:-3] + " …"
    return lines


def _pieces(text: str, width: int, size: int) -> Iterable[str]:
    """The words of a text; one wider than a line is cut."""
    for word in text.split():
        while len(word) > 1 and _length(word, size) > width:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or _length(word[:n], size) <= width)
            yield word[:fits]
            word = word[fits:]
        yield word


def _length(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def _write(pen: Any, lines: Sequence[str], at: tuple[int, int], size: int) -> None:
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * (size + 3)), line, INK, _font(size))


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


__all__ = ["Row", "rows_of", "sheet"]
