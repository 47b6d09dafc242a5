"""From a document and values to results: check, plan and run in one place, for Python and the command line."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .authoring import Target
from .checking.check import Checker
from .checking.unify import Value
from .components import Handle, Opener
from .errors import DiffgraphError, InputError, Place
from .fetching import fetch_parts, raise_problems
from .hiding import secret_texts
from .inputs import FileInput, apply_sets, resolve_inputs
from .language.graph import NAME, GraphDocument, Ref
from .language.sources import Loader, Source
from .locking import Book, find_lock, how_to_lock, node_versions
from .planning.lowering import Bound, Settings
from .planning.plan import Planner
from .planning.program import CALL, LOAD, METHOD, Program
from .planning.selecting import secret_slots, select
from .registry import Registry, registry
from .running.run import DamagedEntry, Deliver, Event, Listener, Results, Runner
from .telling import hide

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Options:
    """How to run.

    device: as torch writes it, None to pick. dtype: "fp32", "fp16" or "bf16". memory: bytes for weights. locked: only
    with a lock beside the graph, which then holds for what the user gives too. lock: where there is one, it is used.
    """

    device: str | None = None
    dtype: str = "fp32"
    memory: int | None = None
    cache: bool = True
    nodes: tuple[Path, ...] = ()
    locked: bool = False
    lock: bool = True


@cache
def torch_version() -> str:
    """The installed torch's version, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def precision_flags() -> str:
    """What the user has set in torch that changes numbers, and that is not torch's own default. Does not import torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    flags = {
        f"matmul {torch.get_float32_matmul_precision()}": torch.get_float32_matmul_precision() != "highest",
        "cudnn without tf32": not torch.backends.cudnn.allow_tf32,
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return ", ".join(name for name, is_set in flags.items() if is_set)


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


@contextmanager
def no_collections() -> Iterator[None]:
    """Without looking for cycles among objects: planning makes many that stay, and each look would see them all."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


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
    variant: str | None = None
    _whole: Program | None = field(default=None, repr=False)
    _stored: tuple[Mapping[str, Bound], Program] | None = field(default=None, repr=False)

    @no_collections()
    def program(self, without: Set[str] = frozenset()) -> Program:
        """What will run, given what is stored now. without: keys of results that are damaged."""
        results = self.results
        if results is not None:
            if self._stored is not None and not without and self._holds(*self._stored, results):
                return self._stored[1]
            has = (lambda key: key not in without and results.has(key)) if without else results.has
            program = select(self.planner, self.outputs, has)
            only_loads = all(instruction.op == LOAD for instruction in program.code)
            self._stored = (self.outputs, program) if only_loads else None
            return program
        if self._whole is None:
            self._whole = select(self.planner, self.outputs, lambda key: False, store=False)
        return self._whole

    def _holds(self, outputs: Mapping[str, Bound], program: Program, results: Results) -> bool:
        """Whether a program that only loads what is stored still makes these outputs."""
        return outputs is self.outputs and all(map(results.has, [load.name for load in program.code]))

    def storable(self, output: str) -> bool:
        """Whether an output, and what is made of it, may be stored: not where it depends on a secret."""
        return self.planner.index(self.outputs[output]) not in secret_slots(self.planner)

    @property
    def handles(self) -> list[Handle]:
        return list(self.planner.handles.values())

    def run(self, listeners: Sequence[Listener] = (), deliver: Deliver | None = None) -> dict[str, Any]:
        """The outputs by name. Raises RunError, Interrupted, WeightsError.

        deliver: takes each output instead, as soon as it is there; twice where a stored result proves damaged.
        """
        damaged: set[str] = set()
        while True:
            program = self.program(damaged)
            fetch_parts(program, self.source.label, listeners)
            target = Target(self.settings.device, self.settings.dtype)
            self._check_devices(program)
            runner = Runner(
                program, results=self.results, listeners=listeners, target=target, memory=self.memory, deliver=deliver,
                previewers=self.registry.previewers,
            )  # fmt: skip
            try:
                return runner.run()
            except DiffgraphError as error:
                hide(error, secret_texts(self.graph, self.values))
                raise
            except DamagedEntry as entry:
                damaged.add(entry.key)
                what = "a stored result was damaged; it is computed again"
                runner.emit(Event("warning", text=what))
                if not listeners:
                    warnings.warn(what, stacklevel=2)

    def _check_devices(self, program: Program) -> None:
        """Raises InputError where something runs on a device that is not there."""
        calls = [instruction for instruction in program.code if instruction.op in (CALL, METHOD)]
        wanted = {self.settings.device} if calls else set()
        wanted |= {call.handle.device for call in calls if call.handle is not None and call.handle.kind.trainable}
        for device in sorted(wanted - {"cpu"}):
            check_device(device)


