"""Planning: a checked graph becomes one flat list of instructions, every value of which has a key known before the run.

Lowering walks the document once. What is known already (literals, inputs, configs, and static nodes over these) is
computed here and becomes a constant; the rest becomes units: single instructions, or regions (a loop, a branch not
decided yet, a gradient). Then `select` walks the units backwards from the outputs and leaves out what the store holds,
and what only that needed.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from .components import Handle, Opener, anchored, below, make_handle
from .errors import CheckError, CheckFailed, DiffgraphError, Place
from .graph import Arg, Body, GraphDocument, Lit, Node, Ref, ordered
from .ports import FLOAT, UNSET, Port, Unset, Use, parse_dim
from .registry import Method, NodeType, Registry
from .sources import Loader, Source

# Operations of instructions.
CALL, METHOD, GET, LIST, MOVE, LOOP, NEXT, BRANCH, JUMP, GRAD, GRADIENT, LOAD, END = range(13)


@dataclass(frozen=True, slots=True)
class Known:
    """A value known while planning."""

    value: Any
    key: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that the run will make."""

    index: int
    key: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """The named values of an included graph, a loop, a map, a branch or a gradient."""

    fields: Mapping[str, Bound]


Bound = Known | Slot | Outputs | Handle


@dataclass(slots=True)
class Instruction:
    """One operation of the run. What the fields mean depends on `op`; see run.py."""

    op: int
    args: tuple[int, ...] = ()
    out: int = -1
    function: Any = None
    handle: Handle | None = None
    name: str = ""
    path: str = ""
    place: Place | None = None
    tensors: bool = False
    pairs: tuple[tuple[int, int], ...] = ()
    target: int = -1
    puts: tuple[tuple[int, str], ...] = ()
    frees: tuple[int, ...] = ()
    drops: tuple[Handle, ...] = ()

    def reads(self) -> Iterable[int]:
        yield from self.args
        for source, _ in self.pairs:
            yield source

    def writes(self) -> Iterable[int]:
        if self.out >= 0:
            yield self.out
        for _, target in self.pairs:
            yield target


@dataclass(slots=True)
class Unit:
    """What is run or left out as a whole. `stores` are the slots worth keeping, with their keys."""

    code: list[Instruction]
    gives: tuple[int, ...]
    needs: tuple[int, ...]
    path: str
    what: str
    place: Place | None
    stores: dict[int, str] = field(default_factory=dict)
    handles: tuple[Handle, ...] = ()
    state: str = "run"


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


def digest(*parts: str) -> str:
    """The key of what has these parts; each is quoted, so that no two lists of parts are one text."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def literal_key(value: Any) -> str:
    """The key of a literal: its type and value. Numbers are converted to their port's type before."""
    if isinstance(value, list | tuple):
        return digest("list", *(literal_key(item) for item in value))
    digest_of = getattr(value, "digest", None)
    if isinstance(digest_of, str):
        return digest("file", digest_of)
    return f"{type(value).__name__}:{value!r}" if not isinstance(value, str) else "str:" + str.__str__(value)


NOTHING = Known(None, "NoneType:None")


@dataclass(frozen=True, slots=True)
class Signature:
    """What planning asks of a method at every call: parameters with their defaults, the part of the key that says where
    it runs, and whether a tensor may go in or come out."""

    method: Method
    parameters: tuple[tuple[str, Port, Bound], ...]
    where: str
    tensors: bool


