"""Programs: one flat list of instructions, with all that a run needs to know; and the units that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..components import Handle
from ..errors import Place
from ..registry import Method

# Operations of instructions.
READ = "read"  # the name of the call of a reader
CALL, METHOD, GET, LIST, MOVE, LOOP, NEXT, BRANCH, JUMP, GRAD, GRADIENT, LOAD, END = range(13)


@dataclass(slots=True)
class Instruction:
    """One operation of the run. What the fields mean depends on `op`; see run.py. method: what a call calls."""

    op: int
    args: tuple[int, ...] = ()
    out: int = -1
    function: Any = None
    handle: Handle | None = None
    name: str = ""
    path: str = ""
    place: Place | None = None
    tensors: bool = False
    watched: bool = False
    pairs: tuple[tuple[int, int], ...] = ()
    target: int = -1
    puts: tuple[tuple[int, str], ...] = ()
    frees: tuple[int, ...] = ()
    drops: tuple[Handle, ...] = ()
    method: Method | None = None

    def reads(self) -> Iterable[int]:
        yield from self.args
        for source, _ in self.pairs:
            yield source

    def writes(self) -> Iterable[int]:
        if self.out >= 0:
            yield self.out
        for _, target in self.pairs:
            yield target


@dataclass(slots=True)
class Unit:
    """What is run or left out as a whole. `stores` are the slots worth keeping, with their keys; `taken` says that a
    program has the instruction itself.
    """

    code: list[Instruction]
    gives: tuple[int, ...]
    needs: tuple[int, ...]
    path: str
    what: str
    place: Place | None
    stores: dict[int, str] = field(default_factory=dict)
    handles: tuple[Handle, ...] = ()
    state: str = "run"
    taken: bool = False


@dataclass(slots=True)
class Program:
    """Instructions in order, the values that slots start with, and where the outputs are.

    last: for each slot that is read or written, the instruction that does so last.
    """

    code: list[Instruction]
    slots: int
    constants: dict[int, Any]
    outputs: dict[str, int]
    units: list[Unit]
    next_use: dict[str, list[int]]
    keys: dict[str, str]
    last: dict[int, int]
