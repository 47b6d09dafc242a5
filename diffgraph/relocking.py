"""Making a lock: what a graph needs now, held to what was locked before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import InputError, nearest
from .gathering import gather, part_files, variants_of
from .language.graph import GraphDocument
from .language.sources import Loader, Source
from .locking import SUFFIX, Book, Entry, Lock, told

if TYPE_CHECKING:
    from .session import Session


def renewed(
    session: Session, graph: GraphDocument, source: Source, loader: Loader, given: Mapping[str, Any],
    old: Lock | None, *, variant: str | None = None, sets: Mapping[str, Any] | None = None, upgrade: bool = False,
    names: Sequence[str] = (),
) -> tuple[Lock, list[str]]:  # fmt: skip
    """The lock of a graph, and what it changes, a line each.

    old: what stays as it is, unless `upgrade` says otherwise, for `names` alone where there are some. With a variant,
    inputs or keys of nodes, what these need is added to what was locked. Raises InputError, CheckFailed, HubError, and
    LockError for what differs and is not upgraded.
    """
    if names and not upgrade:
        raise InputError(
            f"{names[0]}: names are for --upgrade", hint=f"diffgraph lock {source.label} --upgrade {names[0]}"
        )
    moved = _matching(old, names)

    def loose(address: str) -> bool:
        return upgrade and (not names or address in moved)

    if upgrade:  # the documents from the Hub too
        pins = {address: commit for address, commit in source.pins.items() if not loose(address)}
        source, loader = replace(source, pins=pins), Loader()
        graph = loader.load(source)
    book = Book(source.base, old, adding=True, loose=loose)
    variants = variants_of(graph, variant)
    opener, versions = gather(session, graph, source, loader, given, book, variants=variants, sets=sets)
    part_files(opener)
    if old is not None and not (upgrade and not names):
        old.check_nodes({name: version for name, version in versions.items() if name not in names})
    label = old.label if old is not None else source.label + SUFFIX
    lock = Lock(label, source.label, dict(book.entries), versions, __version__)
    if old is not None and (variant or sets or given):
        lock.nodes = {**old.nodes, **versions}
        for address, entry in old.entries.items():
            now = lock.entries.get(address, Entry(entry.commit))
            kept = entry.files if now.commit == entry.commit else {}
            lock.entries[address] = Entry(now.commit, {**kept, **now.files})
    return lock, told(old, lock)


def _matching(old: Lock | None, names: Sequence[str]) -> set[str]:
    """The locked addresses that some names mean: an address, or org/repo. Raises InputError for a name of nothing."""
    found: set[str] = set()
    known = list(old.entries) if old is not None else []
    nodes = list(old.nodes) if old is not None else []
    for name in names:
        matching = [one for one in known if name in (one, one.removeprefix("hf://").partition("@")[0])]
        found.update(matching)
        if not matching and name not in nodes:
            near = nearest(name, [*known, *nodes])
            hint = f"did you mean {near}?" if near else "it has: " + (", ".join([*known, *nodes]) or "nothing")
            raise InputError(f"--upgrade {name}: the lock has no such address or node", hint=hint)
    return found
