"""A laid-out graph as plain shapes, for whichever file they are written into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .layout import HEAD, PAD, PIN, ROW, SMALL, TITLE, arrange
from .palette import Theme, colours, text_width
from .scene import COMPONENT, PLAIN, UNKNOWN, Box, Port, Wire

MARGIN, LEGEND = 24.0, 22.0


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    w: float
    h: float
    radius: float
    fill: str
    stroke: str
    width: float = 1.0
    dash: tuple[float, float] | None = None
    name: str = ""  # of the box that it is


@dataclass(frozen=True)
class Curve:
    """Level from the first point to the second, curved to the third, level to the fourth, and so on."""

    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float
    dash: tuple[float, float] | None = None
    name: str = ""  # `source.port -> target.port: kind`


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    fill: str


@dataclass(frozen=True)
class Arrow:
    """The head of an arrow that ends at x, y; to the right, or to the left."""

    x: float
    y: float
    fill: str
    left: bool = False


@dataclass(frozen=True)
class Text:
    """A line of text. y is its middle; anchor is start, middle or end."""

    x: float
    y: float
    text: str
    size: float
    fill: str
    bold: bool = False
    anchor: str = "start"


Shape = Rect | Curve | Dot | Arrow | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes in the order in which they are painted, on a sheet of this size."""

    title: str
    width: float
    height: float
    theme: Theme
    shapes: tuple[Shape, ...]


def draw(graph: Box, theme: Theme) -> Drawing:
    """The drawing of a graph that scene.py made."""
    arrange(graph)
    counts = Counter(wire.kind for box in graph.walk() for wire in box.wires)
    painter, kinds = _Painter(theme, colours(counts, theme)), set(counts)
    graph.x, graph.y = MARGIN, MARGIN - 6
    shapes = list(painter.frame(graph, graph.x, graph.y, 0))
    need = max(text_width(graph.title, 20, True), text_width(graph.subtitle, 12))
    width = max(graph.w, min(need, 1200), 320) + 2 * MARGIN
    legend, height = painter.legend(graph, kinds, width, graph.y + graph.h + 14)
    return Drawing(graph.title, width, height + MARGIN - 6, theme, (*shapes, *legend))


