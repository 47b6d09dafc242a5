"""Checking a graph: names, types, shapes, facts, ranges; all mistakes together, before any weight is read.

Two levels. Structure: what the document and the index of nodes say, offline. Configured: with each component's small config,
given by `configs`. An included graph is checked where it stands, with what is wired into it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..authoring import Component
from ..components import anchored
from ..errors import CheckError, DiffgraphError, OfflineError, Place, nearest
from ..language.graph import NAME, UNREADABLE, Arg, GraphDocument, Input, Lit, Node
from ..language.sources import Source
from ..live import type_of
from ..ports import ANY, FLOAT, INT, UNSET, Port, Type, Unset, compatible, literal_problem
from ..registry import Registry
from .bodies import Bodies
from .calls import is_plain
from .dims import Dim, Rest
from .scopes import ComponentInfo, Scope
from .unify import Use, Value, literal_value

MAX_DEPTH = 32  # of graphs in graphs

FOLDER, WEIGHTS = Port(Type("scalar", "folder")), Type("scalar", "weights")
_scalars = ("text", "int", "float", "bool", "choice", "file", "folder", "weights")


class Checker(Bodies):
    """Checks one graph and what it includes; `problems` holds every mistake found.

    refused: among these, documents that are not on this machine, offline.
    """

    def document(self, graph: GraphDocument, source: Source, given: Mapping[str, Any]) -> dict[str, Value]:
        """Checks a whole document with these values of its inputs; returns what is known of its outputs."""
        self.structure(graph, source)
        self._addresses.append(source.identity)
        names = {item.name: self._input(item, given.get(item.name, UNSET)) for item in graph.inputs.values()}
        for variant, values in graph.variants.items():
            self._variant(graph, variant, values)
        scope = Scope(ChainMap(names), source)
        if graph.train is not None:
            self._train(graph, scope)
        return self._document_body(graph, scope)

    def _variant(self, graph: GraphDocument, variant: str, values: Mapping[str, Any]) -> None:
        place = graph.places.get(f"variants.{variant}", Place(graph.file))
        for key, value in values.items():
            item = graph.inputs.get(key)
            if item is None and key != "set":
                near = nearest(key, list(graph.inputs))
                hint = f"did you mean {near!r}?" if near else None
                self.fault(place, f"variant {variant}: there is no input {key!r}", hint)
            elif item is not None:
                port = input_port(item, self.registry)
                if port is not None and (problem := input_problem(item, port, value)):
                    self.fault(place, f"variant {variant}: {key}: {problem}")

    def _document_body(self, graph: GraphDocument, scope: Scope) -> dict[str, Value]:
        outer = set(scope.names)
        self._nodes(graph.nodes, scope)
        outputs = {name: self._result(name, arg, scope) for name, arg in graph.outputs.items()}
        if graph.train is not None:
            self._train_ends(graph, scope)
        self._unused(graph.nodes, scope)
        for name in outer - scope.used:
            if name in graph.inputs and NAME.fullmatch(name):
                self.fault(graph.inputs[name].place, f"nothing uses the input {name}", f"wire ${name}, or remove it")
        return outputs

    def _result(self, name: str, arg: Arg, scope: Scope) -> Value:
        """An output of a document: one value; a component only where another graph includes this one, and can call it."""
        value = self.value(arg, scope, f"output {name}")
        if value.component is not None and not self._including:
            return self.fault(arg.place, f"output {name}: {arg} is a component, which is no result", "call it")
        return value

    def _input(self, item: Input, given: Any) -> Value:
        if item.type == UNREADABLE:
            return Value(ANY)
        port = input_port(item, self.registry)
        if port is None:
            near = nearest(item.type, [*self.registry.kinds, *self.registry.records, *_scalars, *self._components()])
            hint = (
                f"did you mean {near}?" if near else f"use one of {', '.join(_scalars)}, or a kind that a node declares"
            )
            return self.fault(item.place, f"input {item.name}: there is no type {item.type!r}", hint)
        if item.type == "choice" and not item.choices:
            return self.fault(item.place, f"input {item.name}: a choice needs `choices: [...]`")
        if (item.min is not None or item.max is not None) and not _is_number(port):
            return self.fault(item.place, f"input {item.name}: min and max are of numbers, not of {port.type}")
        actual = given if not isinstance(given, Unset) else (item.default if not item.required else UNSET)
        if not item.required and (problem := input_problem(item, port, item.default)):
            return self.fault(item.place, f"input {item.name}: the default: {problem}")
        if isinstance(given, Component):
            return self._given_component(item, port, given)
        value = self._fresh(self.unifier.instance(port, Use(self.unifier, identity=item.name)), ())
        value.maybe = not item.required and item.default is None
        value.learns = port.type.form == "kind"
        if port.type.form in ("protocol", "component"):
            kind = self.registry.nodes[port.type.name]
            value.component = ComponentInfo(kind, item.name)
        if port.type.form == "scalar" and port.type.name == "int":
            value.literal, value.known = Dim.of(item.name), actual
            if isinstance(actual, int):
                self.unifier.numbers[item.name] = actual
        elif port.type.form in ("scalar", "choice", "list", "kind"):
            names_a_file = port.type.form == "kind" and isinstance(actual, str) and "text" not in port.type.literals
            value.known = actual if is_plain(actual) and not names_a_file else UNSET
            if port.type.name in ("text", "weights", "bool"):
                value.literal = value.known
        if port.type.form == "kind" and (shape := getattr(actual, "shape", None)) is not None:
            value.dims = tuple(Dim.of(size) for size in shape)
        if value.dims is None and port.type.form == "kind" and not port.type.literals:
            value.dims = (Rest(item.name),)
        value.origin = hash(("input", item.name))
        if actual is None:
            value.known, value.literal = UNSET, UNSET
        return value

    def _given_component(self, item: Input, port: Port, given: Component) -> Value:
        """A live component that Python gives for an input: checked by its own config."""
        kind = type_of(type(given), self.registry)
        protocol = self.registry.protocol(port.type.name)
        lacks = self.registry.fits_protocol(kind, protocol) if protocol is not None else None
        if lacks is not None or (protocol is None and port.type.name != kind.name):
            return self.fault(item.place, f"input {item.name}: expected {port.type}; {lacks or f'got {kind.name}'}")
        info = ComponentInfo(kind, item.name, kind.config_of(given))
        use = self._use(info, {})
        info.facts = {name: word for name, text in kind.facts.items() if (word := use.fact(text)) is not None}
        return Value(Type("component", kind.name), component=info, facts=dict(info.facts))

    def _components(self) -> list[str]:
        return [name for name, node in self.registry.nodes.items() if node.role != "function"]

    def _graph(self, node: Node, scope: Scope) -> Value:
        text = node.target_text
        try:
            source = scope.source.include(text)
            if source.identity in self._addresses:
                around = self._addresses[self._addresses.index(source.identity) :]
                cycle = " -> ".join(Path(address).name for address in (*around, source.identity))
                raise CheckError(f"graphs include each other: {cycle}", hint="break the cycle")
            if len(self._addresses) > MAX_DEPTH:
                raise CheckError(f"graphs include each other more than {MAX_DEPTH} levels deep", hint="flatten them")
            inner = self.loader.read(source)
        except DiffgraphError as error:
            if isinstance(error, OfflineError):
                self.refused.append(error)
            self._skip(node, scope)
            if error.place is not None and error.place.line:
                where = f"{error.message} (in {node.name}, included at {node.place})"
                return self.fault(error.place, where, error.hint)
            what = f"{text}: {error.message}" if text not in error.message else error.message
            return self.fault(node.target.place, f"{node.name}: {what}", error.hint)
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
                port = input_port(item, self.registry)
                fitting = self._fitting(port, use, scope) if port is not None else None
                names[item.name] = self.fault(
                    node.place, f"{node.name}: {text} needs the input {item.name} ({item.type})", fitting
                )
            else:
                names[item.name] = self._default(item)
        for item in inner.inputs.values():
            first, second = names.get(item.name), names.get(item.differs)
            if first is not None and second is not None and first.origin and first.origin == second.origin:
                self.fault(
                    node.args[item.name].place,
                    f"{node.name}.{item.name}: this is the same as {item.differs}, and they must differ",
                    f"{node.args[item.name]} and {node.args[item.differs]} are made in the same way of the same values",
                )
        inside = Scope(ChainMap(names), source, f"{scope.path}{node.name}.", scope.loops, scope.branches)
        self._including.append(f"{node.name}, included at {node.place}")
        self._addresses.append(source.identity)
        self.structure(inner, source)
        outputs = self._document_body(inner, inside)
        self._including.pop()
        self._addresses.pop()
        self._documents.pop()
        return Value(Type("outputs", node.name), fields=outputs)

    def _default(self, item: Input) -> Value:
        """What an included graph's input is where nothing is wired into it."""
        port = self.registry.input_type(item.type)
        if item.default is None or port is None or port.type.form != "kind":
            return literal_value(item.default)
        if isinstance(item.default, str) and "text" not in port.type.literals:
            hint = "give the graph that includes it an input of this type, and wire it"
            return self.fault(item.place, f"input {item.name}: only the graph that is run reads a file", hint)
        return Value(port.type, known=item.default)

    def _passed(self, node: Node, name: str, arg: Arg, item: Input, use: Use, scope: Scope) -> Value:
        value = self.value(arg, scope, f"{node.name}.{name}")
        port = input_port(item, self.registry)
        if port is None:
            return value
        port = replace(
            port,
            optional=not item.required and item.default is None,
            default=item.default if not item.required else UNSET,
        )
        if not self._meet(node, name, arg, value, port, use, scope):
            return Value(ANY)
        exact = value.known if isinstance(value.literal, Unset | Dim) else value.literal
        if port.type == WEIGHTS:
            address = anchored(value.literal, scope.source)
            value = replace(value, literal=address, known=address)
        if value.written:
            value = Value(port.type, known=exact) if port.type.form == "kind" else replace(value, written=False)
        if is_plain(exact) and (problem := input_problem(item, port, exact)):
            self.fault(
                arg.place, f"{node.name}.{name}: {problem}", "as written" if isinstance(arg, Lit) else f"from {arg}"
            )
        if port.type == FLOAT and value.type == INT:
            number = float(exact) if isinstance(exact, int) else UNSET
            value = replace(
                value, type=FLOAT, known=number, literal=UNSET if isinstance(value.literal, Dim) else number
            )
        return self._fresh(value, scope.loops)

    def _train(self, graph: GraphDocument, scope: Scope) -> None:
        train = graph.train
        assert train is not None
        scope.names[train.data.as_name or "batch"] = self._fresh(self._batch(train.data, scope), ())

    def _batch(self, node: Node, scope: Scope) -> Value:
        """What the data node of a training graph gives for a step: a component with `open(config, folder)` that is called."""
        if node.form == UNREADABLE:
            return self._unreadable(node, scope)
        kind = self.registry.get(node.target_text)
        if kind is None or kind.role != "component" or "__call__" not in kind.methods or "folder" not in node.args:
            such = "such as `{node: TYPE, folder: $data, as: batch}`"
            hint = such if kind else self.registry.suggest(node.target_text)
            self._skip(node, scope)
            return self.fault(node.place, "train.data: expected a component that opens a `folder` of data", hint)
        self._meet(
            node,
            "folder",
            node.args["folder"],
            self.value(node.args["folder"], scope, "train.data.folder"),
            FOLDER,
            Use(self.unifier),
            scope,
        )
        plain = replace(node, args={name: arg for name, arg in node.args.items() if name != "folder"})
        data = self._component(plain, kind, scope)
        if data.component is None:
            return Value(ANY)
        return self.unifier.instance(kind.call.output, self._use(data.component, {}), facts=data.component.facts)

    def _train_ends(self, graph: GraphDocument, scope: Scope) -> None:
        train = graph.train
        assert train is not None
        if train.data.as_name and train.data.as_name not in scope.used:
            self.fault(train.data.place, f"nothing uses ${train.data.as_name}, the batch of a step")
        if not train.update:
            self.fault(train.place, "train.update names nothing to train", "write `update: {COMPONENT: FOLDER}`")
        loss = self.value(train.loss, scope, "train.loss")
        if loss.type.form not in ("any", "kind") and not compatible(loss.type, Type("scalar", "float")):
            self.fault(train.loss.place, f"train.loss: expected a scalar tensor, got {loss.type}")
        written = [("update", *pair) for pair in train.update.items()] + [
            ("save", *pair) for pair in train.save.items()
        ]
        for key, name, folder in written:
            if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
                self.fault(train.place, f"train.{key}: {folder!r} is not below the output folder", f"such as {name}")
            node = graph.nodes.get(name)
            value = scope.names.get(name)
            if node is None or value is None or (value.component is None and value.type != ANY):
                near = nearest(name, [n for n, v in scope.names.items() if v.component is not None])
                self.fault(
                    train.place,
                    f"train.{key}: there is no component {name!r}",
                    f"did you mean {near!r}?" if near else None,
                )
            elif key == "save" and name in train.update:
                self.fault(train.place, f"train.save: {name} is in update, which writes it", "name it in one of them")
            elif key == "update" and value.component is not None and not value.component.type.trainable:
                self.fault(train.place, f"train.update: {name} ({value.component.type.name}) has no weights to train")
        stack = list(train.settings.items())
        while stack:
            key, setting = stack.pop()
            if isinstance(setting, dict):
                stack.extend((f"{key}.{name}", inner) for name, inner in setting.items())
            elif isinstance(setting, str) and setting.startswith("$"):
                scope.used.add(setting[1:])
                if setting[1:] not in graph.inputs:
                    near = nearest(setting[1:], list(graph.inputs))
                    hint = f"did you mean ${near}?" if near else "a number, or an input of the graph"
                    self.fault(train.place, f"train.{key}: there is no input {setting}", hint)


