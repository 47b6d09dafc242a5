"""What a run shows while it goes: notes and warnings; on a terminal the loops, the node at work, what was cached, and
the picture as it develops.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..weights.transfers import say_bytes
from .report import State, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..running.run import Event
    from .preview import Drawing, PreviewFile


class Listener:
    """Hears the events of a run: notes and warnings go to the user, and the first node that runs is noted.

    file: what previews are written to, which the run is asked for then.
    """

    def __init__(
        self, state: State, inputs: Mapping[str, Any], *, quiet: bool, file: PreviewFile | None = None
    ) -> None:
        self.state, self.inputs, self.quiet, self.file = state, inputs, quiet, file
        self.previews = file is not None
        self.say: Callable[[str], None] = say

    def __call__(self, event: Event) -> None:
        if event.kind in ("started", "step"):
            name = event.path.partition("[")[0]  # reading an input file, one of a list too, is no node
            self.state.ran = self.state.ran or name not in self.inputs
        elif event.kind == "note":
            text = self.state.hide(event.text)
            self.state.notes.append(text)
            if not self.quiet and not self.state.json:
                self.say(f"note: {text}")
        elif event.kind == "warning" and (text := self.state.hide(event.text)) not in self.state.warnings:
            self.state.warnings.append(text)
            if not self.state.json:
                self.say(f"warning: {text}")
        elif event.kind == "preview" and self.file is not None:
            self._write(self.file, event)
        elif event.kind == "download" and event.number == 0 and not self.quiet and not self.state.json:
            self.say(f"downloading {say_bytes(event.total)} from {event.path}")

    def _write(self, file: PreviewFile, event: Event) -> None:
        """Writes a preview; one that cannot be written is the last, and no error."""
        from ..running.run import Event

        try:
            file.write(event.value)
        except StoreError as error:
            self.file = None
            self(Event("warning", text=f"no previews: {error.message}"))


@dataclass
class Loop:
    """A loop on the screen. number: the step that runs, from 1, or that has run where `counts_done`."""

    path: str
    total: int
    began: float
    number: int = 0
    after_first: float | None = None
    ended: float | None = None
    text: str = ""
    counts_done: bool = False

    @property
    def done(self) -> int:
        """How many steps have run."""
        return self.total if self.ended is not None else self.number - (0 if self.counts_done else 1)

    def step(self, number: int, now: float, text: str) -> None:
        """Takes note of a step; the first is left out of the estimate, since it loads weights."""
        self.number, self.text = number, text
        if self.after_first is None and self.done >= 1:
            self.after_first, self._base = now, self.done

    def left(self, now: float) -> float | None:
        """Seconds left, as the steps so far took; None where nobody can say yet."""
        if self.after_first is None or self.done <= self._base:
            return None
        each = (now - self.after_first) / (self.done - self._base + 0.5)
        return max(0.0, each * (self.total - self.done - 0.5))


class Screen(Listener):
    """Draws a run on a terminal: a bar a loop, one line for the node at work, and the picture where `previews` is set."""

    def __init__(
        self, state: State, inputs: Mapping[str, Any], console: Console, *, counts_done: bool = False,
        file: PreviewFile | None = None, previews: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(state, inputs, quiet=False, file=file)
        self.draws, self.previews = previews, previews or file is not None
        self.drawing: Drawing | None = None
        self.console, self.counts_done = console, counts_done
        self.say = self._say
        self.loops: dict[str, Loop] = {}
        self.current = "starting"  # which takes seconds where torch has to be imported
        self.since = self.began = time.monotonic()
        self.cached: list[str] = []
        self.download: tuple[int, int] | None = None  # bytes done, of how many

    def _say(self, text: str) -> None:
        style = "yellow" if text.startswith("warning") else "cyan"
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if event.kind == "started":
            self.current, self.since = event.path, time.monotonic()
            self._leave(event.path)
        elif event.kind == "step":
            self._step(event)
        elif event.kind == "cached":
            self.cached.append(event.path)
            self.console.print(f"  [green]✓[/] {event.path}  [dim]from the store[/]", highlight=False)
        elif event.kind == "preview" and self.draws:
            self._draw(event.value)
        elif event.kind == "download":
            self.current, self.download = f"downloading from {event.path}", (event.number, event.total)

    def _draw(self, pictures: Any) -> None:
        """Takes a preview in the room that the lines above leave."""
        from .preview import WIDEST, Drawing, fitted

        lines = self.console.height - len(self.loops) - 3
        picture = fitted(pictures, min(WIDEST, self.console.width - 4), 2 * lines)
        self.drawing = Drawing.of(picture) if picture is not None else None

    def _step(self, event: Event) -> None:
        now = time.monotonic()
        loop = self.loops.get(event.path)
        if loop is None or loop.ended is not None or event.number <= loop.number:
            loop = self.loops[event.path] = Loop(event.path, event.total, now, counts_done=self.counts_done)
        loop.step(event.number, now, f"loss {event.text}" if self.counts_done else event.text)
        if event.path:
            self.current, self.since = event.path, now
        self._leave(event.path)

    def _leave(self, path: str) -> None:
        """Ends the loops that a node outside of them shows to be over; the runs of a sweep have the path of all."""
        for loop in self.loops.values():
            if loop.ended is None and loop.path and not (path == loop.path or path.startswith(loop.path + ".")):
                loop.ended = time.monotonic()

    def finish(self, *, whole: bool) -> None:
        """The run is over; where it is not whole, its loops stay as far as they came."""
        self.current = ""
        for loop in self.loops.values() if whole else ():
            loop.ended = loop.ended if loop.ended is not None else time.monotonic()

    def render(self) -> RenderableType:
        """The lines of this moment."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        for _ in range(5):
            table.add_column(no_wrap=True)
        width = max(10, min(36, self.console.width - 50))
        if self.download is not None:
            done, total = self.download
            count = Text(f"{say_bytes(done)}/{say_bytes(total)}", "green" if done == total else "")
            mark = Text("  ✓", "green") if done == total else Text("   ")
            table.add_row(mark, "download", ProgressBar(total, done, width=width), count, Text())
        for loop in list(self.loops.values()):
            over = loop.ended is not None
            mark = Text("  ✓", "green") if over else Text("   ")
            bar = ProgressBar(loop.total, loop.done, width=width)
            count = Text(f"{loop.total if over else loop.number}/{loop.total}", "green" if over else "")
            name = _short(loop.path or "runs", self.console.width)
            table.add_row(mark, name, bar, count, Text(self._time(loop, now), "dim"))
        picture = [self.drawing] if self.drawing is not None else []
        if not self.current:
            return Group(table, *picture)
        waited = now - self.since
        text = _short(self.current, self.console.width) + (f"  {clock(waited)}" if waited > 2 else "")
        row = Table.grid()
        row.add_row(Text("  "), self._spinner(Spinner), Text(f" {text}", "dim"))
        return Group(table, row, *picture)

    def _spinner(self, make: Callable[..., Any]) -> Any:
        if not hasattr(self, "_spin"):
            self._spin = make("dots", style="cyan")
        return self._spin

    def _time(self, loop: Loop, now: float) -> str:
        if loop.ended is not None:
            text = clock(loop.ended - loop.began)
        else:
            left = loop.left(now)
            text = f"{clock(left)} left" if left is not None else ""
        return f"{text}  {loop.text}".strip()


