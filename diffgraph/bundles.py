"""Bundles: what a written file carries of the run that made it, and how that run is made again.

A bundle is JSON, `{"diffgraph": 1, "main": address, "documents": {address: text}, "inputs": {name: value}}` (see
results.provenance). It is as little trusted as any document: it is read with the same limits, includes only its own
documents and those that are installed, and opens no file; a file that was an input is asked for again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .authoring import File
from .errors import DocumentError, InputError, Place, WeightsError
from .inputs import FileInput, read_file
from .language.graph import GraphDocument
from .language.sources import MAX_INCLUDES, Source
from .registry import Registry, import_name
from .weights.addresses import parse_address

KEY = "diffgraph"


@dataclass(frozen=True)
class Bundle:
    """A run that a file carries: its document, its inputs, and by input the name and digest of each (first) file."""

    source: Source
    inputs: Mapping[str, Any]
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)

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
    if len(documents) > MAX_INCLUDES:
        raise _damaged(path, f"it holds more than {MAX_INCLUDES} documents")
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
    return Bundle(Source(main, f"{path}:{main}", bundle=documents, remote=remote), values, files)


def _damaged(path: Path, why: str) -> DocumentError:
    return DocumentError(f"the graph that it carries is damaged: {why}", place=Place(str(path)))
