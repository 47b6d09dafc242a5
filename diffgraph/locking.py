"""Locks: which files a graph was run with, and the refusal of others.

`GRAPH.lock` lies beside a document. It names each address that the graph's parts came from, the commit of a
repository, the size and SHA-256 of each file that was opened, and the versions of the nodes. A run with a lock opens
repositories at its commits, and refuses a file that differs. Every opener keeps such a book of what it opened, so that
a lock can be written after any check or run.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from .errors import DocumentError, InputError, LockError, Place
from .language.document import MAX_BYTES, parse, plain, write
from .language.graph import GraphDocument
from .language.sources import Loader, Source, included
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
    """The content of a lock. label: its file, for messages. graph: the document, as the user would name it."""

    label: str
    graph: str
    entries: dict[str, Entry] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    diffgraph: str = ""

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
                    hint=f"install that version, or move on: diffgraph lock {self.graph} --upgrade {name}",
                )


def lock_place(source: Source) -> Path:
    """The file of a document's lock. Raises InputError for a document that no file can lie beside."""
    if source.path is None or source.address.startswith("pkg://"):
        where = "on the Hub" if source.remote is not None else "installed"
        if source.address.startswith("pkg://diffgraph/"):
            hint = f"copy it first: diffgraph graphs --copy {source.address.removeprefix('pkg://diffgraph/')[:-5]}"
        else:
            hint = "ask for one commit of it, hf://org/repo@COMMIT/..., or lock a copy"
        raise InputError(f"{source.label} is {where}: no lock can be written beside it", hint=hint)
    return source.path.with_name(source.path.name + SUFFIX)


def find_lock(source: Source) -> Lock | None:
    """The lock beside a document, if there is one. Raises DocumentError where it is damaged."""
    name = (source.path.name if source.path is not None else source.address.rpartition("/")[2]) + SUFFIX
    beside = source.beside(name)
    return read_lock(beside.read(), beside.label, source.label) if beside is not None else None


def read_lock(data: bytes, label: str, graph: str) -> Lock:
    """Reads a lock: strictly, as every document. Raises DocumentError."""

    def refused(what: str) -> DocumentError:
        hint = f"write it anew: diffgraph lock {graph} --upgrade"
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
    lock = Lock(label, graph, {}, nodes, version)
    for item in weights if isinstance(weights, list) else [None]:
        if not isinstance(item, dict) or not set(item) <= {"address", "commit", "files"}:
            raise refused("weights are a list of address, commit and files")
        address, commit, files = item.get("address"), item.get("commit"), item.get("files")
        if not isinstance(address, str) or address in lock.entries or not isinstance(files, list):
            raise refused("weights are a list of address, commit and files")
        if (commit is not None) != address.startswith("hf://") or not COMMIT.fullmatch(str(commit or "0" * 40)):
            raise refused(f"{address}: a repository has a commit of 40 hexadecimal digits, nothing else has one")
        lock.entries[address] = Entry(commit)
        for file in files:
            if not isinstance(file, dict) or set(file) != {"path", "size", "sha256"}:
                raise refused(f"{address}: a file has path, size and sha256")
            if type(file["size"]) is not int or not all(isinstance(file[key], str) for key in ("path", "sha256")):
                raise refused(f"{address}: a file has path, size and sha256")
            lock.entries[address].files[file["path"]] = LockedFile(file["size"], file["sha256"])
    return lock


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
        self.base, self.lock, self.strict = base, lock, strict
        self._adding, self._loose = adding, loose
        self.entries: dict[str, Entry] = {}

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
        if self._adding and (locked is None or path not in locked.files):
            return
        if locked is None and free:
            return
        where = path if entry == OWN else f"{entry}/{path}"
        if locked is None or path not in locked.files:
            what = where if locked is not None or entry == OWN else entry
            raise LockError(f"{what} is not in {self.lock.label}", hint=f"add it: diffgraph lock {self.lock.graph}")
        if locked.files[path].sha256 != sha256:
            raise LockError(
                f"{where} differs from {self.lock.label}: its SHA-256 is {sha256}, locked is "
                f"{locked.files[path].sha256}",
                hint=f"put the file back, or take the new one: diffgraph lock {self.lock.graph} --upgrade {entry}",
            )


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
