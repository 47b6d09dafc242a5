"""The graph as data: inputs, nodes, wires and bodies; read from a document, and written back as one.

Nothing here knows what a node type is: names, forms and scopes only. check.py gives them meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .document import Items, Scalar, Table, Tree, plain
from .errors import CheckError, DiffgraphError, DocumentError, Place, nearest

FORMAT = 1
FORMS = ("node", "call", "graph", "loop", "map", "when", "grad")
TOP_KEYS = ("diffgraph", "name", "summary", "requires", "inputs", "variants", "nodes", "outputs", "train")
INPUT_KEYS = ("type", "default", "min", "max", "choices", "help", "secret")
TRAIN_KEYS = (
    "data", "update", "loss", "optimizer", "learning_rate", "ema", "steps", "checkpoint", "sample",
)  # fmt: skip
BODY_KEYS: dict[str, tuple[str, ...]] = {
    "loop": ("loop", "as", "carry", "nodes", "next", "collect"),
    "map": ("map", "as", "nodes", "outputs"),
    "when": ("when", "nodes", "outputs", "else"),
    "grad": ("grad", "as", "nodes", "of"),
}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*)*)((?:/[^/\s]+)*)")
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


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list in which something is a reference."""

    items: tuple[Arg, ...]
    place: Place = NOWHERE


