"""Scopes of the check: which names are in sight, what a reference means there, and what one use consumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import CheckError, DiffgraphError, Place, nearest
from .graph import Arg, Lit, Ref
from .ports import ANY, UNSET, Dim, Port, Type, Unifier, Use, Value, literal_value
from .registry import NodeType, Registry
from .sources import Loader, Source

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

    names: dict[str, Value]
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
        self._seen: set[tuple[str, str]] = set()
        self._streams: dict[int, Stream] = {}
        self._including: list[str] = []
        self._addresses: list[str] = []

    def fault(self, place: Place, message: str, hint: str | None = None) -> Value:
        if self._including:
            message += f" (in {self._including[-1]})"
        key = (str(place), message)
        if key not in self._seen:
            self._seen.add(key)
            self.problems.append(CheckError(message, hint=hint, place=place))
        return Value(ANY)

    def value(self, arg: Arg, scope: Scope, what: str) -> Value:
        """What is known of an argument; consumes what may be used once."""
        if isinstance(arg, Lit):
            return literal_value(arg.value)
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
            hint = f"did you mean ${near}?" if near else "names in sight: " + ", ".join(sorted(scope.names)[:12])
            return self.fault(ref.place, f"{what}: there is no ${ref.name} here", hint)
        scope.used.add(ref.name)
        for part in ref.path:
            step = self._part(value, part, scope)
            if step is None:
                choices = self._parts(value)
                near = nearest(part, choices)
                hint = (
                    f"did you mean {near!r}?"
                    if near
                    else ("it has: " + ", ".join(choices) if choices else "refer to it without a dot")
                )
                return self.fault(ref.place, f"{what}: {ref.name} has no port or attribute {part!r}", hint)
            value = step
        if ref.sub:
            if value.type.name not in ("weights", "text") and value.type.form != "any":
                return self.fault(ref.place, f"{what}: only an address has sub-folders; {ref.name} is {value.type}")
            text = value.literal
            value = replace(value, literal=type(text)(text + ref.sub) if isinstance(text, str) else UNSET)
        return value

    def _part(self, value: Value, part: str, scope: Scope) -> Value | None:
        if value.type.form in ("any", "var"):
            return Value(ANY)
        info = value.component
        if info is not None:
            if part in info.type.attributes:
                dims = self._use(info, {}).dims(info.type.attributes[part])
                return Value(
                    Type("list", item=Port(Type("scalar", "int"))), literal=list(dims) if _known(dims) else UNSET
                )
            if part in info.type.fields:
                config = info.config.get(part, UNSET)
                known = literal_value(config)
                return Value(info.type.fields[part].type, literal=config, item=known.item)
            return None
        return value.fields.get(part)

    def _parts(self, value: Value) -> list[str]:
        if value.component is not None:
            return [*value.component.type.attributes, *value.component.type.fields]
        return [str(name) for name in value.fields]

    def _fresh(self, value: Value, loops: tuple[int, ...]) -> Value:
        """The same value under a new owner: streams inside it may be used once more."""
        if value.type.once:
            value = replace(value, stream=self.unifier.fresh())
            self._streams[value.stream] = Stream(loops)
        if value.fields and value.type.form == "record":
            value = replace(value, fields={name: self._fresh(v, loops) for name, v in value.fields.items()})
        return value

    def _consume(self, value: Value, scope: Scope, ref: Ref, what: str) -> None:
        for stream in _streams(value):
            known = self._streams.setdefault(stream, Stream(scope.loops))
            if scope.loops != known.loops:
                self.fault(
                    ref.place, f"{what}: {ref} is a random stream from outside of the loop, so every turn would draw the same",
                    "carry it: add it to `carry` and to `next`",
                )  # fmt: skip
                return
            for branches, earlier in known.uses:
                if not _exclusive(branches, scope.branches):
                    self.fault(
                        ref.place, f"{what}: {ref} was used already, by {earlier}; a random stream may be used once",
                        "use the stream that the other node returns, or Fork it",
                    )  # fmt: skip
                    return
            known.uses.append((scope.branches, what))

    def _use(self, info: ComponentInfo, literals: Mapping[str, Any]) -> Use:
        fields = {name: Dim.of(f"?{name}#{info.identity}") for name in info.type.fields} | dict(info.config)
        return Use(self.unifier, {**fields, **literals}, info.identity)


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