class Planner:
    """Lowers one or several runs of graphs into one list of units; equal keys are lowered once."""

    def __init__(self, registry: Registry, loader: Loader, opener: Opener, settings: Settings) -> None:
        self.registry, self.loader, self.opener, self.settings = registry, loader, opener, settings
        self.units: list[Unit] = []
        self.constants: dict[int, Any] = {}
        self.handles: dict[str, Handle] = {}
        self.count = 0
        self.depth = 0
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
        if isinstance(bound, Outputs) and len(bound.fields) == 1:
            bound = next(iter(bound.fields.values()))
        if isinstance(bound, Slot):
            return bound.index
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
            unit = Unit(
                [instruction], (made.index,), tuple(instruction.args), instruction.path, what, instruction.place
            )
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
            return Known(value, literal_key(value) if _is_plain(value) else digest("get", bound.key, name))
        return self.emit(
            Instruction(GET, (bound.index,), name=name, path=f"{path}.{name}"), digest("get", bound.key, name), ""
        )

    def _attribute(self, handle: Handle, name: str) -> Known:
        expression = handle.kind.attributes.get(name)
        if expression is None:
            value = handle.config[name]
            value = list(value) if isinstance(value, tuple) else value
        else:
            words = [int(parse_dim(word, handle.config.__getitem__).constant or 0) for word in expression.split()]
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

    # --- documents

    def inputs(self, values: Mapping[str, Any]) -> dict[str, Bound]:
        """The names that a graph's inputs give; a value may be bound already, as a file is."""
        return {
            name: value if isinstance(value, Slot) else NOTHING if value is None else Known(value, literal_key(value))
            for name, value in values.items()
        }

    def file_input(self, given: Any) -> Slot:
        """The value that a reader makes of a file, keyed by the file's content."""
        data = self.index(Known(given.file.data, digest("bytes", given.file.digest)))
        instruction = Instruction(CALL, (data,), function=given.read, path=given.name, tensors=True)
        return self.emit(instruction, digest("read", given.digest), "")

    def scope(self, graph: GraphDocument, source: Source, names: dict[str, Bound], path: str) -> dict[str, Bound]:
        self.nodes(graph.nodes, names, source, path)
        return {name: self.bind(arg, names) for name, arg in graph.outputs.items()}

    def nodes(self, nodes: Mapping[str, Node], names: MutableMapping[str, Bound], source: Source, path: str) -> None:
        for node in ordered(nodes)[0]:
            try:
                names[node.name] = getattr(self, f"_{node.form}")(node, names, source, path + node.name)
            except CheckFailed:
                raise
            except DiffgraphError as error:
                if error.place is None:
                    error.place = node.place
                    error.message = f"{path}{node.name}: {error.message}"
                raise

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
        handle = make_handle(
            kind, explicit, opener=self.opener, source=source, path=path, place=node.place,
            device=self.settings.device, dtype=self.settings.dtype, torch_version=self.settings.torch_version,
            live=None if isinstance(node.live, NodeType) else node.live,
        )  # fmt: skip
        return self.handles.setdefault(handle.key, handle)

    def _call(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Bound:
        target = node.target
        assert isinstance(target, Ref)
        bound: Bound = names[target.name]
        method = "__call__"
        for part in target.path:
            if isinstance(bound, Outputs) and part not in bound.fields:
                bound = _only(bound)
            if isinstance(bound, Handle):
                method = part
                break
            bound = self.get(bound, part, target.name)
        bound = _only(bound)
        assert isinstance(bound, Handle)
        return self.call(node, bound.kind, bound.kind.methods[method], bound, names, path, (bound.key,))

    def call(
        self, node: Node, kind: NodeType, method: Method, handle: Handle | None, names: Mapping[str, Bound], path: str,
        identity: tuple[str, ...],
    ) -> Bound:  # fmt: skip
        signature = self._signatures.get(id(method)) or self._signature(method, kind)
        bounds: list[Bound] = []
        for name, port, default in signature.parameters:
            arg = node.args.get(name)
            bound = default if arg is None else _converted(self.bind(arg, names), port)
            if port.bound is not None:
                _refuse(bound, name, port)
            bounds.append(bound)
        key = digest("call", *identity, method.name, signature.where, *[self.key(bound) for bound in bounds])
        if method.static and all(isinstance(bound, Known) for bound in bounds):
            if key not in self._static:
                values = [bound.value for bound in bounds if isinstance(bound, Known)]
                self._static[key] = _computed(kind, method, handle, values)
            return Known(self._static[key], key)
        args = tuple([self.index(bound, name) for bound, (name, *_) in zip(bounds, signature.parameters, strict=True)])
        if handle is not None:
            instruction = Instruction(METHOD, args, -1, None, handle, method.name, path, node.place, signature.tensors)
        else:
            instruction = Instruction(CALL, args, -1, kind, None, method.name, path, node.place, signature.tensors)
        return self.emit(instruction, key, kind.name, stored=handle is not None)

    def _signature(self, method: Method, kind: NodeType) -> Signature:
        parameters = []
        for name, port in method.inputs.items():
            default = None if isinstance(port.default, Unset) else port.default
            known = NOTHING if default is None else Known(default, literal_key(default))
            parameters.append((name, port, _converted(known, port)))
        made = _tensor(method.output) or kind.trainable
        where = self.settings.where if made and not method.static else ""
        tensors = made or any(_tensor(port) for port in method.inputs.values())
        signature = self._signatures[id(method)] = Signature(method, tuple(parameters), where, tensors)
        return signature

    def _graph(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        inner_source = source.include(node.target_text)
        inner = self.loader.load(inner_source)
        inside: dict[str, Bound] = {}
        for item in inner.inputs.values():
            if item.name in node.args:
                port = self.registry.input_type(item.type)
                bound = self.bind(node.args[item.name], names)
                if isinstance(bound, Known) and item.type == "weights":
                    bound = Known(anchored(bound.value, source), bound.key)
            else:
                bound = NOTHING if item.default is None else Known(item.default, literal_key(item.default))
            inside[item.name] = _converted(bound, port) if port is not None else bound
        return Outputs(self.scope(inner, inner_source, inside, path + "."))

    # --- bodies

    def _region(
        self, lower: Callable[[list[Instruction]], tuple[dict[str, Slot], str]], path: str, what: str, place: Place
    ) -> Outputs:
        """Lowers a region as one unit. `lower` fills the code and gives the outputs' slots and the region's key."""
        outer = self._code
        code: list[Instruction] = []
        self._code = code
        self._same.append({})
        self._regions.append({})
        self.depth += 1
        try:
            outputs, key = lower(code)
        finally:
            self.depth -= 1
            self._same.pop()
            self._regions.pop()
            self._code = outer
        for scope in self._regions:
            if key in scope:
                return scope[key]
        named = {name: Slot(slot.index, digest(key, name)) for name, slot in outputs.items()}
        written = {index for instruction in code for index in instruction.writes()}
        needs = tuple({index for instruction in code for index in instruction.reads()} - written)
        if outer is not None:
            base = len(outer)
            for instruction in code:
                if instruction.target >= 0:
                    instruction.target += base
            outer.extend(code)
        else:
            code.append(Instruction(END, path=path, place=place))
            handles = tuple({i.handle.key: i.handle for i in code if i.handle is not None}.values())
            unit = Unit(code, tuple(slot.index for slot in named.values()), needs, path, what, place, handles=handles)
            unit.stores = {slot.index: slot.key for slot in named.values()}
            self.units.append(unit)
        self._regions[-1][key] = Outputs(named)
        return self._regions[-1][key]

    def _body(
        self, nodes: Mapping[str, Node], names: Mapping[str, Bound], own: Mapping[str, Bound], source: Source, path: str
    ) -> MutableMapping[str, Bound]:
        inside = ChainMap(dict(own), *(names.maps if isinstance(names, ChainMap) else (dict(names),)))
        self.nodes(nodes, inside, source, path + ".")
        return inside

    def _loop(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        sequence = self.bind(node.target, names)
        starts = {name: self.bind(arg, names) for name, arg in node.carry.items()}
        source_slot, start_slots = self.index(sequence), {name: self.index(bound) for name, bound in starts.items()}
        trips = len(sequence.value) if isinstance(sequence, Known) else None

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            item = self.slot(f"@as{self.depth}")
            carried = {name: self.slot(f"@carry{self.depth}.{name}") for name in starts}
            collected = {name: self.slot("") for name in node.collect}
            begin = Instruction(LOOP, (source_slot,), item.index, path=path, place=node.place, name=str(trips or ""))
            begin.pairs = tuple((start_slots[name], slot.index) for name, slot in carried.items())
            begin.function = tuple(slot.index for slot in collected.values())
            code.append(begin)
            inside = self._body(node.body.nodes, names, {node.as_name: item, **carried}, source, path)
            nexts = {name: self.bind(arg, inside) for name, arg in node.next.items()}
            kept = {name: self.bind(arg, inside) for name, arg in node.collect.items()}
            end = Instruction(NEXT, out=item.index, path=path, place=node.place, target=0)
            end.pairs = tuple((self.index(nexts[name]), slot.index) for name, slot in carried.items())
            end.args = tuple(self.index(bound) for bound in kept.values())
            end.function = begin.function
            code.append(end)
            begin.target = len(code)
            parts = [f"{n}:{self.key(starts[n])}>{self.key(nexts[n])}" for n in sorted(starts)]
            parts += [f"{n}+{self.key(bound)}" for n, bound in sorted(kept.items())]
            return {**carried, **collected}, digest("loop", self.key(sequence), *parts)

        return self._region(lower, path, f"loop of {trips}" if trips is not None else "loop", node.place)

    def _map(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        assert node.body is not None
        body = node.body
        sequence = self.bind(node.target, names)
        if isinstance(sequence, Known):
            rows: dict[str, list[Bound]] = {name: [] for name in body.outputs}
            for number, value in enumerate(sequence.value):
                own = {
                    node.as_name: Known(
                        value, literal_key(value) if _is_plain(value) else digest("item", sequence.key, str(number))
                    )
                }
                inside = self._body(body.nodes, names, own, source, f"{path}[{number}]")
                for name, arg in body.outputs.items():
                    rows[name].append(self.bind(arg, inside))
            return Outputs({name: self._gathered(items) for name, items in rows.items()})
        source_slot = self.index(sequence)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            item = self.slot(f"@as{self.depth}")
            collected = {name: self.slot("") for name in body.outputs}
            begin = Instruction(LOOP, (source_slot,), item.index, path=path, place=node.place)
            begin.function = tuple(slot.index for slot in collected.values())
            code.append(begin)
            inside = self._body(body.nodes, names, {node.as_name: item}, source, path)
            kept = {name: self.bind(arg, inside) for name, arg in body.outputs.items()}
            end = Instruction(
                NEXT, tuple(self.index(b) for b in kept.values()), item.index, path=path, place=node.place, target=0
            )
            end.function = begin.function
            code.append(end)
            begin.target = len(code)
            parts = [f"{name}+{self.key(bound)}" for name, bound in sorted(kept.items())]
            return collected, digest("map", self.key(sequence), *parts)

        return self._region(lower, path, "map", node.place)

    def _gathered(self, items: list[Bound]) -> Bound:
        if all(isinstance(item, Known) for item in items):
            values = [item.value for item in items if isinstance(item, Known)]
            return Known(values, digest("list", *(item.key for item in items if isinstance(item, Known))))
        return self.list_of(items)

    def _when(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        assert node.body is not None
        flag = self.bind(node.target, names)
        if isinstance(flag, Known):
            taken = node.body if flag.value else node.other
            if taken is None:
                return Outputs(dict.fromkeys(node.body.outputs, NOTHING))
            inside = self._body(taken.nodes, names, {}, source, path)
            return Outputs({name: self.bind(arg, inside) for name, arg in taken.outputs.items()})
        flag_slot = self.index(flag)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            results = {name: self.slot("") for name in node.body.outputs}
            branch = Instruction(BRANCH, (flag_slot,), path=path, place=node.place)
            code.append(branch)
            first = self._arm(node.body, names, results, code, source, path)
            jump = Instruction(JUMP, path=path)
            code.append(jump)
            branch.target = len(code)
            second = self._arm(node.other, names, results, code, source, path)
            jump.target = len(code)
            return results, digest("when", self.key(flag), *first, *second)

        return self._region(lower, path, "when", node.place)

    def _arm(
        self,
        body: Body | None,
        names: Mapping[str, Bound],
        results: Mapping[str, Slot],
        code: list[Instruction],
        source: Source,
        path: str,
    ) -> list[str]:
        self._same.append({})
        self._regions.append({})
        try:
            values: dict[str, Bound] = dict.fromkeys(results, NOTHING)
            if body is not None:
                inside = self._body(body.nodes, names, {}, source, path)
                values = {name: self.bind(arg, inside) for name, arg in body.outputs.items()}
            code.append(
                Instruction(
                    MOVE,
                    pairs=tuple((self.index(values[name]), slot.index) for name, slot in results.items()),
                    path=path,
                )
            )
            return [f"{name}={self.key(values[name])}" for name in sorted(results)]
        finally:
            self._same.pop()
            self._regions.pop()

    def _grad(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        x = self.bind(node.target, names)
        x_slot = self.index(x)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            assert node.of is not None
            inner = self.slot(f"@grad{self.depth}")
            code.append(Instruction(GRAD, (x_slot,), inner.index, path=path, place=node.place))
            inside = self._body(node.body.nodes, names, {node.as_name: inner}, source, path)
            score = self.bind(node.of, inside)
            value, gradient = self.slot(""), self.slot("")
            end = Instruction(GRADIENT, (self.index(score), inner.index), value.index, path=path, place=node.place)
            end.pairs = ((inner.index, gradient.index),)
            code.append(end)
            return {"value": value, "grad": gradient}, digest("grad", self.key(x), self.key(score))

        return self._region(lower, path, "grad", node.place)


def _only(bound: Bound) -> Bound:
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


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _converted(bound: Bound, port: Port) -> Bound:
    """A whole number at a port of numbers is keyed and given as a float, in a list too."""
    if not isinstance(bound, Known) or bound.value is None:
        return bound
    value = _as_floats(bound.value, port)
    return bound if value is bound.value else Known(value, literal_key(value))


def _as_floats(value: Any, port: Port) -> Any:
    if port.type == FLOAT and isinstance(value, int) and not isinstance(value, bool):
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


# --- selecting and laying out ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Program:
    """Instructions in order, the values that slots start with, and where the outputs are."""

    code: list[Instruction]
    slots: int
    constants: dict[int, Any]
    outputs: dict[str, int]
    units: list[Unit]
    next_use: dict[str, list[int]]
    keys: dict[str, str]


def select(
    planner: Planner, outputs: Mapping[str, Bound], has: Callable[[str], bool], *, store: bool = True
) -> Program:
    """The instructions that make these outputs and that no stored value spares, in order.

    has(key): whether the store holds a value. store: whether results are kept at all.
    """
    wanted = {name: planner.index(bound, f"output {name}") for name, bound in outputs.items()}
    keys = {name: planner.key(bound) for name, bound in outputs.items()}
    makers = {index: unit for unit in planner.units for index in unit.gives}
    if store:
        for name, index in wanted.items():
            _store_output(index, keys[name], makers)
    needed = set(wanted.values())
    chosen: list[tuple[Unit, list[Instruction]]] = []
    for unit in reversed(planner.units):
        asked = [index for index in unit.gives if index in needed]
        unit.state = "unused"
        if not asked:
            continue
        if store and all(index in unit.stores and has(unit.stores[index]) for index in asked):
            unit.state = "cached"
            loads = [Instruction(LOAD, (), i, name=unit.stores[i], path=unit.path, place=unit.place) for i in asked]
            chosen.append((unit, loads))
            continue
        unit.state = "run"
        needed.update(unit.needs)
        if store and unit.stores:
            unit.code[-1].puts = tuple((index, unit.stores[index]) for index in asked if index in unit.stores)
        chosen.append((unit, unit.code))
    chosen.reverse()
    return _lay_out(planner, chosen, wanted, keys)


def _store_output(index: int, key: str, makers: Mapping[int, Unit]) -> None:
    """An output is stored, unless it is a field of what is stored as a whole."""
    unit = makers.get(index)
    inner = unit
    while inner is not None and inner.code[-1].op == GET:
        inner = makers.get(inner.code[-1].args[0])
    if unit is not None and inner is not None and not inner.stores:
        unit.stores[index] = key


def _lay_out(
    planner: Planner, chosen: list[tuple[Unit, list[Instruction]]], wanted: Mapping[str, int], keys: dict[str, str]
) -> Program:
    """Puts the units one after the other and notes at each instruction what is used there for the last time."""
    code: list[Instruction] = []
    last: dict[int, int] = {}
    uses: dict[str, list[int]] = {}
    for unit, instructions in chosen:
        base, end = len(code), len(code) + len(instructions) - 1
        if base == end:
            last.update(dict.fromkeys(instructions[0].args, base))
            last[instructions[0].out] = base
        else:
            last.update((index, base + at) for index, at in _last_uses(instructions).items())
        code += [_moved(instruction, base) for instruction in instructions]
        if unit.handles:
            for at in range(base, end + 1):
                if (handle := code[at].handle) is not None:
                    uses.setdefault(handle.key, []).append(at)
            for key in {i.handle.key for i in instructions if i.handle is not None}:
                uses[key].append(end)
    kept = {*wanted.values(), *planner.constants}
    frees: dict[int, list[int]] = {}
    for index, at in last.items():
        if index not in kept:
            frees.setdefault(at, []).append(index)
    for at, indices in frees.items():
        code[at].frees = tuple(indices)
    for key, places in uses.items():
        code[places[-1]].drops += (planner.handles[key],)
    units = [unit for unit in planner.units if unit.what]
    return Program(code, planner.count, planner.constants, dict(wanted), units, uses, keys)


def _last_uses(instructions: list[Instruction]) -> dict[int, int]:
    """For each slot that a unit reads or writes, the instruction after which the unit needs it no more.

    In a region that is its end, but for a value made and read in one and the same turn: it goes after its last reading.
    """
    end = len(instructions) - 1
    level, levels = [0], []
    for at, instruction in enumerate(instructions):
        if instruction.op in (LOOP, BRANCH, GRAD):
            level.append(at)
        levels.append(tuple(level))
        if instruction.op in (NEXT, JUMP, GRADIENT) and len(level) > 1:
            level.pop()
    written: dict[int, list[int]] = {}
    read: dict[int, list[int]] = {}
    for at, instruction in enumerate(instructions):
        for index in instruction.reads():
            read.setdefault(index, []).append(at)
        for index in instruction.writes():
            written.setdefault(index, []).append(at)
    result = {}
    for index in {*written, *read}:
        made, uses = written.get(index, []), read.get(index, [])
        local = len(made) == 1 and instructions[made[0]].op in (CALL, METHOD, GET, LIST) and uses
        same = local and all(use > made[0] and levels[use] == levels[made[0]] for use in uses)
        result[index] = uses[-1] if same else end
    return result


def _moved(instruction: Instruction, base: int) -> Instruction:
    """A copy at its place in the program: jumps become absolute."""
    return Instruction(
        instruction.op, instruction.args, instruction.out, instruction.function, instruction.handle, instruction.name,
        instruction.path, instruction.place, instruction.tensors, instruction.pairs,
        instruction.target + base if instruction.target >= 0 else -1, instruction.puts,
    )  # fmt: skip


__all__ = ["UNSET", "Planner", "Program", "Settings", "Use", "select"]
