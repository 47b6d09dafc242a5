"""Components while planning: handles that know config and digests, and open weights at the first call that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OfflineError, Place, WeightsError, WrongPart
from .locking import Book
from .planning.keys import tensor_bytes
from .ports import filled
from .registry import NodeType, who_reads
from .weights.addresses import Address, parse_address
from .weights.config import parse_config
from .weights.folders import Folder

if TYPE_CHECKING:
    from .language.sources import Source


class GivenAddress(str):
    """An address that the user gave, on the command line or in Python: relative to the working directory, and free.

    One that stands in a document is confined to the document's folder.
    """


class AnchoredAddress(str):
    """An address that an including document wrote: relative to the folder of that one, to which it is confined."""

    folder: Path | Address | None

    def __new__(cls, text: str, folder: Path | Address | None) -> AnchoredAddress:
        anchored = super().__new__(cls, text)
        anchored.folder = folder
        return anchored


def anchored(text: Any, source: Source) -> Any:
    """An address handed on to another document, which may lie in another folder; what is no plain text stays as it is."""
    return AnchoredAddress(text, source.base) if type(text) is str else text


def below(text: str, sub: str) -> str:
    """The address of a sub-folder, given as that of its folder is."""
    return AnchoredAddress(text + sub, text.folder) if isinstance(text, AnchoredAddress) else type(text)(text + sub)


@dataclass
class Opened:
    """The folder of one component, its config as read and checked, and facts from sibling configs."""

    kind: NodeType
    folder: Folder
    config: dict[str, Any]
    metadata: dict[str, Any]
    facts: dict[str, str]


class Opener:
    """Opens the configs of components, each once; the book notes what was opened. refused: what is not here, offline."""

    def __init__(self, book: Book | None = None) -> None:
        self.book = book if book is not None else Book(None)
        self.refused: list[OfflineError] = []
        self._opened: dict[tuple[str, str, str], Opened] = {}

    @property
    def opened(self) -> list[Opened]:
        """Every component that was opened."""
        return list(self._opened.values())

    def address(self, text: str, source: Source) -> Folder:
        """Opens the address of weights that stands in a document, or that the user gave."""
        if isinstance(text, GivenAddress):
            return self.book.open(parse_address(text), free=True)
        base = text.folder if isinstance(text, AnchoredAddress) else source.base
        return self.book.open(parse_address(text, base=base, confined=True), free=False)

    def __call__(self, kind: NodeType, text: str, source: Source) -> Opened:
        """Raises WeightsError, HubError, or LockError for what is not as it was locked."""
        folder = text.folder if isinstance(text, AnchoredAddress) else source.base
        key = (kind.name, str(text), "" if isinstance(text, GivenAddress) else str(folder))
        if key not in self._opened:
            try:
                self._opened[key] = self._open(kind, self.address(text, source))
            except OfflineError as error:
                self.refused.append(error)
                raise
        return self._opened[key]

    def _open(self, kind: NodeType, folder: Folder) -> Opened:
        from .weights.loading import read_config

        try:
            read = read_config(
                folder, kind.name, kind.config, config_file=kind.config_file, published=kind.published,
                ignored=kind.ignored,
            )  # fmt: skip
        except WrongPart as error:
            raise who_reads(error) from None
        folder, config, metadata = read.folder, read.values, read.metadata
        facts = {}
        for name, text in kind.siblings.items():
            files, _, template = text.partition(":")
            template, _, without = template.partition("|")
            sibling = folder.sibling(*files.split())
            word = without if sibling is None and folder.indexed else filled(template, sibling or {})
            if word:
                facts[name] = word
        return Opened(kind, folder, config, metadata, facts)

    def configs(self, kind: NodeType, text: str, source: Source) -> tuple[dict[str, Any], Mapping[str, str]]:
        """What the checker asks for."""
        opened = self(kind, text, source)
        return opened.config, opened.facts


@dataclass
class Handle:
    """A component of a plan. Its weights are opened by `get`, at the first call that is not cached."""

    kind: NodeType
    config: dict[str, Any]
    key: str
    path: str
    place: Place
    folder: Folder | None = None
    files: tuple[str, ...] = ()
    init_seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    live: Any = None
    bytes: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    on_load: Callable[[Handle, float], None] | None = None
    _object: Any = None
    _light: Any = None
    _methods: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def config_object(self) -> Any:
        return self.kind.load().Config(**self.config)

    def light(self) -> Any:
        """The component made of its config alone, for methods that need no weights."""
        if self.live is not None:
            return self.live
        if self._light is None:
            self._light = self.kind.load().from_config(self.config_object())
        return self._light

    @property
    def loaded(self) -> bool:
        return self._object is not None

    def resident_bytes(self) -> int:
        """How many bytes the loaded component holds, found without loading it. Raises WeightsError."""
        if not self.kind.trainable:
            return self.bytes
        item = 4 if self.dtype == "float32" else 2
        if self.folder is None:
            import torch

            with torch.device("meta"):
                tensors = self.kind.load().from_config(self.config_object()).state_dict().values()
            return sum(t.numel() * (item if t.is_floating_point() else t.itemsize) for t in tensors)
        from .weights.tensors import read_header

        total = 0
        for name, path in self.folder.paths(self.files).items():
            if name.endswith(".safetensors"):
                specs = read_header(path, f"{self.folder}/{name}").values()
                total += sum(spec.count * (item if "F" in spec.dtype else 8) for spec in specs)
            else:
                total += path.stat().st_size
        return total

    def get(self) -> Any:
        """The component with its weights, on its device. Raises WeightsError."""
        if self._object is None:
            import time

            started = time.perf_counter()
            self._object = self._load()
            if self.on_load is not None:
                self.on_load(self, time.perf_counter() - started)
        return self._object

    def _load(self) -> Any:
        from .weights import loading as weights

        if self.live is not None:
            return self.live
        cls = self.kind.load()
        if self.folder is not None:
            return weights.load_component(
                cls, self.config_object(), self.folder.paths(self.files), metadata=self.metadata, dtype=self.dtype,
                device=self.device, where=str(self.folder),
            )  # fmt: skip
        if not self.kind.trainable:
            return self.light()
        return weights.init_module(cls, self.config_object(), self.init_seed, dtype=self.dtype, device=self.device)

    def method(self, name: str) -> Callable[..., Any]:
        """A bound method, loading the component if need be."""
        found = self._methods.get(name)
        if found is None:
            component = self.get()
            found = component if name == "__call__" else getattr(component, name)
            self._methods[name] = found
        return found

    def drop(self) -> None:
        """Forgets the loaded weights; a live component stays the caller's."""
        self._object = None
        self._methods.clear()


