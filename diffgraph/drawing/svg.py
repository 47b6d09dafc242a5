"""A drawing as SVG: text, with nothing that is read from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from .shapes import Arrow, Curve, Dot, Drawing, Rect, Shape, Text

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # letters that XML cannot have


def svg(drawing: Drawing) -> str:
    """The text of the file."""
    size = f'width="{_n(drawing.width)}" height="{_n(drawing.height)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
        f' font-family="{FONT}" role="img">',
        f"<title>{_text(drawing.title)}</title>",
        f'<rect width="100%" height="100%" fill="{drawing.theme.paper}"/>',
    ]
    for shape in drawing.shapes:
        lines.extend(_shape(shape))
    return "\n".join((*lines, "</svg>", ""))


def _shape(shape: Shape) -> Iterator[str]:
    if isinstance(shape, Rect):
        place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.w)}" height="{_n(shape.h)}"'
        look = f'rx="{_n(shape.radius)}" fill="{shape.fill}" stroke="{shape.stroke}" stroke-width="{_n(shape.width)}"'
        name = f" data-box={quoteattr(_clean(shape.name))}" if shape.name else ""
        yield f"<rect{name} {place} {look}/>"
    elif isinstance(shape, Curve):
        dash = f' stroke-dasharray="{_n(shape.dash[0])} {_n(shape.dash[1])}"' if shape.dash else ""
        look = f'd="{_path(shape)}" fill="none" stroke="{shape.stroke}" stroke-width="{_n(shape.width)}"{dash}'
        name = f" data-wire={quoteattr(_clean(shape.name))}" if shape.name else ""
        hint = f"<title>{_text(shape.name)}</title>" if shape.name else ""
        yield f"<path{name} {look}>{hint}</path>" if hint else f"<path {look}/>"
    elif isinstance(shape, Dot):
        yield f'<circle cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}" fill="{shape.fill}"/>'
    elif isinstance(shape, Arrow):
        back = 7 if shape.left else -7
        yield f'<path d="M{_n(shape.x)} {_n(shape.y)}l{back} -3.5v7z" fill="{shape.fill}"/>'
    elif isinstance(shape, Text) and shape.text:
        bold = ' font-weight="bold"' if shape.bold else ""
        anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
        place = f'x="{_n(shape.x)}" y="{_n(shape.y + 0.35 * shape.size)}" font-size="{_n(shape.size)}"'
        yield f'<text {place} fill="{shape.fill}"{bold}{anchor}>{_text(shape.text)}</text>'


def _path(curve: Curve) -> str:
    (x, y), *rest = curve.points
    parts = [f"M{_n(x)} {_n(y)}"]
    for number, (to_x, to_y) in enumerate(rest):
        if number % 2 == 0 or abs(to_y - y) < 0.05:
            parts.append(f"L{_n(to_x)} {_n(to_y)}" if abs(to_x - x) + abs(to_y - y) > 0.05 else "")
        else:
            half = (x + to_x) / 2
            parts.append(f"C{_n(half)} {_n(y)} {_n(half)} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
        x, y = to_x, to_y
    return "".join(parts)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)


def _text(text: str) -> str:
    return escape(_clean(text))


__all__ = ["svg"]
