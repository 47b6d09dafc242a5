"""The error tree. Everything that a user can cause is a `DiffgraphError`; a traceback is a bug of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a document: file, and line and column counted from 1."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class DiffgraphError(Exception):
    """Root of the tree. `code` is a stable word for programs; `hint` names one mend; `place` is where."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None, place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.place = place

    def __str__(self) -> str:
        where = f"{self.place}  " if self.place else ""
        return where + self.message + (f"\n  {self.hint}" if self.hint else "")


class DocumentError(DiffgraphError):
    """The file is not a document of the graph language: bytes, YAML, keys or format version."""

    code = "document"


class CheckError(DiffgraphError):
    """One mistake in a graph: a wrong name, wire, type, shape, fact or value."""

    code = "check"


class UnknownPort(CheckError, AttributeError):
    """A wire was asked for a port that it does not have."""


class CheckFailed(DiffgraphError):
    """All mistakes of a graph together, in the order of the document."""

    code = "check-failed"

    def __init__(self, problems: Sequence[DiffgraphError]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


class InputError(DiffgraphError):
    """A value given by the user for an input, an option or a parameter is refused."""

    code = "input"


class PortError(DiffgraphError):
    """A node refuses what arrived at one of its ports. Raise it in a node: `PortError("noise", "eta > 0 needs it")`."""

    code = "port"

    def __init__(self, port: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{port}: {message}", hint=hint)
        self.port = port


class WeightsError(DiffgraphError):
    """Weights or a config that are missing, damaged, of another model, or refused."""

    code = "weights"


class WrongPart(WeightsError):
    """A folder that holds other parts than the one asked for. `found` are their published classes."""

    def __init__(self, message: str, found: Iterable[str], *, hint: str | None = None) -> None:
        self.found = tuple(found)
        which = f"`diffgraph nodes {self.found[0]}` tells whether another part reads that" if self.found else None
        super().__init__(message, hint=hint or which)


class HubError(DiffgraphError):
    """The Hub could not be reached, or refused."""

    code = "hub"


class OfflineError(HubError):
    """Offline, files are not on this machine. `missing` names each, with its size where that is known."""

    def __init__(self, message: str, missing: Iterable[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.missing = tuple(missing)


class LockError(DiffgraphError):
    """A file, a repository or a node is not as the lock beside the graph says."""

    code = "lock"


class StoreError(DiffgraphError):
    """The result store or an output file could not be read or written."""

    code = "store"


class RunError(DiffgraphError):
    """A node failed. `node` is its path in the graph, such as `small.denoise[step 3].prediction`."""

    code = "run"

    def __init__(self, message: str, *, node: str, hint: str | None = None, place: Place | None = None) -> None:
        super().__init__(message, hint=hint, place=place)
        self.node = node


class Interrupted(DiffgraphError):
    """The user stopped the run; what was finished is kept."""

    code = "interrupted"


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice nearest to a misspelt word, or else the shortest that the word is a part of; None if no one is near."""
    import difflib

    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    if not found and len(word) > 2:
        found = sorted((choice for choice in choices if word.lower() in choice.lower()), key=len)
    return found[0] if found else None
