"""From the units of a plan to a program: those that have to run, one after the other, and what each frees."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .lowering import Bound, Lowering
from .program import BRANCH, CALL, GET, JUMP, LIST, LOAD, LOOP, METHOD, Instruction, Program, Unit


def select(
    planner: Lowering, outputs: Mapping[str, Bound], has: Callable[[str], bool], *, store: bool = True
) -> Program:
    """The instructions that make these outputs and that no stored value spares, in order.

    has(key): whether the store holds a value. store: whether results are kept at all.
    """
    wanted = {name: planner.index(bound, f"output {name}") for name, bound in outputs.items()}
    keys = {name: planner.key(bound) for name, bound in outputs.items()}
    makers = {index: unit for unit in planner.units for index in unit.gives}
    if store:
        for name, index in wanted.items():
            _store_output(index, keys[name], makers)
    secret = secret_slots(planner)
    needed = set(wanted.values())
    chosen: list[tuple[Unit, list[Instruction]]] = []
    for unit in reversed(planner.units):
        asked = [index for index in unit.gives if index in needed]
        unit.state = "unused"
        if not asked:
            continue
        stores = unit.stores if secret.isdisjoint(unit.gives) else {}
        if stores and all(index in stores and has(stores[index]) for index in asked):
            unit.state = "cached"
            loads = [Instruction(LOAD, (), i, name=unit.stores[i], path=unit.path, place=unit.place) for i in asked]
            chosen.append((unit, loads))
            continue
        unit.state = "run"
        needed.update(unit.needs)
        if store and stores:
            unit.code[-1].puts = tuple([(index, stores[index]) for index in asked if index in stores])
        chosen.append((unit, unit.code))
    chosen.reverse()
    return _lay_out(planner, chosen, wanted, keys)


def secret_slots(planner: Lowering) -> set[int]:
    """The slots whose values depend on a secret."""
    found = set(planner.secrets)
    for unit in planner.units if found else ():
        if not found.isdisjoint(unit.needs):
            found.update(unit.gives)
    return found


def _store_output(index: int, key: str, makers: Mapping[int, Unit]) -> None:
    """An output is stored, unless it is a field of what is stored as a whole."""
    unit = inner = makers.get(index)
    while inner is not None and inner.code[-1].op == GET:
        inner = makers.get(inner.code[-1].args[0])
    if unit is not None and inner is not None and not inner.stores:
        unit.stores[index] = key


def _lay_out(
    planner: Lowering, chosen: list[tuple[Unit, list[Instruction]]], wanted: Mapping[str, int], keys: dict[str, str]
) -> Program:
    """Puts the units one after the other and notes at each instruction what is used there for the last time."""
    code: list[Instruction] = []
    last: dict[int, int] = {}
    uses: dict[str, list[int]] = {}
    for unit, instructions in chosen:
        base, end = len(code), len(code) + len(instructions) - 1
        if base == end:
            for index in instructions[0].args:
                last[index] = base
            last[instructions[0].out] = base
        else:
            last.update((index, base + at) for index, at in _last_uses(instructions).items())
        if base == end and not unit.taken:  # needs no move; a copy only where another program has it
            unit.taken = instructions is unit.code
            code += instructions
        else:
            code += [_moved(i, base) for i in instructions] if instructions is unit.code else instructions
        if unit.handles:
            for at in range(base, end + 1):
                if (handle := code[at].handle) is not None:
                    uses.setdefault(handle.key, []).append(at)
            for key in {i.handle.key for i in instructions if i.handle is not None}:
                uses[key].append(end)
    kept = {*wanted.values(), *planner.constants}
    frees: dict[int, list[int]] = {}
    for index, at in last.items():
        if index not in kept:
            frees.setdefault(at, []).append(index)
    for at, indices in frees.items():
        code[at].frees = tuple(indices)
    for key, places in uses.items():
        code[places[-1]].drops += (planner.handles[key],)
    units = [unit for unit in planner.units if unit.what]
    return Program(code, planner.count, planner.constants, dict(wanted), units, uses, keys, last)


def _last_uses(instructions: list[Instruction]) -> dict[int, int]:
    """For each slot that a unit reads or writes, the instruction after which the unit needs it no more.

    In a region that is its end, but for a value made and read in one and the same turn: it goes after its last reading.
    """
    end = len(instructions) - 1
    levels = _levels(instructions)
    written: dict[int, list[int]] = {}
    read: dict[int, list[int]] = {}
    for at, instruction in enumerate(instructions):
        for index in instruction.reads():
            read.setdefault(index, []).append(at)
        for index in instruction.writes():
            written.setdefault(index, []).append(at)
    result = {}
    for index in {*written, *read}:
        made, uses = written.get(index, []), read.get(index, [])
        local = len(made) == 1 and instructions[made[0]].op in (CALL, METHOD, GET, LIST) and uses
        same = local and all(use > made[0] and levels[use] == levels[made[0]] for use in uses)
        result[index] = uses[-1] if same else end
    return result


def _levels(instructions: list[Instruction]) -> list[int]:
    """For each instruction which turn or branch it is in: the begin of the innermost one, or -1."""
    levels: list[int] = []
    open_: list[tuple[int, int]] = []  # where one begins, and the first instruction after it
    for at, instruction in enumerate(instructions):
        while open_ and open_[-1][1] <= at:
            open_.pop()
        levels.append(open_[-1][0] if open_ else -1)
        if instruction.op in (LOOP, BRANCH, JUMP):
            open_.append((at, instruction.target))
    return levels


def _moved(instruction: Instruction, base: int) -> Instruction:
    """A copy at its place in the program: jumps become absolute."""
    return Instruction(
        instruction.op, instruction.args, instruction.out, instruction.function, instruction.handle, instruction.name,
        instruction.path, instruction.place, instruction.tensors, instruction.watched, instruction.pairs,
        instruction.target + base if instruction.target >= 0 else -1, instruction.puts, method=instruction.method,
    )  # fmt: skip
