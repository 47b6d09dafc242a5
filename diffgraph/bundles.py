"""Bundles: what a written file carries of the run that made it, and how that run is made again.

A bundle is JSON, `{"diffgraph": 1, "main": address, "documents": {address: text}, "inputs": {name: value}, "made":
{"variant", "versions", "device", "dtype"}}` (see results.provenance); the lock of the run is a document beside the main
one. It is as little trusted as any document: it is read with the same limits, includes only its own documents and those
that are installed, and opens no file; a file that was an input is asked for again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .authoring import File
from .errors import DocumentError, InputError, Place, WeightsError
from .inputs import FileInput, read_file
from .language.graph import GraphDocument
from .language.sources import MAX_INCLUDES, Source
from .planning.lowering import Settings
from .registry import Registry, import_name
from .weights.addresses import parse_address

KEY = "diffgraph"
MAX_NAME = 1000
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Made:
    """With what a run was made, as far as its file says: the versions of diffgraph, torch and packages of nodes."""

    variant: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    dtype: str = ""

    def place(self, device: str | None, dtype: str | None) -> tuple[str | None, str | None]:
        """Where, and in which precision, the run is made again, as far as the user does not say. Any machine has a CPU."""
        return device or ("cpu" if self.device == "cpu" else None), dtype or DTYPES.get(self.dtype)

    def elsewhere(self, here: Settings) -> str:
        """What was not as it is here, where that may change a value a little."""
        torch, device = self.versions.get("torch", ""), self.device.partition(":")[0]
        told = [f"with torch {torch}, here it is {here.torch_version}"] if torch not in ("", here.torch_version) else []
        told += [f"on {device}, here it is {here.device}"] if device not in ("", here.device.partition(":")[0]) else []
        return " and ".join(told)


@dataclass(frozen=True)
class Bundle:
    """A run that a file carries: its document, its inputs, and by input the name and digest of each (first) file."""

    source: Source
    inputs: Mapping[str, Any]
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    made: Made = Made()

    def missing(self, graph: GraphDocument, given: Mapping[str, Any]) -> list[InputError]:
        """What has to be given again: input files, and addresses out of reach of a document."""
        out = []
        for name in (name for name in graph.inputs if name not in given):
            option = "--" + name.replace("_", "-")
            value = self.inputs.get(name)
            if name in self.files:
                file, digest = self.files[name]
                what = f"the input {name} was the file {file!r} (SHA-256 {digest[:12]}...), which is not in the picture"
                out.append(InputError(what, hint=f"give it again: {option} FILE"))
            elif graph.inputs[name].type in ("weights", "folder") and isinstance(value, str) and not _within(value):
                what = f"the picture was made with {option} {value[:200]}, which it may not open by itself"
                out.append(InputError(what, hint=f"give {option} {value[:200]}, if you trust it"))
        return out

    def differing(self, values: Mapping[str, Any]) -> list[str]:
        """The inputs whose files are not those of the earlier run."""
        out = []
        for name, (_, digest) in self.files.items():
            value = values.get(name)
            value = value[0] if isinstance(value, list) and value else value
            file = value.file if isinstance(value, FileInput) else value
            if isinstance(file, File) and file.digest != digest:
                out.append(name)
        return out


def _within(address: str) -> bool:
    """Whether a document in the working directory might name this address."""
    try:
        parse_address(address, base=Path.cwd(), confined=True)
    except WeightsError:
        return False
    return True


def carries(path: Path, registry: Registry) -> bool:
    """Whether a file is of a format that may carry a bundle; its content decides when it is read."""
    return path.suffix.lower() in registry.carriers and path.is_file()


def read_bundle(path: Path, registry: Registry) -> Bundle:
    """The run that a file carries. Raises InputError or DocumentError where it carries none, or a damaged one."""
    data = read_file(path, "the graph").data
    texts = import_name(registry.carriers[path.suffix.lower()])(data)
    if KEY not in texts:
        raise InputError(f"{path} carries no graph", hint="it must be a file that diffgraph wrote, unchanged")
    try:
        bundle = json.loads(texts[KEY])
    except (ValueError, RecursionError):
        raise _damaged(path, "it is not JSON") from None
    if not isinstance(bundle, dict) or bundle.get("diffgraph") != 1:
        raise _damaged(path, "its format is not known")
    main, documents, inputs = bundle.get("main"), bundle.get("documents"), bundle.get("inputs")
    if not isinstance(documents, dict) or not all(isinstance(text, str) for text in documents.values()):
        raise _damaged(path, "it holds no documents")
    if not isinstance(main, str) or main not in documents or not isinstance(inputs, dict):
        raise _damaged(path, "it names no document or no inputs")
    if len(documents) > MAX_INCLUDES + 1:
        raise _damaged(path, f"it holds more than {MAX_INCLUDES} documents")
    if not all(0 < len(name) <= MAX_NAME and name.isprintable() for name in documents):
        raise _damaged(path, "a document's name is no address")
    values, files = {}, {}
    for name, value in inputs.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict):
            file, digest = first.get("file"), first.get("sha256")
            if not isinstance(file, str) or not isinstance(digest, str):
                raise _damaged(path, f"its input {name} is neither a value nor a file")
            files[name] = (file[:80], digest)
        else:
            values[name] = value
    try:
        remote = parse_address(main) if main.startswith("hf://") else None
    except WeightsError as error:
        raise _damaged(path, error.message) from None
    return Bundle(Source(main, f"{path}:{main}", bundle=documents, remote=remote), values, files, _made(bundle))


def _made(bundle: Mapping[str, Any]) -> Made:
    """What a bundle says of how it was made; what is not plainly that is left out."""
    found = bundle.get("made")
    found = found if isinstance(found, dict) else {}
    versions = found.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    plain = {name: text for name, text in versions.items() if _is_word(name) and _is_word(text)}
    variant, device, dtype = (
        found.get(key) if _is_word(found.get(key)) else None for key in ("variant", "device", "dtype")
    )
    return Made(variant, plain, device or "", dtype or "")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.+:-]{1,80}", value) is not None


def _damaged(path: Path, why: str) -> DocumentError:
    return DocumentError(f"the graph that it carries is damaged: {why}", place=Place(str(path)))
