"""What a wire carries: tensors, numbers, texts, lists, and frozen records (named tuples) of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def is_record(value: Any) -> bool:
    """Whether a value is a named tuple."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def leaves(value: Any) -> Iterator[Any]:
    """Every value inside a value that is neither a list nor a record, without recursion."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, list | tuple):
            stack.extend(reversed(top))
        else:
            yield top


def tree_map(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Applies a function to the leaves of values of one structure; None stays None."""
    if first is None:
        return None
    if isinstance(first, list | tuple):
        items = [tree_map(function, *parts) for parts in zip(first, *others, strict=True)]
        return type(first)(*items) if is_record(first) else type(first)(items)
    return function(first, *others)


State = list[tuple[Any, Any]]


def state_of(values: Iterable[Any]) -> State:
    """What could be changed in place inside values, as it is now: the version of each tensor, the items of each list."""
    state: State = []
    stack = list(values)
    while stack:
        value = stack.pop()
        if hasattr(value, "_version"):
            state.append((value, value._version))
        elif isinstance(value, list | tuple):
            if type(value) is list:
                state.append((value, tuple(map(id, value))))
            stack.extend(value)
    return state


def same_state(state: State) -> bool:
    """Whether nothing was changed since. What `.data` and `.numpy()` of a tensor do is not seen."""
    return all((tuple(map(id, v)) if type(v) is list else v._version) == was for v, was in state)
