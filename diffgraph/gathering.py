"""All that a graph needs in some of its variants, whatever is cached: to lock it, to fetch it, to share it, to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .components import Opener
from .errors import InputError
from .fetching import raise_problems
from .inputs import apply_sets, resolve_inputs
from .language.graph import GraphDocument
from .language.sources import Loader, Source
from .locking import Book, node_versions
from .session import Session
from .weights.folders import Folder


def gather(
    session: Session, graph: GraphDocument, source: Source, loader: Loader, given: Mapping[str, Any], book: Book, *,
    variants: Sequence[str | None], sets: Mapping[str, Any] | None = None, kept: Mapping[str, Any] | None = None,
) -> tuple[Opener, dict[str, int]]:  # fmt: skip
    """Opens every component that a graph may call in some variants, but no weights; and the versions of its nodes.

    given: of inputs, as far as they are known. kept: those of an earlier run. Raises CheckFailed with all mistakes, InputError, HubError, LockError.
    """
    opener = Opener(book)
    versions: dict[str, int] = {}
    for variant in variants:
        values, changed = resolve_inputs(
            graph, given, session.registry, variant, source=source, kept=kept, partial=True
        )
        document = apply_sets(apply_sets(graph, changed), sets or {}, user=True)
        problems, _ = session.check(document, source, loader, values, opener)
        raise_problems(problems, opener, source)
        book.note_documents(loader)
        versions |= node_versions(document, source, loader, session.registry)
    return opener, versions


def part_files(opener: Opener) -> list[tuple[Folder, tuple[str, ...]]]:
    """The files of every component that was opened, weights too, by folder; notes their digests in the book."""
    found = []
    for part in opener.opened:
        names = part.folder.resolve(*part.kind.files)
        part.folder.digests(names)
        found.append((part.folder, names))
    return found


def variants_of(graph: GraphDocument, variant: str | None) -> list[str | None]:
    """The variant that was asked for, or all. Raises InputError where it is not there."""
    if variant is not None and variant not in graph.variants:
        raise InputError(f"there is no variant {variant!r}", hint="it has: " + (", ".join(graph.variants) or "none"))
    return [variant] if variant is not None else list(graph.variants) or [None]
