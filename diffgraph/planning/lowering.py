"""Lowering of single nodes: what is known becomes a constant, the rest an instruction; each value gets its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checking.dims import parse_dim
from ..components import Handle, Opener, below, make_handle
from ..errors import CheckError, DiffgraphError, Place
from ..language.graph import Arg, Lit, Node, Ref
from ..language.sources import Loader, Source
from ..ports import FLOAT, Port, Unset
from ..registry import Method, NodeType, Registry
from .keys import digest, literal_key
from .program import CALL, GET, LIST, METHOD, Instruction, Unit


@dataclass(
    slots=True
)  # not frozen, nor are slots: a large graph makes many, and a frozen one costs three times as much
class Known:
    """A value known while planning."""

    value: Any
    key: str


@dataclass(slots=True)
class Slot:
    """A value that the run will make."""

    index: int
    key: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """The named values of an included graph, a loop, a map, a branch or a gradient."""

    fields: Mapping[str, Bound]


Bound = Known | Slot | Outputs | Handle


@dataclass(frozen=True, slots=True)
class Settings:
    """How a graph is run: where, in which precision, and with what in the keys."""

    device: str = "cpu"
    dtype: str = "float32"
    torch_version: str = ""
    flags: str = ""

    @property
    def where(self) -> str:
        return f"{self.device.split(':')[0]} {self.dtype} {self.torch_version} {self.flags}"


NOTHING = Known(None, "NoneType:None")


@dataclass(frozen=True, slots=True)
class Signature:
    """What planning asks of a method at every call.

    parameters: with their defaults, and whether a whole number there is a float. where: the part of the key that says
    where it runs. tensors: whether one may go in or come out. watched: whether something goes in that could be changed
    in place.
    """

    method: Method
    parameters: tuple[tuple[str, Port, Bound, bool], ...]
    where: str
    tensors: bool
    watched: bool


class Lowering:
    """Makes units of nodes; equal keys are lowered once."""

    def __init__(self, registry: Registry, loader: Loader, opener: Opener, settings: Settings) -> None:
        self.registry, self.loader, self.opener, self.settings = registry, loader, opener, settings
        self.units: list[Unit] = []
        self.constants: dict[int, Any] = {}
        self.handles: dict[str, Handle] = {}
        self.count = 0
        self.depth = 0
        self.secrets: set[int] = set()  # the slots of secret values
        self._code: list[Instruction] | None = None  # the body being lowered, or None at the top
        self._same: list[dict[str, Slot]] = [{}]
        self._regions: list[dict[str, Outputs]] = [{}]
        self._constant_slots: dict[str, int] = {}
        self._static: dict[str, Any] = {}
        self._signatures: dict[int, Signature] = {}  # by the identity of their methods, which they keep alive

    # --- slots and instructions

    def slot(self, key: str) -> Slot:
        self.count += 1
        return Slot(self.count - 1, key)

    def index(self, bound: Bound, what: str = "value") -> int:
        """The slot that holds a bound value; constants get one."""
        if isinstance(bound, Slot):
            return bound.index
        if isinstance(bound, Outputs) and len(bound.fields) == 1:
            return self.index(next(iter(bound.fields.values())), what)
        if isinstance(bound, Known):
            known = self._constant_slots.get(bound.key)
            if known is None:
                known = self._constant_slots[bound.key] = self.slot(bound.key).index
                self.constants[known] = bound.value
            return known
        raise CheckError(f"{what} has several outputs or is a component; name one with a dot")

    def emit(self, instruction: Instruction, key: str, what: str, stored: bool = False) -> Slot:
        """Adds one instruction that makes the value of this key, or finds the one that makes it already."""
        for scope in self._same:
            if key in scope:
                return scope[key]
        made = self.slot(key)
        instruction.out = made.index
        self._same[-1][key] = made
        if self._code is not None:
            self._code.append(instruction)
        else:
            handles = (instruction.handle,) if instruction.handle is not None else ()
            unit = Unit([instruction], (made.index,), instruction.args, instruction.path, what, instruction.place)
            unit.handles = handles
            if stored:
                unit.stores[made.index] = key
            self.units.append(unit)
        return made

    def get(self, bound: Bound, name: str, path: str) -> Bound:
        """A field of a record, an output, or an attribute or config field of a component."""
        if isinstance(bound, Outputs):
            if name in bound.fields:
                return bound.fields[name]
            if len(bound.fields) == 1:
                return self.get(next(iter(bound.fields.values())), name, path)
            raise CheckError(f"{path} has no output {name!r}")
        if isinstance(bound, Handle):
            return self._attribute(bound, name)
        if isinstance(bound, Known):
            if bound.value is None:
                raise CheckError(f"{path} is missing here, so it has no {name}")
            value = getattr(bound.value, name)
            return Known(value, literal_key(value) if is_plain(value) else digest("get", bound.key, name))
        return self.emit(
            Instruction(GET, (bound.index,), name=name, path=f"{path}.{name}"), digest("get", bound.key, name), ""
        )

    def _attribute(self, handle: Handle, name: str) -> Known:
        expression = handle.kind.attributes.get(name)
        if expression is None:
            value = handle.config[name]
            value = list(value) if isinstance(value, tuple) else value
        else:

            def symbol(field: str) -> int:
                value = handle.config[field.removeprefix("#")]
                return len(value) if field[0] == "#" else int(value)

            words = [int(parse_dim(word, symbol).constant or 0) for word in expression.split()]
            value = words if len(words) > 1 else words[0]
        return Known(value, literal_key(value))

    # --- arguments

    def bind(self, arg: Arg, names: Mapping[str, Bound]) -> Bound:
        if isinstance(arg, Lit):
            return NOTHING if arg.value is None else Known(arg.value, literal_key(arg.value))
        if isinstance(arg, Ref):
            bound = names[arg.name]
            for part in arg.path:
                bound = self.get(bound, part, arg.name)
            if type(bound) is Slot:
                return bound
            if isinstance(bound, Outputs) and len(bound.fields) == 1:
                bound = next(iter(bound.fields.values()))
            if arg.sub and isinstance(bound, Known):
                text = below(bound.value, arg.sub)
                return Known(text, literal_key(text))
            return bound
        items = [self.bind(item, names) for item in arg.items]
        if all(isinstance(item, Known) for item in items):
            values = [item.value for item in items if isinstance(item, Known)]
            return Known(values, digest("list", *(item.key for item in items if isinstance(item, Known))))
        return self.list_of(items)

    def list_of(self, items: list[Bound]) -> Slot:
        key = digest("list", *(self.key(item) for item in items))
        return self.emit(Instruction(LIST, tuple(self.index(item) for item in items)), key, "")

    def key(self, bound: Bound) -> str:
        if isinstance(bound, Outputs):
            if len(bound.fields) == 1:
                return self.key(next(iter(bound.fields.values())))
            return digest("outputs", *(f"{n}={self.key(b)}" for n, b in sorted(bound.fields.items())))
        return bound.key

    # --- nodes

    def _node(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Bound:
        kind = node.live if isinstance(node.live, NodeType) else self.registry.nodes[node.target_text]
        if kind.role == "component":
            return self.component(node, kind, names, source, path)
        identity = (kind.name, str(kind.version), kind.source)
        return self.call(node, kind, kind.call, None, names, path, identity)

    def component(self, node: Node, kind: NodeType, names: Mapping[str, Bound], source: Source, path: str) -> Handle:
        explicit = {}
        for name, arg in node.args.items():
            bound = self.bind(arg, names)
            if not isinstance(bound, Known):
                raise CheckError(
                    f"{name} of a component must be known before the run", hint="give a literal or a graph input"
                )
            explicit[name] = bound.value
        live = None if isinstance(node.live, NodeType) else node.live
        return self.handle(kind, explicit, source, path, node.place, live)

    def handle(
        self, kind: NodeType, explicit: Mapping[str, Any], source: Source, path: str, place: Place, live: Any
    ) -> Handle:
        """The handle of a component with these parameters, or of a live one; equal ones are one."""
        handle = make_handle(
            kind, explicit, opener=self.opener, source=source, path=path, place=place, device=self.settings.device,
            dtype=self.settings.dtype, torch_version=self.settings.torch_version, live=live,
        )  # fmt: skip
        return self.handles.setdefault(handle.key, handle)

    def _call(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Bound:
        target = node.target
        assert isinstance(target, Ref)
        bound: Bound = names[target.name]
        method = "__call__"
        for part in target.path:
            if isinstance(bound, Outputs) and part not in bound.fields:
                bound = only(bound)
            if isinstance(bound, Handle):
                method = part
                break
            bound = self.get(bound, part, target.name)
        bound = only(bound)
        assert isinstance(bound, Handle)
        return self.call(node, bound.kind, bound.kind.methods[method], bound, names, path, (bound.key,))

    def call(
        self, node: Node, kind: NodeType, method: Method, handle: Handle | None, names: Mapping[str, Bound], path: str,
        identity: tuple[str, ...],
    ) -> Bound:  # fmt: skip
        signature = self._signatures.get(id(method)) or self._signature(method, kind)
        bounds: list[Bound] = []
        for name, port, default, numeric in signature.parameters:
            arg = node.args.get(name)
            bound = default if arg is None else self.bind(arg, names)
            if numeric and isinstance(bound, Known):
                bound = converted(bound, port)
            if port.bound is not None:
                _refuse(bound, name, port)
            bounds.append(bound)
        parts = [bound.key if type(bound) in (Slot, Known) else self.key(bound) for bound in bounds]  # type: ignore[union-attr]
        key = digest("call", *identity, method.name, signature.where, *parts)
        if method.static and all(isinstance(bound, Known) for bound in bounds):
            if key not in self._static:
                values = [bound.value for bound in bounds if isinstance(bound, Known)]
                self._static[key] = _computed(kind, method, handle, values)
            return Known(self._static[key], key)
        args = tuple([
            bound.index if type(bound) is Slot else self.index(bound, entry[0])
            for bound, entry in zip(bounds, signature.parameters, strict=True)
        ])  # fmt: skip
        if handle is not None:
            instruction = Instruction(METHOD, args, -1, None, handle, method.name, path, node.place, signature.tensors)
        else:
            instruction = Instruction(CALL, args, -1, kind, None, method.name, path, node.place, signature.tensors)
        instruction.watched, instruction.method = signature.watched, method
        return self.emit(instruction, key, kind.name, stored=handle is not None)

    def _signature(self, method: Method, kind: NodeType) -> Signature:
        parameters = []
        for name, port in method.inputs.items():
            default = None if isinstance(port.default, Unset) else port.default
            known = NOTHING if default is None else Known(default, literal_key(default))
            parameters.append((name, port, converted(known, port), _numeric(port)))
        made = _tensor(method.output) or kind.trainable
        where = self.settings.where if made and not method.static else ""
        tensors = made or any(_tensor(port) for port in method.inputs.values())
        watched = tensors or any(port.type.form == "list" for port in method.inputs.values())
        signature = self._signatures[id(method)] = Signature(method, tuple(parameters), where, tensors, watched)
        return signature


def only(bound: Bound) -> Bound:
    """The one output of what has one; else the thing itself."""
    while isinstance(bound, Outputs) and len(bound.fields) == 1:
        (bound,) = bound.fields.values()
    return bound


def _tensor(port: Port) -> bool:
    """Whether a value of the port may hold tensors."""
    kind = port.type
    if kind.form == "list":
        return kind.item is None or _tensor(kind.item)
    if kind.form == "record":
        return any(_tensor(inner) for _, inner in kind.fields)
    return kind.form in ("kind", "any", "var")


def _numeric(port: Port) -> bool:
    """Whether a whole number at the port, or in a list there, is meant as a float."""
    item = port.type.item if port.type.form == "list" else None
    return port.type == FLOAT or (item is not None and _numeric(item))


def is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def converted(bound: Bound, port: Port) -> Bound:
    """A whole number at a port of numbers is keyed and given as a float, in a list too."""
    if not isinstance(bound, Known) or bound.value is None:
        return bound
    value = _as_floats(bound.value, port)
    return bound if value is bound.value else Known(value, literal_key(value))


def _as_floats(value: Any, port: Port) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and port.type == FLOAT:
        return float(value)
    if port.type.form == "list" and port.type.item is not None and type(value) is list:
        items = [_as_floats(item, port.type.item) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _refuse(bound: Bound, name: str, port: Port) -> None:
    """Refuses a number that was worked out while planning and lies outside of its port's range."""
    if port.bound is not None and isinstance(bound, Known) and isinstance(bound.value, int | float):
        wrong = port.bound.refuses(bound.value)
        if wrong is not None:
            raise CheckError(f"{name}: {bound.value!r} {wrong}")


def _computed(kind: NodeType, method: Method, handle: Handle | None, values: list[Any]) -> Any:
    """What a static node gives. Raises CheckError where it fails."""
    try:
        function = getattr(handle.light(), method.name) if handle is not None else kind.load()
        return function(*values)
    except DiffgraphError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckError(f"failed while planning: {what}", hint="--debug shows the traceback") from error
