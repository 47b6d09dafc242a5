"""Checking a graph: names, types, shapes, facts, ranges; all mistakes together, before any weight is read.

Two levels. Structure: what the document and the index of nodes say, offline. Configured: with each component's small config,
given by `configs`. An included graph is checked where it stands, with what is wired into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import CheckError, CheckFailed, DiffgraphError, Place, nearest
from .graph import Arg, Body, GraphDocument, Input, Lit, Node, Ref, arg_refs, inner_args, node_refs, ordered
from .ports import (
    ANY, BOOL, UNSET, Dim, Mismatch, Port, Type, Unifier, Unset, Use, Value, compatible, literal_problem, literal_value,
)  # fmt: skip
from .registry import Method, NodeType, Registry, import_name
from .sources import Loader, Source

COMPONENT_KEYS: dict[str, Port] = {
    "weights": Port(Type("scalar", "weights"), optional=True, default=None),
    "init_seed": Port(Type("scalar", "int"), optional=True, default=None),
    "dtype": Port(Type("choice", options=("fp32", "fp16", "bf16")), optional=True, default=None),
    "device": Port(Type("scalar", "text"), optional=True, default=None),
}
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


class Checker:
    """Checks one graph and what it includes; `problems` holds every mistake found."""

    def __init__(self, registry: Registry, loader: Loader, configs: Configs | None = None) -> None:
        self.registry, self.loader, self.configs = registry, loader, configs
        self.unifier = Unifier()
        self.problems: list[DiffgraphError] = []
        self._seen: set[tuple[str, str]] = set()
        self._streams: dict[int, Stream] = {}
        self._including: list[str] = []

    def fault(self, place: Place, message: str, hint: str | None = None) -> Value:
        if self._including:
            message += f" (in {self._including[-1]})"
        key = (str(place), message)
        if key not in self._seen:
            self._seen.add(key)
            self.problems.append(CheckError(message, hint=hint, place=place))
        return Value(ANY)

    # --- documents

    def document(self, graph: GraphDocument, source: Source, given: Mapping[str, Any]) -> dict[str, Value]:
        """Checks a whole document with these values of its inputs; returns what is known of its outputs."""
        names = {item.name: self._input(item, given.get(item.name, UNSET)) for item in graph.inputs.values()}
        for variant, values in graph.variants.items():
            for key in values:
                if key != "set" and key not in graph.inputs:
                    near = nearest(key, list(graph.inputs))
                    place = graph.places[f"variants.{variant}"]
                    self.fault(place, f"variant {variant}: there is no input {key!r}", f"did you mean {near!r}?" if near else None)
        scope = Scope(names, source)
        if graph.train is not None:
            self._train(graph, scope)
        return self._document_body(graph, scope)

    def _document_body(self, graph: GraphDocument, scope: Scope) -> dict[str, Value]:
        outer = set(scope.names)
        self._nodes(graph.nodes, scope)
        outputs = {name: self.value(arg, scope, f"output {name}") for name, arg in graph.outputs.items()}
        if graph.train is not None:
            self._train_ends(graph, scope)
        self._unused(graph.nodes, scope)
        for name in outer - scope.used:
            if name in graph.inputs:
                self.fault(graph.inputs[name].place, f"nothing uses the input {name}", f"wire ${name}, or remove it")
        return outputs

    def _unused(self, nodes: Mapping[str, Node], scope: Scope) -> None:
        for node in nodes.values():
            if node.name not in scope.used:
                self.fault(node.place, f"nothing uses {node.name}", "wire it into another node or an output, or remove it")

    def _input(self, item: Input, given: Any) -> Value:
        port = self.registry.input_type(item.type)
        if port is None:
            near = nearest(item.type, [*self.registry.kinds, *self.registry.records, *_scalars, *self._components()])
            hint = f"did you mean {near}?" if near else f"use one of {', '.join(_scalars)}, or a kind that a node declares"
            return self.fault(item.place, f"input {item.name}: there is no type {item.type!r}", hint)
        if item.type == "choice":
            if not item.choices:
                return self.fault(item.place, f"input {item.name}: a choice needs `choices: [...]`")
            port = Port(Type("choice", options=item.choices))
        actual = given if not isinstance(given, Unset) else (item.default if not item.required else UNSET)
        if not item.required and (problem := input_problem(item, port, item.default)):
            return self.fault(item.place, f"input {item.name}: the default {problem}")
        value = self._fresh(self.unifier.instance(port, Use(self.unifier, identity=item.name)), ())
        value.maybe = not item.required and item.default is None
        if port.type.form in ("protocol", "component"):
            kind = self.registry.nodes[port.type.name]
            value.component = ComponentInfo(kind, item.name)
        if port.type.form == "scalar" and port.type.name == "int":
            value.literal, value.known = Dim.of(item.name), actual
        elif port.type.form in ("scalar", "choice", "list", "kind"):
            value.known = actual if _plain(actual) else UNSET
            if port.type.name in ("text", "weights", "bool"):
                value.literal = value.known
        if actual is None:
            value.known, value.literal = UNSET, UNSET
        return value

    def _components(self) -> list[str]:
        return [name for name, node in self.registry.nodes.items() if node.role != "function"]

    # --- references

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
                hint = f"did you mean {near!r}?" if near else ("it has: " + ", ".join(choices) if choices else "refer to it without a dot")
                return self.fault(ref.place, f"{what}: {ref.name} has no port or attribute {part!r}", hint)
            value = step
        if ref.sub:
            if value.type.name not in ("weights", "text") and value.type.form != "any":
                return self.fault(ref.place, f"{what}: only an address has sub-folders; {ref.name} is {value.type}")
            text = value.literal
            value = replace(value, literal=text + ref.sub if isinstance(text, str) else UNSET)
        return value

    def _part(self, value: Value, part: str, scope: Scope) -> Value | None:
        if value.type.form in ("any", "var"):
            return Value(ANY)
        info = value.component
        if info is not None:
            if part in info.type.attributes:
                dims = self._use(info, {}).dims(info.type.attributes[part])
                return Value(Type("list", item=Port(Type("scalar", "int"))), literal=list(dims) if _known(dims) else UNSET)
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

    # --- nodes

    def _nodes(self, nodes: Mapping[str, Node], scope: Scope) -> None:
        for name, node in nodes.items():
            if name in scope.names:
                self.fault(node.place, f"the name {name} is taken already in this scope or around it", "rename the node")
        order, cycle = ordered(nodes)
        if cycle:
            self.fault(nodes[cycle[0]].place, "these nodes wait for each other: " + " -> ".join(cycle), "break the cycle, or use a loop")
            order = [*order, *(node for node in nodes.values() if node not in order)]
            scope.names.update({name: Value(ANY) for name in cycle})
            scope.used.update(cycle)
        for node in order:
            known = len(self.problems)
            value = self._fresh(self.node(node, scope), scope.loops)
            scope.names[node.name] = value if len(self.problems) == known or value.type != ANY else Value(ANY)

    def node(self, node: Node, scope: Scope) -> Value:
        return getattr(self, f"_{node.form}")(node, scope)  # type: ignore[no-any-return]

    def _node(self, node: Node, scope: Scope) -> Value:
        name = node.target_text
        found = node.live if isinstance(node.live, NodeType) else self.registry.get(name)
        if found is None:
            self._skip(node, scope)
            return self.fault(node.target.place, f"{node.name}: there is no node type {name!r}", self.registry.suggest(name))
        if found.role == "component":
            return self._component(node, found, scope)
        return self._call_method(node, found.call, {}, "", {}, scope)

    def _skip(self, node: Node, scope: Scope) -> None:
        for ref in node_refs(node):
            scope.used.add(ref.name)

    def _component(self, node: Node, kind: NodeType, scope: Scope) -> Value:
        info = ComponentInfo(kind, f"{scope.path}{node.name}")
        ports = {**kind.fields, **COMPONENT_KEYS}
        explicit: dict[str, Any] = {}
        weights: Any = None
        for name, arg in node.args.items():
            port = ports.get(name)
            if port is None:
                self._unknown_input(node, name, arg, ports)
                continue
            value = self.value(arg, scope, f"{node.name}.{name}")
            if name == "weights" and value.maybe and isinstance(value.known, Unset):
                weights = UNSET
                continue
            self._meet(node, name, arg, value, port, self._use(info, {}), scope)
            exact = value.known if isinstance(value.literal, Unset | Dim) else value.literal
            if name == "weights":
                weights = exact
            elif name not in COMPONENT_KEYS:
                explicit[name] = exact
        info.config = {name: port.default for name, port in kind.fields.items() if not port.required} | explicit
        facts: Mapping[str, str] = {}
        if weights is not None:
            info.config = dict(explicit)
            if isinstance(weights, str) and self.configs is not None:
                try:
                    config, facts = self.configs(kind, weights, scope.source)
                    info.config = config | explicit
                except DiffgraphError as error:
                    place = node.args["weights"].place
                    self.fault(place, f"{node.name}: {error.message}", error.hint)
        else:
            for name, port in kind.fields.items():
                if port.required and name not in explicit:
                    self.fault(node.place, f"{node.name}: {kind.name} needs `{name}`", "give it, or give `weights:` with a config")
        use = self._use(info, {})
        info.facts = {**facts, **{k: w for k, text in kind.facts.items() if (w := use.fact(text)) is not None}}
        return Value(Type("component", kind.name), component=info, facts=dict(info.facts))

    def _use(self, info: ComponentInfo, literals: Mapping[str, Any]) -> Use:
        fields = {name: Dim.of(f"?{name}#{info.identity}") for name in info.type.fields} | dict(info.config)
        return Use(self.unifier, {**fields, **literals}, info.identity)

    def _unknown_input(self, node: Node, name: str, arg: Arg, ports: Mapping[str, Port]) -> None:
        near = nearest(name, list(ports))
        hint = f"did you mean {near!r}?" if near else "it has: " + ", ".join(ports) if ports else "it has none"
        self.fault(arg.place, f"{node.name}: {node.target_text} has no input {name!r}", hint)

    def _call(self, node: Node, scope: Scope) -> Value:
        target = node.target
        assert isinstance(target, Ref)
        method_name = "__call__"
        value = scope.names.get(target.name)
        path = target.path
        if value is not None and value.component is not None and path:
            path, method_name = path[:-1], path[-1]
        found = self.reference(replace(target, path=path), scope, node.name)
        info = found.component
        if info is None:
            self._skip(node, scope)
            if found.type != ANY:
                self.fault(target.place, f"{node.name}: {target} is {found.type}, not a component", "call takes a model, scheduler, tokenizer ...")
            return Value(ANY)
        method = info.type.methods.get(method_name)
        if method is None:
            self._skip(node, scope)
            names = [name for name in info.type.methods if name != "__call__"]
            near = nearest(method_name, names)
            hint = f"did you mean {near!r}?" if near else f"it has: {', '.join(names)}"
            if method_name == "__call__":
                return self.fault(target.place, f"{node.name}: {info.type.name} cannot be called by itself", hint)
            return self.fault(target.place, f"{node.name}: {info.type.name} has no method {method_name!r}", hint)
        return self._call_method(node, method, info.facts, info.identity, info, scope)

    def _call_method(
        self, node: Node, method: Method, facts: Mapping[str, str], identity: str, info: Any, scope: Scope
    ) -> Value:
        values = {}
        for name, arg in node.args.items():
            if name not in method.inputs:
                self._unknown_input(node, name, arg, method.inputs)
                for ref in arg_refs(arg):
                    scope.used.add(ref.name)
                continue
            values[name] = self.value(arg, scope, f"{node.name}.{name}")
        literals = {name: value.literal for name, value in values.items() if not isinstance(value.literal, Unset)}
        for name, port in method.inputs.items():
            if name not in values:
                if port.required:
                    self.fault(node.place, f"{node.name}: the input {name} ({port.type}) is missing", self._fitting(port, Use(self.unifier, literals, identity), scope))
                elif _plain(port.default):
                    literals[name] = port.default
        if isinstance(info, ComponentInfo):
            use = self._use(info, literals)
        else:
            use = Use(self.unifier, literals, identity)
        bindings: dict[str, Value] = {}
        fine = True
        for name, value in values.items():
            fine &= self._meet(node, name, node.args[name], value, method.inputs[name], use, scope, bindings)
        if not fine and method.output.type.form == "var":
            return Value(ANY)
        return self._output(node, method, values, use, facts, bindings)

    def _meet(
        self, node: Node, name: str, arg: Arg, value: Value, port: Port, use: Use, scope: Scope, bindings: dict[str, Value] | None = None
    ) -> bool:
        if value.type == ANY and value.component is None:
            return True
        before = self.unifier.snapshot()
        try:
            if value.component is not None and port.type.form == "protocol":
                protocol = self.registry.protocol(port.type.name)
                lacks = self.registry.fits_protocol(value.component.type, protocol) if protocol and value.component.type.role != "protocol" else None
                if lacks:
                    raise Mismatch(f"expected a {port.type}, but {lacks}")
                if value.component.type.role == "protocol" and value.component.type.name != port.type.name:
                    raise Mismatch(f"expected {port.type}, got {value.type}")
                return True
            if port.type.form == "list" and value.type.form == "list" and value.fields:
                for item in value.fields.values():
                    if port.type.item is not None:
                        self.unifier.meet(item, port.type.item, use, bindings)
                return True
            self.unifier.meet(value, port, use, bindings)
        except Mismatch as mismatch:
            self.unifier.restore(before)
            given = f"from {arg}" if isinstance(arg, Ref) else "as written"
            fitting = self._fitting(port, use, scope, avoid=str(arg))
            self.fault(arg.place, f"{node.name}.{name}: {mismatch}", f"{given}; {fitting}" if fitting else given)
            return False
        return True

    def _fitting(self, port: Port, use: Use, scope: Scope, avoid: str = "") -> str | None:
        """What in sight would fit, as a hint."""
        found: list[str] = []
        for name, value in reversed(scope.names.items()):
            for text, candidate in [(f"${name}", value), *((f"${name}.{part}", v) for part, v in value.fields.items())]:
                if text == avoid or candidate.type.form in ("any", "scalar", "choice") or candidate.component is not None:
                    continue
                before = self.unifier.snapshot()
                try:
                    if compatible(candidate.type, port.type) and port.type.form not in ("any", "var", "scalar"):
                        self.unifier.meet(candidate, port, use)
                        found.append(text)
                except Mismatch:
                    pass
                self.unifier.restore(before)
        return f"{' or '.join(found[:3])} would fit" if found else None

    def _output(
        self, node: Node, method: Method, values: Mapping[str, Value], use: Use, facts: Mapping[str, str], bindings: Mapping[str, Value]
    ) -> Value:
        port = method.output
        if port.type.form == "var":
            bound = bindings.get(port.type.name)
            result = replace(bound, literal=UNSET, known=UNSET, maybe=False) if bound is not None else Value(ANY)
        else:
            result = self.unifier.instance(port, use, facts=facts)
        if method.shapes is not None:
            dims = self._shapes(node, method, values)
            if dims is not None and result.type.form == "record":
                result = self._reshape(result, dims)
            elif dims is not None:
                result = replace(result, dims=dims)
        return result

    def _reshape(self, value: Value, dims: tuple[Any, ...]) -> Value:
        fields = {n: replace(v, dims=dims[: len(v.dims)] if len(dims) >= len(v.dims) else dims) if v.dims else v for n, v in value.fields.items()}
        return replace(value, dims=dims, fields=fields)

    def _shapes(self, node: Node, method: Method, values: Mapping[str, Value]) -> tuple[Any, ...] | None:
        def dims_of(value: Value) -> Any:
            if value.type.form == "list" and value.fields:
                return [dims_of(item) for item in value.fields.values()]
            if value.dims is not None:
                return self.unifier.resolve(value.dims)
            return value.literal if not isinstance(value.literal, Unset) else None

        known = {name: dims_of(value) for name, value in values.items()}
        for name, port in method.inputs.items():
            if name not in known:
                known[name] = port.default
        if any(_unknown(part) for name, part in known.items() if name in values):
            return None
        try:
            dims = import_name(method.shapes or "")(**known)
        except DiffgraphError as error:
            self.fault(node.place, f"{node.name}: {error.message}", error.hint)
            return None
        return tuple(Dim.of(d) if isinstance(d, int) else d for d in dims)

    # --- included graphs

    def _graph(self, node: Node, scope: Scope) -> Value:
        text = node.target_text
        try:
            source = scope.source.include(text)
            if source.address in self._including_addresses:
                cycle = [*self._including_addresses[self._including_addresses.index(source.address) :], source.address]
                raise CheckError("graphs include each other: " + " -> ".join(cycle), hint="break the cycle")
            inner = self.loader.load(source)
        except CheckFailed as failed:
            self.problems.extend(p for p in failed.problems if p not in self.problems)
            self._skip(node, scope)
            return Value(ANY)
        except DiffgraphError as error:
            self._skip(node, scope)
            return self.fault(node.target.place, f"{node.name}: {error.message}", error.hint)
        if inner.train is not None:
            self._skip(node, scope)
            return self.fault(node.target.place, f"{node.name}: {text} is a training graph, which cannot be included")
        names: dict[str, Value] = {}
        use = Use(self.unifier)
        for name, arg in node.args.items():
            if name not in inner.inputs:
                near = nearest(name, list(inner.inputs))
                hint = f"did you mean {near!r}?" if near else "it has: " + ", ".join(inner.inputs)
                self.fault(arg.place, f"{node.name}: {text} has no input {name!r}", hint)
                self.value(arg, scope, f"{node.name}.{name}")
                continue
            names[name] = self._passed(node, name, arg, inner.inputs[name], use, scope)
        for item in inner.inputs.values():
            if item.name in names:
                continue
            if item.required:
                port = self.registry.input_type(item.type)
                hint = self._fitting(port, use, scope) if port is not None else None
                names[item.name] = self.fault(node.place, f"{node.name}: {text} needs the input {item.name} ({item.type})", hint)
            else:
                names[item.name] = literal_value(item.default)
        inside = Scope(names, source, f"{scope.path}{node.name}.", scope.loops, scope.branches)
        self._including.append(f"{node.name}, included at {node.place}")
        self._addresses.append(source.address)
        try:
            outputs = self._document_body(inner, inside)
        finally:
            self._including.pop()
            self._addresses.pop()
        return Value(Type("record", node.name), fields=outputs)

    @property
    def _including_addresses(self) -> list[str]:
        return self._addresses

    @property
    def _addresses(self) -> list[str]:
        if not hasattr(self, "_address_list"):
            self._address_list: list[str] = []
        return self._address_list

    def _passed(self, node: Node, name: str, arg: Arg, item: Input, use: Use, scope: Scope) -> Value:
        value = self.value(arg, scope, f"{node.name}.{name}")
        port = self.registry.input_type(item.type)
        if port is None:
            return value
        port = replace(port, optional=not item.required and item.default is None, default=item.default if not item.required else UNSET)
        if item.type == "choice":
            port = replace(port, type=Type("choice", options=item.choices))
        if not self._meet(node, name, arg, value, port, use, scope):
            return Value(ANY)
        exact = value.known if isinstance(value.literal, Unset | Dim) else value.literal
        if _plain(exact) and (problem := input_problem(item, port, exact)):
            self.fault(arg.place, f"{node.name}.{name}: {problem}", "as written" if isinstance(arg, Lit) else f"from {arg}")
        return self._fresh(value, scope.loops)

    # --- bodies

    def _inside(self, node: Node, scope: Scope, own: Mapping[str, Value], *, loop: bool, arm: int | None = None) -> Scope:
        for name in own:
            if name in scope.names:
                self.fault(node.place, f"{node.name}: the name {name} is taken already around the body", "rename it")
        loops = (*scope.loops, id(node)) if loop else scope.loops
        branches = (*scope.branches, (id(node), arm)) if arm is not None else scope.branches
        return Scope({**scope.names, **own}, scope.source, f"{scope.path}{node.name}.", loops, branches)

    def _leave(self, node: Node, body: Body, scope: Scope, inside: Scope, own: Iterable[str]) -> None:
        local = {*own, *body.nodes}
        self._unused(body.nodes, inside)
        scope.used.update(inside.used - local)

    def _loop(self, node: Node, scope: Scope) -> Value:
        item = self._element(node, scope)
        start = {name: self.value(arg, scope, f"{node.name}.carry.{name}") for name, arg in node.carry.items()}
        own = {node.as_name: item, **{name: replace(v, literal=UNSET, known=UNSET) for name, v in start.items()}}
        inside = self._inside(node, scope, own, loop=True)
        for name in start:
            inside.names[name] = self._fresh(inside.names[name], inside.loops)
        assert node.body is not None
        self._nodes(node.body.nodes, inside)
        result: dict[str, Value] = {}
        for name, arg in node.next.items():
            if name not in start:
                continue
            value = self.value(arg, inside, f"{node.name}.next.{name}")
            self._same(node, f"next.{name}", arg, value, start[name])
            if isinstance(arg, Ref) and arg.name == name and not arg.path:
                self.fault(arg.place, f"{node.name}: {name} is carried but never changed", "wire into `next` what it becomes, or do not carry it")
            result[name] = replace(start[name], literal=UNSET, known=UNSET)
        for name, arg in node.collect.items():
            value = self.value(arg, inside, f"{node.name}.collect.{name}")
            result[name] = Value(Type("list", item=Port(value.type)), item=value)
        for name in node.carry:
            if name not in inside.used:
                self.fault(
                    node.carry[name].place, f"{node.name}: {name} is carried, but nothing in the loop reads it",
                    f"wire ${name} where the loop now takes a value from outside",
                )  # fmt: skip
        self._leave(node, node.body, scope, inside, own)
        return Value(Type("record", node.name), fields=result)

    def _element(self, node: Node, scope: Scope) -> Value:
        sequence = self.value(node.target, scope, node.name)
        if sequence.type.form not in ("list", "any"):
            return self.fault(node.target.place, f"{node.name}: a {node.form} runs over a list; {node.target} is {sequence.type}")
        if sequence.item is not None:
            item = sequence.item
            return replace(item, facts={**sequence.facts, **item.facts})
        if isinstance(sequence.literal, list) and sequence.literal:
            return replace(literal_value(sequence.literal[0]), literal=UNSET)
        if sequence.fields:
            return replace(next(iter(sequence.fields.values())), literal=UNSET)
        return Value(ANY)

    def _same(self, node: Node, what: str, arg: Arg, value: Value, first: Value) -> None:
        """A carried value keeps its type, shape and facts from turn to turn, and both branches give alike."""
        message = ""
        if not compatible(value.type, first.type):
            message = f"expected {first.type} as at the start, got {value.type}"
        elif value.dims is not None and first.dims is not None and not self.unifier.equate_dims(value.dims, first.dims):
            dims = [", ".join(map(str, self.unifier.resolve(v.dims))) for v in (first, value)]
            message = f"expected shape [{dims[0]}] as at the start, got [{dims[1]}]"
        else:
            for fact, word in value.facts.items():
                if fact in first.facts and not self.unifier.equate_facts(word, first.facts[fact]):
                    message = f"expected {fact} {self.unifier.word(first.facts[fact])} as at the start, got {self.unifier.word(word)}"
        if message:
            self.fault(arg.place, f"{node.name}.{what}: {message}", f"from {arg}")

    def _map(self, node: Node, scope: Scope) -> Value:
        own = {node.as_name: self._element(node, scope)}
        inside = self._inside(node, scope, own, loop=True)
        inside.names[node.as_name] = self._fresh(inside.names[node.as_name], inside.loops)
        outputs = self._body(node, node.body, inside)
        if node.as_name not in inside.used:
            self.fault(node.place, f"{node.name}: nothing in the map uses ${node.as_name}")
        assert node.body is not None
        self._leave(node, node.body, scope, inside, own)
        fields = {name: Value(Type("list", item=Port(value.type)), item=value) for name, value in outputs.items()}
        return Value(Type("record", node.name), fields=fields)

    def _body(self, node: Node, body: Body | None, inside: Scope) -> dict[str, Value]:
        assert body is not None
        self._nodes(body.nodes, inside)
        return {name: self.value(arg, inside, f"{node.name}.outputs.{name}") for name, arg in body.outputs.items()}

    def _when(self, node: Node, scope: Scope) -> Value:
        flag = self.value(node.target, scope, node.name)
        if not compatible(flag.type, BOOL):
            self.fault(node.target.place, f"{node.name}: `when` takes true or false; {node.target} is {flag.type}", "Equal and Between compare")
        inside = self._inside(node, scope, {}, loop=False, arm=0)
        outputs = self._body(node, node.body, inside)
        assert node.body is not None
        self._leave(node, node.body, scope, inside, ())
        if node.other is None:
            return Value(Type("record", node.name), fields={n: replace(v, maybe=True) for n, v in outputs.items()})
        otherwise = self._inside(node, scope, {}, loop=False, arm=1)
        others = self._body(node, node.other, otherwise)
        self._leave(node, node.other, scope, otherwise, ())
        for name, value in others.items():
            if name in outputs:
                self._same(node, f"else.outputs.{name}", node.other.outputs[name], value, outputs[name])
        return Value(Type("record", node.name), fields={n: replace(v, literal=UNSET, known=UNSET) for n, v in outputs.items()})

    def _grad(self, node: Node, scope: Scope) -> Value:
        x = self.value(node.target, scope, node.name)
        own = {node.as_name: x}
        inside = self._inside(node, scope, own, loop=False)
        assert node.body is not None and node.of is not None
        self._nodes(node.body.nodes, inside)
        score = self.value(node.of, inside, f"{node.name}.of")
        if node.as_name not in inside.used:
            self.fault(node.place, f"{node.name}: the score does not depend on ${node.as_name}")
        self._leave(node, node.body, scope, inside, own)
        return Value(Type("record", node.name), fields={"value": score, "grad": replace(x, literal=UNSET)})

    # --- training

    def _train(self, graph: GraphDocument, scope: Scope) -> None:
        train = graph.train
        assert train is not None
        scope.names[train.data.as_name or "batch"] = self._fresh(self.node(train.data, scope), ())

    def _train_ends(self, graph: GraphDocument, scope: Scope) -> None:
        train = graph.train
        assert train is not None
        loss = self.value(train.loss, scope, "train.loss")
        if loss.type.form not in ("any", "kind") and not compatible(loss.type, Type("scalar", "float")):
            self.fault(train.loss.place, f"train.loss: expected a scalar tensor, got {loss.type}")
        for name in train.update:
            node = graph.nodes.get(name)
            value = scope.names.get(name)
            if node is None or value is None or (value.component is None and value.type != ANY):
                near = nearest(name, [n for n, v in scope.names.items() if v.component is not None])
                self.fault(train.place, f"train.update: there is no component {name!r}", f"did you mean {near!r}?" if near else None)
            elif value.component is not None and not value.component.type.trainable:
                self.fault(train.place, f"train.update: {name} is a {value.component.type.name}, which has no weights to train")
        for key in ("steps", "checkpoint"):
            number = train.settings.get(key)
            if isinstance(number, str) and number.startswith("$"):
                scope.used.add(number[1:])
        for value in train.settings.values():
            if isinstance(value, str) and value.startswith("$"):
                scope.used.add(value[1:].split(".")[0])


_scalars = ("text", "int", "float", "bool", "choice", "file", "folder", "weights")


def input_problem(item: Input, port: Port, value: Any) -> str | None:
    """What is wrong with a value for a declared input, in words, or None."""
    if value is None:
        return None if not item.required and item.default is None else f"is null; expected {port.type}"
    if not _plain(value):
        return None
    if port.type.form in ("kind", "scalar") and port.type.name not in ("int", "float", "bool") and isinstance(value, str):
        if port.type.form == "kind" and "text" not in port.type.literals:
            return None  # the path of a file, which the kind's reader opens
    elif problem := literal_problem(value, port):
        return problem
    if item.choices and value not in item.choices:
        return f"{value!r} is not one of {', '.join(map(repr, item.choices))}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if item.min is not None and value < item.min:
            return f"{value!r} must be at least {item.min:g}"
        if item.max is not None and value > item.max:
            return f"{value!r} must be at most {item.max:g}"
    return None


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)


def _known(dims: Iterable[Any]) -> bool:
    return all(isinstance(d, Dim) and not any(s.startswith("?") for symbols, _ in d.terms for s in symbols) for d in dims)


def _unknown(part: Any) -> bool:
    return part is None or (isinstance(part, list) and any(_unknown(p) for p in part))


def _streams(value: Value) -> Iterable[int]:
    if value.stream:
        yield value.stream
    for inner in value.fields.values():
        yield from _streams(inner)


def _exclusive(left: tuple[tuple[int, int], ...], right: tuple[tuple[int, int], ...]) -> bool:
    arms = dict(left)
    return any(node in arms and arms[node] != arm for node, arm in right)


__all__ = ["Checker", "ComponentInfo", "Configs", "input_problem", "inner_args"]