class Session:
    """What runs share: node types, documents read, configs opened, and results."""

    def __init__(self, options: Options | None = None, results: Results | None = None) -> None:
        self.options = options or Options()
        self.registry = registry(self.options.nodes)
        self.results = results if self.options.cache else None
        if self.options.dtype not in DTYPES:
            raise InputError(f"--dtype {self.options.dtype}: use one of {', '.join(DTYPES)}")

    def settings(self) -> Settings:
        device = pick_device(self.options.device)
        return Settings(device, DTYPES[self.options.dtype], torch_version(), precision_flags())

    def opener(self, source: Source) -> Opener:
        """What opens the components of a graph: as the lock beside it says, where there is one.

        Raises InputError where one is demanded and not there, DocumentError for a damaged one.
        """
        lock = find_lock(source) if self.options.lock else None
        if lock is None and self.options.locked:
            raise InputError(f"--locked: there is no lock beside {source.label}", hint=how_to_lock(source))
        return Opener(Book(source.base, lock, strict=self.options.locked))

    def check(
        self,
        graph: GraphDocument,
        source: Source,
        loader: Loader,
        values: Mapping[str, Any] | None = None,
        opener: Opener | None = None,
    ) -> tuple[list[DiffgraphError], dict[str, Value]]:
        """Every mistake of a graph with these values, without its secrets; with an opener at the configured level."""
        checker = Checker(self.registry, loader, opener.configs if opener is not None else None)
        outputs = checker.document(graph, source, values or {})
        if opener is not None:
            opener.refused += checker.refused
        secrets = secret_texts(graph, values or {})
        for problem in checker.problems:
            hide(problem, secrets)
        return sorted(checker.problems, key=_by_place), outputs

    @no_collections()
    def prepare(
        self, graph: GraphDocument, source: Source, loader: Loader, given: Mapping[str, Any], *,
        variant: str | None = None, sets: Mapping[str, Any] | None = None, show: Iterable[str] = (),
        kept: Mapping[str, Any] | None = None, planner: Planner | None = None,
    ) -> Prepared:  # fmt: skip
        """Checks and plans.

        show: values inside the graph, `NODE.PORT`, to have as outputs besides. kept: see resolve_inputs. planner: that
        of other runs of this session, with which equal work is shared. Raises CheckFailed with all mistakes,
        InputError, WeightsError, HubError.
        """
        values, variant_sets = resolve_inputs(graph, given, self.registry, variant, source=source, kept=kept)
        graph = apply_sets(apply_sets(graph, variant_sets), sets or {}, user=True)
        wanted = replace(graph, outputs={**graph.outputs, **_shown(graph, show)})
        opener = planner.opener if planner is not None else self.opener(source)
        problems, kinds = self.check(wanted, source, loader, values, opener)
        raise_problems(problems, opener, source)
        opener.book.note_documents(loader)
        if opener.book.lock is not None:
            opener.book.lock.check_nodes(node_versions(graph, source, loader, self.registry))
        if planner is None:
            planner = Planner(self.registry, loader, opener, self.settings())
        names = planner.inputs({name: _opened(planner, value) for name, value in values.items()})
        names = {name: planner.secret(one) if graph.inputs[name].secret else one for name, one in names.items()}
        outputs = dict(planner.scope(wanted, source, names, ""))
        return Prepared(
            graph, source, values, loader, self.registry, planner.settings, planner, outputs, kinds, self.results,
            self.options.memory,
            variant or next(iter(graph.variants), None) if kept is None else None,
        )  # fmt: skip


def _shown(graph: GraphDocument, show: Iterable[str]) -> dict[str, Ref]:
    """What `--show` names, as outputs."""
    outputs = {}
    for path in show:
        name, *ports = path.split(".")
        if not all(NAME.fullmatch(part) for part in (name, *ports)):
            raise InputError(f"--show {path}: write NODE or NODE.PORT")
        if path not in graph.outputs:
            outputs[path] = Ref(name, tuple(ports), place=Place(f"--show {path}"))
    return outputs


def _opened(planner: Planner, value: Any) -> Any:
    """A value of an input for the planner: files become what their reader will make of them."""
    if isinstance(value, FileInput):
        return planner.file_input(value)
    if isinstance(value, list) and any(isinstance(item, FileInput) for item in value):
        return planner.list_of([planner.file_input(item) for item in value])
    return value


def _by_place(problem: DiffgraphError) -> tuple[str, int, int]:
    place = problem.place
    return (place.file, place.line, place.column) if place is not None else ("", 0, 0)