def clock(seconds: float) -> str:
    """A duration as `0:07` or `1:02:03`; below ten seconds with a tenth."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _short(path: str, width: int) -> str:
    limit = max(12, width - 46)
    return path if len(path) <= limit else "…" + path[1 - limit :]


def is_terminal() -> bool:
    """Whether standard error is a terminal that can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def shown(
    state: State, inputs: Mapping[str, Any], *, quiet: bool, counts_done: bool = False, preview: bool = False,
    file: PreviewFile | None = None,
) -> Iterator[Listener]:  # fmt: skip
    """A listener for one run, drawn on the terminal where there is one and nothing speaks against it.

    preview: the developing picture is drawn too. file: it is written there.
    """
    from ..running.run import Event

    if quiet or state.json or not is_terminal():
        listener = Listener(state, inputs, quiet=quiet, file=file)
        if preview:
            listener(Event("warning", text="--preview draws on a terminal alone; --preview-file writes a picture"))
        yield listener
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    coloured = console.color_system is not None and not console.no_color
    screen = Screen(state, inputs, console, counts_done=counts_done, file=file, previews=preview and coloured)
    if preview and not coloured:
        screen(Event("warning", text="--preview needs a terminal with colours; --preview-file writes a picture"))
    rate = 4 if screen.draws else 10  # a picture is some thirty times as much to write
    with Live(get_renderable=screen.render, console=console, refresh_per_second=rate, redirect_stdout=False):
        try:
            yield screen
        except BaseException:
            screen.finish(whole=False)
            raise
        screen.finish(whole=True)
