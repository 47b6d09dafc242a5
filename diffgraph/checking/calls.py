"""Checking one node: a component's parameters, the inputs of a call, and what a wire may meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from ..errors import DiffgraphError, nearest
from ..language.graph import Arg, Lit, Node, Ref, arg_refs, node_refs
from ..ports import ANY, UNSET, Port, Type, Unset, compatible
from ..registry import Method, NodeType, import_name
from .dims import Dim, Rest
from .scopes import ComponentInfo, References, Scope
from .unify import Mismatch, Use, Value

COMPONENT_KEYS: dict[str, Port] = {
    "weights": Port(Type("scalar", "weights"), optional=True, default=None),
    "init_seed": Port(Type("scalar", "int"), optional=True, default=None),
    "dtype": Port(Type("choice", options=("fp32", "fp16", "bf16")), optional=True, default=None),
    "device": Port(Type("scalar", "text"), optional=True, default=None),
}
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?", re.ASCII)


class Calls(References):
    """Checks nodes that are a component, or call one, or a function."""

    def _node(self, node: Node, scope: Scope) -> Value:
        name = node.target_text
        found = node.live if isinstance(node.live, NodeType) else self.registry.get(name)
        if found is None:
            self._skip(node, scope)
            if self.registry.protocol(name) is not None:
                what = f"{node.name}: {name} is a protocol, what a component must have; no node is of this type"
                return self.fault(node.target.place, what, "name a component, or declare an input of this type")
            return self.fault(
                node.target.place, f"{node.name}: there is no node type {name!r}", self.registry.suggest(name)
            )
        if found.role == "component":
            return self._component(node, found, scope)
        return self._call_method(node, found.call, {}, "", {}, scope)

    def _skip(self, node: Node, scope: Scope) -> None:
        for ref in node_refs(node):
            scope.used.add(ref.name)

    def _useless(self, node: Node, kind: NodeType) -> None:
        """Refuses what a component would take and never read."""
        if "init_seed" in node.args and "weights" in node.args:
            hint = "leave one of the two out"
            self.fault(node.args["init_seed"].place, f"{node.name}.init_seed: the values come from weights", hint)
        for name in ("init_seed", "dtype", "device"):
            if name in node.args and not kind.trainable:
                what = f"{node.name}.{name}: {kind.name} holds no tensors"
                self.fault(node.args[name].place, what, "leave it out")
        device = node.args.get("device")
        if isinstance(device, Lit) and isinstance(device.value, str) and not DEVICE.fullmatch(device.value):
            self.fault(
                device.place, f"{node.name}.device: there is no device {device.value!r}", "cpu, mps, cuda, or cuda:1"
            )

    def _component(self, node: Node, kind: NodeType, scope: Scope) -> Value:
        self._useless(node, kind)
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
            fine = self._meet(node, name, arg, value, port, self._use(info, {}), scope)
            exact = value.known if isinstance(value.literal, Unset | Dim) else value.literal
            if name == "weights":
                weights = exact
            elif name not in COMPONENT_KEYS:
                explicit[name] = exact if fine else UNSET
        alive = {} if node.live is None or isinstance(node.live, NodeType) else kind.config_of(node.live)
        explicit = alive | explicit
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
                    self.fault(
                        node.place,
                        f"{node.name}: {kind.name} needs `{name}`",
                        "give it, or give `weights:` with a config",
                    )
        use = self._use(info, {})
        info.facts = {**facts, **{k: w for k, text in kind.facts.items() if (w := use.fact(text)) is not None}}
        return Value(Type("component", kind.name), component=info, facts=dict(info.facts))

    def _unknown_input(self, node: Node, name: str, arg: Arg, ports: Mapping[str, Port]) -> None:
        near = nearest(name, list(ports))
        hint = f"did you mean {near!r}?" if near else "it has: " + ", ".join(ports) if ports else "it has none"
        self.fault(arg.place, f"{node.name}: {node.target_text} has no input {name!r}", hint)

    def _call(self, node: Node, scope: Scope) -> Value:
        target = node.target
        assert isinstance(target, Ref)
        path, method_name = _split(target.path, scope.names.get(target.name))
        found = self.reference(replace(target, path=path), scope, node.name)
        info = found.component
        if info is None:
            self._skip(node, scope)
            if found.type != ANY:
                self.fault(
                    target.place,
                    f"{node.name}: {target} is {found.type}, not a component",
                    "call takes what the node of a component gives",
                )
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
                    self.fault(
                        node.place,
                        f"{node.name}: the input {name} ({port.type}) is missing",
                        self._fitting(port, Use(self.unifier, literals, identity), scope),
                    )
                elif is_plain(port.default):
                    literals[name] = port.default
        alone = not isinstance(info, ComponentInfo)
        use = Use(self.unifier, literals, identity) if alone else self._use(info, literals)
        bindings: dict[str, Value] = {}
        fine = True
        for name, value in values.items():
            fine &= self._meet(node, name, node.args[name], value, method.inputs[name], use, scope, bindings)
        if not fine and method.output.type.form == "var":
            return Value(ANY)
        result = self._output(node, method, values, use, facts, bindings)
        if all(value.origin for value in values.values()):
            made_of = tuple(sorted((name, value.origin) for name, value in values.items()))
            result.origin = hash((node.form, node.target_text, identity, method.name, made_of))
        return result

    def _meet(
        self,
        node: Node,
        name: str,
        arg: Arg,
        value: Value,
        port: Port,
        use: Use,
        scope: Scope,
        bindings: dict[str, Value] | None = None,
    ) -> bool:
        if value.type == ANY and value.component is None:
            return True
        before = self.unifier.snapshot()
        try:
            if value.component is not None and port.type.form == "protocol":
                protocol = self.registry.protocol(port.type.name)
                lacks = (
                    self.registry.fits_protocol(value.component.type, protocol)
                    if protocol and value.component.type.role != "protocol"
                    else None
                )
                if lacks:
                    raise Mismatch(f"expected {port.type}; {lacks}")
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
        for name, value in islice(reversed(dict(scope.names).items()), 100):
            for text, candidate in [(f"${name}", value), *((f"${name}.{part}", v) for part, v in value.fields.items())]:
                if (
                    text == avoid
                    or candidate.type.form in ("any", "scalar", "choice")
                    or candidate.component is not None
                ):
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
        self,
        node: Node,
        method: Method,
        values: Mapping[str, Value],
        use: Use,
        facts: Mapping[str, str],
        bindings: Mapping[str, Value],
    ) -> Value:
        port = method.output
        if port.type.form == "var":
            bound = bindings.get(port.type.name)
            result = replace(bound, literal=UNSET, known=UNSET, maybe=False) if bound is not None else Value(ANY)
            own = {name: word for name, text in port.facts if (word := use.fact(text)) is not None}
            if own or port.shape is not None:
                dims = use.dims(port.shape) if port.shape is not None else result.dims
                result = replace(result, dims=dims, facts={**result.facts, **own})
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
        fields = {
            n: replace(v, dims=dims[: len(v.dims)] if len(dims) >= len(v.dims) else dims) if v.dims else v
            for n, v in value.fields.items()
        }
        return replace(value, dims=dims, fields=fields)

    def _shapes(self, node: Node, method: Method, values: Mapping[str, Value]) -> tuple[Any, ...] | None:
        def dims_of(value: Value) -> Any:
            if value.type.form == "list" and value.fields:
                return [dims_of(item) for item in value.fields.values()]
            return self.unifier.resolve(value.dims) if value.dims is not None else None

        known: dict[str, Any] = {}
        for name, value in values.items():
            plain = method.inputs[name].type.form in ("scalar", "choice")
            literal = None if isinstance(value.literal, Unset) else value.literal
            known[name] = literal if plain else dims_of(value)
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
        except (IndexError, TypeError):  # more dimensions are asked of an input than are known of it
            return None
        return tuple(Dim.of(d) if isinstance(d, int) else d for d in dims)


def _split(path: tuple[str, ...], value: Value | None) -> tuple[tuple[str, ...], str]:
    """The path to a component, and the method after it; `__call__` where none is named."""
    for number, part in enumerate(path):
        if value is not None and value.type.form == "outputs" and part not in value.fields and len(value.fields) == 1:
            (value,) = value.fields.values()
        if value is not None and value.component is not None and number == len(path) - 1:
            return path[:number], part
        value = value.fields.get(part) if value is not None else None
    return path, "__call__"


def is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _unknown(part: Any) -> bool:
    if (
        isinstance(part, tuple) and part and isinstance(part[0], Rest)
    ):  # dimensions of which not even the first is known
        return True
    return part is None or (isinstance(part, list) and any(_unknown(p) for p in part))