Arg = Ref | Lit | ListOf


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input of a graph."""

    name: str
    type: str
    default: Any = None
    required: bool = True
    min: float | None = None
    max: float | None = None
    choices: tuple[Any, ...] = ()
    help: str = ""
    secret: bool = False
    place: Place = NOWHERE


@dataclass(slots=True)
class Body:
    """Nodes in a scope of their own, and what the scope gives."""

    nodes: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Arg] = field(default_factory=dict)


@dataclass(slots=True)
class Node:
    """One node. `target` is a type's name, a reference to a component's method, the address of a graph, or what a body is over."""

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


@dataclass(slots=True)
class Train:
    """What makes a document a training graph."""

    data: Node
    update: dict[str, str]
    loss: Arg
    settings: dict[str, Any] = field(default_factory=dict)
    place: Place = NOWHERE


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


# --- reading --------------------------------------------------------------------------------------------------------


class Reader:
    """Turns a tree into a graph and notes every mistake of structure on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[DiffgraphError] = []

    def fault(self, place: Place, message: str, hint: str | None = None) -> None:
        self.problems.append(CheckError(message, hint=hint, place=place))

    def document(self, tree: Tree) -> GraphDocument:
        if not isinstance(tree, Table):
            raise DocumentError("a graph document is a mapping of keys", hint="start it with `diffgraph: 1`", place=tree.place)
        self._version(tree)
        out = GraphDocument(file=self.file)
        out.places = {key: entry.place for key, entry in tree.entries.items()}
        self._keys(tree, TOP_KEYS, "a graph document")
        out.name = self._text(tree, "name")
        out.summary = self._text(tree, "summary")
        out.requires = {k: str(plain(e.tree)) for k, e in self._table(tree, "requires").items()}
        for name, entry in self._table(tree, "inputs").items():
            self._name(name, entry.place)
            found = self._input(name, entry.tree)
            if found is not None:
                out.inputs[name] = found
        for name, entry in self._table(tree, "variants").items():
            if isinstance(entry.tree, Table):
                out.variants[name] = plain(entry.tree)
                out.places[f"variants.{name}"] = entry.place
            else:
                self.fault(entry.tree.place, f"variant {name}: a variant is a mapping of inputs to values")
        out.nodes = self._nodes(tree)
        out.outputs = self._args(tree, "outputs")
        if "train" in tree.entries:
            out.train = self._train(tree.entries["train"].tree)
        elif not out.outputs:
            self.fault(tree.place, "the graph has no outputs", "add `outputs: {image: $node.port}`")
        return out

    def _version(self, tree: Table) -> None:
        entry = tree.entries.get("diffgraph")
        if entry is None:
            raise DocumentError(
                "this is not a diffgraph document: the key `diffgraph` is missing",
                hint="write `diffgraph: 1` first", place=tree.place,
            )  # fmt: skip
        version = plain(entry.tree)
        if isinstance(version, bool) or version != FORMAT:
            raise DocumentError(
                f"format version {version!r} is not known; this diffgraph reads version {FORMAT}",
                hint="a newer diffgraph may read it", place=entry.tree.place,
            )  # fmt: skip

    def _keys(self, table: Table, allowed: tuple[str, ...], what: str) -> None:
        for key, entry in table.entries.items():
            if key not in allowed:
                near = nearest(key, allowed)
                self.fault(
                    entry.place, f"unknown key {key!r} in {what}",
                    f"did you mean {near!r}?" if near else "allowed: " + ", ".join(allowed),
                )  # fmt: skip

    def _name(self, name: str, place: Place) -> None:
        if not NAME.fullmatch(name):
            self.fault(place, f"{name!r} is not a name", "letters, digits and _ only, not starting with a digit")

    def _text(self, tree: Table, key: str) -> str:
        entry = tree.entries.get(key)
        if entry is None:
            return ""
        value = plain(entry.tree)
        if not isinstance(value, str):
            self.fault(entry.tree.place, f"{key} must be a text, got {value!r}", "put it in quotes")
            return ""
        return value

    def _table(self, tree: Table, key: str) -> dict[str, Any]:
        entry = tree.entries.get(key)
        if entry is None:
            return {}
        if isinstance(entry.tree, Scalar) and entry.tree.value is None:
            return {}
        if not isinstance(entry.tree, Table):
            self.fault(entry.tree.place, f"{key} must be a mapping")
            return {}
        return dict(entry.tree.entries)

    def _input(self, name: str, tree: Tree) -> Input | None:
        if isinstance(tree, Scalar) and isinstance(tree.value, str):
            return Input(name, tree.value, place=tree.place)
        if not isinstance(tree, Table):
            self.fault(tree.place, f"input {name}: write `{{type: int, default: 1}}`")
            return None
        self._keys(tree, INPUT_KEYS, f"input {name}")
        data = {key: plain(entry.tree) for key, entry in tree.entries.items()}
        if not isinstance(data.get("type"), str):
            self.fault(tree.place, f"input {name} has no type", "write `type: text`, `int`, `float`, `bool`, or a kind such as Image")
            return None
        for key in ("min", "max"):
            if data.get(key) is not None and (isinstance(data[key], bool) or not isinstance(data[key], int | float)):
                self.fault(tree.entries[key].tree.place, f"input {name}: {key} must be a number")
                data[key] = None
        if not isinstance(data.get("choices", []), list):
            self.fault(tree.entries["choices"].tree.place, f"input {name}: choices must be a list")
            data["choices"] = []
        return Input(
            name, data["type"], data.get("default"), "default" not in data, data.get("min"), data.get("max"),
            tuple(data.get("choices", ())), str(data.get("help", "")), data.get("secret") is True, tree.place,
        )  # fmt: skip

    def arg(self, tree: Tree) -> Arg:
        """A value in a document: text that starts with `$` is a reference, `$$` a literal dollar."""
        if isinstance(tree, Scalar) and isinstance(tree.value, str) and tree.value.startswith("$"):
            text = tree.value
            if text.startswith("$$"):
                return Lit(text[1:], tree.place)
            found = _REFERENCE.fullmatch(text)
            if not found:
                self.fault(tree.place, f"{text!r} is not a reference", "write `$name` or `$name.port`; a literal dollar is `$$`")
                return Lit(None, tree.place)
            return Ref(found[1], tuple(found[2].split(".")[1:]), found[3], tree.place)
        if isinstance(tree, Items):
            items = tuple(self.arg(item) for item in tree.items)
            if all(isinstance(item, Lit) for item in items):
                return Lit([item.value for item in items if isinstance(item, Lit)], tree.place)
            return ListOf(items, tree.place)
        if isinstance(tree, Table):
            self.fault(tree.place, "a value is a literal, a `$reference` or a list, not a mapping")
            return Lit(None, tree.place)
        return Lit(tree.value, tree.place)

    def _args(self, tree: Table, key: str) -> dict[str, Arg]:
        return {name: self.arg(entry.tree) for name, entry in self._table(tree, key).items()}

    def _nodes(self, tree: Table) -> dict[str, Node]:
        out = {}
        for name, entry in self._table(tree, "nodes").items():
            self._name(name, entry.place)
            node = self.node(name, entry.tree)
            if node is not None:
                out[name] = node
        return out

    def node(self, name: str, tree: Tree) -> Node | None:
        if not isinstance(tree, Table):
            self.fault(tree.place, f"{name}: a node is a mapping such as `{{node: Type, input: $value}}`")
            return None
        forms = [form for form in FORMS if form in tree.entries]
        if len(forms) != 1:
            given = " and ".join(forms) if forms else next(iter(tree.entries), "nothing")
            near = next((n for key in tree.entries if (n := nearest(key, FORMS))), None) if not forms else None
            self.fault(
                tree.place, f"{name}: a node has one of the keys {', '.join(FORMS)}; this has {given}",
                f"did you mean {near!r}?" if near else None,
            )  # fmt: skip
            return None
        form = forms[0]
        node = Node(name, form, self.arg(tree.entries[form].tree), place=tree.place)
        if form in ("node", "graph") and not (isinstance(node.target, Lit) and isinstance(node.target.value, str)):
            self.fault(node.target.place, f"{name}: `{form}:` takes a name, not a reference or a number")
            return None
        if form == "call" and not isinstance(node.target, Ref):
            self.fault(node.target.place, f"{name}: `call:` takes a component, such as `$model` or `$model.condition`")
            return None
        if form in BODY_KEYS:
            self._keys(tree, BODY_KEYS[form], f"{name} (a {form})")
            self._body(node, tree)
        else:
            node.args = {key: self.arg(entry.tree) for key, entry in tree.entries.items() if key != form}
        return node

    def _body(self, node: Node, tree: Table) -> None:
        form = node.form
        node.body = Body(self._nodes(tree), self._args(tree, "outputs"))
        node.as_name = self._text(tree, "as")
        if form in ("loop", "map", "grad") and not node.as_name:
            self.fault(tree.place, f"{node.name}: a {form} needs `as: NAME`, the name of its element inside")
        if node.as_name:
            self._name(node.as_name, tree.entries["as"].place)
        node.carry, node.next = self._args(tree, "carry"), self._args(tree, "next")
        node.collect = self._args(tree, "collect")
        for name in node.carry:
            if name not in node.next:
                self.fault(
                    tree.entries["carry"].tree.place, f"{node.name}: {name} is carried, but `next` does not say what it becomes",
                    f"add `{name}:` to `next`",
                )  # fmt: skip
        for name, arg in node.next.items():
            if name not in node.carry:
                self.fault(arg.place, f"{node.name}: `next` names {name}, which is not carried", f"add `{name}:` to `carry`")
        if form == "loop" and not node.carry and not node.collect:
            self.fault(tree.place, f"{node.name}: a loop without `carry` or `collect` gives nothing")
        if form in ("map", "when") and not node.body.outputs:
            self.fault(tree.place, f"{node.name}: a {form} needs `outputs`")
        if form == "grad":
            if "of" in tree.entries:
                node.of = self.arg(tree.entries["of"].tree)
            else:
                self.fault(tree.place, f"{node.name}: a grad needs `of: $score`")
        if "else" in tree.entries:
            other = tree.entries["else"].tree
            if isinstance(other, Table):
                self._keys(other, ("nodes", "outputs"), f"the else of {node.name}")
                node.other = Body(self._nodes(other), self._args(other, "outputs"))
                if set(node.other.outputs) != set(node.body.outputs):
                    self.fault(other.place, f"{node.name}: both branches must give the same outputs")
            else:
                self.fault(other.place, f"{node.name}: else must be a mapping of nodes and outputs")

    def _train(self, tree: Tree) -> Train | None:
        if not isinstance(tree, Table):
            self.fault(tree.place, "train must be a mapping")
            return None
        self._keys(tree, TRAIN_KEYS, "train")
        for key in ("data", "update", "loss", "steps"):
            if key not in tree.entries:
                self.fault(tree.place, f"train has no {key!r}")
                return None
        data = tree.entries["data"].tree
        as_name = ""
        if isinstance(data, Table) and "as" in data.entries:
            as_name = str(plain(data.entries["as"].tree))
            data = Table({k: e for k, e in data.entries.items() if k != "as"}, data.place)
        node = self.node("data", data)
        if node is None:
            return None
        if not as_name:
            self.fault(data.place, "train.data needs `as: NAME`, the name of a batch in the graph")
        node.as_name = as_name
        update = {k: str(plain(e.tree)) for k, e in self._table(tree, "update").items()}
        settings = {k: plain(e.tree) for k, e in tree.entries.items() if k not in ("data", "update", "loss")}
        return Train(node, update, self.arg(tree.entries["loss"].tree), settings, tree.place)


