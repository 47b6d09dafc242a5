"""A drawing as PNG, painted by Pillow with its own letters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .shapes import Arrow, Curve, Dot, Drawing, Rect, Shape, Text

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SCALE, FINE = 2, 2  # points a unit, and how many times finer it is painted than kept
MOST = 40_000_000  # points that are painted at most

Point = tuple[float, float]


def png(drawing: Drawing) -> bytes:
    """The content of the file."""
    from PIL import Image, ImageDraw

    area = drawing.width * drawing.height
    scale = min(SCALE, (MOST / FINE**2 / area) ** 0.5)
    width, height = (max(1, round(size * scale)) for size in (drawing.width, drawing.height))
    image = Image.new("RGB", (width * FINE, height * FINE), drawing.theme.paper)
    pen = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        _paint(pen, shape, scale * FINE)
    buffer = BytesIO()
    image.resize((width, height), Image.Resampling.BOX).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _paint(pen: ImageDraw, shape: Shape, k: float) -> None:
    if isinstance(shape, Rect):
        box = (shape.x * k, shape.y * k, (shape.x + shape.w) * k, (shape.y + shape.h) * k)
        pen.rounded_rectangle(box, shape.radius * k, shape.fill, shape.stroke, max(1, round(shape.width * k)))
    elif isinstance(shape, Curve):
        for line in _dashes(list(_trace(shape)), shape.dash):
            pen.line([(x * k, y * k) for x, y in line], shape.stroke, max(1, round(shape.width * k)), joint="curve")
    elif isinstance(shape, Dot):
        x, y, r = shape.x * k, shape.y * k, shape.radius * k
        pen.ellipse((x - r, y - r, x + r, y + r), shape.fill)
    elif isinstance(shape, Arrow):
        x, y, back = shape.x * k, shape.y * k, (7 if shape.left else -7) * k
        pen.polygon([(x, y), (x + back, y - 3.5 * k), (x + back, y + 3.5 * k)], shape.fill)
    elif isinstance(shape, Text) and shape.text:
        place = {"start": "l", "middle": "m", "end": "r"}[shape.anchor] + "s"
        stroke = 0.02 * shape.size * k if shape.bold else 0
        at = (shape.x * k, (shape.y + 0.35 * shape.size) * k)
        pen.text(at, shape.text, shape.fill, _font(shape.size * k), place, stroke_width=stroke, stroke_fill=shape.fill)


@cache
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _trace(curve: Curve) -> Iterator[Point]:
    """A curve as points close to each other."""
    (x, y), *rest = curve.points
    yield x, y
    for number, (to_x, to_y) in enumerate(rest):
        count = 24 if number % 2 and abs(to_y - y) >= 0.05 else 1
        for step in range(1, count + 1):
            t = step / count
            along = x + (to_x - x) * (1.5 * t * (1 - t) + t**3) if count > 1 else to_x
            yield along, y + (to_y - y) * t * t * (3 - 2 * t)
        x, y = to_x, to_y


def _dashes(line: list[Point], dash: tuple[float, float] | None) -> Iterator[list[Point]]:
    """The pieces of a line that are seen."""
    if dash is None:
        yield line
        return
    piece, on, left = [line[0]], True, dash[0]
    for (x, y), (to_x, to_y) in pairwise(line):
        length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        done = 0.0
        while length - done > left:
            done += left
            at = (x + (to_x - x) * done / length, y + (to_y - y) * done / length)
            if on:
                yield [*piece, at]
            piece, on = [at], not on
            left = dash[0] if on else dash[1]
        left -= length - done
        piece.append((to_x, to_y))
    if on and len(piece) > 1:
        yield piece


__all__ = ["png"]
