"""Predicates and choices over plain values, known while planning. A document has no expressions; it has these."""

from __future__ import annotations

from typing import TypeVar

from ..authoring import node
from ..errors import PortError

T = TypeVar("T")


@node("Equal", version=1, static=True)
def equal(first: T, second: T) -> bool:
    """Whether two numbers, texts, flags, or lists of them, are equal."""
    return bool(first == second)


@node("Between", version=1, static=True)
def between(value: float, low: float, high: float) -> bool:
    """Whether low <= value <= high; both ends count."""
    return low <= value <= high


@node("Not", version=1, static=True)
def negated(value: bool) -> bool:
    """Whether a flag is false."""
    return not value


@node("Item", version=1, static=True)
def item(items: list[T], index: int) -> T:
    """The item of a list at `index`, counted from 0, or from the end where it is negative.

    Raises PortError where the list is not that long.
    """
    if not -len(items) <= index < len(items):
        raise PortError("index", f"got {index} for a list of {len(items)}", hint="indices start at 0")
    return items[index]
