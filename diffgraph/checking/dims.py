"""Symbolic shapes: dimensions that are known in part, such as `2*B`, `H/8` or `H+1`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Dim:
    """A whole number known in part: a sum of products of symbols. Symbols that start with `?` may be solved for."""

    terms: tuple[tuple[tuple[str, ...], Fraction], ...] = ()

    @staticmethod
    def of(value: int | str | Dim) -> Dim:
        if isinstance(value, Dim):
            return value
        if isinstance(value, str):
            return Dim((((value,), Fraction(1)),))
        return Dim((((), Fraction(value)),) if value else ())

    @staticmethod
    def _sum(terms: Iterable[tuple[tuple[str, ...], Fraction]]) -> Dim:
        total: dict[tuple[str, ...], Fraction] = {}
        for symbols, factor in terms:
            total[symbols] = total.get(symbols, Fraction(0)) + factor
        return Dim(tuple(sorted((s, f) for s, f in total.items() if f)))

    def __add__(self, other: Dim | int) -> Dim:
        return Dim._sum(self.terms + Dim.of(other).terms)

    __radd__ = __add__

    def __sub__(self, other: Dim | int) -> Dim:
        return self + Dim.of(other) * -1

    def __mul__(self, other: Dim | int | Fraction) -> Dim:
        if isinstance(other, Fraction):
            return Dim._sum((s, f * other) for s, f in self.terms)
        return Dim._sum((tuple(sorted(s + t)), f * g) for s, f in self.terms for t, g in Dim.of(other).terms)

    __rmul__ = __mul__

    def __truediv__(self, other: int) -> Dim:
        return self * Fraction(1, other)

    @property
    def constant(self) -> Fraction | None:
        """The number, where no symbol is left."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    def __str__(self) -> str:
        parts = []
        for symbols, factor in self.terms:
            name = "*".join(s.rpartition("#")[0].lstrip("?") or s for s in symbols)
            if not name:
                parts.append(str(factor))
            elif factor.numerator == 1 and factor.denominator > 1:
                parts.append(f"{name}/{factor.denominator}")
            else:
                parts.append(name if factor == 1 else f"{factor}*{name}")
        return "+".join(parts) or "0"


@dataclass(frozen=True, slots=True)
class Rest:
    """A run of dimensions of unknown number, named."""

    name: str

    def __str__(self) -> str:
        return "..."


Dims = tuple[Dim | Rest, ...]
_DIMENSION = re.compile(r"(?:\d+|#?[A-Za-z_]\w*)(?:(?:\*\*|[*/+-])(?:\d+|#?[A-Za-z_]\w*))*", re.ASCII)


def parse_dim(text: str, symbol: Callable[[str], int | str | Dim]) -> Dim:
    """Reads `2*B`, `H/8`, `H+1`, `2**#x`; `symbol(name)` gives the value of a name, or with a `#` the number of its items.

    Raises ValueError for anything else.
    """
    wrong = ValueError(f"{text!r} is no dimension: whole numbers and names, with * ** / + - between them")
    if not _DIMENSION.fullmatch(text):
        raise wrong
    total, sign = Dim(), 1
    for term in re.split(r"([+-])", text):
        if term in ("+", "-"):
            sign = 1 if term == "+" else -1
            continue
        first, *others = re.split(r"(\*\*|[*/])", term)
        product = Dim.of(_atom(first, symbol))
        for operator, word in zip(others[::2], others[1::2], strict=True):
            factor = Dim.of(_atom(word, symbol))
            if operator == "*":
                product = product * factor
            elif operator == "**" and product.constant is not None:
                product = _power(product.constant, factor)
            elif operator == "/" and factor.constant:
                product = product * (1 / factor.constant)
            else:
                raise wrong
        total = total + product * sign
    return total


def _power(base: Fraction, exponent: Dim) -> Dim:
    """A power of a number; where the exponent is not known, a number that is not known either."""
    times = exponent.constant
    if times is not None:
        return Dim.of(1) * base ** int(times)
    return Dim.of(f"?{base}**" + "*".join(name.lstrip("?") for names, _ in exponent.terms for name in names))


def _atom(word: str, symbol: Callable[[str], int | str | Dim]) -> int | str | Dim:
    return int(word) if word.isdigit() else symbol(word)


def check_shape(shape: str) -> None:
    """Raises ValueError for a shape that cannot be read."""
    for word in shape.split():
        if word != "..." and not (word.startswith("*") and word[1:].isidentifier()):
            parse_dim(word, lambda name: name)
