"""Tickets: values that may be used once. Imports no torch."""

from __future__ import annotations

from diffgraph.authoring import node

from .kinds import Drawn, Halves, Ticket, TicketState


@node("Tickets", version=1)
def tickets(seed: int) -> Ticket:
    """A roll of tickets."""
    return TicketState(seed)


@node("Draw", version=1)
def draw(ticket: Ticket) -> Drawn:
    """The next number, and the roll after it."""
    number = (ticket.number * 1103515245 + 12345) % 2**31
    return Drawn(number % 100, TicketState(number))


@node("Halve", version=1)
def halve(ticket: Ticket) -> Halves:
    """Two rolls from one, which is used up."""
    return Halves(TicketState(ticket.number * 2), TicketState(ticket.number * 2 + 1))