class _Painter:
    def __init__(self, theme: Theme, tones: dict[str, str]) -> None:
        self.theme, self.tones = theme, tones

    def frame(self, box: Box, x: float, y: float, depth: int) -> Iterator[Shape]:
        """A frame whose corner is at x, y, and all that is in it."""
        theme, whole = self.theme, box.look == "graph"
        if whole:
            yield Text(x, y + 14, box.title, 20, theme.ink, True)
            yield Text(x, y + 37, box.subtitle, 12, theme.faint)
        else:
            fill = theme.frames[depth % 2]
            yield Rect(x, y, box.w, box.h, 9, fill, theme.border, 1.2, None, box.path)
            yield Text(x + PAD, y + 16, box.title, TITLE, theme.ink, True)
            yield Text(x + PAD, y + 31, box.subtitle, SMALL, theme.faint)
        for wire in box.wires:
            yield from self.wire(box, wire, x, y)
        if box.back:
            (x1, y1), (x2, y2) = box.back
            yield Curve(((x + x1, y + y1), (x + x2, y + y2)), theme.faint, 1.2, (5, 4))
            yield Arrow(x + x2, y + y2, theme.faint, left=True)
            yield Text(x + (x1 + x2) / 2, y + y1 - 8, "next turn", SMALL, theme.faint, anchor="middle")
        for child in box.children:
            if child.framed:
                yield from self.frame(child, x + child.x, y + child.y, depth + 1)
            else:
                yield from self.box(child, x + child.x, y + child.y)
        for ports, right in ((box.ins, False), (box.outs, True)):
            for port in ports.values():
                yield from self.pin(port, x, y, right) if whole else self.gate(port, x, y, right)

    def wire(self, frame: Box, wire: Wire, x: float, y: float) -> Iterator[Shape]:
        component, plain = wire.kind == COMPONENT, wire.kind in (PLAIN, UNKNOWN)
        tone = self.tones[wire.kind]
        points = tuple((x + px, y + py) for px, py in wire.points)
        ends = [
            ".".join(filter(None, (box.path if box is not frame else f"{box.path}:{side}", port.lstrip("$:"))))
            for box, port, side in ((wire.source, wire.output, "in"), (wire.target, wire.input, "out"))
        ]
        name = f"{ends[0]} -> {ends[1]}: {wire.kind}"
        yield Curve(points, tone, 1.2 if component or plain else 1.8, (4, 3) if component else None, name)
        if wire.target is not frame or frame.look == "graph":
            yield Arrow(points[-1][0], points[-1][1], tone)

    def pin(self, port: Port, x: float, y: float, right: bool) -> Iterator[Shape]:
        """An input or an output of the whole graph."""
        theme, tone = self.theme, self.tones.get(port.kind, self.theme.plain)
        left, size = x + port.x, SMALL + 1
        yield Rect(left, y + port.y - PIN / 2, port.w, PIN, PIN / 2, theme.box, tone, 1.6, None, f":{port.name}")
        yield Text(left + 12, y + port.y, port.label, size, theme.ink, True)
        if port.note:
            yield Text(left + port.w - 12, y + port.y, port.note, SMALL, theme.faint, anchor="end")

    def gate(self, port: Port, x: float, y: float, right: bool) -> Iterator[Shape]:
        """A port on the border of a frame."""
        yield Dot(x + port.x, y + port.y, 3.4, self.tones.get(port.kind, self.theme.plain))
        side = "end" if right else "start"
        yield Text(x + port.x + (-8 if right else 8), y + port.y, port.label, SMALL, self.theme.ink, anchor=side)

    def box(self, box: Box, x: float, y: float) -> Iterator[Shape]:
        theme, part = self.theme, box.look == "component"
        ink, faint = (theme.component_ink,) * 2 if part else (theme.ink, theme.faint)
        if box.look == "include":  # a sheet with another behind it: there is more inside
            yield Rect(x + 4, y + 4, box.w, box.h, 6, theme.frames[1], theme.border)
        fill, edge = (theme.component, theme.component) if part else (theme.box, theme.border)
        yield Rect(x, y, box.w, box.h, 3 if part else 7, fill, edge, 1.2, None, box.path)
        yield Text(x + 11, y + 14, box.title, TITLE, ink, True)
        yield Text(x + 11, y + 30, box.subtitle, SMALL, faint)
        rows = 0
        for ports, right in ((box.ins, False), (box.outs, True)):
            rows = max(rows, sum(1 for port in ports.values() if port.label))
            for port in ports.values():
                tone = self.tones.get(port.kind, theme.plain)
                yield Dot(x + port.x, y + port.y, 3.0, theme.faint if part and port.kind == COMPONENT else tone)
                at = x + port.x + (-9 if right else 9)
                yield Text(at, y + port.y, port.label, SMALL, ink, anchor="end" if right else "start")
        for number, note in enumerate(box.notes):
            yield Text(x + 11, y + HEAD + rows * ROW + (number + 0.5) * (ROW - 2), note, SMALL, faint)

    def legend(self, graph: Box, kinds: set[str], width: float, y: float) -> tuple[list[Shape], float]:
        """What the colours and the outlines mean, in lines as wide as the drawing; and where they end."""
        theme = self.theme
        looks = {box.look for box in graph.walk()}
        named = sorted(kinds - {COMPONENT, PLAIN, UNKNOWN})
        entries: list[tuple[str, str, tuple[float, float] | None]] = [(kind, self.tones[kind], None) for kind in named]
        if kinds & {PLAIN, UNKNOWN}:
            words = {PLAIN: "number, text, address", UNKNOWN: "not known"}
            entries.append((", ".join(words[kind] for kind in words if kind in kinds), theme.plain, None))
        if COMPONENT in kinds:
            entries.append(("a component, to be called", theme.component, (4, 3)))
        boxes = {"component": "component", "node": "node", "include": "another graph"}
        entries += [(name, look, None) for look, name in boxes.items() if look in looks]
        shapes: list[Shape] = []
        x, line = MARGIN, y + LEGEND / 2
        for text, tone, dash in entries:
            need = 30 + text_width(text, SMALL) + 18
            if x > MARGIN and x + need > width - MARGIN:
                x, line = MARGIN, line + LEGEND
            if tone in boxes:
                if tone == "include":
                    shapes.append(Rect(x + 3, line - 4, 20, 12, 2, theme.frames[1], theme.border))
                part = tone == "component"
                fill, edge = (theme.component,) * 2 if part else (theme.box, theme.border)
                shapes.append(Rect(x, line - 6, 20, 12, 2 if part else 4, fill, edge))
            else:
                shapes.append(Curve(((x, line), (x + 22, line)), tone, 2.4 if dash is None else 1.4, dash))
            shapes.append(Text(x + 30, line, text, SMALL, theme.faint))
            x += need
        return shapes, line + LEGEND / 2


__all__ = ["Arrow", "Curve", "Dot", "Drawing", "Rect", "Shape", "Text", "draw"]
