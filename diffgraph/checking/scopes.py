"""Scopes of the check: which names are in sight, what a reference means there, and what one use consumes."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..components import below
from ..errors import CheckError, DiffgraphError, OfflineError, Place, nearest
from ..language.graph import UNREAD, Arg, GraphDocument, Lit, Node, Ref
from ..language.sources import Loader, Source
from ..ports import ANY, INT, UNSET, Port, Type
from ..registry import NodeType, Registry
from .dims import Dim, parse_dim
from .requirements import unmet
from .unify import Unifier, Use, Value, literal_value

Configs = Callable[[NodeType, str, Source], tuple[dict[str, Any], Mapping[str, str]]]


@dataclass(slots=True)
class ComponentInfo:
    """What the checker knows of a component: its type, who it is, its config as far as it is known, and its facts."""

    type: NodeType
    identity: str
    config: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Scope:
    """Names in sight. `loops` and `branches` say where we are, for values that may be used once."""

    names: ChainMap[str, Value]
    source: Source
    path: str = ""
    loops: tuple[int, ...] = ()
    branches: tuple[tuple[int, int], ...] = ()
    used: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Stream:
    loops: tuple[int, ...]
    uses: list[tuple[tuple[tuple[int, int], ...], str]] = field(default_factory=list)


class References:
    """Resolves references in scopes; `problems` holds every mistake found."""

    def __init__(self, registry: Registry, loader: Loader, configs: Configs | None = None) -> None:
        self.registry, self.loader, self.configs = registry, loader, configs
        self.unifier = Unifier()
        self.problems: list[DiffgraphError] = []
        self.refused: list[OfflineError] = []
        self._seen: set[tuple[str, str]] = set()
        self._streams: dict[int, Stream] = {}
        self._including: list[str] = []
        self._addresses: list[str] = []
        self._documents: list[GraphDocument] = []

    def fault(self, place: Place, message: str, hint: str | None = None) -> Value:
        """Notes a mistake, once, also where its document is included several times. What it was about fits anything."""
        key = (str(place), message)
        if key not in self._seen:
            self._seen.add(key)
            if self._including:
                message += f" (in {self._including[-1]})"
            self.problems.append(CheckError(message, hint=hint, place=place))
        return Value(ANY)

    def structure(self, graph: GraphDocument, source: Source) -> None:
        """Notes the mistakes that reading the document found."""
        for error in self.loader.faults.get(source.address, ()):
            self.fault(error.place or Place(source.label), error.message, error.hint)
        for message, hint in unmet(graph.requires):
            self.fault(graph.places.get("requires", Place(source.label)), message, hint)
        self._documents.append(graph)

    def value(self, arg: Arg, scope: Scope, what: str) -> Value:
        """What is known of an argument; consumes what may be used once."""
        if isinstance(arg, Lit):
            if arg.value is UNREAD:
                return Value(ANY)
            literal = literal_value(arg.value)
            literal.written, literal.origin = True, hash(("literal", repr(arg.value)))
            return literal
        if isinstance(arg, Ref):
            found = self.reference(arg, scope, what)
            self._consume(found, scope, arg, what)
            return found
        items = [self.value(item, scope, what) for item in arg.items]
        return Value(Type("list", item=Port(items[0].type) if items else None), fields=dict(enumerate(items)))  # type: ignore[arg-type]

    def reference(self, ref: Ref, scope: Scope, what: str) -> Value:
        value = scope.names.get(ref.name)
        if value is None:
            near = nearest(ref.name, list(scope.names))
            body = next((node.name for node in self._bodies() if ref.name in node.inner), None)
            inside = ", ".join(sorted(scope.names)[:12])
            hint: str | None = f"it is inside {body}: give it out there, and write ${body}.NAME"
            if body is None:
                hint = f"did you mean ${near}?" if near else f"names in sight: {inside}" if inside else None
            return self.fault(ref.place, f"{what}: there is no ${ref.name} here", hint)
        base = value
        for part in ref.path:
            whole = value
            if value.type.form == "outputs" and len(value.fields) == 1 and part not in value.fields:
                (value,) = value.fields.values()
            if value.maybe:
                scope.used.add(ref.name)
                return self.fault(ref.place, f"{what}: {ref.name} may be missing, so it may have no {part}")
            step = self._part(value, part, scope)
            if step is None:
                scope.used.add(ref.name)
                hint = self._part_hint(whole, part, ref.name)
                return self.fault(ref.place, f"{what}: {ref.name} has no port or attribute {part!r}", hint)
            value = step
        if value.type.form == "outputs":
            scope.used.add(ref.name)
            if len(value.fields) != 1:
                hint = "write " + " or ".join(f"{ref}.{name}" for name in value.fields)
                return self.fault(ref.place, f"{what}: {ref} has several outputs; name the one that is meant", hint)
            (value,) = value.fields.values()
        if not value.type.once or all(part.type.once for part in base.fields.values()):
            scope.used.add(ref.name)  # what only hands on what may be used once is of no use
        if ref.sub:
            if value.type.name not in ("weights", "text") and value.type.form != "any":
                return self.fault(ref.place, f"{what}: only an address has sub-folders; {ref.name} is {value.type}")
            text = value.literal
            value = replace(value, literal=below(text, ref.sub) if isinstance(text, str) else UNSET)
        return value

    def _bodies(self) -> Iterable[Node]:
        """The loops, maps, branches and gradients of the document that is being checked."""
        stack = list(self._documents[-1].nodes.values()) if self._documents else []
        while stack:
            node = stack.pop()
            if node.inner:
                yield node
                stack.extend(node.inner.values())

    def _part_hint(self, value: Value, part: str, name: str) -> str:
        choices = self._parts(value)
        near = nearest(part, choices)
        if near:
            return f"did you mean {near!r}?"
        if any(node.name == name and part in node.inner for node in self._bodies()):
            return f"it is inside {name}: give it out there; outside there is: {', '.join(choices)}"
        return "it has: " + ", ".join(choices) if choices else "refer to it without a dot"

    def _part(self, value: Value, part: str, scope: Scope) -> Value | None:
        if value.type.form in ("any", "var"):
            return Value(ANY)
        info = value.component
        if info is not None:
            origin = hash((info.identity, part))
            if part in info.type.attributes:
                dims = self._use(info, {}).dims(info.type.attributes[part])
                if len(dims) == 1:
                    return Value(INT, literal=dims[0] if _known(dims) else UNSET, origin=origin)
                sizes = Type("list", item=Port(Type("scalar", "int")))
                return Value(sizes, literal=list(dims) if _known(dims) else UNSET, origin=origin)
            if part in info.type.fields:
                config = info.config.get(part, UNSET)
                known = literal_value(config)
                return Value(info.type.fields[part].type, literal=config, item=known.item, origin=origin)
            return None
        field = value.fields.get(part)
        return replace(field, origin=hash((value.origin, part))) if field is not None and value.origin else field

    def _parts(self, value: Value) -> list[str]:
        if value.component is not None:
            return [*value.component.type.attributes, *value.component.type.fields]
        return [str(name) for name in value.fields]

    def _fresh(self, value: Value, loops: tuple[int, ...]) -> Value:
        """The same value under a new owner: what inside it may be used once may be used once more."""
        if value.type.once or (value.item is not None and next(iter(_streams(value.item)), None)):
            value = replace(value, stream=self.unifier.fresh())
            self._streams[value.stream] = Stream(loops)
        if value.fields and value.type.form in ("record", "outputs"):
            value = replace(value, fields={name: self._fresh(v, loops) for name, v in value.fields.items()})
        return value

    def _consume(self, value: Value, scope: Scope, ref: Ref, what: str) -> None:
        for stream in _streams(value):
            known = self._streams.setdefault(stream, Stream(scope.loops))
            if scope.loops != known.loops:
                self.fault(
                    ref.place, f"{what}: {ref} may be used once, and comes from outside of the loop, whose every turn uses it",
                    "carry it: add it to `carry` and to `next`; a map goes over a list of them",
                )  # fmt: skip
                return
            for branches, earlier in known.uses:
                if not _exclusive(branches, scope.branches):
                    self.fault(
                        ref.place, f"{what}: {ref} was used already, by {earlier}; it may be used once",
                        "use the one that the other node returns, or a node that makes two of one",
                    )  # fmt: skip
                    return
            known.uses.append((scope.branches, what))

    def _use(self, info: ComponentInfo, literals: Mapping[str, Any]) -> Use:
        fields = {name: Dim.of(f"?{name}#{info.identity}") for name in info.type.fields} | dict(info.config)
        for name, text in info.type.attributes.items():
            if " " not in text:
                fields[name] = parse_dim(text, Use(self.unifier, fields, info.identity).symbol)
        return Use(self.unifier, {**fields, **literals}, info.identity, info.facts)


def _known(dims: Iterable[Any]) -> bool:
    return all(
        isinstance(d, Dim) and not any(s.startswith("?") for symbols, _ in d.terms for s in symbols) for d in dims
    )


def _streams(value: Value) -> Iterable[int]:
    if value.stream:
        yield value.stream
    for inner in value.fields.values():
        yield from _streams(inner)


def _exclusive(left: tuple[tuple[int, int], ...], right: tuple[tuple[int, int], ...]) -> bool:
    arms = dict(left)
    return any(node in arms and arms[node] != arm for node, arm in right)
