"""Where documents come from: a file, a shipped graph, or the bundle that a picture carries; and what they may include.

A relative include is found beside the document and below its folder only; `pkg://package/path` from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import CheckError, CheckFailed, DiffgraphError, DocumentError, InputError, nearest
from .document import parse, read
from .graph import GraphDocument
from .reading import read_graph

SHIPPED = "pkg://diffgraph/"
MAX_INCLUDES = 256


def graphs_folder() -> Path:
    """The folder of the shipped graphs."""
    return Path(__file__).parent.parent / "graphs"


@dataclass(frozen=True)
class Source:
    """One document's origin. `address` identifies it, `label` is what errors show, `root` bounds what it includes."""

    address: str
    label: str
    path: Path | None = None
    root: Path | None = None
    bundle: Mapping[str, str] | None = None

    def read(self) -> bytes:
        if self.bundle is not None:
            if self.address not in self.bundle:
                raise DocumentError(f"the bundle holds no document {self.address}", hint="it was cut or edited")
            return self.bundle[self.address].encode("utf-8", "surrogatepass")  # which the reader refuses
        assert self.path is not None
        return read(self.path)

    @property
    def identity(self) -> str:
        """The same for every way of naming one document."""
        return str(self.path.resolve()) if self.path is not None else self.address

    @property
    def folder(self) -> Path | None:
        return self.path.parent if self.path is not None else None

    def include(self, text: str) -> Source:
        """The document that `graph: text` means here. Raises CheckError for an address that leaves the root."""
        if not text or "\0" in text:
            raise CheckError(
                f"graph {text!r}: there is no such file", hint="name a document, such as samplers/plain.yaml"
            )
        if self.bundle is not None:
            text = text if "://" in text else str(PurePosixPath(text))
            address = text if text.startswith("pkg://") else _join(self.address, text)
            if address in self.bundle:
                return Source(address, self.label.removesuffix(self.address) + address, bundle=self.bundle)
        if text.startswith("pkg://"):
            return package_source(text)
        if "://" in text:
            raise CheckError(f"graph address {text!r}: only files beside the document and pkg:// can be included")
        if self.path is None or self.root is None:
            raise CheckError(
                f"graph {text!r}: a relative include needs a document with a folder", hint="use pkg://diffgraph/..."
            )
        if Path(text).is_absolute() or ".." in Path(text).parts:
            raise CheckError(
                f"graph {text!r}: an include may not leave the document's folder",
                hint="put the file below it, or use pkg://diffgraph/... for a shipped graph",
            )
        text = str(PurePosixPath(text))
        path = self.path.parent / text
        if path.exists() and not path.resolve().is_relative_to(self.root.resolve()):
            raise CheckError(f"graph {text!r}: a link leads out of the document's folder")
        return Source(_join(self.address, text), _join(self.label, text), path, path.parent)


def _join(address: str, relative: str) -> str:
    return f"{address.rpartition('/')[0]}/{relative}" if "/" in address else relative


def package_source(address: str) -> Source:
    """The document at `pkg://package/path`; `pkg://diffgraph/` is the folder of the shipped graphs."""
    from ..weights.loading import package_path

    path = package_path(address)
    return Source(address, address, path, path.parent)


def open_source(text: str | Path) -> Source:
    """The document that a user names: an existing path, or else a shipped graph's name."""
    path, name, names = Path(text), str(text), shipped_graphs()
    if name.startswith("pkg://"):
        return package_source(name)
    if "://" in name:
        raise InputError(f"{name}: graphs are not read from there", hint="give a file, a name, or pkg://package/path")
    if path.is_file() or path.suffix in (".yaml", ".yml") or (path.exists() and name not in names):
        return Source(name, name, path, path.parent)
    if name in names:
        return package_source(shipped_address(name))
    near = nearest(name, names)
    if near is None and len(path.parts) > 1:
        return Source(name, name, path, path.parent)  # reading it says what is there
    raise InputError(
        f"there is no file and no shipped graph {name!r}",
        hint=f"did you mean {near}?" if near else "shipped: " + ", ".join(names),
    )


def shipped_graphs() -> list[str]:
    """Names of the shipped systems, and after them of what trains them: `glide`, `train/glide`."""
    folder = graphs_folder()
    training = (f"train/{path.stem}" for path in folder.glob("train/*.yaml"))
    return [*sorted(path.stem for path in folder.glob("*.yaml")), *sorted(training)]


def shipped_address(name: str) -> str:
    """The address of a shipped graph. Raises InputError where there is none of this name."""
    names = shipped_graphs()
    if name not in names:
        near = nearest(name, names)
        hint = f"did you mean {near}?" if near else "shipped: " + ", ".join(names)
        raise InputError(f"there is no shipped graph {name!r}", hint=hint)
    return f"{SHIPPED}{name}.yaml"


def included(graph: GraphDocument) -> list[str]:
    """The addresses of the graphs that a graph names: as nodes, at any depth of bodies, and for samples."""
    found: dict[str, None] = {}
    waiting = [graph.nodes]
    while waiting:
        for node in waiting.pop().values():
            if node.form == "graph":
                found[node.target_text] = None
            waiting.extend(body.nodes for body in (node.body, node.other) if body is not None)
    sample = graph.train.settings.get("sample") if graph.train is not None else None
    if isinstance(sample, dict) and isinstance(sample.get("graph"), str):
        found[sample["graph"]] = None
    return list(found)


@dataclass
class Loader:
    """Reads documents, each once, and keeps what was read: the bundle of a graph and all that it includes."""

    documents: dict[str, tuple[GraphDocument, Source]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[DiffgraphError]] = field(default_factory=dict)

    def read(self, source: Source) -> GraphDocument:
        """The graph of a document as far as it can be read; `faults` has its mistakes of structure, by address.

        Raises DocumentError for what is no graph at all.
        """
        known = self.documents.get(source.address)
        if known is not None:
            return known[0]
        if len(self.documents) >= MAX_INCLUDES:
            raise DocumentError(f"the graph includes more than {MAX_INCLUDES} documents", hint="split it into several")
        data = source.read()
        graph, problems = read_graph(parse(data, source.label), source.label)
        self.documents[source.address] = (graph, source)
        self.texts[source.address] = data.decode("utf-8-sig")
        if problems:
            self.faults[source.address] = problems
        return graph

    def load(self, source: Source) -> GraphDocument:
        """The graph of a document without mistakes of structure. Raises DocumentError, or CheckFailed with all of them."""
        graph = self.read(source)
        if source.address in self.faults:
            raise CheckFailed(self.faults[source.address])
        return graph
