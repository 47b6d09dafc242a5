"""SHA-256 of files, remembered by their identity, so that gigabytes of weights are read once and not at every run.

A file is the same while its device, inode, size and times of change are. What is remembered lies below the cache
folder, one small JSON file for each, and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

_known: dict[str, dict[str, Any]] = {}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    found = recall(path).get("sha256")
    if isinstance(found, str):
        return found
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if _identity(before) == _identity(after):
        remember(path, "sha256", digest)
    return digest


def joined_digest(digests: dict[str, str]) -> str:
    """One SHA-256 for named files: the same for the same names and contents, wherever they are."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def recall(path: Path) -> dict[str, Any]:
    """What is remembered of a file as it is now; empty where it has changed, or is not known."""
    real = os.path.realpath(path)
    identity = _identity(os.stat(real))
    entry = _known.get(real) or _read(real)
    if entry.get("identity") != identity:
        return {}
    _known[real] = entry
    return entry


def remember(path: Path, key: str, value: Any) -> None:
    """Notes something about a file as it is now; not of one changed a moment ago, whose times could stay the same."""
    real = os.path.realpath(path)
    stat = os.stat(real)
    changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
    tick = 2_000_000_000 if stat.st_mtime_ns % 1_000_000_000 == 0 else 50_000_000  # a coarse clock, or a fine one
    if time.time_ns() - changed < tick:
        return
    entry = {**recall(path), "path": real, "identity": _identity(stat), key: value}
    _known[real] = entry
    note = _note(real)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        draft.write_text(json.dumps(entry), encoding="utf-8")
        draft.replace(note)


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _note(real: str) -> Path:
    from ..running.store import cache_folder

    name = hashlib.sha256(real.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "files" / name[:2] / f"{name[2:34]}.json"


def _read(real: str) -> dict[str, Any]:
    try:
        entry = json.loads(_note(real).read_bytes())
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) and entry.get("path") == real else {}
