"""Vectors: small tensors, and arrays. torch is imported where it is used."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from diffgraph.authoring import Bound, Fact, node, target

from .kinds import FEET, METRES, Grid, Labelled, Score, Unit, Vector

T = TypeVar("T")


@node("Ones", version=1)
def ones(n: Annotated[int, Bound(ge=0, le=10_000_000)], value: float = 1.0) -> Annotated[Vector, "n"]:
    """n times a number."""
    import torch

    where = target()
    return torch.full((n,), value, device=where.device, dtype=getattr(torch, where.dtype))


@node("Metres", version=1)
def metres(n: Annotated[int, Bound(ge=1)]) -> Annotated[Vector, "n", METRES]:
    """Lengths in metres."""
    import torch

    return torch.ones(n)


@node("Feet", version=1)
def feet(vector: Annotated[Vector, "N", METRES]) -> Annotated[Vector, "N", FEET]:
    """Metres as feet."""
    return vector / 0.3048


@node("Scale", version=1)
def scale(
    vector: Annotated[Vector, "N", Fact(unit="?unit")], factor: float = 2.0
) -> Annotated[Vector, "N", Fact(unit="?unit")]:
    """A vector times a number."""
    return vector * factor


@node("Plus", version=1)
def plus(
    a: Annotated[Vector, "N", Fact(unit="?unit")], b: Annotated[Vector, "N", Fact(unit="?unit")]
) -> Annotated[Vector, "N", Fact(unit="?unit")]:
    """The sum of two vectors of one length and unit."""
    return a + b


@node("Normal", version=1)
def normal(vector: Annotated[Vector, "N"]) -> Annotated[Unit, "N"]:
    """A vector of length 1."""
    return vector / vector.norm()


@node("Angle", version=1)
def angle(unit: Annotated[Unit, "2"]) -> float:
    """The angle of a vector of two numbers and of length 1."""
    from math import atan2

    return atan2(float(unit[1]), float(unit[0]))


@node("Halved", version=1)
def halved(vector: Annotated[Vector, "2*N"]) -> Annotated[Vector, "N"]:
    """The first half."""
    return vector[: len(vector) // 2].clone()


def joined_shapes(items: list[Any]) -> tuple[Any, ...]:
    """The length of vectors one after the other."""
    total = items[0][0]
    for item in items[1:]:
        total = total + item[0]
    return (total,)


@node("Joined", version=1, shapes=joined_shapes)
def joined(items: list[Vector]) -> Vector:
    """Vectors one after the other."""
    import torch

    return torch.cat(items)


@node("Energy", version=1)
def energy(vector: Annotated[Vector, "N"]) -> Score:
    """The sum of the cubes."""
    return (vector**3).sum()


@node("Total", version=1)
def total(vector: Annotated[Vector, "N"]) -> float:
    """The sum as a number."""
    return float(vector.sum())


@node("Label", version=1)
def label(vector: Annotated[Vector, "N"], label: str) -> Annotated[Labelled, "N"]:
    """A vector with a name."""
    return Labelled(vector, label)


@node("Grid", version=1)
def grid(n: Annotated[int, Bound(ge=1, le=1000)]) -> Grid:
    """A numpy array of n zeros."""
    import numpy as np

    return np.zeros(n)


@node("GridSum", version=1)
def grid_sum(grid: Grid) -> float:
    """The sum of an array."""
    return float(grid.sum())
