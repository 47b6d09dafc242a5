"""What some modules of this package share. Changing it changes what depends on those, and nothing else."""

from __future__ import annotations

STEP = 1


def total(values: list[float]) -> float:
    """The sum."""
    return float(sum(values))
