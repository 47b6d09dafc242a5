"""Sizes in bytes, as people write and read them: `6GiB`, `500 MB`."""

from __future__ import annotations

import re

from ..errors import InputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?b?|b)", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_size(text: str, what: str) -> int:
    """Bytes of `6GiB` (2^30 each), `500MB` (10^6 each) or `4096B`; 0 needs no unit. Raises InputError for anything else."""
    text = text.strip()
    if text == "0":
        return 0
    found = _SIZE.fullmatch(text)
    if found is None and _NUMBER.fullmatch(text):
        raise InputError(f"{what} {text}: a size needs a unit", hint=f"write {text}GiB, {text}MB, or {text}B for bytes")
    if found is None:
        raise InputError(f"{what} {text}: this is no size", hint="write a number and a unit, such as 6GiB or 500MB")
    number, unit, binary = found.groups()
    power = " kmgt".index(unit.lower()) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def format_size(size: int) -> str:
    """A size in the largest unit that leaves a number from 1, with three digits."""
    number, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1000:
            break
        number, unit = number / 1024, larger
    return f"{number:.3g} {unit}" if unit != "B" else f"{size} B"


def format_count(number: int) -> str:
    """A count such as `3.7 M`, with two or three digits."""
    value, unit = float(number), ""
    for larger in (" k", " M", " G"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}"
