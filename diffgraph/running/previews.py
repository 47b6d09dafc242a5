"""Previews: small pictures of a value while a loop still works on it, for listeners that ask for them.

Which types can be shown so, and how, is what node packages say with `@previewer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..planning.program import Instruction
from ..registry import import_name

APART = 0.25  # seconds from one preview to the next
SHARE = 0.1  # of the time, at most, that making them takes


class Previews:
    """When a preview is due, and what shows it. `told` are the listeners that asked, by an attribute `previews`."""

    def __init__(
        self, code: Iterable[Instruction], previewers: Mapping[str, str], listeners: Sequence[Callable[[Any], None]]
    ) -> None:
        """previewers: for the name of a type, the function at `module:name`."""
        self.told = [listener for listener in listeners if getattr(listener, "previews", False)]
        given = {call.method.output.type.name for call in code if call.method is not None} if self.told else set()
        self._functions = {name: import_name(previewers[name]) for name in given & previewers.keys()}
        self._next = 0.0

    def __bool__(self) -> bool:
        return bool(self._functions)

    def picture(self, call: Instruction, args: Sequence[Any], value: Any, *, last: bool) -> Any:
        """The preview of what a call gave, or None where there is none, or it is too soon after the one before.

        last: nothing comes after it, so that it is shown however soon. Raises what the previewer raises.
        """
        method = call.method
        function = self._functions.get(method.output.type.name) if method is not None else None
        began = time.monotonic()
        if method is None or function is None or (began < self._next and not last):
            return None
        given = dict(zip(method.inputs, args, strict=True))
        if call.handle is not None:
            given["self"] = call.handle.get()
        try:
            return function(value, given)
        finally:
            now = time.monotonic()
            self._next = now + max(APART, (now - began) / SHARE)

    def stop(self) -> None:
        """Makes no more of them."""
        self._functions = {}


__all__ = ["Previews"]