def input_port(item: Input, registry: Registry) -> Port | None:
    """The port that a declared input stands for, or None where there is no such type."""
    return Port(Type("choice", options=item.choices)) if item.type == "choice" else registry.input_type(item.type)


def _is_number(port: Port) -> bool:
    names = (port.type.name,) if port.type.form == "scalar" else port.type.literals
    return not {"int", "float"}.isdisjoint(names)


def input_problem(item: Input, port: Port, value: Any) -> str | None:
    """What is wrong with a value for a declared input, in words, or None."""
    if value is None:
        return None if not item.required and item.default is None else f"is null; expected {port.type}"
    if problem := _given_problem(value, port):
        return problem
    if item.choices and value not in item.choices:
        return f"{value!r} is not one of {', '.join(map(repr, item.choices))}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if item.min is not None and value < item.min:
            return f"{value!r} must be at least {item.min:g}"
        if item.max is not None and value > item.max:
            return f"{value!r} must be at most {item.max:g}"
    return None


def _given_problem(value: Any, port: Port) -> str | None:
    if isinstance(value, list) and port.type.form == "list" and port.type.item is not None:
        return next((p for item in value if (p := _given_problem(item, port.type.item))), None)
    if not is_plain(value):
        return None
    if isinstance(value, str) and port.type.form == "kind" and "text" not in port.type.literals:
        return None  # the path of a file, which the kind's reader opens
    return literal_problem(value, port)


__all__ = ["Checker", "input_port", "input_problem"]
