"""What a graph needs from the Hub: told before it is fetched, and fetched together.

The plan knows which components will be called, and these know their files. So one progress counts them all, and offline
everything that is missing is told at once, with the command that fetches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .components import Handle, Opened, Opener
from .errors import CheckFailed, DiffgraphError, OfflineError
from .language.sources import Source
from .planning.program import BRANCH, Program
from .running.run import Event, Listener
from .weights.folders import Folder, fetch
from .weights.transfers import say_bytes


def needed(program: Program) -> list[Handle]:
    """The components that a program will certainly call: not those of a branch that is decided while it runs."""
    found: dict[str, Handle] = {}
    until = 0
    for at, instruction in enumerate(program.code):
        if instruction.op == BRANCH:
            until = max(until, program.code[instruction.target - 1].target)
        if instruction.handle is not None and at >= until:
            found[instruction.handle.key] = instruction.handle
    return list(found.values())


def absent_files(handles: Iterable[Handle]) -> list[tuple[Folder, list[str]]]:
    """What has to be downloaded for some components, each file once."""
    wanted: list[tuple[Folder, list[str]]] = []
    seen: set[str] = set()
    for handle in handles:
        if handle.folder is not None:
            names = [name for name in handle.folder.absent(handle.files) if f"{handle.folder}/{name}" not in seen]
            seen.update(f"{handle.folder}/{name}" for name in names)
            wanted += [(handle.folder, names)] if names else []
    return wanted


def total_size(wanted: Sequence[tuple[Folder, Sequence[str]]]) -> int:
    """How many bytes some files hold together."""
    return sum(folder.size(names) for folder, names in wanted)


def fetch_parts(program: Program, graph: str, listeners: Sequence[Listener] = ()) -> None:
    """Downloads the weights that a program needs, all together, telling the listeners. Raises HubError.

    graph: as the user would name it. Listeners hear "download" events: how many bytes of how many, first of none.
    """
    fetch_files(absent_files(needed(program)), graph, listeners)


def fetch_files(wanted: Sequence[tuple[Folder, Sequence[str]]], graph: str, listeners: Sequence[Listener] = ()) -> None:
    """Downloads files, all together; see fetch_parts."""
    if not wanted:
        return

    def tell(what: str, done: int, total: int) -> None:
        for listener in listeners:
            listener(Event("download", what, done, total))

    try:
        fetch(wanted, tell if listeners else None)
    except OfflineError as error:
        raise not_here(error.missing, graph) from None


def not_here(missing: Iterable[str], graph: str) -> OfflineError:
    """The error for all that a graph lacks, offline."""
    told = list(dict.fromkeys(missing))
    lines = "".join(f"\n  {one}" for one in told)
    return OfflineError(
        f"offline, and not on this machine:{lines}", told, hint=f"fetch it once: diffgraph pull {graph}"
    )


def raise_problems(problems: Sequence[DiffgraphError], opener: Opener, source: Source) -> None:
    """Raises CheckFailed with all mistakes; or where offline files are missing, and that is all, OfflineError."""
    told = {error.message for error in opener.refused}
    others = [problem for problem in problems if not any(text in problem.message for text in told)]
    if others or (problems and not told):
        raise CheckFailed(problems)
    if told:
        missing = [one for error in opener.refused for one in error.missing]
        raise not_here([*missing, *_absent(opener.opened)], source.label)


def _absent(parts: Iterable[Opened]) -> list[str]:
    """The weights of some components that are not on this machine, in words."""
    return [
        f"{part.folder}/{name} ({say_bytes(part.folder.size([name]))})"
        for part in parts
        for name in part.folder.absent(part.folder.resolve(*part.kind.files))
    ]
