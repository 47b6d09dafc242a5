"""Where documents come from: a file, a shipped graph, the Hub, or the bundle that a picture carries; what they include.

A relative include is found beside the document and below its folder only; `pkg://package/path` from anywhere, and
`hf://org/repo/path` from a document of this machine. One from the Hub includes files of its own repository at its own
commit, and installed graphs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..errors import CheckError, CheckFailed, DiffgraphError, DocumentError, InputError, Place, nearest
from ..weights.addresses import Address, parse_address
from .document import MAX_BYTES, parse, read
from .graph import GraphDocument
from .reading import read_graph

SHIPPED = "pkg://diffgraph/"
MAX_INCLUDES = 256
MAX_CANDIDATES = 32
SUFFIXES = (".yaml", ".yml")
INDEX_FILE = "model_index.json"  # of a repository that holds parts


def graphs_folder() -> Path:
    """The folder of the shipped graphs."""
    return Path(__file__).parent.parent / "graphs"


@dataclass(frozen=True)
class Source:
    """One document's origin. `address` identifies it, `label` is what errors show, `root` bounds what it includes.

    remote: where on the Hub it is, at a commit. given: what the user gave by naming it, by the name of an input. pins:
    the commits of repositories that a lock names, by address. origin: the repository, as a document of this machine
    that includes this one names it.
    """

    address: str
    label: str
    path: Path | None = None
    root: Path | None = None
    bundle: Mapping[str, str] | None = None
    remote: Address | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    def read(self) -> bytes:
        if self.bundle is not None:
            if self.address not in self.bundle:
                raise DocumentError(f"the bundle holds no document {self.address}", hint="it was cut or edited")
            return self.bundle[self.address].encode("utf-8", "surrogatepass")  # which the reader refuses
        if self.remote is not None:
            return read(fetched(self.remote, MAX_BYTES))
        assert self.path is not None
        return read(self.path)

    @property
    def base(self) -> Path | Address | None:
        """The folder that the addresses in the document are relative to, and confined to."""
        return self.remote.above if self.remote is not None else self.folder

    def beside(self, name: str) -> Source | None:
        """Another file of the document's folder, where there is one."""
        if self.bundle is not None:
            address = _join(self.address, name)
            found = address in self.bundle
            label = self.label.removesuffix(self.address) + address
            return Source(address, label, bundle=self.bundle) if found else None
        if self.remote is not None:
            from ..weights.folders import open_folder

            place = self.remote.above / name
            found = open_folder(self.remote.above).has(name)
            return remote_source(place) if found else None
        path = self.path.parent / name if self.path is not None else None
        return Source(_join(self.address, name), str(path), path, self.root) if path and path.is_file() else None

    @property
    def identity(self) -> str:
        """The same for every way of naming one document."""
        return str(self.path.resolve()) if self.path is not None else self.address

    @property
    def folder(self) -> Path | None:
        return self.path.parent if self.path is not None else None

    def include(self, text: str) -> Source:
        """The document that `graph: text` means here. Raises CheckError for an address that leaves the root, HubError."""
        found = self._include(text)
        return replace(found, pins=self.pins, origin=found.origin or (self.origin if found.remote is not None else ""))

    def _include(self, text: str) -> Source:
        if not text or "\0" in text:
            raise CheckError(
                f"graph {text!r}: there is no such file", hint="name a document, such as samplers/plain.yaml"
            )
        if self.bundle is not None:
            found = self._bundled(text)
            if found is not None:
                return found
        if text.startswith("pkg://"):
            return package_source(text)
        if self.remote is not None and self.bundle is None:
            return remote_source(self._own(self.remote, text))
        if text.startswith("hf://") and self.bundle is None:
            asked, origin = self._hub_file(text)
            found = remote_source(replace(asked, revision=self.pins.get(origin) or _commit(asked)))
            return replace(found, address=asked.canonical, origin=origin)
        if "://" in text:
            raise CheckError(
                f"graph address {text!r}: only files beside the document, pkg:// and hf:// can be included"
            )
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

    def _bundled(self, text: str) -> Source | None:
        """A document that the bundle holds."""
        assert self.bundle is not None
        place, origin = None, ""
        if text.startswith("pkg://"):
            address = text
        elif text.startswith("hf://") and self.remote is None:
            asked, origin = self._hub_file(text)
            place, address = replace(asked, revision=self.pins.get(origin, asked.revision)), asked.canonical
        elif self.remote is not None:
            place = self._own(self.remote, text)
            address = place.canonical
        else:
            address = _join(self.address, text if "://" in text else str(PurePosixPath(text)))
        if address not in self.bundle:
            return None
        label = self.label.removesuffix(self.address) + address
        return Source(address, label, bundle=self.bundle, remote=place, origin=origin)

    def _hub_file(self, text: str) -> tuple[Address, str]:
        """A document of the Hub that one of this machine names, and its repository as it is named there."""
        try:
            place = parse_address(text)
        except DiffgraphError as error:
            raise CheckError(f"graph {text!r}: {error.message.partition(': ')[2]}", hint=error.hint) from None
        if not place.path.endswith(SUFFIXES):
            raise CheckError(f"graph {text!r}: names no document", hint="name one, such as hf://org/repo/line.yaml")
        return replace(place, text=""), replace(place, path="", text="").canonical

    def _own(self, remote: Address, text: str) -> Address:
        """What a document on the Hub names: a file of the same repository, at the same commit."""
        try:
            place = parse_address(text, base=remote.above, confined=True)
        except DiffgraphError as error:
            raise CheckError(f"graph {text!r}: {error.message.partition(': ')[2]}", hint=error.hint) from None
        if (place.scheme, place.root) != ("hf", remote.root) or place.revision not in (None, remote.revision):
            raise CheckError(
                f"graph {text!r}: a graph from the Hub includes files of its own repository at its own commit only",
                hint="copy the file into the repository, or use pkg://diffgraph/... for a shipped graph",
            )
        return replace(place, revision=remote.revision, text="")


