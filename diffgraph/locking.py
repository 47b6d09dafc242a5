"""Locks: which files a graph was run with, and the refusal of others.

`GRAPH.lock` lies beside a document. It names each address that the graph's parts came from, the commit of a
repository, the size and SHA-256 of each file that was opened, and the versions of the nodes. A run with a lock opens
repositories at its commits, and refuses a file that differs. Every opener keeps such a book of what it opened, so that
a lock can be written after any check or run. A picture carries the lock of the run that made it, with its documents.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from .errors import DocumentError, InputError, LockError, Place
from .language.document import MAX_BYTES, parse, plain, write
from .language.graph import GraphDocument
from .language.sources import SHIPPED, Loader, Source, included
from .registry import Registry
from .weights.addresses import Address
from .weights.digests import file_digest
from .weights.folders import Folder, open_folder
from .weights.folders import Source as Files
from .weights.hub import COMMIT, Download

SUFFIX = ".lock"
FORMAT = 1
OWN = "."  # the address of what lies below the document's own folder
_HEAD = "# What this graph runs with: `diffgraph lock` writes it, every run beside it checks it.\n"


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file as it was."""

    size: int
    sha256: str


@dataclass
class Entry:
    """One address: the commit of a repository, and files by path below it."""

    commit: str | None = None
    files: dict[str, LockedFile] = field(default_factory=dict)


@dataclass
class Lock:
    """The content of a lock. label: its file, for messages. graph: the document, as the user would name it.

    carried: by a picture, so that what the run that made it did not open may be opened too.
    """

    label: str
    graph: str
    entries: dict[str, Entry] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    diffgraph: str = ""
    carried: bool = False

    def text(self) -> str:
        """The lock as a document."""
        weights = []
        for address, entry in sorted(self.entries.items()):
            files = [
                {"path": path, "size": file.size, "sha256": file.sha256} for path, file in sorted(entry.files.items())
            ]
            commit = {"commit": entry.commit} if entry.commit else {}
            weights.append({"address": address, **commit, "files": files})
        head = {"lock": FORMAT, "diffgraph": self.diffgraph, "nodes": dict(sorted(self.nodes.items()))}
        return _HEAD + write({**head, "weights": weights})

    def check_nodes(self, used: Mapping[str, int]) -> None:
        """Raises LockError where a node type that the graph uses is of another version than when it was locked."""
        for name, version in sorted(used.items()):
            locked = self.nodes.get(name, version)
            if locked != version:
                raise LockError(
                    f"{name} is version {version} here, and {locked} in {self.label}, which diffgraph "
                    f"{self.diffgraph} wrote: its results differ",
                    hint=f"install that version, or {self.move_on(name)}",
                )

    def move_on(self, name: str) -> str:
        """What the user can do to go on with a file or a node as it is now."""
        if self.carried:
            return f"take what is there now: diffgraph run {self.graph} --no-lock"
        return f"move on: diffgraph lock {self.graph} --upgrade {name}"

    def commits(self) -> dict[str, str]:
        """The commit of each repository, by address."""
        return {address: entry.commit for address, entry in self.entries.items() if entry.commit is not None}

    def size(self) -> tuple[int, int]:
        """How many files there are, and how many bytes they hold together."""
        files = [file for entry in self.entries.values() for file in entry.files.values()]
        return len(files), sum(file.size for file in files)


def lock_place(source: Source) -> Path:
    """The file of a document's lock. Raises InputError for a document that no file can lie beside."""
    if source.path is None or source.address.startswith("pkg://"):
        where = "on the Hub" if source.remote is not None else "no file" if source.bundle is not None else "installed"
        raise InputError(f"{source.label} is {where}: no lock can be written beside it", hint=how_to_lock(source))
    return source.path.with_name(source.path.name + SUFFIX)


def how_to_lock(source: Source) -> str:
    """What the user can do to get a lock for a graph."""
    if source.address.startswith(SHIPPED):
        name = source.address.removeprefix(SHIPPED).removesuffix(".yaml")
        return f"copy it first: diffgraph graphs --copy {name}; then diffgraph lock {PurePosixPath(name).name}.yaml"
    if source.remote is not None:
        return "ask for one commit of it, hf://org/repo@COMMIT/..., or lock a copy"
    if source.bundle is not None:
        return "a picture carries its own; `diffgraph import` makes a document of a folder of parts"
    return f"diffgraph lock {source.label}"


