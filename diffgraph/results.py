"""What a run gives: outputs as attributes, written and shown through the writers of their kinds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .authoring import File
from .checking.unify import Value
from .errors import DiffgraphError, StoreError
from .hiding import without_secrets
from .inputs import FileInput
from .language.document import write
from .language.writing import document_plain
from .locking import SUFFIX, Lock, node_versions
from .planning.keys import digest
from .planning.sizes import parse_size
from .ports import UNSET
from .registry import Registry, Writer, import_name, registry
from .running.run import Results
from .running.store import GIB, MISSING, Layers, Memory, Store, cache_folder
from .session import Prepared

if TYPE_CHECKING:
    from PIL.Image import Image


@cache
def default_results() -> Layers:
    """The memory of this process over the store on disk, of 20 GiB or what DIFFGRAPH_CACHE_SIZE says."""
    return Layers(Memory(), default_store())


def default_store() -> Store:
    """The store on disk. Raises InputError where DIFFGRAPH_CACHE_SIZE is no size."""
    size = os.environ.get("DIFFGRAPH_CACHE_SIZE")
    limit = parse_size(size, "DIFFGRAPH_CACHE_SIZE") if size else 20 * GIB
    return Store(cache_folder() / "results", limit, records=lambda place: registry().record_types(place))


class Result:
    """The outputs of a run, as attributes, and by name: `result.image`, `result["image"]`."""

    def __init__(self, outputs: Mapping[str, Any], shown: Any = None) -> None:
        self._outputs, self._shown = dict(outputs), shown

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_outputs"][name]
        except KeyError:
            has = ", ".join(self.__dict__.get("_outputs", ()))
            raise AttributeError(f"the result has no output {name!r}; it has: {has}") from None

    def __getitem__(self, name: str) -> Any:
        return self._outputs[name]

    def __dir__(self) -> list[str]:
        return list(self._outputs)

    def __repr__(self) -> str:
        return f"<Result {', '.join(self._outputs)}>"

    def _repr_png_(self) -> bytes | None:
        for value in self._outputs.values():
            show = getattr(value, "_repr_png_", None)
            if show is not None:
                return show()  # type: ignore[no-any-return]
        return None


@cache
def _written_tensor() -> type:
    """A tensor that knows the writer of its kind. Operations on it give plain tensors."""
    import torch

    class Written(torch.Tensor):
        """A tensor output: `.pil()` gives pictures, `.save(path)` writes files, notebooks show it."""

        __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
        _writer: Any
        _suffix: str
        _metadata: dict[str, str]

        def files(self) -> list[bytes]:
            """The content of one file an item, in the format of the kind."""
            return list(self._writer(self.detach().as_subclass(torch.Tensor), self._metadata))

        def pil(self) -> Image | list[Image]:
            """The picture, or a list of them where there are several."""
            from io import BytesIO

            from PIL import Image as pillow

            pictures: list[Image] = [pillow.open(BytesIO(data)) for data in self.files()]
            return pictures[0] if len(pictures) == 1 else pictures

        def save(self, path: str | Path) -> list[Path]:
            """Writes `path`, or `path-0`, `path-1` ... where there are several. Raises StoreError."""
            place = Path(path)
            files = self.files()
            names = [place] if len(files) == 1 else [place.with_stem(f"{place.stem}-{i}") for i in range(len(files))]
            for name, data in zip(names, files, strict=True):
                try:
                    name.write_bytes(data)
                except OSError as error:
                    raise StoreError(f"{name} cannot be written: {error.strerror}") from None
            return names

        def _repr_png_(self) -> bytes | None:
            files = self.files()
            return files[0] if self._suffix == ".png" and files else None

    return Written


def make_result(prepared: Prepared, outputs: Mapping[str, Any]) -> Result:
    """Outputs for Python: a tensor of a kind that has a writer gets `.pil()`, `.save()`."""
    metadata: dict[str, str] | None = None
    wrapped = {}
    for name, value in outputs.items():
        entry = writer_of(prepared, name) if hasattr(value, "_version") else None
        if entry is not None:
            metadata = metadata if metadata is not None else provenance(prepared)
            tensor = value.as_subclass(_written_tensor())
            tensor._suffix, tensor._writer, tensor._metadata = entry.suffix, import_name(entry.function), metadata
            wrapped[name] = tensor
        else:
            wrapped[name] = value
    return Result(wrapped)


def writer_of(prepared: Prepared, name: str) -> Writer | None:
    """The writer for an output: of its kind, or of a special kind of that whose facts fit; of its items for a list."""
    value = prepared.kinds.get(name)
    return kind_writer(prepared.registry, value) if value is not None else None


def kind_writer(reg: Registry, value: Value) -> Writer | None:
    """The writer for a value of which the checker knows this."""
    if value.type.form == "list" and value.item is not None:
        return kind_writer(reg, value.item)
    found = reg.writers.get(value.type.name)
    if found is None and value.type.form == "kind":
        for kind, entry in reg.writers.items():
            port = reg.kinds.get(kind)
            if port is None or port.type.of != value.type.name:
                continue
            if all(value.facts.get(fact, word) == word for fact, word in port.facts):
                return entry
    return found


# --- files ----------------------------------------------------------------------------------------------------------


def files_key(writer: Writer, key: str, metadata: Mapping[str, str]) -> str:
    """The key under which the files of a value are kept: the value's, the writer's source, and what the files carry."""
    return digest("files", key, writer.function, writer.source, json.dumps(metadata, sort_keys=True))


def stored_files(results: Results, key: str) -> list[bytes] | None:
    """Files that an earlier run wrote, so that the same run needs neither the value nor torch; or None."""
    found = results.get(key) if results.has(key) else MISSING
    return [array.tobytes() for array in found] if isinstance(found, list) else None


def make_files(writer: Writer, value: Any, metadata: Mapping[str, str]) -> list[bytes]:
    """The files of a value, one an item of a batch or a list, in the format of its kind. Raises PortError."""
    function = import_name(writer.function)
    values = value if isinstance(value, list) else [value]
    return [data for item in values for data in function(item, dict(metadata))]


def keep_files(results: Results, key: str, files: list[bytes]) -> None:
    """Keeps files for `stored_files`. Raises StoreError."""
    import numpy

    results.put(key, [numpy.frombuffer(data, numpy.uint8) for data in files])


def provenance(prepared: Prepared) -> dict[str, str]:
    """What a written file carries: the document, those that it includes, the lock of the run, its inputs, and with what
    it was made. Nothing that is secret.

    A file among the inputs is there by name and digest. Empty where the graph holds live objects.
    """
    source = prepared.source
    kept = source.remote is not None or "/" not in source.address  # an address on the Hub says what lies beside it
    below = "" if kept else source.address.rpartition("/")[0] + "/"
    name = source.address.removeprefix(below)
    try:
        documents = {address.removeprefix(below): text for address, text in _documents(prepared).items()}
    except DiffgraphError:
        return {}
    documents[name + SUFFIX] = _lock(prepared).text()
    given = {name: value for name, value in prepared.values.items() if not prepared.graph.inputs[name].secret}
    inputs = {name: plain for name, value in given.items() if (plain := _plain_input(value)) is not UNSET}
    bundle = {"diffgraph": 1, "main": name, "documents": documents, "inputs": inputs, "made": _made(prepared)}
    return {"diffgraph": json.dumps(bundle, ensure_ascii=False, sort_keys=True)}


def _documents(prepared: Prepared) -> dict[str, str]:
    """The text of every document of a run, by address: as it stands, unless a key was set or it holds a secret."""
    known = prepared.loader
    graphs = {**known.documents, prepared.source.address: (prepared.graph, prepared.source)}
    texts = {}
    for address, (graph, source) in graphs.items():
        free = without_secrets(graph, source, known)
        read = known.documents.get(address)
        unchanged = read is not None and free is read[0]
        texts[address] = known.texts[address] if unchanged else write(document_plain(free))
    return texts


def _lock(prepared: Prepared) -> Lock:
    """What was opened for a run."""
    nodes = node_versions(prepared.graph, prepared.source, prepared.loader, prepared.registry)
    return Lock("", "", prepared.planner.opener.book.carried(), nodes, __version__)


def _made(prepared: Prepared) -> dict[str, Any]:
    """With what a run is made."""
    settings, nodes = prepared.settings, prepared.registry.nodes
    used = node_versions(prepared.graph, prepared.source, prepared.loader, prepared.registry)
    packages = {nodes[name].module.partition(".")[0] for name in used}
    versions = {"diffgraph": __version__, "torch": settings.torch_version}
    versions |= {name: found for name in sorted(packages - {*versions}) if (found := _version(name))}
    return {"variant": prepared.variant, "versions": versions, "device": settings.device, "dtype": settings.dtype}


def _version(package: str) -> str:
    """The version of an installed package; "" for a file of nodes."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _plain_input(value: Any) -> Any:
    """An input as JSON, a file by its name and digest; UNSET for a live value."""
    file = value.file if isinstance(value, FileInput) else value
    if isinstance(file, File):
        return {"file": file.name, "sha256": file.digest}
    if isinstance(value, list):
        items = [_plain_input(item) for item in value]
        return UNSET if UNSET in items else items
    if isinstance(value, str):
        return str.__str__(value)
    return value if isinstance(value, int | float | bool | None) else UNSET
