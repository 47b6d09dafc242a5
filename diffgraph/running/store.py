"""The store of results: values by key, on disk, in memory, or both.

A file appears under its name only when it is whole, so that several processes may share a folder and any of them may be
killed. What a file holds is in entry.py.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import re
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import StoreError
from ..values import State, leaves, same_state, state_of
from .entry import DamagedError, Records, decode, encode

GIB = 2**30
FORMAT = 1  # in the path, so that formats do not meet
PLAIN_SIZE = 64  # counted for a number, which nobody can change
STALE_SECONDS = 3600  # an unfinished file older than this belongs to a process that died

_SUFFIX = ".safetensors"
_KEY = re.compile("[0-9a-f]{8,128}")


class Missing(enum.Enum):
    """The type of MISSING."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING  # what `get` gives for a key without a value, for None is a value


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store or a memory holds: how many entries, their bytes, and how many bytes they may have."""

    entries: int
    size: int
    limit: int


def cache_folder() -> Path:
    """Where everything cached lives: DIFFGRAPH_CACHE_DIR, or `diffgraph` in the platform's folder for caches."""
    chosen = os.environ.get("DIFFGRAPH_CACHE_DIR")
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # the XDG specification has relative ones ignored
            base = os.path.expanduser("~/.cache")
    return Path(base, "diffgraph")