def find_lock(source: Source) -> Lock | None:
    """The lock beside a document, if there is one. Raises DocumentError where it is damaged."""
    name = (source.path.name if source.path is not None else source.address.rpartition("/")[2]) + SUFFIX
    beside = source.beside(name)
    if beside is None:
        return None
    carried = source.bundle is not None
    graph = source.label.removesuffix(f":{source.address}") if carried else source.label
    return read_lock(beside.read(), beside.label, graph, carried=carried)


def pinned(source: Source) -> Source:
    """A source whose documents from the Hub are those of the lock beside it. Raises DocumentError for a damaged one."""
    lock = find_lock(source)
    return replace(source, pins=lock.commits()) if lock is not None else source


def read_lock(data: bytes, label: str, graph: str, *, carried: bool = False) -> Lock:
    """Reads a lock: strictly, as every document. carried: by a picture. Raises DocumentError."""

    def refused(what: str) -> DocumentError:
        hint = f"diffgraph run {graph} --no-lock" if carried else f"write it anew: diffgraph lock {graph} --upgrade"
        return DocumentError(f"is no lock that can be read: {what}", hint=hint, place=Place(label))

    if len(data) > MAX_BYTES:
        raise refused("it is too large")
    found = plain(parse(data, label))
    if not isinstance(found, dict) or found.get("lock") != FORMAT:
        raise refused(f"it is not of format {FORMAT}")
    nodes, weights, version = found.get("nodes"), found.get("weights"), found.get("diffgraph")
    if set(found) != {"lock", "diffgraph", "nodes", "weights"} or not isinstance(version, str):
        raise refused("it has lock, diffgraph, nodes and weights, and nothing else")
    if not isinstance(nodes, dict) or not all(type(number) is int for number in nodes.values()):
        raise refused("nodes are names and versions")
    lock = Lock(label, graph, {}, nodes, version, carried)
    for item in weights if isinstance(weights, list) else [None]:
        if not isinstance(item, dict) or not set(item) <= {"address", "commit", "files"}:
            raise refused("weights are a list of address, commit and files")
        address, commit, files = item.get("address"), item.get("commit"), item.get("files")
        if not isinstance(address, str) or address in lock.entries or not isinstance(files, list):
            raise refused("weights are a list of address, commit and files")
        if (commit is not None) != address.startswith("hf://") or not COMMIT.fullmatch(str(commit or "0" * 40)):
            raise refused(f"{address}: a repository has a commit of 40 hexadecimal digits, nothing else has one")
        entry = lock.entries[_place(address) if carried else address] = Entry(commit)
        for file in files:
            if not isinstance(file, dict) or set(file) != {"path", "size", "sha256"}:
                raise refused(f"{address}: a file has path, size and sha256")
            if type(file["size"]) is not int or not all(isinstance(file[key], str) for key in ("path", "sha256")):
                raise refused(f"{address}: a file has path, size and sha256")
            entry.files[file["path"]] = LockedFile(file["size"], file["sha256"])
    return lock


def _place(address: str) -> str:
    """The entry of an address that a picture's lock names: a folder, as it was given, is looked for from here."""
    local = address != OWN and "://" not in address
    return os.path.abspath(os.path.expanduser(address)) if local else address


def node_versions(graph: GraphDocument, source: Source, loader: Loader, registry: Registry) -> dict[str, int]:
    """The version of every node type that a graph and what it includes use."""
    used: dict[str, int] = {}
    waiting, seen = [(graph, source)], {source.identity}
    while waiting:
        current, place = waiting.pop()
        levels = [current.nodes]
        while levels:
            for node in levels.pop().values():
                levels.append(node.inner)
                kind = registry.nodes.get(node.target_text) if node.form == "node" and node.live is None else None
                if kind is not None:
                    used[kind.name] = kind.version
        for address in included(current):
            inner = place.include(address)
            if inner.identity not in seen:
                seen.add(inner.identity)
                waiting.append((loader.load(inner), inner))
    return used


