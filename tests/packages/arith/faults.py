"""Nodes that do what no node should."""

from __future__ import annotations

from typing import Annotated, Any

from diffgraph.authoring import node

from .kinds import Grid, Vector


@node("Fail", version=1)
def fail(value: float, at: float = 0.0) -> float:
    """The value; raises ValueError where it equals `at`."""
    if value == at:
        raise ValueError(f"no {value:g}")
    return value


@node("Exhaust", version=1)
def exhaust(value: float) -> float:
    """Raises MemoryError."""
    raise MemoryError(f"no room for {value:g}")


@node("Interrupt", version=1)
def interrupt(value: float, at: float = 0.0) -> float:
    """The value; stops the run, as Ctrl-C does, where it equals `at`."""
    if value == at:
        raise KeyboardInterrupt
    return value


@node("Scribble", version=1)
def scribble(vector: Annotated[Vector, "N"]) -> Annotated[Vector, "N"]:
    """Changes its input in place."""
    vector.add_(1)
    return vector


@node("ScribbleGrid", version=1)
def scribble_grid(grid: Grid) -> Grid:
    """Changes its array in place."""
    grid[0] = 1
    return grid


@node("ScribbleList", version=1)
def scribble_list(values: list[float]) -> list[float]:
    """Changes its list in place."""
    values.append(1.0)
    return values


@node("Blur", version=1)
def blur(vector: Annotated[Vector, "N"]) -> Annotated[Vector, "N"]:
    """The vector with one NaN in it."""
    import torch

    return torch.cat([vector[:-1], vector.new_full((1,), float("nan"))])


@node("NotANumber", version=1)
def not_a_number(value: float) -> float:
    """NaN."""
    return value * float("nan")


@node("Opaque", version=1)
def opaque(value: float) -> Any:
    """What no store can hold."""
    return {value}
