"""Sums, by way of the helper."""

from __future__ import annotations

from diffgraph.authoring import node

from .helper import total


@node("Sum", version=1)
def summed(values: list[float]) -> float:
    """The sum of numbers."""
    return total(values)
