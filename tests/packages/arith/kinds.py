"""The kinds, records and protocols of this package. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from diffgraph.authoring import Fact, Kind

if TYPE_CHECKING:
    from torch import Tensor
else:

    class Tensor:
        """Stands for torch.Tensor, so that reading annotations needs no torch."""


Vector = Annotated[Tensor, Kind("Vector")]
Unit = Annotated[Tensor, Kind("Unit", of="Vector")]  # a vector of length 1
Score = Annotated[Tensor, Kind("Score")]
Grid = Annotated[Tensor, Kind("Grid")]  # a numpy array
Amount = Annotated[int | float | str, Kind("Amount")]  # a number, or a word such as "dozen"


class Page(NamedTuple):
    """A text and how many lines it has."""

    text: str
    lines: int


Note = Annotated[Page, Kind("Note")]


class TicketState(NamedTuple):
    """The next number of a roll of tickets."""

    number: int


Ticket = Annotated[TicketState, Kind("Ticket", once=True)]


class Drawn(NamedTuple):
    """A number, and the roll after it."""

    number: int
    ticket: Ticket


class Halves(NamedTuple):
    """Two rolls that share nothing."""

    first: Ticket
    second: Ticket


class Division(NamedTuple):
    """A whole quotient and what is left."""

    quotient: int
    remainder: int


class Labelled(NamedTuple):
    """A vector with a name."""

    vector: Annotated[Vector, "N"]
    label: str


class Entry(NamedTuple):
    """One row of a list of entries."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    value: float


class Mapper(Protocol):
    """Something that maps a vector to one."""

    size: int

    def __call__(self, vector: Annotated[Vector, "N"]) -> Annotated[Vector, "M"]: ...


METRES, FEET = Fact(unit="metre"), Fact(unit="foot")
