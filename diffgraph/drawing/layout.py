"""Where everything stands: layers from left to right, frame by frame, from the inside out.

In each frame boxes go to the layer after those that they read (longest path); wires that span layers get waypoints
there; layers are ordered by the mean height of what their boxes are wired to, and heights are set so that wires are as
straight as the boxes permit (least squares, by pooling adjacent violators). The same graph always gives the same drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .palette import text_width
from .scene import COMPONENT, Box, Port, Wire

TITLE, SMALL = 13.0, 10.5  # sizes of letters
HEAD, ROW = 40.0, 17.0  # heights: of a box's title with its subtitle, and of a port
PAD, FRAME_HEAD = 14.0, 44.0
PIN = 26.0  # the height of a port of the whole graph
GAPS = {"box": 18.0, "port": 5.0, "way": 9.0}
SWEEPS = 24


@dataclass(eq=False)
class Item:
    """What stands in a layer: a box, a port of the frame, or a waypoint of wires. lane 0 is above lane 1."""

    what: str
    w: float = 0
    h: float = 0
    rank: int = 0
    lane: int = 1
    x: float = 0
    y: float = 0
    box: Box | None = None
    port: Port | None = None
    left: list[Edge] = field(default_factory=list)
    right: list[Edge] = field(default_factory=list)


@dataclass(eq=False)
class Edge:
    """A wire from one layer to the next; offsets are heights within its ends."""

    source: Item
    a: float
    target: Item
    b: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.source.y + self.a, self.target.y + self.b


def arrange(frame: Box) -> None:
    """Gives every box in a frame its place within that frame, every port its place in its box, wires their points."""
    for child in frame.children:
        if child.framed:
            arrange(child)
        else:
            _measure(child)
    ins = {name: _port_item(frame, port) for name, port in frame.ins.items()}
    outs = {name: _port_item(frame, port) for name, port in frame.outs.items()}
    items = {child: Item("box", child.w, child.h, box=child) for child in frame.children}
    ranks = _ranks(frame)
    for child, item in items.items():
        item.rank, item.lane = ranks[child], 0 if child.look == "component" else 1
    last = max(ranks.values(), default=0) + 1
    for item in outs.values():
        item.rank = last
    ways: dict[tuple[Box, str, int], Item] = {}
    paths: list[tuple[Wire, list[Item]]] = []
    for wire in frame.wires:
        source = ins[wire.output] if wire.source is frame else items[wire.source]
        target = outs[wire.input] if wire.target is frame else items[wire.target]
        path = [source]
        for rank in range(source.rank + 1, target.rank):
            lane = 0 if wire.kind == COMPONENT or source.lane == 0 else 1
            path.append(ways.setdefault((wire.source, wire.output, rank), Item("way", 0, 2, rank, lane)))
        paths.append((wire, [*path, target]))
        for number, (left, right) in enumerate(zip(path, [*path[1:], target], strict=True)):
            a = _offset(wire.source.outs.get(wire.output), left) if number == 0 else left.h / 2
            b = _offset(wire.target.ins.get(wire.input), right) if right is target else right.h / 2
            edge = Edge(left, a, right, b)
            if left.rank < right.rank and not any(e.target is right and (e.a, e.b) == (a, b) for e in left.right):
                left.right.append(edge)
                right.left.append(edge)
    for item in ins.values():
        targets = [edge.target for edge in item.right]
        part = item.port is not None and item.port.kind == COMPONENT
        item.lane = 0 if part or (targets and all(target.lane == 0 for target in targets)) else 1
    layers: list[list[Item]] = [[] for _ in range(last + 1)]
    for item in (*ins.values(), *items.values(), *ways.values(), *outs.values()):
        layers[item.rank].append(item)
    _heights(layers)
    _finish(frame, layers, paths)


def _port_item(frame: Box, port: Port) -> Item:
    whole = frame.look == "graph"
    width = text_width(port.label, SMALL + whole, whole) + (text_width(port.note, SMALL) + 8 if port.note else 0)
    port.w = width + (24 if whole else 10)
    return Item("port", port.w, PIN if whole else ROW - 1, port=port)


def _offset(port: Port | None, item: Item) -> float:
    return port.y if port is not None and item.box is not None else item.h / 2


def _measure(box: Box) -> None:
    """The size of a box without a body, and the places of its ports: an unnamed one is beside the title."""
    named_in, named_out = ([p for p in table.values() if p.label] for table in (box.ins, box.outs))
    rows = max(len(named_in), len(named_out))
    wide = max((text_width(port.label, SMALL) for port in named_in), default=0)
    far = max((text_width(port.label, SMALL) for port in named_out), default=0)
    texts = [text_width(box.title, TITLE, True), *(text_width(t, SMALL) for t in (box.subtitle, *box.notes))]
    box.w = max(*texts, wide + far + (14 if wide and far else 0), 56) + 22
    box.h = HEAD + rows * ROW + len(box.notes) * (ROW - 2) + (6 if rows or box.notes else 0)
    for table, named, x in ((box.ins, named_in, 0.0), (box.outs, named_out, box.w)):
        for port in table.values():
            port.x, port.y = x, HEAD + (named.index(port) + 0.5) * ROW if port.label else HEAD / 2


def _ranks(frame: Box) -> dict[Box, int]:
    """The layer of each box: after all that it reads. Wires of a cycle, which the check refuses, are passed over."""
    reads: dict[Box, list[Box]] = {child: [] for child in frame.children}
    read_by: dict[Box, list[Box]] = {child: [] for child in frame.children}
    wired = {wire.target for wire in frame.wires}
    for wire in frame.wires:
        if wire.source in reads and wire.target in reads:
            reads[wire.target].append(wire.source)
            read_by[wire.source].append(wire.target)
    ranks: dict[Box, int] = {}
    waiting = list(frame.children)
    while waiting:
        ready = [box for box in waiting if all(other in ranks for other in reads[box])] or waiting[:1]
        for box in ready:
            ranks[box] = 1 + max((ranks.get(other, 0) for other in reads[box]), default=0)
        waiting = [box for box in waiting if box not in ranks]
    for box in frame.children:  # what reads nothing stands beside what reads it
        if box not in wired and box.look != "component" and read_by[box]:
            ranks[box] = max(1, min(ranks[other] for other in read_by[box]) - 1)
    return ranks


# --- heights --------------------------------------------------------------------------------------------------------


def _heights(layers: list[list[Item]]) -> None:
    """Orders each layer, and sets its heights; keeps the order with the fewest crossings."""
    for layer in layers:
        layer.sort(key=lambda item: item.lane)
        _pack(layer, [0.0] * len(layer))
    best: tuple[float, list[list[Item]]] | None = None
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {item: _wanted(item.left if down else item.right, item, down) for item in layer}
            layer.sort(key=lambda item: (item.lane, wanted[item]))
            _pack(layer, [wanted[item] for item in layer])
        cost = _cost(layers)
        if best is None or cost < best[0]:
            best = (cost, [list(layer) for layer in layers])
    assert best is not None
    layers[:] = best[1]
    for layer in layers:
        _pack(layer, [item.y for item in layer])
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            wishes = []
            for item in layer:
                pulls = [(_pull(edge, True), _weight(edge)) for edge in item.left]
                pulls += [(_pull(edge, False), _weight(edge)) for edge in item.right]
                total = sum(weight for _, weight in pulls)
                wishes.append(sum(y * weight for y, weight in pulls) / total if pulls else layer[0].y)
            _pack(layer, wishes)
    top = min((item.y for layer in layers for item in layer), default=0)
    for layer in layers:
        for item in layer:
            item.y -= top


def _pull(edge: Edge, left: bool) -> float:
    """Where an end of a wire has to be for the wire to be level."""
    return edge.ends[0] - edge.b if left else edge.ends[1] - edge.a


def _weight(edge: Edge) -> float:
    """How much it matters that a wire is level here: most where it only passes by."""
    return (1, 2, 8)[(edge.source.what == "way") + (edge.target.what == "way")]


def _wanted(edges: Sequence[Edge], item: Item, left: bool) -> float:
    return sum(_pull(edge, left) for edge in edges) / len(edges) if edges else item.y


def _gap(above: Item, below: Item) -> float:
    if above.what == below.what:
        return GAPS[above.what]
    return GAPS["box"] if "way" not in (above.what, below.what) else GAPS["way"] + 3


def _pack(layer: Sequence[Item], wanted: Sequence[float]) -> None:
    """Heights nearest to those wanted, in squares, at which the items keep their order and their distances."""
    offsets, total = [], 0.0
    for number, item in enumerate(layer):
        if number:
            total += layer[number - 1].h + _gap(layer[number - 1], item)
        offsets.append(total)
    blocks: list[list[float]] = []  # mean, weight, count
    for item, wish, offset in zip(layer, wanted, offsets, strict=True):
        weight = 4.0 if item.what == "way" else 1.0 if item.left or item.right else 1e-6  # unwired: below the others
        blocks.append([wish - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, more, count = blocks.pop()
            first = blocks[-1]
            first[0] = (first[0] * first[1] + mean * more) / (first[1] + more)
            first[1], first[2] = first[1] + more, first[2] + count
    means = [mean for mean, _, count in blocks for _ in range(int(count))]
    for item, mean, offset in zip(layer, means, offsets, strict=True):
        item.y = mean + offset


def _cost(layers: Iterable[Sequence[Item]]) -> float:
    """Crossings, and a little for length."""
    total = 0.0
    for layer in layers:
        ends = sorted(edge.ends for item in layer for edge in item.right)
        for number, (a, b) in enumerate(ends):
            total += abs(a - b) / 1000
            total += sum(1 for c, d in ends[number + 1 :] if a < c and b > d)
    return total


# --- places ---------------------------------------------------------------------------------------------------------


def _finish(frame: Box, layers: list[list[Item]], paths: list[tuple[Wire, list[Item]]]) -> None:
    """Widths, and with them the places of everything in the frame, and its size."""
    whole = frame.look == "graph"
    x, lefts, rights = 0.0 if whole else 4.0, [], []
    title = max(text_width(frame.title, TITLE, True), text_width(frame.subtitle, SMALL)) + 2 * PAD
    if not layers[0]:
        x += PAD - 4
    for rank, layer in enumerate(layers):
        width = max((item.w for item in layer), default=0)
        if rank == len(layers) - 1 and not whole:
            width = max(width, title - x - 4)
        lefts.append(x)
        rights.append(x + width)
        edges = [edge for item in layer for edge in item.right]
        steep = max((abs(edge.ends[0] - edge.ends[1]) for edge in edges), default=0)
        nets = len({(id(edge.source), edge.a) for edge in edges})
        x += width + (min(84, 22 + 0.08 * steep + 2.5 * nets) if edges else 12)
        for item in layer:
            item.x = rights[rank] - item.w if item.port is not None and rank else lefts[rank]
    bottom = max((item.y + item.h for layer in layers for item in layer), default=0)
    head = 58.0 if whole else FRAME_HEAD
    frame.w = rights[-1] + (0 if whole else 4)
    frame.w += PAD if not layers[-1] else 0
    frame.h = head + bottom + (8 if whole else PAD)
    for layer in layers:
        for item in layer:
            item.y += head
            if item.box is not None:
                item.box.x, item.box.y = item.x, item.y
            elif item.port is not None:
                port, first = item.port, item.rank == 0
                port.x, port.y = (item.x if whole else 0.0 if first else frame.w), item.y + item.h / 2
    if frame.look == "loop":
        frame.h += 18
        frame.back = [(frame.w - 10, frame.h - 12), (10, frame.h - 12)]
    for wire, path in paths:
        wire.points = _points(wire, path, lambda rank: (lefts[rank], rights[rank]))


def _points(wire: Wire, path: list[Item], sides: Callable[[int], tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a wire: level through each layer, curved between them."""
    first, last = path[0], path[-1]
    y = first.y + _offset(wire.source.outs.get(wire.output), first)
    points = [(first.x + first.w, y), (max(sides(first.rank)[1], first.x + first.w), y)]
    for item in path[1:-1]:
        left, right = sides(item.rank)
        points += [(left, item.y + item.h / 2), (right, item.y + item.h / 2)]
    y = last.y + _offset(wire.target.ins.get(wire.input), last)
    return [*points, (sides(last.rank)[0], y), (last.x, y)]


__all__ = ["FRAME_HEAD", "HEAD", "PAD", "PIN", "ROW", "SMALL", "TITLE", "arrange"]
