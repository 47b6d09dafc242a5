"""Live objects as parts of graphs: the types of classes and functions that no package registers.

They are keyed by their source, and by what they take from around them: captured values, and functions and values of
their module. What cannot be keyed so is keyed by its identity, which no other process shares.
"""

from __future__ import annotations

import hashlib
import inspect
import secrets
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .errors import CheckError
from .planning.keys import digest, literal_key
from .registry import NodeType, Registry, node_from_json

_PROCESS = secrets.token_hex(8)


def type_of(thing: Any, registry: Registry) -> NodeType:
    """The type of a component's class or of a function: a registered one, or else one made of the live thing.

    Raises TypeError where its annotations declare no ports.
    """
    place = (thing.__module__, thing.__qualname__)
    registered = next((n for n in registry.nodes.values() if (n.module, n.qualname) == place), None)
    if registered is not None:
        return registered
    from . import describe

    data = describe.describe_component(thing) if isinstance(thing, type) else describe.describe_function(thing)
    return replace(node_from_json(data, source_of(thing)), live=thing)


def source_of(thing: Any) -> str:
    """The digest of a class or a function, and of what it takes from around it."""
    parts: list[str] = []
    seen: set[int] = set()
    stack = [thing]
    while stack:
        top = stack.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        parts.append(_text(top))
        functions = [top] if isinstance(top, types.FunctionType) else _methods(top)
        for function in functions:
            for name, value in _around(function):
                if isinstance(value, types.FunctionType | type) and value.__module__ == thing.__module__:
                    stack.append(value)
                elif not isinstance(value, types.ModuleType | types.BuiltinFunctionType | types.FunctionType | type):
                    parts += [name, _key(value)]
    return hashlib.sha256(digest(*parts).encode()).hexdigest()


def _text(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return repr((code.co_code, code.co_consts)) if code is not None else repr(thing)


def _methods(cls: type) -> list[types.FunctionType]:
    found = [getattr(value, "__func__", value) for value in vars(cls).values()]
    return [value for value in found if isinstance(value, types.FunctionType)]


def _around(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function takes from around it, by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # a name that is not bound yet
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _key(value: Any) -> str:
    try:
        return literal_key(value)
    except CheckError:
        return f"{_PROCESS} {id(value)}"