def remote_source(place: Address) -> Source:
    """The document at an address on the Hub, whose revision is a commit."""
    return Source(place.canonical, f"hf://{place.root}/{place.path}", remote=place)


def _commit(place: Address) -> str | None:
    """The commit that a branch or a tag means now. Raises HubError."""
    from ..weights.folders import open_folder

    return open_folder(place.above).commit


def fetched(place: Address, limit: int) -> Path:
    """A file of the Hub on this machine, fetched if need be. Raises DocumentError, HubError."""
    from ..weights.folders import open_folder

    folder, name = open_folder(place.above), place.path.rpartition("/")[2]
    label = Place(f"hf://{place.root}/{place.path}")
    if not folder.has(name):
        names = [one for one in folder.names() if not one.endswith("/")]
        near = nearest(name, names)
        hint = f"did you mean {near}?" if near else "there is: " + (", ".join(names[:12]) or "nothing")
        raise DocumentError("no such file in the repository", hint=hint, place=label)
    if folder.size([name]) > limit:
        raise DocumentError(f"larger than {limit >> 20} MiB", hint="a document is small", place=label)
    return folder.paths([name])[name]


def _join(address: str, relative: str) -> str:
    return f"{address.rpartition('/')[0]}/{relative}" if "/" in address else relative


def package_source(address: str) -> Source:
    """The document at `pkg://package/path`; `pkg://diffgraph/` is the folder of the shipped graphs."""
    from ..weights.loading import package_path

    path = package_path(address)
    return Source(address, address, path, path.parent)


