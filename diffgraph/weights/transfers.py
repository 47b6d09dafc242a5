"""Moving files: work on several at once, counting bytes into one progress, saying sizes."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

CONNECTIONS = 8
CLOSED = (os.strerror(errno.EBADF), "client has been closed")  # how a connection says that its client was closed
TRIES = 5
T = TypeVar("T")


def say_bytes(count: int) -> str:
    """A size in words, such as "455 MB"."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"


def meter(add: Callable[[int], None]) -> Any:
    """What huggingface_hub takes for a class of progress bars, and which counts into ours."""

    class Meter:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            add(int(count or 0))

    return Meter


def each(work: Callable[[str], None], names: Sequence[str], watch: Callable[[], None] = lambda: None) -> None:
    """Does the work for every name, several at once, until one fails; that error is raised. Ctrl-C waits for none.

    watch: called while waiting; what it raises ends the waiting.
    """
    waiting = list(reversed(names))
    results: SimpleQueue[BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                name = waiting.pop()
            except IndexError:
                return
            try:
                work(name)
            except BaseException as error:
                stop.set()
                results.put(error)
            else:
                results.put(None)

    for _ in range(min(CONNECTIONS, len(names))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in names:
            failure = _next(results, watch)
            if failure is not None:
                raise failure
    finally:
        stop.set()


def unbroken(call: Callable[[], T]) -> T:
    """What a call of huggingface_hub gives, made again where its connection was closed under it: where one thread cannot
    connect, the client closes the connections of all.
    """
    for _ in range(TRIES):
        try:
            return call()
        except Exception as error:
            if not any(text in str(error) for text in CLOSED):
                raise
    return call()


def _next(results: SimpleQueue[BaseException | None], watch: Callable[[], None]) -> BaseException | None:
    while True:
        try:
            return results.get(timeout=0.25)
        except Empty:
            watch()


class Silence:
    """How long nothing has come. begun: a file is on its way, here or in another process; its bytes come in large pieces."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """folders: where files lie that are on their way."""
        self._folders, self._start = folders, time.time()
        self.begun, self._since = False, time.monotonic()

    def end(self) -> None:
        """Something came."""
        self.begun, self._since = True, time.monotonic()

    def seconds(self) -> float:
        """Since something came."""
        for path in (path for folder in self._folders for path in folder.glob("*.incomplete")):
            with contextlib.suppress(OSError):
                changed = path.stat().st_mtime
                if changed > self._start - 1:
                    self.begun = True
                    self._since = max(self._since, time.monotonic() - max(0.0, time.time() - changed))
        return time.monotonic() - self._since
