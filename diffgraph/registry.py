"""The registry: which node types exist, what their ports are, and the digest of the source that each is made of.

Nodes come from installed packages that name themselves under the entry point group `diffgraph.nodes`, and from files
that the user names. What they declare comes from the index (index.py), so that asking imports nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DiffgraphError, InputError, WrongPart, nearest
from .index import INDEX_FORMAT, build_index, index_folder, package_modules, packages, read_json, write_json
from .ports import UNSET, Port, Type, port_from_json
from .weights.config import FieldSpec, ValueType


@dataclass(frozen=True)
class Method:
    """One thing that can be called: a function node, or a method of a component."""

    name: str
    inputs: Mapping[str, Port]
    output: Port
    static: bool = False
    shapes: str | None = None
    doc: str = ""


@dataclass(frozen=True)
class NodeType:
    """What is known of a node type without importing it."""

    name: str
    role: str
    version: int
    module: str
    qualname: str
    source: str
    doc: str = ""
    methods: Mapping[str, Method] = field(default_factory=dict)
    fields: Mapping[str, Port] = field(default_factory=dict)
    config: Mapping[str, FieldSpec] = field(default_factory=dict)
    config_file: str = "config.json"
    files: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    siblings: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[tuple[str, str], ...] = ()
    ignored: frozenset[str] = frozenset()
    published: tuple[str, ...] = ()
    trainable: bool = False
    live: Any = None

    @property
    def call(self) -> Method:
        return self.methods["__call__"]

    @property
    def summary(self) -> str:
        return self.doc.split("\n", 1)[0]

    def config_of(self, component: Any) -> dict[str, Any]:
        """The config of a live component of this type, by field."""
        config = getattr(component, "config", None)
        return {name: getattr(config, name) for name in self.config if hasattr(config, name)}

    def load(self) -> Any:
        """The class or function itself: imports its module."""
        return self.live if self.live is not None else import_name(f"{self.module}:{self.qualname}")


_files: dict[str, Path] = {}


def import_name(address: str) -> Any:
    """The object at `module:name`, for modules of registered node packages and of files that the user named."""
    module_name, _, qualname = address.partition(":")
    if module_name in _files:
        from .describe import import_file

        thing = import_file(module_name, _files[module_name])
    else:
        thing = importlib.import_module(module_name)
    for part in qualname.split("."):
        thing = getattr(thing, part)
    return thing


def node_from_json(data: Mapping[str, Any], source: str, prefix: str = "") -> NodeType:
    methods = {
        name: Method(
            name,
            {n: port_from_json(p) for n, p in m["inputs"].items()},
            port_from_json(m["output"]),
            m["static"],
            m["shapes"],
            m["doc"],
        )
        for name, m in data["methods"].items()
    }
    names = ("config_file", "attributes", "facts", "siblings", "trainable")
    extra = {k: data[k] for k in names if k in data}
    config = {c["name"]: FieldSpec.from_json(c) for c in data.get("config", ())}
    fields = {n: _field_port(spec) for n, spec in config.items()} or {
        n: port_from_json(p) for n, p in data.get("fields", {}).items()
    }
    return NodeType(
        prefix + data["name"], data["role"], data["version"], data["module"], data["qualname"], source, data["doc"],
        methods, fields, config=config, files=tuple(data.get("files", ())),
        keys=tuple((a, b) for a, b in data.get("keys", ())), ignored=frozenset(data.get("ignored", ())),
        published=tuple(data.get("published", ())), **extra,
    )  # fmt: skip


_FIELD_TYPES = {"int": "int", "float": "float", "str": "text", "bool": "bool"}


def _field_port(spec: FieldSpec) -> Port:
    """A config field as a port. One of several types takes anything here; `FieldSpec.accept` decides on its value."""

    def convert(value: ValueType) -> Type:
        if value.kind in _FIELD_TYPES:
            return Type("scalar", _FIELD_TYPES[value.kind])
        if value.kind == "choice":
            return Type("choice", options=value.choices)
        if value.kind == "list":
            return Type("list", item=Port(convert(value.items[0])))
        return Type("any")

    items = [item for item in spec.type.items if item.kind != "none"] if spec.type.kind == "any_of" else [spec.type]
    optional = len(items) < len(spec.type.items) and spec.type.kind == "any_of"
    kind = convert(items[0]) if len(items) == 1 else Type("any")
    default = UNSET if spec.required else spec.default
    return Port(
        kind, bound=spec.type.bound, optional=optional, default=list(default) if isinstance(default, tuple) else default
    )


class ReaderEntry(NamedTuple):
    """A reader: the suffixes of its files, its place, and the place of what measures a file, empty where there is none."""

    suffixes: tuple[str, ...]
    function: str
    measure: str


class Writer(NamedTuple):
    """How a kind is written: the suffix of its files, the function at `module:name`, and the digest of its source."""

    suffix: str
    function: str
    source: str


class Pipeline(NamedTuple):
    """How a published pipeline is imported: by which graph, with parts of which libraries, and who tells the rest."""

    graph: str
    libraries: tuple[str, ...]
    function: str


class OriginalEntry(NamedTuple):
    """An original checkpoint's form: by which patterns it is known, and the place of its `Original`, "" for one that is
    not converted.
    """

    name: str
    keys: tuple[str, ...]
    settings: Mapping[str, str]
    instead: str
    place: str


class Registry:
    """The node types, kinds, records, readers, writers and previewers that are installed or were named by the user."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeType] = {}
        self.kinds: dict[str, Port] = {}
        self.records: dict[str, Port] = {}
        self.record_places: set[str] = set()
        self.readers: dict[str, ReaderEntry] = {}
        self.writers: dict[str, Writer] = {}
        self.carriers: dict[str, str] = {}
        self.previewers: dict[str, str] = {}  # by the name of a type
        self.pipelines: dict[str, Pipeline] = {}  # by published class
        self.originals: dict[str, OriginalEntry] = {}  # by name
        self.broken: dict[str, str] = {}

    def add_index(self, index: Mapping[str, Any], digest: str, prefix: str = "") -> None:
        """Takes in what one module declares."""
        for data in index["nodes"]:
            node = node_from_json(data, digest, prefix)
            known = self.nodes.get(node.name)
            if known is not None and known.module != node.module:
                raise DiffgraphError(
                    f"two node types are called {node.name}: in {known.module} and in {node.module}",
                    hint="rename one of them",
                )
            self.nodes[node.name] = node
        for name, port in index["kinds"].items():
            kind = port_from_json(port)
            if self.kinds.setdefault(name, kind) != kind:
                raise DiffgraphError(
                    f"the kind {name} is declared in two ways, the second in {index['module']}",
                    hint="import the kind from the package that declares it, or give it another name",
                )
        for name, port in index["records"].items():
            self.records[prefix + name] = port_from_json(port)
            self.record_places.add(port["at"])
        for entry in index["files"]:
            if entry["role"] == "reader":
                self.readers[entry["kind"]] = ReaderEntry(tuple(entry["suffixes"]), entry["function"], entry["measure"])
            elif entry["role"] == "writer":
                self.writers[entry["kind"]] = Writer(entry["suffixes"][0], entry["function"], digest)
            elif entry["role"] == "previewer":
                self.previewers[entry["kind"]] = entry["function"]
            else:
                self.carriers.update(dict.fromkeys(entry["suffixes"], entry["function"]))
        for entry in index.get("pipelines", ()):
            found = Pipeline(entry["graph"], tuple(entry["libraries"]), entry["function"])
            self.pipelines.update(dict.fromkeys(entry["classes"], found))
        for entry in index.get("originals", ()):
            self.originals[entry["name"]] = OriginalEntry(
                entry["name"], tuple(entry["keys"]), entry["settings"], entry["instead"], entry["place"]
            )

    def get(self, name: str) -> NodeType | None:
        found = self.nodes.get(name)
        return found if found is not None and found.role != "protocol" else None

    def protocol(self, name: str) -> NodeType | None:
        found = self.nodes.get(name)
        return found if found is not None and found.role == "protocol" else None

    def suggest(self, name: str) -> str:
        """A hint for an unknown type: a near name, or how to see all."""
        near = nearest(name, [n for n, t in self.nodes.items() if t.role != "protocol"])
        package = name.rpartition(".")[0]
        broken = [text for key, text in self.broken.items() if key == package or (not package and "." in key)]
        if broken and near != name:
            return f"a module of its package cannot be imported: {broken[0]}"
        return f"did you mean {near}?" if near else "`diffgraph nodes` lists those that are installed"

    def fits_protocol(self, node: NodeType, protocol: NodeType) -> str | None:
        """What a component lacks of a protocol, in words, or None."""
        from .ports import compatible

        for name in protocol.fields:
            if name not in node.attributes and name not in node.fields:
                return f"{node.name} has no attribute {name}"
        for name, wanted in protocol.methods.items():
            method = node.methods.get(name)
            if method is None:
                return f"{node.name} has no method {name if name != '__call__' else 'to be called'}"
            for port in wanted.inputs:
                if port not in method.inputs:
                    return f"{node.name}.{name} has no input {port}"
            if not compatible(method.output.type, wanted.output.type):
                return f"{node.name}.{name} gives {method.output.type}, not {wanted.output.type}"
        return None

    def input_type(self, name: str) -> Port | None:
        """The type that a graph input names: a scalar, kind, record, protocol or component, or `list[...]` of one."""
        if name.startswith("list[") and name.endswith("]"):
            inner = self.input_type(name[5:-1])
            return Port(Type("list", item=inner)) if inner is not None else None
        if name in ("int", "float", "text", "bool", "file", "folder", "weights", "choice"):
            return Port(Type("scalar", name))
        if name in self.kinds:
            return self.kinds[name]
        if name in self.records:
            return self.records[name]
        if name in self.nodes and self.nodes[name].role != "function":
            return Port(Type(self.nodes[name].role, name))  # type: ignore[arg-type]
        return None

    @cached_property
    def record_types(self) -> Callable[[str], type | None]:
        """Looks up the class of a declared record by its place: what the store may build, and nothing else."""

        def find(place: str) -> type | None:
            return import_name(place) if place in self.record_places else None

        return find


