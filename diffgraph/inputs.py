"""What a user gives a graph: values of its inputs, files, a variant, and keys of nodes to replace."""

from __future__ import annotations

import copy
import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .authoring import File
from .checking.check import input_problem
from .components import GivenAddress
from .errors import CheckFailed, DiffgraphError, DocumentError, InputError, Place, nearest
from .language.document import Items, Scalar, Tree, parse, plain
from .language.graph import GraphDocument, Input, Lit, Node, Train
from .language.reading import TRAIN_KEYS, Reader
from .language.sources import Source, fetched
from .ports import Port, Type
from .registry import Registry, import_name
from .weights.addresses import parse_address

MAX_FILE = 2**31


@dataclass(frozen=True)
class FileInput:
    """A file given for an input, to be read by the reader of its kind during the run."""

    name: str
    kind: str
    reader: str
    file: File
    measure: str = ""

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """Of the value, from the head of the file; None where that does not tell."""
        try:
            return tuple(import_name(self.measure)(self.file.data)) if self.measure else None
        except DiffgraphError:
            return None  # the reader will say what is wrong

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.kind} {self.reader} {self.file.digest}".encode()).hexdigest()

    def read(self, data: bytes) -> Any:
        """The value that the reader makes of the content. Raises InputError, naming the input and the file."""
        try:
            return import_name(self.reader)(data)
        except DiffgraphError as error:
            raise InputError(f"{self.name}: {self.file.name}: {error.message}", hint=error.hint) from None


