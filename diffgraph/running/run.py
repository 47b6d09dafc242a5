"""Running a program: a small loop over flat instructions, with events, and values freed after their last use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from ..authoring import Target, running_notes, running_target
from ..components import Handle
from ..errors import DiffgraphError, InputError, Interrupted, PortError, RunError, StoreError
from ..planning.keys import digest, tensor_bytes
from ..planning.program import (
    BRANCH,
    CALL,
    GET,
    GRAD,
    GRADIENT,
    JUMP,
    LIST,
    LOAD,
    LOOP,
    METHOD,
    MOVE,
    NEXT,
    READ,
    Instruction,
    Program,
)
from ..registry import NodeType
from ..values import leaves, state_of, tree_map
from .guards import ChangedError, NaNError, freeze, has_nan, to_component, to_target, unchanged
from .previews import Previews
from .residency import Residency
from .store import MISSING


@dataclass(frozen=True, slots=True)
class Event:
    """What a listener hears.

    kind: "started", "finished", "cached", "step" (number of total is about to run; of a sweep where the path is empty),
    "loaded" (a component, in `seconds`), "note" (a text for the user), "warning", "failed" (with the error as text).
    "download" (number of total bytes are here, of what `path` says; the first of none).
    "preview" (a small picture of what turn number of total of a loop has come to) is for those listeners alone that
    have an attribute `previews` that is true. value: for "finished" and "cached", what the node gave; for "preview", an
    array uint8 [B, H, W, 3].
    """

    kind: str
    path: str = ""
    number: int = 0
    total: int = 0
    seconds: float = 0.0
    text: str = ""
    value: Any = None


Listener = Callable[[Event], None]
Deliver = Callable[[str, Any], None]


class Results(Protocol):
    """Where results are kept: store.Store, store.Memory or both."""

    def has(self, key: str) -> bool: ...
    def get(self, key: str) -> Any: ...
    def put(self, key: str, value: Any) -> None: ...


class DamagedEntry(Exception):
    """A stored value could not be read; the run is planned again without it."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Runner:
    """Runs one program."""

    def __init__(
        self, program: Program, *, results: Results | None = None, listeners: Sequence[Listener] = (), target: Target | None = None,
        memory: int | None = None, watch: Mapping[int, str] | None = None, keep: bool = False, trace: bool = False,
        deliver: Deliver | None = None, previewers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """previewers: see Previews. deliver: given each output by name as soon as it is there, which is then forgotten; it may hold NaN."""
        self.program, self.results, self.listeners = program, results, tuple(listeners)
        self.target = target or Target()
        self.residency = Residency(program.next_use, memory)
        self.watch = dict(watch or {})
        self.keep, self.trace = keep, trace
        self.watched: dict[str, Any] = {}
        self._deliver = deliver
        self._due: dict[int, list[str]] = {}  # at which instruction an output is there
        for name, index in program.outputs.items() if deliver is not None else ():
            if index in program.last:
                self._due.setdefault(program.last[index], []).append(name)
        self._loops: dict[int, list[Any]] = {}
        self._grads: list[bool] = []  # whether gradients were on around each open `grad`
        self._warned = False
        self._current = ""
        self._notes: list[tuple[str, str]] = []  # path and text, heard since the last result was kept
        self._told: set[str] = set()
        for instruction in program.code:
            if isinstance(instruction.function, NodeType):
                instruction.function = instruction.function.load()
            if instruction.handle is not None:
                instruction.handle.on_load = self._loaded
        self._previews = Previews(program.code, previewers or {}, self.listeners)
        self._tensors = any(i.tensors or i.op in (GRAD, GRADIENT) for i in program.code if i.op in (CALL, METHOD, GRAD))

    def _loaded(self, handle: Handle, seconds: float) -> None:
        self.emit(Event("loaded", handle.path, seconds=seconds))

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def run(self, preset: Mapping[int, Any] | None = None, *, grad: bool = False) -> dict[str, Any]:
        """The outputs by name. Raises RunError naming the node and its place, Interrupted, WeightsError."""
        program = self.program
        slots: list[Any] = [None] * program.slots
        away = self.target != Target()
        for index, value in program.constants.items():
            slots[index] = to_target(value, self.target) if away and any(map(tensor_bytes, leaves(value))) else value
        for index, value in (preset or {}).items():
            slots[index] = value
        target = running_target.set(self.target)
        notes = running_notes.set(self._note)
        try:
            self._repeat_notes()
            with self._gradients(grad):
                self._execute(slots)
        finally:
            running_target.reset(target)
            running_notes.reset(notes)
            self._loops.clear()
            self._grads.clear()
            if not self.keep:
                self.residency.clear()
        delivered = {name for names in self._due.values() for name in names}
        outputs = {name: slots[index] for name, index in program.outputs.items() if name not in delivered}
        if self._deliver is not None:
            for name, value in outputs.items():
                self._deliver(name, value)
            return {}
        if not self.trace and not grad and any(has_nan(value) for value in outputs.values()):
            self._name_nan(preset)
        return outputs

    def _gradients(self, grad: bool) -> AbstractContextManager[Any]:
        if not self._tensors:
            return nullcontext()
        import torch

        return torch.enable_grad() if grad else torch.no_grad()

    def _name_nan(self, preset: Mapping[int, Any] | None) -> None:
        """Runs once more, looking at every value, to name the node that first made a NaN. Never returns."""
        limit = self.residency.limit
        Runner(self.program, results=self.results, target=self.target, memory=limit, trace=True).run(preset)
        raise RunError("the result holds NaN", node="output", hint="an input may hold it already")

    def _execute(self, slots: list[Any]) -> None:
        code, results, listening, trace = self.program.code, self.results, bool(self.listeners), self.trace
        due, previews = self._due, self._previews or None
        away = self.target != Target()
        count, at = len(code), 0
        instruction: Instruction | None = None
        try:
            while at < count:
                instruction = code[at]
                op = instruction.op
                following = at + 1
                if op <= METHOD:  # CALL or METHOD, the two lowest
                    self._current = instruction.path
                    if listening:
                        self.emit(Event("started", instruction.path))
                        began = time.perf_counter()
                    apart = False
                    if op == CALL:
                        function = instruction.function
                        args = [slots[i] for i in instruction.args]
                    else:
                        handle = instruction.handle
                        assert handle is not None
                        self.residency.need(handle, at)
                        function = handle.method(instruction.name)
                        args = [slots[i] for i in instruction.args]
                        if handle.kind.trainable:
                            apart = away or handle.device != "cpu" or handle.dtype != "float32"
                        if apart:
                            args = to_component(args, handle)
                    if instruction.watched:
                        before = state_of(args)
                        value = function(*args)
                        unchanged(before)
                    else:
                        value = function(*args)
                    if instruction.tensors:
                        if apart or (away and (op == METHOD or instruction.name == READ)):
                            value = to_target(value, self.target)
                        freeze(value)
                    if trace and has_nan(value):
                        raise NaNError
                    slots[instruction.out] = value
                    if listening:
                        self.emit(Event("finished", instruction.path, seconds=time.perf_counter() - began, value=value))
                        if previews is not None and self._loops:
                            self._preview(previews, instruction, args, value)
                elif op == GET:
                    slots[instruction.out] = getattr(slots[instruction.args[0]], instruction.name)
                elif op == NEXT:
                    following = self._next(instruction, slots)
                    if following < 0:
                        following = at + 1
                elif op == LOOP:
                    following = self._loop(instruction, at, slots)
                elif op == LOAD:
                    assert results is not None
                    value = results.get(instruction.name)
                    if value is MISSING:
                        raise DamagedEntry(instruction.name)
                    freeze(value)
                    slots[instruction.out] = to_target(value, self.target, dtype=False) if away else value
                    if listening:
                        self.emit(Event("cached", instruction.path, value=value))
                elif op == LIST:
                    slots[instruction.out] = [slots[i] for i in instruction.args]
                elif op == MOVE:
                    for source, out in instruction.pairs:
                        slots[out] = slots[source]
                elif op == BRANCH:
                    if not slots[instruction.args[0]]:
                        following = instruction.target
                elif op == JUMP:
                    following = instruction.target
                elif op == GRAD:
                    slots[instruction.out] = self._grad(slots[instruction.args[0]])
                elif op == GRADIENT:
                    self._gradient(instruction, slots)
                if instruction.puts or instruction.frees or instruction.drops:
                    self._after(instruction, slots)
                if due and at in due:
                    self._give(due[at], slots)
                at = following
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted("interrupted", hint="finished results are kept") from None
        except (DamagedEntry, StoreError):
            raise
        except Exception as error:
            assert instruction is not None
            told = self._error(error, instruction)
            self.emit(Event("failed", instruction.path, text=told.message))
            raise told from error

    # --- parts of the loop

    def _loop(self, instruction: Instruction, at: int, slots: list[Any]) -> int:
        sequence = slots[instruction.args[0]]
        items = list(sequence)
        for source, out in instruction.pairs:
            slots[out] = slots[source]
        for out in instruction.function:
            slots[out] = []
        if not items:
            return instruction.target
        self._loops[at] = [items, 0, instruction]
        slots[instruction.out] = items[0]
        if self.listeners:
            self.emit(Event("step", instruction.path, 1, len(items)))
        return at + 1

    def _next(self, instruction: Instruction, slots: list[Any]) -> int:
        begin = instruction.target
        for source, out in zip(instruction.args, instruction.function, strict=True):
            slots[out].append(slots[source])
        values = [slots[source] for source, _ in instruction.pairs]
        for (_, out), value in zip(instruction.pairs, values, strict=True):
            slots[out] = value
        state = self._loops[begin]
        state[1] += 1
        items, number, start = state
        if number >= len(items):
            del self._loops[begin]
            return -1
        slots[instruction.out] = items[number]
        if self.listeners:
            self.emit(Event("step", start.path, number + 1, len(items)))
        return begin + 1

    def _preview(self, previews: Previews, instruction: Instruction, args: Sequence[Any], value: Any) -> None:
        """Shows what a turn has come to, to those who asked; a preview that fails is the last one, and no error."""
        turns = list(self._loops.values())
        last = all(number + 1 == len(items) for items, number, _ in turns)
        try:
            picture = previews.picture(instruction, args, value, last=last)
        except Exception as error:
            previews.stop()
            self.emit(Event("warning", instruction.path, text=f"no previews: {error}"))
            return
        items, number, _ = turns[-1]
        for listener in previews.told if picture is not None else ():
            listener(Event("preview", instruction.path, number + 1, len(items), value=picture))

    def _grad(self, value: Any) -> Any:
        import torch

        self._grads.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)

        def open_(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
                return leaf
            return leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_(True)

        return tree_map(open_, value)

    def _gradient(self, instruction: Instruction, slots: list[Any]) -> None:
        import torch

        score, x = (slots[i] for i in instruction.args)
        around = self._grads.pop()
        inputs = [leaf for leaf in leaves(x) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        if not isinstance(score, torch.Tensor) or not score.requires_grad or not inputs:
            raise PortError("of", "the score does not depend on what the gradient is by", hint="compute it from that")
        found = iter(torch.autograd.grad(score.sum(), inputs, create_graph=around, materialize_grads=True))
        torch.set_grad_enabled(around)
        value = score if around else score.detach()
        gradient = tree_map(lambda leaf: next(found) if getattr(leaf, "requires_grad", False) else leaf, x)
        if self.trace and (has_nan(value) or has_nan(gradient)):
            raise NaNError
        slots[instruction.out], slots[instruction.pairs[0][1]] = value, gradient

    def _after(self, instruction: Instruction, slots: list[Any]) -> None:
        for index, key in instruction.puts:
            self._put(key, slots[index])
            if self._notes:
                self._keep_notes(key, instruction.path)
        if self.watch and instruction.out in self.watch:
            self.watched[self.watch[instruction.out]] = slots[instruction.out]
        for index in instruction.frees:
            slots[index] = None
        if not self.keep:
            for handle in instruction.drops:
                self.residency.drop(handle)

    def _give(self, names: Sequence[str], slots: list[Any]) -> None:
        assert self._deliver is not None
        for name in names:
            self._deliver(name, slots[self.program.outputs[name]])
        for name in names:
            slots[self.program.outputs[name]] = None

    def _put(self, key: str, value: Any) -> None:
        if self.results is None or self.trace or has_nan(value):
            return
        try:
            self.results.put(key, value)
        except StoreError as error:
            if not self._warned:
                self.emit(Event("warning", text=f"a result is not kept: {error}"))
            self._warned = True

    # --- notes

    def _note(self, text: str) -> None:
        self._notes.append((self._current, text))
        self._tell(self._current, text)

    def _tell(self, path: str, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.emit(Event("note", path, text=text))

    def _keep_notes(self, key: str, path: str) -> None:
        """Keeps what a node said beside its result, to be said again when the result comes from the store."""
        texts = [text for inner, text in self._notes if inner == path or inner.startswith(path + ".")]
        if texts:
            self._put(notes_key(key), texts)
        self._notes = [(inner, text) for inner, text in self._notes if text not in texts]

    def _repeat_notes(self) -> None:
        if self.results is None or not self.listeners:
            return
        for unit in self.program.units:
            for key in unit.stores.values() if unit.state != "run" else ():
                if self.results.has(notes_key(key)):
                    texts = self.results.get(notes_key(key))
                    for text in texts if isinstance(texts, list) else ():
                        self._tell(unit.path, text)

    # --- errors

    def _where(self, path: str) -> str:
        """The path of a node with the turns of the loops around it."""
        for items, number, start in reversed(self._loops.values()):
            if path == start.path or path.startswith(f"{start.path}."):
                path = f"{start.path}[step {number + 1} of {len(items)}]{path[len(start.path) :]}"
        return path

    def _error(self, error: Exception, instruction: Instruction) -> DiffgraphError:
        node = self._where(instruction.path)
        place = instruction.place
        if isinstance(error, ChangedError) or (isinstance(error, ValueError) and "read-only" in str(error)):
            return RunError(
                f"{node} changed one of its inputs in place", node=node, place=place,
                hint="inputs may be cached or used elsewhere: compute on a copy, `x = x.clone()`",
            )  # fmt: skip
        if isinstance(error, NaNError):
            hint = "half precision may overflow: try --dtype fp32 or bf16" if self.target.dtype == "float16" else None
            return RunError(
                f"{node} made a result with NaN in it; nothing was stored", node=node, place=place, hint=hint
            )
        if isinstance(error, PortError):
            return RunError(f"{node}.{error.message}", node=node, place=place, hint=error.hint)
        if isinstance(error, InputError):
            return error
        if isinstance(error, DiffgraphError):
            if error.place is None:
                error.place, error.message = place, f"{node}: {error.message}"
            return error
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
            return RunError(
                f"{node} ran out of memory on {self.target.device}", node=node, place=place,
                hint="try --dtype bf16, --memory 6GiB, fewer images at once, or --device cpu",
            )  # fmt: skip
        text = str(error).strip() or "no message"
        return RunError(
            f"{node} failed: {type(error).__name__}: {text}", node=node, place=place, hint="--debug shows the traceback"
        )


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def notes_key(key: str) -> str:
    """The key under which the notes that belong to a result are kept."""
    return digest("notes", key)


__all__ = ["DamagedEntry", "Deliver", "Event", "Listener", "Results", "Runner"]
