"""Which weights are in memory: loaded at the first call that needs them, dropped after the last, or for others' sake."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from ..components import Handle


class Residency:
    """The loaded components of one run. Under a limit in bytes, what is used furthest in the future goes first.

    uses: by a component's key, the instructions that use it, in order.
    """

    def __init__(self, uses: Mapping[str, Sequence[int]], limit: int | None = None) -> None:
        self.uses, self.limit = uses, limit
        self.loaded: dict[str, Handle] = {}
        self._sizes: dict[str, int] = {}

    def need(self, handle: Handle, at: int) -> None:
        """Loads a component for the instruction `at`, making room for it before. Raises WeightsError."""
        if handle.loaded or handle.live is not None:
            return
        if self.limit is not None:
            self._make_room(handle, at, self.limit)
        handle.get()
        self.loaded[handle.key] = handle

    def _make_room(self, handle: Handle, at: int, limit: int) -> None:
        size = self._sizes.get(handle.key)
        if size is None:
            size = self._sizes[handle.key] = handle.resident_bytes()
        while self.loaded and sum(self._sizes[key] for key in self.loaded) + size > limit:
            self.drop(max(self.loaded.values(), key=lambda other: self._next_use(other, at)))

    def _next_use(self, handle: Handle, at: int) -> int:
        uses = self.uses.get(handle.key, ())
        found = bisect_right(uses, at)
        return uses[found] if found < len(uses) else sys.maxsize

    def drop(self, handle: Handle) -> None:
        """Forgets a component's weights."""
        if self.loaded.pop(handle.key, None) is not None:
            handle.drop()

    def clear(self) -> None:
        """Forgets all."""
        for handle in list(self.loaded.values()):
            self.drop(handle)