def make_handle(
    kind: NodeType, explicit: Mapping[str, Any], *, opener: Opener, source: Source, path: str, place: Place,
    device: str, dtype: str, torch_version: str, live: Any = None,
) -> Handle:  # fmt: skip
    """The handle of one component node. `explicit` holds its parameters, `weights`, `init_seed`, `dtype` and `device` among them.

    Raises WeightsError or HubError where its config or files are missing or refused.
    """
    given = dict(explicit)
    text, seed = given.pop("weights", None), given.pop("init_seed", None) or 0
    dtype, device = _dtype(given.pop("dtype", None) or dtype), given.pop("device", None) or device
    folder: Folder | None = None
    files: tuple[str, ...] = ()
    digest, size, metadata = f"seed {seed}" if kind.trainable else "", 0, {}
    if live is not None:
        config, digest = kind.config_of(live), live_digest(live)
        first = next(iter(live.parameters()), None) if kind.trainable else None
        if first is not None:
            device, dtype = str(first.device), str(first.dtype).removeprefix("torch.")
    elif text is not None:
        opened = opener(kind, text, source)
        folder, metadata, config = opened.folder, opened.metadata, {**opened.config, **_accept(kind, given)}
        files = folder.resolve(*kind.files)
        digest, size = folder.digest(files), folder.size(files)
    else:
        config = parse_config(kind.config, given, ignored=frozenset(), where=path)
    where = f"{dtype} {device.split(':')[0]} {torch_version}" if kind.trainable else ""
    parts = [
        "component",
        kind.name,
        str(kind.version),
        kind.source,
        json.dumps(config, sort_keys=True, default=str),
        digest,
        where,
    ]
    key = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
    return Handle(kind, config, key, path, place, folder, files, seed, dtype, device, live, size, metadata)


def _accept(kind: NodeType, given: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for name, value in given.items():
        try:
            out[name] = kind.config[name].accept(value)
        except ValueError as error:
            raise WeightsError(f"{name}: {value!r} is not permitted; {error}") from None
    return out


_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _dtype(name: str) -> str:
    return _DTYPES.get(name, name)


def live_key(live: Any) -> str:
    """What stands for a live object in a graph's hash: the source of a type, the content of a component."""
    return live.source if isinstance(live, NodeType) else live_digest(live)


def live_digest(component: Any) -> str:
    """The digest of a live component: its config and the bytes of its tensors."""
    digest = hashlib.sha256(repr(getattr(component, "config", "")).encode())
    if hasattr(component, "state_dict"):
        for name, tensor in component.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
