"""What varies in a sweep, as it is typed: `--seed 0..7`, `--prompt @prompts.txt`, `--sweep guidance_scale=1,3,5`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from .output import safe

if TYPE_CHECKING:
    from ..language.graph import Input
    from ..sweeps import Axis
    from .graph_command import Opened

LAST = "seed"  # the axis that is drawn across, and that names a file by its bare number
LONGEST = 40  # letters of a text in a file's name
RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")


def axes_of(asked: Opened, sweeps: Sequence[str]) -> list[Axis]:
    """The axes of a sweep, as texts: inputs in the order of the document, then keys of nodes, then the seed.

    What is one value stays typed; a text that begins with @ and is none is written @@. Raises InputError.
    """
    from ..sweeps import Axis

    found: dict[str, list[str]] = {}
    for name, typed in list(asked.typed.items()):
        item = asked.graph.inputs[name]
        several = _several(item, typed)
        if several is not None:
            found[name] = several
        elif isinstance(typed, str) and item.type == "text" and typed.startswith("@@"):
            asked.typed[name] = typed[1:]
    for text in sweeps:
        name, values = _sweep(asked, text)
        if name in asked.typed or name in found:
            raise InputError(f"--sweep {text}: {name} is given twice")
        found[name] = values
    order = [name for name in asked.graph.inputs if name in found and name != LAST]
    order += [name for name in found if name not in asked.graph.inputs]
    return [Axis(name, tuple(found[name])) for name in [*order, *([LAST] if LAST in found else [])]]


def _several(item: Input, typed: Any) -> list[str] | None:
    """The values that an option's text stands for; None where it is one value."""
    if not isinstance(typed, str):
        return None
    if item.type == "int" and (numbers := _range(typed)) is not None:
        return numbers
    if item.type == "text" and typed.startswith("@") and not typed.startswith("@@"):
        flag = "--" + item.name.replace("_", "-")
        return _lines(typed[1:], flag, f"a text that begins with @ is written {flag} @@...")
    return None


def _sweep(asked: Opened, text: str) -> tuple[str, list[str]]:
    """What `--sweep NAME=A,B` says."""
    name, sign, rest = text.partition("=")
    if not sign or not name:
        raise InputError(f"--sweep {text}: write NAME=A,B, such as --sweep guidance_scale=1,3,5")
    if "." not in name:
        name = name if name in asked.graph.inputs else name.replace("-", "_")
        if name not in asked.graph.inputs:
            near = nearest(name, list(asked.graph.inputs))
            hint = f"did you mean {near}?" if near else "it has: " + (", ".join(asked.graph.inputs) or "none")
            raise InputError(f"--sweep {text}: there is no input {name!r}", hint=hint)
    if rest.startswith("@"):
        return name, _lines(rest[1:], f"--sweep {name}", "name a file with a value on each line")
    values: list[str] = []
    for part in rest.split(","):
        numbers = _range(part.strip())
        if not part.strip():
            raise InputError(f"--sweep {text}: a value is empty", hint="values that hold commas go into a file: @FILE")
        values += numbers if numbers is not None else [part.strip()]
    return name, values


def _range(text: str) -> list[str] | None:
    """The whole numbers of `0..7`, both ends among them; None for another text."""
    from ..sweeps import MOST

    found = RANGE.fullmatch(text)
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MOST:
        hint = f"write {last}..{first}" if last < first else f"a sweep has at most {MOST:,} runs"
        raise InputError(f"{text} is no range to sweep over", hint=hint)
    return [str(number) for number in range(first, last + 1)]


def _lines(path: str, what: str, hint: str) -> list[str]:
    """The lines of a file that are not blank."""
    from ..inputs import read_file

    try:
        data = read_file(path, what).data
    except InputError as error:
        raise InputError(error.message, hint="; ".join(filter(None, (error.hint, hint)))) from None
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{what}: line {line} of {path} is not UTF-8", hint="save it as UTF-8") from None
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"{what}: {path} has no line that is not blank")
    return found


def names_of(axes: Sequence[Axis]) -> Iterator[str]:
    """For each point, the part of a file's name that tells it apart from the others, but for its seed."""
    from ..sweeps import points

    parts = {axis.name: _parts(axis) for axis in axes if axis.name != LAST}
    for point in points(axes):
        yield "-".join(parts[name][value] for name, value in point.items() if name != LAST)


def _parts(axis: Axis) -> dict[str, str]:
    """How each value of an axis stands in a file's name: words as they are, short values after the axis's name."""
    parts: dict[str, str] = {}
    for number, value in enumerate(axis.values, 1):
        words = safe(value, LONGEST) if re.search(r"[^\W\d]", value) else ""
        part = words if words and "." not in axis.name else f"{axis.name}={safe(value, LONGEST)}"
        parts[value] = f"{part}-{number}" if part in parts.values() else part
    return parts


__all__ = ["axes_of", "names_of"]
