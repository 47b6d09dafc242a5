"""The data of a training graph: numbers of a folder, as numbered batches. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from diffgraph.authoring import Bound, Component
from diffgraph.errors import InputError, PortError

from .kinds import Vector


class Pairs(NamedTuple):
    """What goes in and what should come out."""

    given: Annotated[Vector, "size"]
    wanted: Annotated[Vector, "size"]


@dataclass(frozen=True)
class SeriesConfig:
    """size: how many numbers a batch has."""

    size: Annotated[int, Bound(ge=1)] = 2


class Series(Component, version=1):
    """Numbers of `numbers.txt` in a folder, and their doubles."""

    Config = SeriesConfig

    def __init__(self, config: SeriesConfig) -> None:
        self.config = config
        self.numbers: list[float] = []

    @classmethod
    def open(cls, config: SeriesConfig, folder: Path) -> Self:
        """Reads the folder. Raises InputError where there are no numbers."""
        series = cls(config)
        try:
            series.numbers = [float(word) for word in (folder / "numbers.txt").read_text().split()]
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}/numbers.txt: {error}") from None
        return series

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, step: int) -> Pairs:
        """The batch of a step. Raises PortError where no folder was opened."""
        import torch

        if not self.numbers:
            raise PortError("data", "no folder was opened")
        chosen = [self.numbers[(step + i) % len(self.numbers)] for i in range(self.config.size)]
        given = torch.tensor(chosen)
        return Pairs(given, 2 * given)