class Store:
    """Values on disk by key, a whole file each, the least recently used dropped when they are over `limit` bytes.

    records: the class of a record type by its name, "module:qualname"; a record of another type is neither written nor
    read. on_damage: told the key and the reason when an entry proves damaged; it is dropped. Tensors come back on the
    CPU. Any number of processes may use one folder at once.
    """

    def __init__(
        self,
        folder: str | Path,
        limit: int = 20 * GIB,
        *,
        records: Records = lambda name: None,
        on_damage: Callable[[str, str], None] = lambda key, reason: None,
    ) -> None:
        self.folder = str(Path(folder) / f"v{FORMAT}")
        self.limit = limit
        self._records = records
        self._on_damage = on_damage
        self._used: int | None = None  # bytes at the last look, and what was put since
        self._put_since = 0

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a key is 8 to 128 hexadecimal digits, not {key!r}")
        return f"{self.folder}{os.sep}{key[:2]}{os.sep}{key}{_SUFFIX}"

    def has(self, key: str) -> bool:
        """Whether there is an entry, without a look inside."""
        return os.path.exists(self._path(key))

    def get(self, key: str) -> Any:
        """The value, or MISSING. A damaged entry is reported, dropped, and missing."""
        path = self._path(key)
        try:
            value = decode(path, key, self._records)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except DamagedError as error:
            _unlink(path)
            self._on_damage(key, str(error))
            return MISSING
        except OSError as error:
            self._on_damage(key, f"it cannot be read: {error.strerror or error}")
            return MISSING
        now = time.time_ns()
        with contextlib.suppress(OSError):  # dropped meanwhile, or a folder that is only read
            os.utime(path, ns=(now, now))
        return value

    def put(self, key: str, value: Any) -> None:
        """Writes an entry. Raises StoreError where it cannot be written, and leaves the store as it was."""
        path = self._path(key)
        parts = encode(key, value, self._records)
        size = sum(memoryview(part).nbytes for part in parts)
        if size > self.limit:
            raise StoreError(f"a result of {size:,} bytes is larger than the store may be ({self.limit:,})")
        unfinished = f"{os.path.dirname(path)}{os.sep}.{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                with open(unfinished, "xb") as file:
                    file.writelines(parts)
                now = time.time_ns()
                os.utime(unfinished, ns=(now, now))
                os.replace(unfinished, path)
            except BaseException:
                _unlink(unfinished)
                raise
        except PermissionError as error:
            if not os.path.isfile(path):  # Windows does not replace a file that another process reads: the same one
                raise self._unwritable(error) from error
        except OSError as error:
            raise self._unwritable(error) from error
        self._count(size)

    def _unwritable(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, `diffgraph cache prune`, or set DIFFGRAPH_CACHE_DIR to a folder on a larger disk"
        else:
            hint = "set DIFFGRAPH_CACHE_DIR to a folder that can be written"
        return StoreError(f"the result store {self.folder} cannot be written: {error.strerror or error}", hint=hint)

    def _count(self, size: int) -> None:
        """Looks at the folder where it may be over the limit: other processes write too."""
        self._put_since += size
        if self._used is None or self._put_since > self.limit // 20 or self._used + self._put_since > self.limit:
            self._used = self.stats().size
            self._put_since = 0
            if self._used > self.limit:
                self._used -= self.prune(max(self.limit - self.limit // 10, size))

    def stats(self) -> Stats:
        """What is in the folder now."""
        sizes = [size for _, size, _ in self._entries()]
        return Stats(len(sizes), sum(sizes), self.limit)

    def prune(self, limit: int) -> int:
        """Drops the least recently used entries until the rest has at most `limit` bytes; returns the bytes dropped."""
        entries = sorted(self._entries())
        total, dropped = sum(size for _, size, _ in entries), 0
        for _, size, path in entries:
            if total <= limit:
                break
            total -= size
            dropped += size if _unlink(path) else 0
        return dropped

    def clear(self) -> int:
        """Drops every entry; returns the bytes dropped."""
        return self.prune(-1)

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Time of the last use, size and path of every entry. Drops files that a dead process left unfinished."""
        for folder in _scan(self.folder):
            for file in _scan(folder.path):
                try:
                    found = file.stat(follow_symlinks=False)
                except OSError:
                    continue  # dropped meanwhile
                if file.name.endswith(_SUFFIX):
                    yield found.st_mtime_ns, found.st_size, file.path
                elif file.name.endswith(".tmp") and time.time() - found.st_mtime > STALE_SECONDS:
                    _unlink(file.path)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"the result store {folder} cannot be read: {error.strerror or error}") from error


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


class Memory:
    """Values by key within one process, as and where they are; the least recently used dropped over `limit` bytes."""

    def __init__(self, limit: int = GIB) -> None:
        self.limit = limit
        self._values: OrderedDict[str, tuple[Any, int, State | None]] = OrderedDict()  # None: nothing can change
        self._used = 0

    def has(self, key: str) -> bool:
        """Whether there is a value, which nobody has changed since."""
        found = self._values.get(key)
        if found is not None and found[2] is not None and not same_state(found[2]):
            self._used -= self._values.pop(key)[1]
            return False
        return found is not None

    def get(self, key: str) -> Any:
        """The value, or MISSING."""
        if not self.has(key):
            return MISSING
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: str, value: Any) -> None:
        """Keeps a value, unless it alone is over the limit."""
        size = size_of(value)
        old = self._values.pop(key, None)
        if old is not None:
            self._used -= old[1]
        if size <= self.limit:
            self._values[key] = value, size, state_of([value]) if size > PLAIN_SIZE else None
            self._used += size
            if self._used > self.limit:
                self.prune(self.limit)

    def stats(self) -> Stats:
        """What is kept now."""
        return Stats(len(self._values), self._used, self.limit)

    def prune(self, limit: int) -> int:
        """Drops the least recently used values until the rest has at most `limit` bytes; returns the bytes dropped."""
        before = self._used
        while self._used > limit and self._values:
            self._used -= self._values.popitem(last=False)[1][1]
        return before - self._used

    def clear(self) -> int:
        """Drops every value; returns the bytes dropped."""
        return self.prune(-1)


def size_of(value: Any) -> int:
    """About how many bytes a value keeps alive: the storage of its tensors and arrays, and 64 for anything else."""
    if value is None or type(value) in (bool, int, float):
        return PLAIN_SIZE
    size = 64
    for leaf in leaves(value):
        if hasattr(leaf, "untyped_storage"):
            size += leaf.untyped_storage().nbytes()
        else:
            size += getattr(leaf, "nbytes", None) or (len(leaf) if isinstance(leaf, str) else 0)
        size += 64
    return size


class Layers:
    """A memory in front of a store: what was used in this process is not read again."""

    def __init__(self, memory: Memory, store: Store) -> None:
        self.memory, self.store = memory, store

    def has(self, key: str) -> bool:
        """Whether there is a value in either."""
        return self.memory.has(key) or self.store.has(key)

    def get(self, key: str) -> Any:
        """The value, or MISSING; one found on disk is kept in memory."""
        value = self.memory.get(key)
        if value is MISSING:
            value = self.store.get(key)
            if value is not MISSING:
                self.memory.put(key, value)
        return value

    def put(self, key: str, value: Any) -> None:
        """Keeps a value in memory, then on disk. Raises StoreError where the disk refuses; the memory has it then."""
        self.memory.put(key, value)
        self.store.put(key, value)
