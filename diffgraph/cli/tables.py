"""Aligned columns on standard output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click


def width() -> int:
    """The columns of the terminal; many where the output is not one."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 200


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), indent: str = "", last: bool = True) -> None:
    """Prints rows in columns. last: the last column is cut where the terminal ends."""
    every = [*([head] if head else []), *rows]
    if not every:
        return
    columns = max(len(row) for row in every)
    sizes = [max((len(row[i]) for row in every if i < len(row)), default=0) for i in range(columns - 1)]
    room = max(20, width() - len(indent) - sum(sizes) - 2 * len(sizes))
    for number, row in enumerate(every):
        cells = [cell.ljust(size) for cell, size in zip(row, sizes, strict=False)]
        if len(row) == columns:
            cells.append(row[-1] if len(row[-1]) <= room or not last else row[-1][: room - 1] + "…")
        line = (indent + "  ".join(cells)).rstrip()
        click.secho(line, dim=True) if head and number == 0 else click.echo(line)