def read_graph(tree: Tree, file: str) -> tuple[GraphDocument, list[DiffgraphError]]:
    """The graph that a tree holds, and every mistake of structure in it. Raises DocumentError for what is no graph at all."""
    reader = Reader(file)
    return reader.document(tree), reader.problems


# --- writing --------------------------------------------------------------------------------------------------------


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
    out: dict[str, Any] = {node.form: arg_plain(node.target) if not isinstance(node.target, Lit) else node.target.value}
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
            out["inputs"][item.name] = spec
    if graph.variants:
        out["variants"] = graph.variants
    out["nodes"] = {name: node_plain(node) for name, node in graph.nodes.items()}
    if graph.outputs:
        out["outputs"] = _args_plain(graph.outputs)
    if graph.train is not None:
        data = node_plain(graph.train.data) | {"as": graph.train.data.as_name}
        settings = graph.train.settings
        out["train"] = {"data": data, "update": graph.train.update, "loss": arg_plain(graph.train.loss), **settings}
    return out


# --- walking --------------------------------------------------------------------------------------------------------


def arg_refs(arg: Arg | None) -> Iterator[Ref]:
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, ListOf):
        for item in arg.items:
            yield from arg_refs(item)


def outer_args(node: Node) -> Iterator[Arg]:
    """The arguments of a node that are read in the scope around it."""
    if node.form not in ("node", "graph"):
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


