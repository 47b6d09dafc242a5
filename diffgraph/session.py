"""From a document and values to results: inputs, variants, check, plan and run in one place, for Python and the command line."""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .authoring import File, Target
from .check import Checker, input_problem
from .components import GivenAddress, Handle, Opener
from .document import Items, Scalar, parse
from .errors import CheckError, CheckFailed, DiffgraphError, InputError, nearest
from .graph import GraphDocument, Lit, Node
from .plan import Bound, Outputs, Planner, Program, Settings, select
from .ports import Port, Value
from .reading import Reader
from .registry import Registry, registry
from .run import DamagedEntry, Listener, Results, Runner
from .sources import Loader, Source

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
MAX_FILE = 2**31


@dataclass(frozen=True)
class Options:
    """How to run. device: as torch writes it, None to pick. dtype: "fp32", "fp16" or "bf16". memory: bytes for weights."""

    device: str | None = None
    dtype: str = "fp32"
    memory: int | None = None
    cache: bool = True
    nodes: tuple[Path, ...] = ()


def torch_version() -> str:
    """The installed torch's version, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def pick_device(wanted: str | None) -> str:
    """The device of a run, found without importing torch. Raises InputError for a name that is none.

    CUDA where torch was built for it and a driver is there, MPS on Apple silicon, else the CPU.
    """
    if wanted:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
            raise InputError(f"--device {wanted}: there is no such device", hint="cpu, mps, cuda, or cuda:1")
        return wanted
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not hidden and Path("/dev/nvidiactl").exists() and _built_for_cuda():
        return "cuda"
    return "cpu"


def _built_for_cuda() -> bool:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda[^=]*= *'", text, re.MULTILINE) is not None


def check_device(device: str) -> None:
    """Raises InputError where torch cannot use the device after all."""
    import torch

    kind, _, number = device.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not available or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise InputError(f"the device {device} is not available to torch {torch.__version__}", hint="use --device cpu")


@dataclass(frozen=True)
class FileInput:
    """A file given for an input, to be read by the reader of its kind during the run."""

    kind: str
    reader: str
    file: File

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.kind} {self.reader} {self.file.digest}".encode()).hexdigest()


def read_file(path: str | Path, what: str) -> File:
    """The content of a file that the user names. Raises InputError."""
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            raise InputError(f"{what}: {path} is a folder, not a file")
        if place.stat().st_size > MAX_FILE:
            raise InputError(f"{what}: {path} is larger than 2 GiB")
        data = place.read_bytes()
    except FileNotFoundError:
        near = nearest(place.name, [p.name for p in place.parent.glob("*")]) if place.parent.is_dir() else None
        hint = f"did you mean {place.parent / near}?" if near else None
        raise InputError(f"{what}: there is no file {path}", hint=hint) from None
    except OSError as error:
        raise InputError(f"{what}: {path} cannot be read: {error.strerror}") from None
    return File(place.name, data, hashlib.sha256(data).hexdigest())


def apply_sets(graph: GraphDocument, sets: Mapping[str, Any]) -> GraphDocument:
    """The graph with keys of nodes replaced: `{"ddim.node": "PNDMScheduler", "denoise.guided.scale": 2.0}`.

    Raises InputError for a node or a key that cannot be.
    """
    if not sets:
        return graph
    graph = copy.deepcopy(graph)
    reader = Reader("--set")
    for path, value in sets.items():
        *names, key = path.split(".")
        node = _find_node(graph, names, path)
        arg = reader.arg(parse_value(value))
        if reader.problems:
            raise InputError(f"--set {path}: {reader.problems[0]}")
        if key == node.form and node.form in ("node", "graph"):
            node.target = Lit(str(value), node.target.place)
        elif node.form in ("node", "call", "graph"):
            node.args[key] = arg
        else:
            raise InputError(f"--set {path}: {names[-1]} is a {node.form}; set a key of a node inside it")
    return graph


def parse_value(value: Any) -> Any:
    """A value given on the command line or in a variant as a tree of the document reader: YAML where it is text."""
    if isinstance(value, str):
        try:
            return parse(value.encode(), "--set") if value.strip() else Scalar("", parse(b"''", "--set").place)
        except DiffgraphError:
            return Scalar(value, parse(b"''", "--set").place)
    place = parse(b"''", "--set").place
    if isinstance(value, list):
        return Items(tuple(Scalar(item, place) for item in value), place)
    return Scalar(value, place)


def _find_node(graph: GraphDocument, names: list[str], path: str) -> Node:
    nodes = graph.nodes
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


def resolve_inputs(
    graph: GraphDocument, given: Mapping[str, Any], reg: Registry, variant: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The value of every input, and the node keys that the variant sets. All mistakes together as CheckFailed.

    given: by input name, of the input's type; a path for a file or a kind with a reader, or a live value of the kind.
    """
    problems: list[DiffgraphError] = []
    chosen: dict[str, Any] = {}
    if variant is not None and variant not in graph.variants:
        near = nearest(variant, list(graph.variants))
        hint = f"did you mean {near!r}?" if near else "it has: " + (", ".join(graph.variants) or "none")
        raise InputError(f"there is no variant {variant!r}", hint=hint)
    if graph.variants:
        chosen = dict(graph.variants[variant or next(iter(graph.variants))])
    sets = chosen.pop("set", {})
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
        if item.name in given:
            value = given[item.name]
        elif item.name in chosen:
            value = chosen[item.name]
        elif not item.required:
            value = item.default
        else:
            option = item.name.replace("_", "-")
            problems.append(
                InputError(
                    f"the input {item.name} ({item.type}) is missing",
                    hint=f"give --{option}" + (f": {item.help}" if item.help else ""),
                )
            )
            continue
        problem = input_problem(item, port, value)
        if problem:
            problems.append(InputError(f"{item.name}: {problem}"))
            continue
        try:
            values[item.name] = _convert(item.name, port, value, reg, user=item.name in given)
        except DiffgraphError as error:
            problems.append(error)
    if problems:
        raise CheckFailed(problems)
    return values, sets