def read_file(path: str | Path, what: str) -> File:
    """The content of a file that the user names. Raises InputError."""
    place = Path(path).expanduser()
    try:
        with place.open("rb") as file:
            if stat.S_ISCHR(place.stat().st_mode) or stat.S_ISBLK(place.stat().st_mode):
                raise InputError(f"{what}: {path} is a device, not a file")
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        near = nearest(place.name, [p.name for p in place.parent.glob("*")]) if place.parent.is_dir() else None
        hint = f"did you mean {place.parent / near}?" if near else None
        raise InputError(f"{what}: there is no file {path}", hint=hint) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, IsADirectoryError):
            raise InputError(f"{what}: {path} is a folder, not a file") from None
        shown = path if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise InputError(f"{what}: {shown} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE:
        raise InputError(f"{what}: {path} is larger than 2 GiB")
    return File(place.name, data, hashlib.sha256(data).hexdigest())


# --- keys of nodes --------------------------------------------------------------------------------------------------


def apply_sets(
    graph: GraphDocument, sets: Mapping[str, Any], *, user: bool = False, place: Place | None = None
) -> GraphDocument:
    """The graph with keys of nodes replaced: `{"ddim.node": "PNDMScheduler", "denoise.guided.scale": 2.0}`. The data of a
    training graph goes by the name of its batch, its settings by `train`: `{"train.optimizer.accumulate": 4}`.

    user: the user named them, not a document, so an address among them is relative to the working directory. place:
    where a document says so, for messages. Raises InputError for a node or a key that cannot be.
    """
    if not sets:
        return graph
    graph = _copy(graph)
    for path, value in sets.items():
        reader = Reader("--set")
        *names, key = path.split(".")
        if graph.train is not None and names[:1] == ["train"] and "train" not in graph.nodes:
            _set_training(graph.train, [*names[1:], key], value, path)
            continue
        node = _find_node(graph, names, path)
        arg = reader.arg(_tree(value, path, place or Place(f"--set {path}")))
        if reader.problems:
            raise InputError(f"--set {path}: {reader.problems[0].message}", hint=reader.problems[0].hint)
        if user and key == "weights" and isinstance(arg, Lit) and isinstance(arg.value, str):
            arg = Lit(GivenAddress(arg.value), arg.place)
        if key == node.form and node.form in ("node", "graph"):
            node.target = Lit(str(value), node.target.place)
        elif node.form in ("node", "call", "graph") and key:
            node.args[key] = arg
        else:
            raise InputError(f"--set {path}: {names[-1]} is a {node.form}; set a key of a node inside it")
    return graph


def _set_training(train: Train, names: list[str], value: Any, path: str) -> None:
    """Replaces a setting of a training, or a key of one. Raises InputError for what is none; the recipe reads the rest."""
    allowed = [key for key in TRAIN_KEYS if key not in ("data", "update", "save", "loss")]
    if names[0] not in allowed:
        near = nearest(names[0], allowed)
        hint = f"did you mean {near!r}?" if near else "they are: " + ", ".join(allowed)
        raise InputError(f"--set {path}: a training has no setting {names[0]!r}", hint=hint)
    inside = train.settings
    for name, first in zip(names[:-1], ("name" if names[0] == "optimizer" else "top", None), strict=False):
        given = inside.get(name, {})
        inside[name] = given if isinstance(given, dict) else {first: given}
        inside = inside[name]
    inside[names[-1]] = value


def typed_value(text: str, what: str) -> Any:
    """The value of a text that a user typed, as a document would have it; text that is no YAML stands for itself."""
    if text in ("", "null", "~"):
        return None if text else ""
    try:
        return plain(parse(text.encode("utf-8", "surrogateescape"), what))
    except DocumentError:
        return text


def _copy(graph: GraphDocument) -> GraphDocument:
    """The graph with nodes of its own, to be changed; live objects are the same."""
    nodes = [graph.nodes]
    lives: dict[int, Any] = {}
    while nodes:
        for node in nodes.pop().values():
            nodes.append(node.inner)
            if node.live is not None:
                lives[id(node.live)] = node.live
    return copy.deepcopy(graph, lives)


def _tree(value: Any, path: str, place: Place) -> Tree:
    if isinstance(value, list | tuple):
        return Items(tuple(_tree(item, path, place) for item in value), place)
    if not isinstance(value, str | int | float | bool | None):
        what = f"--set {path}: a {type(value).__name__} cannot be set"
        raise InputError(what, hint="give a number, a text or a list")
    return Scalar(value, place)


def _find_node(graph: GraphDocument, names: list[str], path: str) -> Node:
    nodes = graph.nodes
    if graph.train is not None:
        nodes = nodes | {graph.train.data.as_name: graph.train.data}
    node: Node | None = None
    for name in names:
        node = nodes.get(name)
        if node is None:
            near = nearest(name, list(nodes))
            raise InputError(
                f"--set {path}: there is no node {name!r}",
                hint=f"did you mean {near!r}?" if near else "it has: " + ", ".join(nodes),
            )
        nodes = {}
        for body in (node.body, node.other):
            if body is not None:
                nodes |= body.nodes
    if node is None:
        raise InputError(f"--set {path}: write NODE.KEY=VALUE")
    return node


# --- values of inputs -----------------------------------------------------------------------------------------------


def choose_variant(graph: GraphDocument, variant: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a variant, or else the first, says of inputs and of node keys. Raises InputError where it is not there."""
    if variant is not None and variant not in graph.variants:
        near = nearest(variant, list(graph.variants))
        hint = f"did you mean {near!r}?" if near else "it has: " + (", ".join(graph.variants) or "none")
        raise InputError(f"there is no variant {variant!r}", hint=hint)
    chosen = dict(graph.variants[variant or next(iter(graph.variants))]) if graph.variants else {}
    return chosen, chosen.pop("set", None) or {}


def resolve_inputs(
    graph: GraphDocument, given: Mapping[str, Any], reg: Registry, variant: str | None = None,
    *, source: Source | None = None, kept: Mapping[str, Any] | None = None, partial: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The value of every input, and the node keys that the variant sets. All mistakes together as CheckFailed.

    given: by input name, of the input's type; a path for a file or a kind with a reader, or a live value of the kind.
    source: where the document is, for files that it names itself. kept: the values of an earlier run, which stand in
    for the variant and the defaults; like these they are not trusted to name a file anywhere. partial: an input
    without a value is left out.
    """
    problems: list[DiffgraphError] = []
    given = {**(source.given if source is not None else {}), **given}
    chosen, sets = choose_variant(graph, variant) if kept is None else (dict(kept), {})
    for name in given:
        if name not in graph.inputs:
            near = nearest(name, list(graph.inputs))
            hint = f"did you mean {near!r}?" if near else "it has: " + (", ".join(graph.inputs) or "none")
            problems.append(InputError(f"there is no input {name!r}", hint=hint))
    values: dict[str, Any] = {}
    for item in graph.inputs.values():
        port = reg.input_type(item.type)
        if port is None:
            continue  # the checker says so, with the place
        if item.type == "choice":
            port = Port(Type("choice", options=item.choices))
        user = item.name in given
        if not user and item.name not in chosen and item.required:
            problems += [] if partial else [missing_input(item)]
            continue
        value = given[item.name] if user else chosen.get(item.name, item.default)
        problem = input_problem(item, port, value)
        if problem:
            told = f"its value is not a permitted {item.type}" if item.secret else problem
            problems.append(InputError(f"{item.name}: {told}"))
            continue
        try:
            values[item.name] = _convert(item.name, port, value, reg, user, source)
        except DiffgraphError as error:
            problems.append(error)
    if problems:
        raise CheckFailed(problems)
    return values, sets


def missing_input(item: Input) -> InputError:
    """The error for an input without a value."""
    hint = "give --" + item.name.replace("_", "-") + (f": {item.help}" if item.help else "")
    return InputError(f"the input {item.name} ({item.type}) is missing", hint=hint)


def _convert(name: str, port: Port, value: Any, reg: Registry, user: bool, source: Source | None) -> Any:
    """A value as the planner takes it: files read, addresses marked as the user's, numbers as their port has them."""
    kind = port.type
    if value is None:
        return None
    if kind.form == "scalar" and kind.name == "float" and isinstance(value, int):
        return float(value)
    if kind.form == "scalar" and kind.name in ("weights", "folder"):
        return GivenAddress(value) if user else value
    if kind.form == "scalar" and kind.name == "file" and isinstance(value, str | Path):
        return read_file(_allowed(name, value, user, source), name)
    if kind.form == "list" and kind.item is not None and isinstance(value, list | tuple):
        return [_convert(f"{name}[{i}]", kind.item, item, reg, user, source) for i, item in enumerate(value)]
    if kind.form == "kind" and isinstance(value, str | Path) and "text" not in kind.literals:
        entry = reg.readers.get(kind.name)
        if entry is None:
            raise InputError(f"{name}: no node package reads files of kind {kind.name}")
        file = read_file(_allowed(name, value, user, source), name)
        return FileInput(name, kind.name, entry.function, file, entry.measure)
    return value


def _allowed(name: str, path: str | Path, user: bool, source: Source | None) -> Path:
    """Where a file is: anywhere if the user named it; else beside the document that names it and below its folder."""
    if user:
        return Path(path)
    base = source.base if source is not None else None
    if base is None:
        what = f"{name}: the file {str(path)!r} is named by a document that has no folder"
        raise InputError(what, hint="give it yourself")
    place = parse_address(str(path), base=base, confined=True)
    return fetched(place, MAX_FILE) if place.scheme == "hf" else place.folder
