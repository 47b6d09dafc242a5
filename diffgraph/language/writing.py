"""Writing: a graph as plain data, in the order of keys that documents have; and its hash, which is of what it means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CheckError
from .graph import BODY_KEYS, FORMAT, Arg, GraphDocument, Input, ListOf, Node, Ref, ordered


def arg_plain(arg: Arg) -> Any:
    if isinstance(arg, Ref):
        return str(arg)
    if isinstance(arg, ListOf):
        return [arg_plain(item) for item in arg.items]
    return _escape(arg.value)


def _escape(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return "$" + value
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value


def _args_plain(args: Mapping[str, Arg]) -> dict[str, Any]:
    return {name: arg_plain(arg) for name, arg in args.items()}


def node_plain(node: Node) -> dict[str, Any]:
    """A node as a document has it. Raises CheckError for a live object, which a document cannot hold."""
    if node.live is not None and not isinstance(node.live, str):
        raise CheckError(
            f"{node.name} was added as a live object, which a document cannot hold",
            hint="save it with save_pretrained and give `weights=`, or add its type by name",
        )
    out: dict[str, Any] = {node.form: arg_plain(node.target)}
    if node.form not in BODY_KEYS:
        return out | _args_plain(node.args)
    assert node.body is not None
    if node.as_name:
        out["as"] = node.as_name
    if node.carry:
        out["carry"] = _args_plain(node.carry)
    out["nodes"] = {name: node_plain(inner) for name, inner in node.body.nodes.items()}
    if node.next:
        out["next"] = _args_plain(node.next)
    if node.collect:
        out["collect"] = _args_plain(node.collect)
    if node.of is not None:
        out["of"] = arg_plain(node.of)
    if node.body.outputs:
        out["outputs"] = _args_plain(node.body.outputs)
    if node.other is not None:
        out["else"] = {
            "nodes": {name: node_plain(inner) for name, inner in node.other.nodes.items()},
            "outputs": _args_plain(node.other.outputs),
        }
    return out


def document_plain(graph: GraphDocument) -> dict[str, Any]:
    """The graph as plain data, in the order of keys that documents have."""
    out: dict[str, Any] = {"diffgraph": FORMAT}
    for key in ("name", "summary", "requires"):
        if value := getattr(graph, key):
            out[key] = value
    if graph.inputs:
        out["inputs"] = {}
        for item in graph.inputs.values():
            spec: dict[str, Any] = {"type": item.type}
            if not item.required:
                spec["default"] = item.default
            for key in ("min", "max"):
                if getattr(item, key) is not None:
                    spec[key] = getattr(item, key)
            if item.choices:
                spec["choices"] = list(item.choices)
            if item.help:
                spec["help"] = item.help
            if item.secret:
                spec["secret"] = True
            if item.differs:
                spec["differs"] = item.differs
            out["inputs"][item.name] = spec
    if graph.variants:
        out["variants"] = graph.variants
    out["nodes"] = {name: node_plain(node) for name, node in graph.nodes.items()}
    if graph.outputs:
        out["outputs"] = _args_plain(graph.outputs)
    if graph.train is not None:
        data = node_plain(graph.train.data) | {"as": graph.train.data.as_name}
        save = {"save": graph.train.save} if graph.train.save else {}
        settings = save | {"loss": arg_plain(graph.train.loss)} | graph.train.settings
        out["train"] = {"data": data, "update": graph.train.update, **settings}
    return out


Digests = tuple[Callable[[str], str], Callable[[Any], str]]


def graph_hash(graph: GraphDocument, include: Callable[[str], str], live: Callable[[Any], str]) -> str:
    """A digest of what the graph means, whatever its nodes are called and in whichever order they stand.

    It depends on every value. include: the digest of an included graph by its address. live: that of a live object.
    """
    digests = (include, live)
    outer = {name: _digest("input", name, *_input_parts(item)) for name, item in graph.inputs.items()}
    if graph.train is not None:
        outer[graph.train.data.as_name] = _digest("batch", _node_digest(graph.train.data, outer, digests, 0))
    names = _scope_digests(graph.nodes, outer, digests, 0)
    parts: list[Any] = [
        sorted(outer.values()),
        {name: _arg_digest(arg, names) for name, arg in sorted(graph.outputs.items())},
    ]
    if graph.train is not None:
        update = {folder: names.get(name, name) for name, folder in graph.train.update.items()}
        parts.append([sorted(update.items()), _arg_digest(graph.train.loss, names), graph.train.settings])
        if graph.train.save:
            parts.append(sorted((folder, names.get(name, name)) for name, folder in graph.train.save.items()))
    return _digest("graph", *parts, sorted(names[name] for name in graph.nodes))


def _input_parts(item: Input) -> list[Any]:
    return [item.type, item.required, item.default, item.min, item.max, list(item.choices), item.secret, item.differs]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _arg_digest(arg: Arg | None, names: Mapping[str, str]) -> str:
    if isinstance(arg, Ref):
        return _digest("ref", names.get(arg.name, arg.name), arg.path, arg.sub)
    if isinstance(arg, ListOf):
        return _digest("list", [_arg_digest(item, names) for item in arg.items])
    if arg is None:
        return ""
    kind = "str" if isinstance(arg.value, str) else type(arg.value).__name__
    return _digest("lit", kind, arg.value)


def _scope_digests(nodes: Mapping[str, Node], outer: Mapping[str, str], digests: Digests, depth: int) -> dict[str, str]:
    names = dict(outer)
    for node in ordered(nodes)[0]:
        names[node.name] = _node_digest(node, names, digests, depth)
    return names


def _node_digest(node: Node, names: Mapping[str, str], digests: Digests, depth: int) -> str:
    def table(args: Mapping[str, Arg], scope: Mapping[str, str]) -> list[Any]:
        return [[name, _arg_digest(arg, scope)] for name, arg in sorted(args.items())]

    target = digests[0](node.target_text) if node.form == "graph" else _arg_digest(node.target, names)
    parts: list[Any] = [
        node.form,
        target,
        table(node.args, names),
        table(node.carry, names),
        digests[1](node.live) if node.live is not None else "",
    ]
    for body in (node.body, node.other):
        if body is not None:
            inside = dict(names)
            inside[node.as_name] = _digest("as", depth)
            inside.update({name: _digest("carry", depth, name) for name in node.carry})
            scope = _scope_digests(body.nodes, inside, digests, depth + 1)
            parts.append([table(body.outputs, scope), sorted(scope[name] for name in body.nodes)])
            if body is node.body:
                parts += [table(node.next, scope), table(node.collect, scope), _arg_digest(node.of, scope)]
    return _digest(*parts)