def ordered(nodes: Mapping[str, Node]) -> tuple[list[Node], list[str]]:
    """Nodes so that each comes after those it refers to, and the names of a cycle where there is one. Iterative; stable."""
    waiting = {name: {ref.name for ref in node_refs(node)} & nodes.keys() for name, node in nodes.items()}
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for name, needed in waiting.items():
        for other in needed:
            users[other].append(name)
    counts = {name: len(needed) for name, needed in waiting.items()}
    ready = [name for name in nodes if not counts[name]]
    result = []
    for name in ready:
        result.append(nodes[name])
        for user in users[name]:
            counts[user] -= 1
            if not counts[user]:
                ready.append(user)
    if len(result) == len(nodes):
        return result, []
    name = next(n for n in nodes if counts[n])
    path: list[str] = []
    while name not in path:
        path.append(name)
        name = next(n for n in sorted(waiting[name]) if counts[n])
    return result, [*path[path.index(name) :], name]


def graph_hash(graph: GraphDocument, include: Callable[[str], str]) -> str:
    """A digest of what the graph means: it does not depend on the names or the order of nodes, and depends on every value.

    `include` gives the digest of an included graph by its address.
    """
    outer = {name: _digest("input", name, *_input_parts(item)) for name, item in graph.inputs.items()}
    if graph.train is not None:
        outer[graph.train.data.as_name] = _digest("batch", _node_digest(graph.train.data, outer, include, 0))
    names = _scope_digests(graph.nodes, outer, include, 0)
    parts = [sorted(outer.values()), {name: _arg_digest(arg, names) for name, arg in sorted(graph.outputs.items())}]
    if graph.train is not None:
        update = {folder: names.get(name, name) for name, folder in graph.train.update.items()}
        parts.append([sorted(update.items()), _arg_digest(graph.train.loss, names), graph.train.settings])
    return _digest("graph", *parts, sorted(names[name] for name in graph.nodes))


def _input_parts(item: Input) -> list[Any]:
    return [item.type, item.required, item.default, item.min, item.max, list(item.choices), item.secret]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _arg_digest(arg: Arg | None, names: Mapping[str, str]) -> str:
    if isinstance(arg, Ref):
        return _digest("ref", names.get(arg.name, arg.name), arg.path, arg.sub)
    if isinstance(arg, ListOf):
        return _digest("list", [_arg_digest(item, names) for item in arg.items])
    return _digest("lit", type(arg.value).__name__, arg.value) if arg is not None else ""


def _scope_digests(
    nodes: Mapping[str, Node], outer: Mapping[str, str], include: Callable[[str], str], depth: int
) -> dict[str, str]:
    names = dict(outer)
    for node in ordered(nodes)[0]:
        names[node.name] = _node_digest(node, names, include, depth)
    return names


def _node_digest(node: Node, names: Mapping[str, str], include: Callable[[str], str], depth: int) -> str:
    def table(args: Mapping[str, Arg], scope: Mapping[str, str]) -> list[Any]:
        return [[name, _arg_digest(arg, scope)] for name, arg in sorted(args.items())]

    target = include(node.target_text) if node.form == "graph" else _arg_digest(node.target, names)
    parts: list[Any] = [node.form, target, table(node.args, names), table(node.carry, names), id(node.live) if node.live else 0]
    for body in (node.body, node.other):
        if body is not None:
            inside = dict(names)
            inside[node.as_name] = _digest("as", depth)
            inside.update({name: _digest("carry", depth, name) for name in node.carry})
            scope = _scope_digests(body.nodes, inside, include, depth + 1)
            parts.append([table(body.outputs, scope), sorted(scope[name] for name in body.nodes)])
            if body is node.body:
                parts += [table(node.next, scope), table(node.collect, scope), _arg_digest(node.of, scope)]
    return _digest(*parts)
