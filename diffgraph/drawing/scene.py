"""What there is to draw of a graph: boxes with ports, frames with boxes inside, and the wires of each frame.

A wire never crosses the border of a frame: what a body reads of the names around it enters at a port of the frame. So
each frame can be laid out by itself, and then stands as a box in the frame around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..checking.check import Checker
from ..checking.scopes import Scope
from ..checking.unify import Value
from ..errors import DiffgraphError
from ..language.graph import BODY_KEYS, Arg, GraphDocument, ListOf, Lit, Node, Ref, arg_refs
from ..language.sources import Loader, Source
from ..registry import Registry

COMPONENT, PLAIN, UNKNOWN = "component", "plain value", "unknown"
MAX_NOTES = 5  # literals that a box shows
MAX_TEXT = 30  # letters of a literal


@dataclass(eq=False)
class Port:
    """A port of a box; of a frame it has a side outside and a side inside. x and y are places in the box."""

    name: str
    label: str
    note: str = ""
    kind: str = UNKNOWN
    x: float = 0
    y: float = 0
    w: float = 0


@dataclass(eq=False)
class Wire:
    """From a port to a port, within one frame, which is an end itself where its own port is. `points`: see layout.py."""

    source: Box
    output: str
    target: Box
    input: str
    kind: str = UNKNOWN
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(eq=False)
class Box:
    """A node, or a frame with its body. look: graph, frame, loop, node, component or include."""

    path: str
    title: str
    subtitle: str = ""
    look: str = "node"
    ins: dict[str, Port] = field(default_factory=dict)
    outs: dict[str, Port] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    children: list[Box] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    back: list[tuple[float, float]] = field(default_factory=list)
    x: float = 0
    y: float = 0
    w: float = 0
    h: float = 0

    @property
    def framed(self) -> bool:
        return self.look in ("graph", "frame", "loop")

    def walk(self) -> Iterator[Box]:
        """This box and all that are in it."""
        yield self
        for child in self.children:
            yield from child.walk()


class Kinds(Checker):
    """A check that notes what is known of each reference, and which nodes are components."""

    def __init__(self, registry: Registry, loader: Loader) -> None:
        super().__init__(registry, loader)
        self.seen: dict[Any, Value] = {}
        self.parts: set[int] = set()

    def reference(self, ref: Ref, scope: Scope, what: str) -> Value:
        value = super().reference(ref, scope, what)
        if ref.name in scope.names:
            self.seen.setdefault((scope.path, scope.branches, ref.name, ()), scope.names[ref.name])
        self.seen[scope.path, scope.branches, ref.name, ref.path] = value
        return value

    def node(self, node: Node, scope: Scope) -> Value:
        value = super().node(node, scope)
        if value.component is not None:
            self.parts.add(id(node))
        return value


def kind_of(value: Value | None) -> str:
    """The name by which a wire is coloured: of a list that of its items."""
    if value is None:
        return UNKNOWN
    if value.component is not None:
        return COMPONENT
    if value.type.form == "list":
        if value.item is not None:
            return kind_of(value.item)
        return kind_of(Value(value.type.item.type)) if value.type.item is not None else UNKNOWN
    if value.type.form in ("scalar", "choice"):
        return PLAIN
    return value.type.name if value.type.form in ("kind", "record") and value.type.name else UNKNOWN


@dataclass
class _Place:
    """Where names of a frame are resolved: in it, then in the frame around it, but for a document, which sees its own."""

    box: Box
    path: str
    source: Source
    branches: tuple[tuple[int, int], ...] = ()
    around: _Place | None = None
    document: bool = False
    names: dict[str, Box] = field(default_factory=dict)


class Scene:
    """The frame of a document, with all in it. depth: how many graphs in graphs are opened."""

    def __init__(self, registry: Registry, loader: Loader) -> None:
        self.loader, self.checker = loader, Kinds(registry, loader)

    def make(self, graph: GraphDocument, source: Source, values: Mapping[str, Any], depth: int) -> Box:
        self.checker.document(graph, source, values)
        box = Box("", graph.name or source.label.rpartition("/")[2], graph.summary, "graph")
        for item in graph.inputs.values():
            kind = kind_of(self.checker.seen.get(("", (), item.name, ())))
            box.ins[item.name] = Port(item.name, item.name, item.type, kind)
        self._document(graph, _Place(box, "", source, document=True), depth)
        return box

    def _document(self, graph: GraphDocument, place: _Place, depth: int) -> None:
        outputs, train = dict(graph.outputs), graph.train
        nodes = dict(graph.nodes)
        if train is not None:
            outputs["loss"] = train.loss
            data = replace(train.data, name=train.data.as_name)
            nodes = {data.name: data, **nodes}
        self._nodes(nodes, place, depth)
        for name, arg in outputs.items():
            self._end(place, name, arg)
        for name, folder in train.update.items() if train is not None else ():
            if name in place.names:
                place.names[name].notes.insert(0, f"trained, written to {folder}/")

    def _nodes(self, nodes: Mapping[str, Node], place: _Place, depth: int) -> None:
        for node in nodes.values():
            place.names[node.name] = self._box(node, place, depth)
            place.box.children.append(place.names[node.name])
        for node in nodes.values():
            self._fill(node, place.names[node.name], place, depth)

    def _box(self, node: Node, place: _Place, depth: int) -> Box:
        """A box with the outputs that are known before its body is read."""
        box = Box(place.path + node.name, node.name, node.target_text.lstrip("$"))
        if node.form in BODY_KEYS:
            box.look = "loop" if node.form == "loop" else "frame"
            word = {"loop": "loop over", "map": "map over", "when": "when", "grad": "gradient by"}[node.form]
            box.subtitle = " ".join((word, box.subtitle if isinstance(node.target, Ref) else _short(node.target)))
            outs = {
                "loop": (*node.next, *node.collect),
                "grad": ("value", "grad"),
                "map": tuple(node.body.outputs) if node.body is not None else (),
            }
            outs["when"] = outs["map"]
            box.outs = {name: Port(name, name) for name in outs[node.form]}
        elif node.form == "graph":
            inner = self._included(node, place)
            box.look = "frame" if inner is not None and depth > 0 else "include"
            box.outs = {name: Port(name, name) for name in (inner.outputs if inner is not None else ())}
        elif id(node) in self.checker.parts or self._is_component(node):
            box.look = "component"
        return box

    def _is_component(self, node: Node) -> bool:
        """Whether a type is of components, where the check could say no more because of a mistake."""
        kind = self.checker.registry.get(node.target_text) if node.form == "node" else None
        return kind is not None and kind.role == "component" and not node.as_name

    def _included(self, node: Node, place: _Place) -> GraphDocument | None:
        """The graph that a node includes; None where it cannot be read, or includes itself."""
        try:
            source = place.source.include(node.target_text)
            around: _Place | None = place
            while around is not None:
                if around.source.identity == source.identity:
                    return None
                around = around.around
            return self.loader.read(source)
        except DiffgraphError:
            return None

    def _fill(self, node: Node, box: Box, place: _Place, depth: int) -> None:
        """The ports of a node, the wires into it, and its body."""
        if node.form == "call":
            self._wire(place, node.target, box, "", "")
        for name, arg in node.args.items():
            if isinstance(arg, Lit):
                if not box.framed:
                    box.notes.append(f"{name}: {_short(arg)}")
            elif isinstance(arg, ListOf) and len(arg.items) > 1:
                for number, item in enumerate(arg.items, 1):
                    self._wire(place, item, box, f"{name} {number}", f"{name} {number}")
            else:
                self._wire(place, arg, box, name, name)
        if len(box.notes) > MAX_NOTES:
            box.notes[MAX_NOTES - 1 :] = [f"and {len(box.notes) - MAX_NOTES + 1} more"]
        if box.look == "frame" and node.form == "graph":
            self._open(node, box, place, depth)
        elif node.form in BODY_KEYS:
            self._bodies(node, box, place, depth)

    def _open(self, node: Node, box: Box, place: _Place, depth: int) -> None:
        """An included graph with its inside: its inputs and outputs are the ports of the frame."""
        source = place.source.include(node.target_text)
        graph = self.loader.read(source)
        wired, box.ins = box.ins, {}
        for item in graph.inputs.values():
            given = node.args.get(item.name)
            value = _short(given) if isinstance(given, Lit) else _short(Lit(item.default))
            kind = kind_of(self.checker.seen.get((f"{box.path}.", place.branches, item.name, ())))
            box.ins[item.name] = wired.get(item.name) or Port(item.name, f"{item.name}: {value}", kind=kind)
        box.ins.update(wired)  # with those that the graph does not have, which the check names
        self._document(graph, _Place(box, f"{box.path}.", source, place.branches, place, document=True), depth - 1)

    def _bodies(self, node: Node, box: Box, place: _Place, depth: int) -> None:
        inside = _Place(box, f"{box.path}.", place.source, place.branches, place)
        for name, arg in {node.as_name or ":when": node.target, **node.carry}.items():
            self._wire(place, arg, box, name, name.lstrip(":"))
        assert node.body is not None
        for number, body in enumerate(filter(None, (node.body, node.other))):
            here = inside
            if node.form == "when":
                here = replace(inside, branches=(*place.branches, (id(node), number)))
            if node.other is not None:
                arm = Box(f"{box.path}:{'else' if number else 'then'}", "else" if number else "then", "", "frame")
                arm.outs = {name: Port(name, name) for name in body.outputs}
                box.children.append(arm)
                here = replace(
                    here, box=arm, path=f"{box.path}:else." if number else here.path, around=inside, names={}
                )
            self._nodes(body.nodes, here, depth)
            for name, arg in body.outputs.items():
                self._end(here, name, arg)
                if node.other is not None:
                    kind = here.box.outs[name].kind
                    box.wires.append(Wire(here.box, name, box, name, kind))
                    box.outs[name].kind = kind
        for name, arg in (*node.next.items(), *node.collect.items()):
            self._end(inside, name, arg)
        if node.of is not None:
            self._end(inside, "value", node.of)

    # --- wires

    def _end(self, place: _Place, name: str, arg: Arg) -> None:
        """What a frame gives at one of its outputs."""
        port = place.box.outs.setdefault(name, Port(name, name))
        if isinstance(arg, Lit):
            port.label = f"{name}: {_short(arg)}"
        self._wire(place, arg, place.box, name, "", into=port)

    def _wire(self, place: _Place, arg: Arg, target: Box, name: str, label: str, into: Port | None = None) -> None:
        """The wires of an argument, to a port that is made where it is not there."""
        port = into if into is not None else target.ins.setdefault(name, Port(name, label))
        if isinstance(arg, Lit) and into is None:
            port.label = f"{label}: {_short(arg)}"
        for ref in dict.fromkeys(arg_refs(arg)):
            found = self._source(place, ref, called=not label and into is None)
            if found is None:
                continue
            box, output, kind = found
            port.label += f" {ref.sub}" if ref.sub else ""
            port.kind = kind if port.kind == UNKNOWN else port.kind
            wire = Wire(box, output, target, name, kind)
            ends = {(w.source, w.output, w.target, w.input) for w in place.box.wires}
            if (wire.source, wire.output, wire.target, wire.input) not in ends:
                place.box.wires.append(wire)

    def _source(self, place: _Place, ref: Ref, called: bool = False) -> tuple[Box, str, str] | None:
        """The box and the port, in this frame, of what a reference names, and its kind; None where nothing is known."""
        seen, branches = self.checker.seen, place.branches
        path = place.path.replace(":else.", ".")
        kind = kind_of(seen.get((path, branches, ref.name, ref.path)))
        if called:
            parts = range(len(ref.path), -1, -1)
            of = next((ref.path[:n] for n in parts if (path, branches, ref.name, ref.path[:n]) in seen), ())
            ref, kind = replace(ref, path=of), COMPONENT
        return self._look(place, ref, kind)

    def _look(self, place: _Place, ref: Ref, kind: str) -> tuple[Box, str, str] | None:
        if ref.name in place.names:
            box = place.names[ref.name]
            output = self._output(box, ref, kind)
            port = box.outs.setdefault(output, Port(output, output))
            kind = COMPONENT if box.look == "component" and not output else kind
            port.kind = kind if port.kind == UNKNOWN else port.kind
            return box, output, kind
        port_in = place.box.ins.get(ref.name)
        if port_in is not None:
            port_in.kind = kind if port_in.kind == UNKNOWN and not ref.path else port_in.kind
            return place.box, ref.name, COMPONENT if port_in.kind == COMPONENT else kind
        if place.document or place.around is None:
            return None
        outer = self._look(place.around, ref, kind)
        if outer is None:
            return None
        source, output, kind = outer
        label = ".".join(filter(None, (ref.name, output))) if source is not place.around.box else ref.name
        if f"${label}" not in place.box.ins:
            place.box.ins[f"${label}"] = Port(f"${label}", label, kind=kind)
            place.around.box.wires.append(Wire(source, output, place.box, f"${label}", kind))
        return place.box, f"${label}", kind

    def _output(self, box: Box, ref: Ref, kind: str) -> str:
        """Which output of a box a reference reads."""
        if box.look == "component":
            return ""
        if box.framed or box.look == "include":
            names = list(box.outs)
            if ref.path and ref.path[0] in names:
                return ref.path[0]
            if len(names) == 1:
                return names[0]
        return ref.path[0] if ref.path else ""


def _short(arg: Arg) -> str:
    """A literal in a few letters."""
    value = arg.value if isinstance(arg, Lit) else arg
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "none"}[value]
    elif isinstance(value, list):
        text = "[" + ", ".join(_short(Lit(item)) for item in value) + "]"
    else:
        text = str(value) if value != "" else '""'
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


__all__ = ["COMPONENT", "PLAIN", "UNKNOWN", "Box", "Port", "Scene", "Wire", "kind_of"]