Modules = tuple[str, dict[str, Path], bool]  # the prefix of their types, modules by name, whether the user named them

_watched: dict[Any, tuple[dict[str, tuple[int, int]], Registry]] = {}
_loaded: dict[str, Registry] = {}


def registry(files: Iterable[Path] = ()) -> Registry:
    """The registry of installed packages and of the node files that the user named, made once a state of the sources.

    Raises InputError where a named file is missing or cannot be imported.
    """
    named = tuple(files)
    asked = (tuple(sys.path), tuple(os.path.abspath(file) for file in named))
    known = _watched.get(asked)
    if known is not None and known[0] == _stamps(known[0]):
        return known[1]
    sets, missing = _modules(named)
    places = {path for _, modules, _ in sets for path in modules.values()}
    stamps = _stamps([*map(str, {*places, *(path.parent for path in places)}), *(path or "." for path in sys.path)])
    _watched[asked] = stamps, _read(sets, missing)
    return _watched[asked][1]


def who_reads(error: WrongPart) -> WrongPart:
    """The error with a hint: which part reads what was found instead, or that none does."""
    found = {name: [node.name for node in registry().nodes.values() if name in node.published] for name in error.found}
    told = [f"{' and '.join(nodes)} read{'s' * (len(nodes) == 1)} {name}" for name, nodes in found.items() if nodes]
    unknown = [name for name, nodes in found.items() if not nodes]
    if unknown:
        told.append(f"there is no part for {' or '.join(unknown)} (`diffgraph nodes` lists what there is)")
    return WrongPart(error.message, error.found, hint="; ".join(told))