class Book:
    """Notes every file that is opened; where there is a lock, refuses what differs.

    base: the document's folder. strict: refuse also what the user gave and the lock does not know. adding: what the
    lock does not know may be added. loose: entries that may be other than locked, which are not pinned either.
    """

    def __init__(
        self, base: Path | Address | None, lock: Lock | None = None, *, strict: bool = False, adding: bool = False,
        loose: Callable[[str], bool] = lambda address: False,
    ) -> None:  # fmt: skip
        self.base, self.lock, self.strict = base if base is not None else Path.cwd(), lock, strict
        self._adding, self._loose = adding, loose
        self.entries: dict[str, Entry] = {}
        self._typed: dict[str, str] = {}  # how the user named a folder, by its entry

    def _locked(self, name: str) -> Entry | None:
        """What the lock says of an address."""
        return self.lock.entries.get(name) if self.lock is not None and not self._loose(name) else None

    def _pinned(self, address: Address, name: str) -> Address:
        """A repository's address at the commit that the lock names."""
        entry = self._locked(name)
        if address.scheme != "hf" or entry is None or entry.commit is None:
            return address
        return replace(address, revision=entry.commit, text=str(address))

    def open(self, address: Address, *, free: bool) -> Folder:
        """Opens an address: pinned, and each of its files noted and checked. free: the user gave it."""
        entry, below = self.name(address)

        def watched(files: Files) -> Watched:
            self.entries.setdefault(entry, Entry(files.commit if entry != OWN else None))
            self._typed.setdefault(entry, str(address))
            return Watched(self, files, entry, below, free=free and not self.strict)

        return open_folder(self._pinned(address, entry), watch=watched)

    def name(self, address: Address) -> tuple[str, str]:
        """The entry of an address, and where the root of its files is below that."""
        if address.scheme == "pkg":
            return f"pkg://{address.root}", address.path
        base = self.base
        if address.scheme == "hf":
            if isinstance(base, Address) and (base.root, base.revision) == (address.root, address.revision):
                return OWN, ""
            revision = f"@{quote(address.revision, safe='')}" if address.revision else ""
            return f"hf://{address.root}{revision}", ""
        place = os.path.abspath(address.folder)
        if isinstance(base, Path):
            relative = Path(os.path.relpath(place, base)).as_posix()
            if relative.partition("/")[0] != "..":
                return OWN, "" if relative == "." else relative
        return place, ""

    def knows(self, entry: str, path: str) -> bool:
        """Whether a file was noted and need not be looked at again: with a lock, each is, whatever the Hub says of it."""
        return self.lock is None and path in self.entries[entry].files

    def note(self, entry: str, path: str, size: int, sha256: str, *, free: bool) -> None:
        """Notes a file. Raises LockError where it is not as it was locked."""
        self.entries[entry].files[path] = LockedFile(size, sha256)
        if self.lock is None or self._loose(entry):
            return
        locked = self._locked(entry)
        known = locked is not None and path in locked.files
        if not known and (self._adding or (locked is None and free) or self._varies(locked, path)):
            return
        where = path if entry == OWN else f"{entry}/{path}"
        if locked is None or path not in locked.files:
            what = where if locked is not None or entry == OWN else entry
            hint = self.lock.move_on(entry) if self.lock.carried else f"add it: diffgraph lock {self.lock.graph}"
            raise LockError(f"{what} is not in {self.lock.label}", hint=hint)
        if locked.files[path].sha256 != sha256:
            raise LockError(
                f"{where} differs from {self.lock.label}: its SHA-256 is {sha256}, locked is "
                f"{locked.files[path].sha256}",
                hint=f"put the file back, or {self.lock.move_on(entry)}",
            )

    def _varies(self, locked: Entry | None, path: str) -> bool:
        """Whether a file may be opened that the lock of a picture does not know: one that its run had no use for, but none
        that came later to a folder of this machine.
        """
        if self.lock is None or not self.lock.carried or self.strict:
            return False
        if locked is None or locked.commit is not None:
            return True
        return posixpath.dirname(path) not in map(posixpath.dirname, locked.files)

    def note_documents(self, loader: Loader) -> None:
        """Notes the documents that a graph of this machine includes from the Hub. Raises LockError."""
        for address, (_, source) in loader.documents.items():
            if source.origin and source.remote is not None:
                data = loader.texts[address].encode()
                self.entries.setdefault(source.origin, Entry(source.remote.revision))
                digest = hashlib.sha256(data).hexdigest()
                self.note(source.origin, source.remote.path, len(data), digest, free=False)

    def carried(self) -> dict[str, Entry]:
        """What a picture's lock holds: folders are named as the user did, those below the working directory as its own."""
        out: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            local = name != OWN and "://" not in name
            typed = posixpath.normpath(self._typed.get(name, name)) if local else name
            inside = local and not typed.startswith(("/", "~")) and typed.partition("/")[0] != ".."
            target = out.setdefault(OWN if inside else typed, Entry(entry.commit))
            for path, file in entry.files.items():
                target.files[posixpath.normpath(posixpath.join(typed, path)) if inside else path] = file
        return {name: entry for name, entry in out.items() if entry.files}


