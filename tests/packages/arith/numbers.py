"""Numbers. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from diffgraph.authoring import Bound, node, note
from diffgraph.errors import PortError

from .kinds import Amount, Division, Entry

T = TypeVar("T")


@node("Add", version=1)
def add(a: float, b: float = 0.0) -> float:
    """The sum of two numbers."""
    return a + b


@node("Multiply", version=1)
def multiply(a: float, b: float) -> float:
    """The product of two numbers."""
    return a * b


@node("Power", version=1)
def power(base: float, exponent: Annotated[int, Bound(ge=0, le=64)] = 2) -> float:
    """base ** exponent."""
    return float(base**exponent)


@node("Divide", version=1)
def divide(a: float, b: float) -> float:
    """a / b. Raises PortError where b is 0."""
    if b == 0:
        raise PortError("b", "0 divides nothing", hint="give another number")
    return a / b


@node("DivMod", version=1)
def div_mod(a: int, b: Annotated[int, Bound(ge=1)]) -> Division:
    """Whole division."""
    return Division(*divmod(a, b))


@node("Round", version=1)
def rounded(value: float, mode: Literal["down", "up", "near"] = "near") -> int:
    """A whole number near a number."""
    return int(value // 1 if mode == "down" else -(-value // 1) if mode == "up" else round(value))


@node("Count", version=1, static=True)
def count(n: Annotated[int, Bound(ge=0)]) -> list[int]:
    """0, 1 ... n - 1, known while planning."""
    return list(range(n))


@node("Roll", version=1)
def roll(n: Annotated[int, Bound(ge=0)]) -> list[int]:
    """0, 1 ... n - 1, made by the run."""
    return list(range(n))


@node("Entries", version=1, static=True)
def entries(values: list[float]) -> list[Entry]:
    """Numbered values, known while planning."""
    return [Entry(index, value) for index, value in enumerate(values)]


@node("Same", version=1, static=True)
def same(first: T, second: T) -> bool:
    """Whether two values are equal, known while planning."""
    return bool(first == second)


@node("Inverse", version=1, static=True)
def inverse(value: float) -> float:
    """1 / value, known while planning. Raises ZeroDivisionError for 0."""
    return 1 / value


@node("Less", version=1)
def less(a: float, b: float) -> bool:
    """Whether a < b, found by the run."""
    return a < b


@node("Pass", version=1)
def passed(value: T) -> T:
    """The value as it is."""
    return value


@node("Or", version=1)
def either(value: float | None = None, other: float = 0.0) -> float:
    """The value, or the other where there is none."""
    return other if value is None else value


@node("Measure", version=1)
def measure(amount: Amount) -> float:
    """An amount as a number. Raises PortError for a word that is none."""
    words = {"dozen": 12.0, "gross": 144.0}
    if not isinstance(amount, str):
        return float(amount)
    if amount not in words:
        raise PortError("amount", f"{amount!r} is no amount", hint="dozen or gross")
    return words[amount]


@node("Remark", version=1)
def remark(value: float) -> float:
    """The value, with a note to the user."""
    note(f"this is {value:g}")
    return value
