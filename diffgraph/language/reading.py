"""Reading: a tree of a document becomes a graph, and every mistake of structure in it is noted."""

from __future__ import annotations

import re
from typing import Any

from ..errors import CheckError, DiffgraphError, DocumentError, Place, nearest
from .document import Items, Scalar, Table, Tree, plain
from .graph import (
    BODY_KEYS,
    FORMAT,
    FORMS,
    NAME,
    UNREAD,
    UNREADABLE,
    Arg,
    Body,
    GraphDocument,
    Input,
    ListOf,
    Lit,
    Node,
    Ref,
    Train,
)  # fmt: skip

TOP_KEYS = ("diffgraph", "name", "summary", "requires", "inputs", "variants", "nodes", "outputs", "train")
INPUT_KEYS = ("type", "default", "min", "max", "choices", "help", "secret", "differs")
TRAIN_KEYS = (
    "data", "update", "save", "loss", "optimizer", "learning_rate", "ema", "steps", "checkpoint", "validate",
    "sample",
)  # fmt: skip
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*)*)((?:/[^/\s]+)*)")


class Reader:
    """Turns a tree into a graph and notes every mistake of structure on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[DiffgraphError] = []

    def fault(self, place: Place, message: str, hint: str | None = None) -> None:
        self.problems.append(CheckError(message, hint=hint, place=place))

    def document(self, tree: Tree) -> GraphDocument:
        if not isinstance(tree, Table):
            raise DocumentError(
                "a graph document is a mapping of keys", hint="start it with `diffgraph: 1`", place=tree.place
            )
        self._version(tree)
        out = GraphDocument(file=self.file)
        out.places = {key: entry.place for key, entry in tree.entries.items()}
        self._keys(tree, TOP_KEYS, "a graph document")
        out.name = self._text(tree, "name")
        out.summary = self._text(tree, "summary")
        out.requires = {k: str(plain(e.tree)) for k, e in self._table(tree, "requires").items()}
        for name, entry in self._table(tree, "inputs").items():
            self._name(name, entry.place)
            out.inputs[name] = self._input(name, entry.tree) or Input(name, UNREADABLE, place=entry.tree.place)
        for item in out.inputs.values():
            if item.differs and (item.differs == item.name or item.differs not in out.inputs):
                self.fault(item.place, f"input {item.name}: `differs` names no other input: {item.differs!r}")
        for name, entry in self._table(tree, "variants").items():
            if isinstance(entry.tree, Table):
                out.variants[name] = plain(entry.tree)
                out.places[f"variants.{name}"] = entry.place
                if not isinstance(out.variants[name].get("set", {}), dict):
                    what = f"variant {name}: `set` is a mapping, such as {{NODE.KEY: VALUE}}"
                    self.fault(entry.tree.entries["set"].tree.place, what)
                    del out.variants[name]["set"]
            else:
                self.fault(entry.tree.place, f"variant {name}: a variant is a mapping of inputs to values")
        out.nodes = self._nodes(tree)
        out.outputs = self._named(tree, "outputs")
        if "train" in tree.entries:
            out.train = self._train(tree.entries["train"].tree)
        elif not out.outputs:
            self.fault(tree.place, "the graph has no outputs", "add `outputs: {NAME: $node.port}`")
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
            self.fault(
                tree.place,
                f"input {name} has no type",
                "write `type: text`, `int`, `float`, `bool`, or a kind that a node declares",
            )
            return None
        for key in ("min", "max"):
            if data.get(key) is not None and (isinstance(data[key], bool) or not isinstance(data[key], int | float)):
                self.fault(tree.entries[key].tree.place, f"input {name}: {key} must be a number")
                data[key] = None
        if not isinstance(data.get("choices", []), list):
            self.fault(tree.entries["choices"].tree.place, f"input {name}: choices must be a list")
            data["choices"] = []
        if data.get("secret") is True and data["type"] in ("weights", "folder"):
            place = tree.entries["secret"].tree.place
            self.fault(place, f"input {name}: an address cannot be secret", "caches and locks name what is opened")
        return Input(
            name, data["type"], data.get("default"), "default" not in data, data.get("min"), data.get("max"),
            tuple(data.get("choices", ())), str(data.get("help", "")), data.get("secret") is True,
            str(data.get("differs", "")), tree.place,
        )  # fmt: skip

    def arg(self, tree: Tree) -> Arg:
        """A value in a document: text that starts with `$` is a reference, `$$` a literal dollar."""
        if isinstance(tree, Scalar) and isinstance(tree.value, str) and tree.value.startswith("$"):
            text = tree.value
            if text.startswith("$$"):
                return Lit(text[1:], tree.place)
            found = _REFERENCE.fullmatch(text)
            if not found:
                self.fault(
                    tree.place,
                    f"{text!r} is not a reference",
                    "write `$name` or `$name.port`; a literal dollar is `$$`",
                )
                return Lit(UNREAD, tree.place)
            return Ref(found[1], tuple(found[2].split(".")[1:]), found[3], tree.place)
        if isinstance(tree, Items):
            items = tuple(self.arg(item) for item in tree.items)
            if all(isinstance(item, Lit) for item in items):
                return Lit([item.value for item in items if isinstance(item, Lit)], tree.place)
            return ListOf(items, tree.place)
        if isinstance(tree, Table):
            self.fault(tree.place, "a value is a literal, a `$reference` or a list, not a mapping")
            return Lit(UNREAD, tree.place)
        return Lit(tree.value, tree.place)

    def _args(self, tree: Table, key: str) -> dict[str, Arg]:
        return {name: self.arg(entry.tree) for name, entry in self._table(tree, key).items()}

    def _named(self, tree: Table, key: str) -> dict[str, Arg]:
        """Arguments whose keys are names that references may use."""
        for name, entry in self._table(tree, key).items():
            self._name(name, entry.place)
        return self._args(tree, key)

    def _nodes(self, tree: Table) -> dict[str, Node]:
        out = {}
        for name, entry in self._table(tree, "nodes").items():
            self._name(name, entry.place)
            out[name] = self.node(name, entry.tree) or self._unreadable(name, entry.tree)
        return out

    def _unreadable(self, name: str, tree: Tree) -> Node:
        """Stands for a node with a mistake, so that the check goes on without a second complaint about its name."""
        refs: dict[str, Arg] = {}
        stack = [tree]
        while stack:
            top = stack.pop()
            if isinstance(top, Table):
                stack.extend(entry.tree for entry in top.entries.values())
            elif isinstance(top, Items):
                stack.extend(top.items)
            elif isinstance(top.value, str) and (found := _REFERENCE.fullmatch(top.value)):
                refs[str(len(refs))] = Ref(found[1], place=top.place)
        return Node(name, UNREADABLE, Lit(None, tree.place), refs, place=tree.place)

    def node(self, name: str, tree: Tree) -> Node | None:
        """The node that a tree holds, or None where it is none; what is wrong is noted."""
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
            self.fault(node.target.place, f"{name}: `call:` takes a component, such as `$part` or `$part.method`")
            return None
        if form in BODY_KEYS:
            self._keys(tree, BODY_KEYS[form], f"{name} (a {form})")
            self._body(node, tree)
        else:
            node.args = {key: self.arg(entry.tree) for key, entry in tree.entries.items() if key != form}
        return node

    def _body(self, node: Node, tree: Table) -> None:
        form = node.form
        node.body = Body(self._nodes(tree), self._named(tree, "outputs"))
        node.as_name = self._text(tree, "as")
        if form in ("loop", "map", "grad") and "as" not in tree.entries:
            self.fault(tree.place, f"{node.name}: a {form} needs `as: NAME`, the name of its element inside")
        if node.as_name:
            self._name(node.as_name, tree.entries["as"].place)
        node.carry, node.next = self._named(tree, "carry"), self._args(tree, "next")
        node.collect = self._named(tree, "collect")
        for name in node.carry:
            if name not in node.next:
                self.fault(
                    tree.entries["carry"].tree.place, f"{node.name}: {name} is carried, but `next` does not say what it becomes",
                    f"add `{name}:` to `next`",
                )  # fmt: skip
        for name, arg in node.next.items():
            if name not in node.carry:
                self.fault(
                    arg.place, f"{node.name}: `next` names {name}, which is not carried", f"add `{name}:` to `carry`"
                )
        if form == "loop" and not node.carry and not node.collect:
            self.fault(tree.place, f"{node.name}: a loop without `carry` or `collect` gives nothing")
        twice = [name for name in node.collect if name in node.carry]
        twice += [node.as_name] if node.as_name in node.carry else []
        for name in twice:
            self.fault(tree.place, f"{node.name}: the name {name} is given twice in this loop", "rename one of the two")
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
                node.other = Body(self._nodes(other), self._named(other, "outputs"))
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
        data = self._train_data(tree.entries["data"].tree) if "data" in tree.entries else None
        loss = self.arg(tree.entries["loss"].tree) if "loss" in tree.entries else Lit(UNREAD, tree.place)
        update = {k: str(plain(e.tree)) for k, e in self._table(tree, "update").items()}
        save = {k: str(plain(e.tree)) for k, e in self._table(tree, "save").items()}
        own = ("data", "update", "save", "loss")
        settings = {k: plain(e.tree) for k, e in tree.entries.items() if k not in own}
        return Train(data or self._unreadable("data", tree), update, loss, settings, tree.place, save)

    def _train_data(self, tree: Tree) -> Node | None:
        as_name = ""
        if isinstance(tree, Table) and "as" in tree.entries:
            as_name = self._text(tree, "as")
            self._name(as_name, tree.entries["as"].place)
            tree = Table({k: e for k, e in tree.entries.items() if k != "as"}, tree.place)
        node = self.node("data", tree)
        if not as_name:
            self.fault(tree.place, "train.data needs `as: NAME`, the name of a batch in the graph")
        if node is not None:
            node.as_name = as_name
        return node


def read_graph(tree: Tree, file: str) -> tuple[GraphDocument, list[DiffgraphError]]:
    """The graph that a tree holds, as far as it can be read, and every mistake of structure in it.

    Raises DocumentError for what is no graph at all.
    """
    reader = Reader(file)
    return reader.document(tree), reader.problems