def _stamps(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """When files and folders were changed, and their sizes."""
    stamps = {}
    for path in paths:
        try:
            info = os.stat(path)
            stamps[path] = info.st_mtime_ns, info.st_size
        except OSError:
            stamps[path] = 0, 0
    return stamps


def _modules(files: Iterable[Path]) -> tuple[list[Modules], dict[str, str]]:
    """The modules of installed packages and of named files; and why packages are missing, by their prefix."""
    sets: list[Modules] = []
    missing = {}
    for prefix, package in packages().items():
        try:
            sets.append((prefix, package_modules(package), False))
        except (ImportError, InputError) as error:
            missing[prefix.rstrip(".")] = str(error)
    for file in files:
        path = Path(file).resolve()
        if not path.is_file():
            raise InputError(f"--nodes {file}: there is no such file")
        name = f"diffgraph_user_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
        _files[name] = path
        sets.append(("", {name: path}, True))
    return sets, missing


def _read(sets: Sequence[Modules], missing: Mapping[str, str]) -> Registry:
    state = hashlib.sha256(f"{INDEX_FORMAT} {sys.version_info[:2]}".encode())
    for prefix, modules, _ in sets:
        for name, path in modules.items():
            info = path.stat()
            state.update(f"{prefix} {name} {path} {info.st_size} {info.st_mtime_ns}\n".encode())
    signature = state.hexdigest()
    if signature in _loaded:
        return _loaded[signature]
    combined_path = index_folder() / f"all-{signature}.json"
    combined = read_json(combined_path)
    if combined is None:
        combined = []
        for prefix, modules, named in sets:
            index = build_index(modules, modules if named else {})
            combined.extend([prefix, name, named, entry] for name, entry in index.items())
        if not any("error" in entry["declares"] for *_, entry in combined):
            write_json(combined_path, combined)
    result = Registry()
    result.broken.update(missing)
    for prefix, name, named, entry in combined:
        declared = entry["declares"]
        if "error" in declared:
            if named:
                raise InputError(f"--nodes {_files[name]}: {declared['error']}")
            result.broken[prefix.rstrip(".") or name] = f"{name}: {declared['error']}"
            continue
        result.add_index(declared, entry["digest"], prefix)
    _loaded[signature] = result
    return result
