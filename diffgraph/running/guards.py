"""What a run watches values for: changes in place, NaN, and where they are."""

from __future__ import annotations

from typing import Any

from ..authoring import Target
from ..components import Handle
from ..values import State, is_record, leaves, same_state, tree_map


class ChangedError(Exception):
    """A node changed one of its inputs in place."""


class NaNError(Exception):
    """A node made a value that holds NaN."""


def unchanged(before: State) -> None:
    """Raises ChangedError where an input is not what it was. What `.data` and `.numpy()` do escapes it."""
    if not same_state(before):
        raise ChangedError


_PLAIN = frozenset({int, bool, str, type(None)})  # which cannot be changed, and are never NaN


def freeze(value: Any) -> None:
    """Makes arrays read-only: numpy itself then refuses a change in place."""
    if type(value) in _PLAIN:
        return
    for leaf in leaves(value):
        if hasattr(leaf, "setflags"):
            leaf.setflags(write=False)


def has_nan(value: Any) -> bool:
    """Whether a number, tensor or array inside a value is NaN."""
    if type(value) in _PLAIN:
        return False
    for leaf in leaves(value):
        if isinstance(leaf, float):
            if leaf != leaf:
                return True
        elif hasattr(leaf, "_version"):
            if leaf.is_floating_point() and bool(leaf.isnan().any()):
                return True
        elif hasattr(leaf, "setflags") and leaf.dtype.kind == "f" and bool((leaf != leaf).any()):
            return True
    return False


def to_component(args: list[Any], handle: Handle) -> list[Any]:
    """Tensors on the component's device, floating ones in its dtype."""
    return [_moved(arg, handle.device, handle.dtype) for arg in args]


def to_target(value: Any, target: Target, *, dtype: bool = True) -> Any:
    """Tensors on the device of the run; with `dtype`, floating ones in the dtype of the run."""
    return value if value is None else _moved(value, target.device, target.dtype if dtype else None)


def _moved(value: Any, device: str, dtype: str | None) -> Any:
    import torch

    wanted = getattr(torch, dtype) if dtype is not None else None

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(device, wanted if leaf.is_floating_point() else None)

    return tree_map(move, value) if isinstance(value, list | tuple) or is_record(value) else move(value)
