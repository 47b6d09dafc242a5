"""Wires: what nodes of a graph in Python give, with ports that completion shows; and the bodies that open a scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import CheckError, UnknownPort, nearest
from .language.graph import NAME, Arg, Body, Node, Ref
from .registry import NodeType

if TYPE_CHECKING:
    from .builder import Graph


@dataclass(eq=False)
class Level:
    """A scope being written: its nodes, the names in it, and those in bodies inside it, which are closed."""

    nodes: dict[str, Node]
    names: set[str] = field(default_factory=set)
    inside: set[str] = field(default_factory=set)


def check_name(name: str) -> None:
    """Raises CheckError for what no node, input or output can be called."""
    if not NAME.fullmatch(name):
        raise CheckError(f"{name!r} is not a name", hint="letters, digits and _ only, not starting with a digit")


class Wire:
    """What one node gives, or a part of it. Attributes are its ports; a misspelt one is an error at once."""

    __slots__ = ("_graph", "_kind", "_level", "_name", "_path")

    def __init__(
        self, graph: Graph, name: str, path: tuple[str, ...] = (), kind: Any = None, level: Level | None = None
    ) -> None:
        self._graph, self._name, self._path, self._kind = graph, name, path, kind
        self._level = level or graph._levels[-1]

    def _ports(self) -> dict[str, Any] | None:
        """The parts that this wire has and their kinds; None where nobody knows before the check."""
        kind = self._kind
        if isinstance(kind, NodeType):
            parts: dict[str, Any] = dict.fromkeys((*kind.attributes, *kind.fields))
            return parts | {name: method for name, method in kind.methods.items() if name != "__call__"}
        if isinstance(kind, dict):
            return kind
        return None

    def __getattr__(self, name: str) -> Wire:
        if name.startswith("_"):
            raise AttributeError(name)
        ports = self._ports()
        if ports is not None and name not in ports:
            near = nearest(name, list(ports))
            hint = f"did you mean {near!r}?" if near else "it has: " + (", ".join(ports) or "no ports")
            raise UnknownPort(f"{self._name} has no port {name!r}", hint=hint)
        return Wire(self._graph, self._name, (*self._path, name), ports[name] if ports else None, self._level)

    def __truediv__(self, sub: str) -> Arg:
        """A sub-folder of an address: `weights / "base"`."""
        return Ref(self._name, self._path, f"/{sub}")

    def __call__(self, name: str | None = None, **inputs: Any) -> Wire:
        """Calls a component, or a method of one: `unet(sample=..., timestep=...)`, `unet.condition(tokens=...)`."""
        return self._graph.call(self, name=name, **inputs)

    def __dir__(self) -> list[str]:
        return list(self._ports() or ())

    def __repr__(self) -> str:
        return f"<wire {'.'.join((self._name, *self._path))}>"

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} cannot be iterated; use `graph.map` or `graph.loop`")

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no truth value before the run; use `graph.when`")


class BodyBuilder:
    """A loop, map, branch or gradient being written. Wires made inside are its; `loop.sample` is a carried value."""

    def __init__(self, graph: Graph, node: Node, ports: dict[str, Any]) -> None:
        self._graph, self._node, self._wires = graph, node, ports
        self._closed = False

    def __getattr__(self, name: str) -> Wire:
        if name.startswith("_"):
            raise AttributeError(name)
        wires = self.__dict__["_wires"]
        if self.__dict__["_closed"]:
            return getattr(self.__dict__["_result"], name)  # type: ignore[no-any-return]
        if name not in wires:
            near = nearest(name, list(wires))
            hint = f"did you mean {near!r}?" if near else None
            raise UnknownPort(f"the body of {self._node.name} has no {name!r}", hint=hint)
        return wires[name]  # type: ignore[no-any-return]

    def next(self, **values: Any) -> None:
        """What the carried values become."""
        self._node.next.update({name: self._graph._arg(value) for name, value in values.items()})

    def collect(self, **values: Any) -> None:
        """What is kept of each turn, as a list."""
        self._node.collect.update({name: self._graph._arg(value) for name, value in values.items()})

    def output(self, **values: Any) -> None:
        """What a map or a branch gives."""
        assert self._node.body is not None
        self._node.body.outputs.update({name: self._graph._arg(value) for name, value in values.items()})

    def of(self, score: Any) -> None:
        """The score whose gradient is taken."""
        self._node.of = self._graph._arg(score)

    @contextmanager
    def otherwise(self) -> Iterator[BodyBuilder]:
        """The other branch of a `when`."""
        self._node.other = Body()
        other = BodyBuilder(self._graph, Node(self._node.name, "when", self._node.target, body=self._node.other), {})
        first = None if self._closed else self._graph._levels.pop()
        with self._graph._inside(self._node.other):
            yield other
        if first is not None:
            self._graph._levels.append(first)

    def _whole(self) -> Wire:
        """The one output. Raises CheckError where there are several, or the body is still open."""
        names = list(self._result._kind) if self._closed else []
        if len(names) != 1:
            what = f"name one output of {self._node.name}"
            raise CheckError(what, hint=" or ".join(f".{name}" for name in names) or "it is still open")
        return getattr(self._result, names[0])  # type: ignore[no-any-return]

    def _close(self) -> None:
        node = self._node
        names = [*node.carry, *node.collect, *(node.body.outputs if node.body else ())]
        if node.form == "grad":
            names = ["value", "grad"]
        self._result = Wire(self._graph, node.name, (), dict.fromkeys(names))
        self._closed = True