def open_source(text: str | Path) -> Source:
    """The document that a user names: an existing path, a folder of parts too, or else a shipped graph's name."""
    path, name, (names, named) = Path(text), str(text), _shipped()
    if name.startswith("pkg://"):
        return package_source(name)
    if name.startswith("hf://"):
        return hub_source(name)
    if path.is_dir() and name not in names and (path / INDEX_FILE).is_file():
        return repository_source(parse_address(name))
    if "://" in name:
        hint = "give a file, a name, hf://org/repo or pkg://package/path"
        raise InputError(f"{name}: graphs are not read from there", hint=hint)
    if path.is_file() or path.suffix in (".yaml", ".yml") or (path.exists() and name not in names):
        return Source(name, name, path, path.parent)
    if name in named:
        return package_source(f"{SHIPPED}{name}.yaml")
    near = nearest(name, named)
    if near is None and len(path.parts) > 1:
        return Source(name, name, path, path.parent)  # reading it says what is there
    raise InputError(
        f"there is no file and no shipped graph {name!r}",
        hint=f"did you mean {near}?" if near else "shipped: " + ", ".join(names),
    )


def hub_source(text: str) -> Source:
    """The document that an address on the Hub names: a file, or a folder or repository that holds one graph, or parts.

    Its revision is resolved to a commit here, and stays there. Raises InputError where several graphs are there or
    none, HubError.
    """
    from ..weights.folders import open_folder

    place = parse_address(text)
    folder = open_folder(place)
    pinned = replace(place, revision=folder.commit, text="")
    if place.path.endswith(SUFFIXES):
        return remote_source(pinned)
    names = [name for name in folder.names() if name.endswith(SUFFIXES)]
    if len(names) > 1 or (names and folder.has(INDEX_FILE)):  # where other YAML lies, such as the originals' settings
        names = _main_graphs(pinned, names[:MAX_CANDIDATES])
    if not names and folder.has(INDEX_FILE):
        return repository_source(pinned)
    if len(names) == 1:
        return remote_source(pinned / names[0])
    if names:
        raise InputError(f"{text}: holds several graphs: {', '.join(names)}", hint=f"name one: {text}/{names[0]}")
    held = folder.names()
    what = "holds no graph" if held else "there is no such folder in the repository"
    below = next((name for name in held if name in ("graphs/", "graph/")), None)
    hint = f"name one in {text}/{below}" if below else "there is: " + (", ".join(held[:12]) or "nothing")
    raise InputError(f"{text}: {what}", hint=hint)


def repository_source(place: Address) -> Source:
    """The graph of a repository that holds parts, as its index says. Raises WeightsError, HubError."""
    from ..importing import imported
    from ..weights.folders import open_folder

    remote = place.scheme == "hf"
    name = PurePosixPath(place.path or place.root).name if remote else place.folder.resolve().name
    found = imported(open_folder(place), name=name, weights=place.canonical if remote else None)
    if remote:
        address = place / INDEX_FILE
        held = {address.canonical: found.text}
        return Source(address.canonical, f"hf://{place.root} as a graph", bundle=held, remote=replace(address, text=""))
    document, given = f"{name}.yaml", {found.address: str(place)}
    return Source(document, f"{place} as a graph", bundle={document: found.text}, given=given)


def _main_graphs(folder: Address, names: Sequence[str]) -> list[str]:
    """Those of several documents in a folder that can be run: graphs with outputs that no other one includes."""
    graphs = {}
    for name in names:
        try:
            graphs[name] = Loader().load(remote_source(folder / name))
        except (DocumentError, CheckFailed):
            continue
    used = {name for graph in graphs.values() for name in included(graph)}
    return [name for name in graphs if name not in used]


def shipped_graphs() -> list[str]:
    """Names of the shipped systems, and after them of what trains them: `glide`, `train/glide`."""
    folder = graphs_folder()
    training = (f"train/{path.stem}" for path in folder.glob("train/*.yaml"))
    return [*sorted(path.stem for path in folder.glob("*.yaml")), *sorted(training)]


def _shipped() -> tuple[list[str], list[str]]:
    """The names that hints list, and all that can be given: also graphs that others include, `samplers/guided`."""
    names = shipped_graphs()
    return names, [*names, *sorted(f"samplers/{path.stem}" for path in graphs_folder().glob("samplers/*.yaml"))]


def shipped_address(name: str) -> str:
    """The address of a shipped graph. Raises InputError where there is none of this name."""
    names, named = _shipped()
    if name not in named:
        near = nearest(name, named)
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
