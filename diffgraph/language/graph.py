"""The graph as data: inputs, nodes, wires and bodies. reading.py makes it from a document, writing.py writes it as one.

Nothing here knows what a node type is: names, forms and scopes only. check.py gives them meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from ..errors import Place

FORMAT = 1
FORMS = ("node", "call", "graph", "loop", "map", "when", "grad")
UNREADABLE = "unreadable"  # the form of a node that could not be read
UNREAD: Any = object()  # the value of an argument that could not be read
BODY_KEYS: dict[str, tuple[str, ...]] = {
    "loop": ("loop", "as", "carry", "nodes", "next", "collect"),
    "map": ("map", "as", "nodes", "outputs"),
    "when": ("when", "nodes", "outputs", "else"),
    "grad": ("grad", "as", "nodes", "of"),
}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NOWHERE = Place("<python>")


@dataclass(frozen=True, slots=True)
class Ref:
    """`$name.port/sub`: a name in scope, then ports, fields or attributes, then a sub-folder of an address."""

    name: str
    path: tuple[str, ...] = ()
    sub: str = ""
    place: Place = NOWHERE

    def __str__(self) -> str:
        return "$" + ".".join((self.name, *self.path)) + self.sub


@dataclass(frozen=True, slots=True)
class Lit:
    """A literal value."""

    value: Any
    place: Place = NOWHERE

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list in which something is a reference."""

    items: tuple[Arg, ...]
    place: Place = NOWHERE

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


Arg = Ref | Lit | ListOf


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input of a graph. `differs` names another input, into which the same value may not be wired."""

    name: str
    type: str
    default: Any = None
    required: bool = True
    min: float | None = None
    max: float | None = None
    choices: tuple[Any, ...] = ()
    help: str = ""
    secret: bool = False
    differs: str = ""
    place: Place = NOWHERE


@dataclass(slots=True)
class Body:
    """Nodes in a scope of their own, and what the scope gives."""

    nodes: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Arg] = field(default_factory=dict)


@dataclass(slots=True)
class Node:
    """One node.

    `target` is a type's name, a reference to a component's method, the address of a graph, or what a body is over.
    """

    name: str
    form: str
    target: Arg
    args: dict[str, Arg] = field(default_factory=dict)
    as_name: str = ""
    carry: dict[str, Arg] = field(default_factory=dict)
    next: dict[str, Arg] = field(default_factory=dict)
    collect: dict[str, Arg] = field(default_factory=dict)
    of: Arg | None = None
    body: Body | None = None
    other: Body | None = None
    live: Any = None
    place: Place = NOWHERE

    @property
    def target_text(self) -> str:
        return str(self.target.value) if isinstance(self.target, Lit) else str(self.target)

    @property
    def inner(self) -> dict[str, Node]:
        """The nodes directly in its bodies."""
        first = self.body.nodes if self.body is not None else {}
        return {**first, **self.other.nodes} if self.other is not None else first


@dataclass(slots=True)
class Train:
    """What makes a document a training graph."""

    data: Node
    update: dict[str, str]
    loss: Arg
    settings: dict[str, Any] = field(default_factory=dict)
    place: Place = NOWHERE
    save: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class GraphDocument:
    """A graph as it was written."""

    name: str = ""
    summary: str = ""
    requires: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Arg] = field(default_factory=dict)
    train: Train | None = None
    file: str = "<python>"
    places: dict[str, Place] = field(default_factory=dict)


_END = object()


def parts(nodes: Mapping[str, Node]) -> list[Any]:
    """Every object that nodes consist of, in order: the same objects as before are nodes that nobody changed since."""
    found: list[Any] = []
    for name, node in nodes.items():
        found += (name, node.form, node.target, node.live, *node.args, *node.args.values(), _END)
        if node.body is not None:
            found += (node.as_name, node.of)
            for args in (node.carry, node.next, node.collect):
                found += (*args, *args.values(), _END)
            for body in (node.body, node.other):
                if body is not None:
                    found += (*parts(body.nodes), _END, *body.outputs, *body.outputs.values(), _END)
    return found


# --- walking --------------------------------------------------------------------------------------------------------


def arg_refs(arg: Arg | None) -> Iterator[Ref]:
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, ListOf):
        for item in arg.items:
            yield from arg_refs(item)


def outer_args(node: Node) -> Iterator[Arg]:
    """The arguments of a node that are read in the scope around it."""
    if node.form not in ("node", "graph", UNREADABLE):
        yield node.target
    yield from node.args.values()
    yield from node.carry.values()


def inner_args(node: Node) -> Iterator[Arg]:
    """The arguments of a node that are read in its body's scope."""
    yield from node.next.values()
    yield from node.collect.values()
    if node.of is not None:
        yield node.of
    for body in (node.body, node.other):
        if body is not None:
            yield from body.outputs.values()


def node_refs(node: Node) -> Iterator[Ref]:
    """Every reference of a node to names around it, those of its bodies included."""
    for arg in outer_args(node):
        yield from arg_refs(arg)
    if node.form not in BODY_KEYS:
        return
    own = {node.as_name, *node.carry}
    for body in (node.body, node.other):
        if body is not None:
            own.update(body.nodes)
            for inner in body.nodes.values():
                yield from (ref for ref in node_refs(inner) if ref.name not in own)
    for arg in inner_args(node):
        yield from (ref for ref in arg_refs(arg) if ref.name not in own)


def _names_in(node: Node) -> set[str]:
    """The names that a node refers to."""
    if node.form in BODY_KEYS:
        return {ref.name for ref in node_refs(node)}
    names = set()
    for arg in outer_args(node):
        if type(arg) is Ref:
            names.add(arg.name)
        elif type(arg) is ListOf:
            names.update(ref.name for ref in arg_refs(arg))
    return names


def ordered(nodes: Mapping[str, Node]) -> tuple[list[Node], list[str]]:
    """Nodes so that each comes after those it refers to, and the names of a cycle where there is one.

    Iterative. Where the document's own order will do it is kept, so that what belongs together runs together.
    """
    waiting = {name: _names_in(node) & nodes.keys() for name, node in nodes.items()}
    before: set[str] = set()
    for name, needed in waiting.items():
        if not needed <= before:
            break
        before.add(name)
    else:
        return list(nodes.values()), []
    rank = {name: number for number, name in enumerate(nodes)}
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for name, needed in waiting.items():
        for other in needed:
            users[other].append(name)
    counts = {name: len(needed) for name, needed in waiting.items()}
    names = list(nodes)
    ready = [rank[name] for name in nodes if not counts[name]]
    result = []
    while ready:
        name = names[heappop(ready)]
        result.append(nodes[name])
        for user in users[name]:
            counts[user] -= 1
            if not counts[user]:
                heappush(ready, rank[user])
    if len(result) == len(nodes):
        return result, []
    name = next(n for n in nodes if counts[n])
    path: dict[str, None] = {}
    while name not in path:
        path[name] = None
        name = min((n for n in waiting[name] if counts[n]), key=rank.__getitem__)
    cycle = list(path)
    return result, [*cycle[cycle.index(name) :], name]
