"""What a terminal shows of a run, frame by frame, without a terminal."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from diffgraph.cli.progress import Listener, Loop, Screen, clock
from diffgraph.cli.report import State
from diffgraph.running.run import Event


class Drawn:
    """A screen of 90 columns at a time that the test sets."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, counts_done: bool = False, previews: bool = False, height: int = 25
    ) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.file = StringIO()
        console = Console(file=self.file, width=90, height=height, force_terminal=False, color_system=None)
        self.screen = Screen(State(), {"image": None}, console, counts_done=counts_done, previews=previews)

    def hear(self, *events: Event, after: float = 0.0) -> None:
        self.now += after
        for event in events:
            self.screen(event)

    @property
    def lines(self) -> list[str]:
        self.file.seek(0)
        self.file.truncate()
        self.screen.console.print(self.screen.render())
        return [" ".join(line.replace("━", "").replace("╸", "").split()) for line in self.file.getvalue().splitlines()]


def test_a_loop_from_its_first_step_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    assert drawn.lines[-1].endswith("starting")
    drawn.hear(Event("started", "text"), Event("finished", "text"))
    drawn.hear(Event("step", "denoise", 1, 11), Event("started", "denoise.model"))
    assert drawn.lines[0] == "denoise 1/11"
    assert drawn.lines[1].endswith("denoise.model")
    drawn.hear(Event("step", "denoise", 2, 11), after=60)  # the first step loads weights
    assert drawn.lines[0] == "denoise 2/11"
    for number in range(3, 7):
        drawn.hear(Event("step", "denoise", number, 11), after=2)
    assert drawn.lines[0] == "denoise 6/11 9.8 s left"
    drawn.hear(Event("started", "decode"), after=2)
    assert drawn.lines[0] == "✓ denoise 11/11 1:10"
    drawn.screen.finish(whole=True)
    assert drawn.lines == ["✓ denoise 11/11 1:10"]


def test_a_loop_within_a_loop_starts_anew_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    drawn.hear(Event("step", "outer", 1, 2), Event("step", "outer.inner", 1, 3), Event("step", "outer.inner", 2, 3))
    drawn.hear(Event("started", "outer.after"))
    assert [line.split()[:3] for line in drawn.lines[:2]] == [["outer", "1/2"], ["✓", "outer.inner", "3/3"]]
    drawn.hear(Event("step", "outer", 2, 2), Event("step", "outer.inner", 1, 3))
    assert [line.split()[:2] for line in drawn.lines[:2]] == [["outer", "2/2"], ["outer.inner", "1/3"]]


def test_a_run_that_is_cut_off_shows_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    drawn.hear(Event("step", "denoise", 1, 9), Event("step", "denoise", 2, 9))
    drawn.screen.finish(whole=False)
    assert drawn.lines == ["denoise 2/9"]


def test_a_training_counts_what_is_done_and_shows_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch, counts_done=True)
    for number in range(1, 6):
        drawn.hear(Event("step", "train", number, 10, text="0.5"), after=1)
    assert drawn.lines[0] == "train 5/10 4.0 s left loss 0.5"


@pytest.mark.parametrize(("height", "lines"), [(25, 16), (18, 14), (8, 4), (5, 0)])
def test_a_preview_stands_below_the_bars_in_the_room_that_is_left(
    monkeypatch: pytest.MonkeyPatch, height: int, lines: int
) -> None:
    drawn = Drawn(monkeypatch, previews=True, height=height)
    assert drawn.screen.previews
    drawn.hear(Event("step", "denoise", 1, 4), Event("step", "denoise", 2, 4), Event("started", "denoise.model"))
    drawn.hear(Event("preview", "denoise.stepped", 1, 4, value=np.full((1, 32, 32, 3), 99, np.uint8)))
    assert drawn.lines[0] == "denoise 2/4"
    assert drawn.lines[1].endswith("denoise.model")
    assert len(drawn.lines) == 2 + lines <= height
    assert len(set(drawn.lines[2:])) <= 1
    assert all(set(line) == {"▀"} for line in drawn.lines[2:])
    drawn.screen.finish(whole=True)
    assert drawn.lines[0].startswith("✓ denoise 4/4")
    assert len(drawn.lines) == 1 + lines  # the last one stays


def test_who_does_not_ask_gets_no_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    assert not drawn.screen.previews


def test_notes_warnings_and_what_was_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    drawn.hear(Event("note", text="cut"), Event("warning", text="odd [red]markup[/]"), Event("cached", "text"))
    assert drawn.file.getvalue().splitlines() == [
        "note: cut",
        "warning: odd [red]markup[/]",
        "  ✓ text  from the store",
    ]
    assert (drawn.screen.state.notes, drawn.screen.state.warnings) == (["cut"], ["odd [red]markup[/]"])


def test_reading_an_input_file_is_not_yet_a_run() -> None:
    state = State()
    listener = Listener(state, {"image": None}, quiet=True)
    listener(Event("started", "image"))
    assert not state.ran
    listener(Event("started", "node"))
    assert state.ran


def test_a_long_path_is_cut_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    drawn.hear(Event("started", "a" * 60 + ".end"))
    assert drawn.lines[-1].endswith("a.end")
    assert "…" in drawn.lines[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (7.46, "7.5 s"),
        (9.96, "0:10"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.7, "1:00:00"),
        (7325, "2:02:05"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_nobody_can_say_after_one_step() -> None:
    loop = Loop("l", 5, 0.0)
    loop.step(1, 0.0, "")
    assert loop.left(9.0) is None
