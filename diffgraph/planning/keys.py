"""Keys: digests by which equal work is known, before it is done."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from ..errors import CheckError
from ..values import is_record


def digest(*parts: str) -> str:
    """The key of what has these parts; each is quoted, so that no two lists of parts are one text."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def literal_key(value: Any) -> str:
    """The key of a literal or of a live value: its type and content. Numbers are converted to their port's type before.

    Raises CheckError for what no wire can carry.
    """
    if type(value) in (int, float, bool):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, list | tuple):
        kind = f"{type(value).__module__}:{type(value).__qualname__}" if is_record(value) else "list"
        return digest(kind, *(literal_key(item) for item in value))
    if isinstance(value, str):
        return "str:" + str.__str__(value)
    if value is None or isinstance(value, bool | int | float | bytes):
        return f"{type(value).__name__}:{value!r}"
    digest_of = getattr(value, "digest", None)
    if isinstance(digest_of, str):
        return digest("file", digest_of)
    content = tensor_bytes(value)
    if content is None:
        hint = "give a number, a text, a tensor, an array, or a list or record of these"
        raise CheckError(f"a {type(value).__name__} cannot be given as a value", hint=hint)
    return digest(type(value).__name__, str(value.dtype), str(tuple(value.shape)), hashlib.sha256(content).hexdigest())


def tensor_bytes(value: Any) -> Any:
    """The bytes of a tensor or an array, or None for anything else. Does not import torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return value.tobytes() if hasattr(value, "tobytes") and hasattr(value, "dtype") else None