def _convert(name: str, port: Port, value: Any, reg: Registry, *, user: bool) -> Any:
    kind = port.type
    if value is None:
        return None
    if kind.form == "scalar" and kind.name == "float" and isinstance(value, int):
        return float(value)
    if kind.form == "scalar" and kind.name in ("weights", "folder"):
        return GivenAddress(value) if user else value
    if kind.form == "scalar" and kind.name == "file":
        return read_file(value, name)
    if kind.form == "kind" and isinstance(value, str | Path) and "text" not in kind.literals:
        entry = reg.readers.get(kind.name)
        if entry is None:
            raise InputError(f"{name}: no node package reads files of kind {kind.name}")
        return FileInput(kind.name, entry[1], read_file(value, name))
    return value


@dataclass
class Prepared:
    """A graph that was checked and planned with these inputs; `run` makes its outputs."""

    graph: GraphDocument
    source: Source
    values: dict[str, Any]
    loader: Loader
    registry: Registry
    settings: Settings
    planner: Planner
    outputs: dict[str, Bound]
    kinds: dict[str, Value]
    results: Results | None
    memory: int | None
    watch: dict[str, str] = field(default_factory=dict)

    def program(self) -> Program:
        """What will run, given what is stored now."""
        has = self.results.has if self.results is not None else lambda key: False
        return select(self.planner, self.outputs, has, store=self.results is not None)

    @property
    def handles(self) -> list[Handle]:
        return list(self.planner.handles.values())

    def run(self, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
        """The outputs by name. Raises RunError, Interrupted, WeightsError."""
        for _ in range(8):
            program = self.program()
            target = Target(self.settings.device, self.settings.dtype)
            if self.settings.device != "cpu" and program.code:
                check_device(self.settings.device)
            try:
                return Runner(
                    program, results=self.results, listeners=listeners, target=target, memory=self.memory
                ).run()
            except DamagedEntry:
                continue  # the store dropped the entry; plan again without it
        raise DiffgraphError(
            "stored results are damaged again and again", hint="`diffgraph cache clear` empties the store"
        )


class Session:
    """What runs share: node types, documents read, configs opened, and results."""

    def __init__(self, options: Options | None = None, results: Results | None = None) -> None:
        self.options = options or Options()
        self.registry = registry(self.options.nodes)
        self.results = results if self.options.cache else None
        if self.options.dtype not in DTYPES:
            raise InputError(f"--dtype {self.options.dtype}: use one of {', '.join(DTYPES)}")

    def settings(self) -> Settings:
        return Settings(pick_device(self.options.device), DTYPES[self.options.dtype], torch_version())

    def check(
        self,
        graph: GraphDocument,
        source: Source,
        loader: Loader,
        values: Mapping[str, Any] | None = None,
        opener: Opener | None = None,
    ) -> tuple[list[DiffgraphError], dict[str, Value]]:
        """Every mistake of a graph with these values; with an opener at the configured level."""
        checker = Checker(self.registry, loader, opener.configs if opener is not None else None)
        missing = [n for n in graph.requires if not _installed(n)]
        outputs = checker.document(graph, source, values or {})
        problems = list(checker.problems)
        for name in missing:
            place = graph.places.get("requires")
            problems.insert(
                0,
                CheckError(
                    f"the graph requires the node package {name} {graph.requires[name]}",
                    hint=f"pip install {name}",
                    place=place,
                ),
            )
        return sorted(problems, key=_by_place), outputs

    def prepare(
        self, graph: GraphDocument, source: Source, loader: Loader, given: Mapping[str, Any], *, variant: str | None = None,
        sets: Mapping[str, Any] | None = None, show: Iterable[str] = (),
    ) -> Prepared:  # fmt: skip
        """Checks and plans. Raises CheckFailed with all mistakes, InputError, WeightsError, HubError."""
        values, variant_sets = resolve_inputs(graph, given, self.registry, variant)
        graph = apply_sets(graph, {**variant_sets, **(sets or {})})
        opener = Opener()
        problems, kinds = self.check(graph, source, loader, values, opener)
        if problems:
            raise CheckFailed(problems)
        settings = self.settings()
        planner = Planner(self.registry, loader, opener, settings)
        planned = {name: planner.file_input(v) if isinstance(v, FileInput) else v for name, v in values.items()}
        names = planner.inputs(planned)
        outputs = dict(planner.scope(graph, source, names, ""))
        for path in show:
            outputs[path] = _shown(planner, names, path)
        return Prepared(
            graph,
            source,
            values,
            loader,
            self.registry,
            settings,
            planner,
            outputs,
            kinds,
            self.results,
            self.options.memory,
        )


def _by_place(problem: DiffgraphError) -> tuple[str, int, int]:
    place = problem.place
    return (place.file, place.line, place.column) if place is not None else ("", 0, 0)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return find_spec(package) is not None if package.isidentifier() else False
    return True


def _shown(planner: Planner, names: Mapping[str, Bound], path: str) -> Bound:
    first, *rest = path.split(".")
    if first not in names:
        near = nearest(first, list(names))
        raise InputError(f"--show {path}: there is no node {first!r}", hint=f"did you mean {near!r}?" if near else None)
    bound = names[first]
    for part in rest:
        try:
            bound = planner.get(bound, part, first)
        except (CheckError, KeyError, AttributeError):
            has = f"it has: {', '.join(bound.fields)}" if isinstance(bound, Outputs) else None
            raise InputError(f"--show {path}: {first} has no port {part!r}", hint=has) from None
    return bound