class Watched:
    """The files of an address, each noted in a book when it is opened."""

    def __init__(self, book: Book, files: Files, entry: str, below: str, *, free: bool) -> None:
        self.commit, self.root = files.commit, files.root
        self._files, self._book, self._entry, self._below, self._free = files, book, entry, below, free

    def has(self, path: str) -> bool:
        return self._files.has(path)

    def children(self, path: str) -> list[str]:
        return self._files.children(path)

    def size(self, path: str) -> int:
        return self._files.size(path)

    def absent(self, paths: Sequence[str]) -> list[str]:
        return self._files.absent(paths)

    def remote(self, paths: Sequence[str]) -> list[Download]:
        return self._files.remote(paths)

    def local(self, paths: Sequence[str]) -> dict[str, Path]:
        found = self._files.local(paths)
        for path, place in found.items():
            if not self._book.knows(self._entry, self._name(path)):
                self._note(path, file_digest(place))
        return found

    def digest(self, path: str) -> str:
        digest = self._files.digest(path)
        self._note(path, digest)
        return digest

    def above(self) -> Files | None:
        above = self._files.above()
        if above is None:
            return None
        return Watched(self._book, above, self._entry, posixpath.join(self._below, ".."), free=self._free)

    def _note(self, path: str, digest: str) -> None:
        self._book.note(self._entry, self._name(path), self._files.size(path), digest, free=self._free)

    def _name(self, path: str) -> str:
        """The name of a file in its entry."""
        name, base = posixpath.normpath(posixpath.join(self._below, path)), self._book.base
        if self._entry == OWN and isinstance(base, Address):  # whose files are named from the root of the repository
            name = posixpath.relpath(f"/{name}", f"/{base.path}")
        return name


def told(old: Lock | None, new: Lock) -> list[str]:
    """What a new lock changes, a line each."""
    if old is None:
        return []
    lines = []
    for address in sorted({*old.entries, *new.entries}):
        before, after = old.entries.get(address), new.entries.get(address)
        if before is None or after is None:
            lines.append(f"{'added' if before is None else 'dropped'} {address}")
            continue
        if before.commit != after.commit:
            lines.append(f"{address}: commit {str(before.commit)[:12]} -> {str(after.commit)[:12]}")
        for path in sorted({*before.files, *after.files}):
            was, now = before.files.get(path), after.files.get(path)
            if was is None or now is None:
                lines.append(f"{address}: {'added' if was is None else 'dropped'} {path}")
            elif was != now:
                lines.append(f"{address}: {path} {was.sha256[:12]} -> {now.sha256[:12]}")
    for name in sorted({*old.nodes, *new.nodes}):
        if old.nodes.get(name) != new.nodes.get(name):
            versions = [
                str(found) if found is not None else "none" for found in (old.nodes.get(name), new.nodes.get(name))
            ]
            lines.append(f"{name}: version {' -> '.join(versions)}")
    return lines
