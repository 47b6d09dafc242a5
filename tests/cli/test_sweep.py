"""Sweeps: a run for each combination of values, in one plan, with files named by what varies and a labelled grid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffgraph import Graph
from diffgraph.running.run import Event
from diffgraph.sheet import Row, sheet

from .conftest import NOTE, PICTURE, SUM, Command, write

WORDS = """
    diffgraph: 1
    name: words
    inputs:
      text: {type: text, default: red}
      seed: {type: int, default: 0}
      factor: {type: float, default: 1.0}
    nodes:
      lexicon: {node: arith.Lexicon, weights: en}
      words: {call: $lexicon, text: $text}
      times: {node: arith.Multiply, a: $seed, b: $factor}
      both: {node: arith.Pass, value: [$words, $times]}
    outputs: {both: $both}
"""


@pytest.fixture
def words(folder: Path) -> Path:
    (folder / "en").mkdir()
    (folder / "en" / "words.txt").write_text("red\nblue")
    return write("words.yaml", WORDS)


def values(done: Any) -> list[Any]:
    return [run["outputs"]["both"]["value"] for run in done.data["runs"]]


NODES = """
    import time

    from diffgraph import node


    @node("Slowly", version=1)
    def slowly(number: float) -> str:
        \"\"\"One over a number, as a text, after a while.\"\"\"
        time.sleep(0.3)
        return str(1 / number)
"""

SLOW = """
    diffgraph: 1
    name: slow
    inputs: {x: {type: float, default: 1.0}}
    nodes:
      text: {node: Slowly, number: $x}
      note: {node: arith.MakeNote, text: $text}
    outputs: {note: $note}
"""


@pytest.fixture
def slow(folder: Path) -> list[str | Path]:
    """A graph each run of which takes a while, as arguments."""
    return [write("slow.yaml", SLOW), "--nodes", write("slowly.py", NODES)]


GAP, HEAD, CELL = 4, 15, 132  # of a sheet whose pictures are shown with 128 points

# --- what is run ----------------------------------------------------------------------------------------------------


def test_every_combination_is_run_the_seed_fastest(dg: Command, words: Path) -> None:
    write("texts.txt", "red\n\n  blue red \n")
    done = dg("run", words, "--seed", "1..2", "--text", "@texts.txt", "--sweep", "factor=1,10", "--json")
    assert done.code == 0
    told = [[0], [1, 0]]
    assert values(done) == [[text, factor * seed] for text in told for factor in (1.0, 10.0) for seed in (1.0, 2.0)]
    assert done.data["runs"][3]["inputs"] == {"text": "red", "factor": "10", "seed": "2"}
    lines = dg("run", words, "--seed", "1..2").lines
    assert [json.loads(line) for line in lines] == [
        {"seed": "1", "both": [[0], 1.0]},
        {"seed": "2", "both": [[0], 2.0]},
    ]


def test_eight_seeds_and_three_texts_are_three_readings_of_a_text(dg: Command, words: Path) -> None:
    """As the plan has it, and as it runs, with the store and without."""
    write("texts.txt", "red\nblue\nred blue")
    asked = [words, "--text", "@texts.txt", "--seed", "0..7"]
    nodes = dg("plan", *asked, "--json").data["nodes"]
    assert [unit["node"] for unit in nodes].count("words") == 3
    assert [unit["node"] for unit in nodes].count("times") == 8
    heard: list[Event] = []
    texts = ["red", "blue", "red blue"]
    swept = Graph.load(words).sweep({"text": texts, "seed": range(8)}, listeners=[heard.append])
    assert [event.path for event in heard if event.kind == "started"].count("words") == 3
    assert [event.path for event in heard if event.kind == "loaded"] == ["lexicon"]
    assert [(event.number, event.total) for event in heard if event.kind == "step"] == [(n, 24) for n in range(1, 25)]
    assert swept[9].both == [[1], 1.0]
    assert len(swept) == 24
    for point, result in swept:
        assert result.both[1] == point["seed"]
    assert values(dg("run", *asked, "--json", "--no-cache")) == [result.both for _, result in swept]


def test_a_key_of_a_node_may_vary(dg: Command, folder: Path) -> None:
    total = write("sum.yaml", SUM)
    done = dg("run", total, "--second-one", "3", "--a", "4", "--sweep", "total.node=arith.Add,arith.Multiply", "--json")
    assert [run["outputs"]["total"]["value"] for run in done.data["runs"]] == [7.0, 12.0]
    swept = Graph.load(total).sweep({"a": [1.0, 2.0], "total.node": ["arith.Add", "arith.Multiply"]}, second_one=3.0)
    assert [result.total for _, result in swept] == [4.0, 3.0, 5.0, 6.0]


def test_a_text_may_begin_with_an_at(dg: Command, folder: Path) -> None:
    assert dg("run", write("sum.yaml", SUM), "--second-one", "1", "--text", "@@home").lines[1] == '{"loud": "@HOME"}'


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_are_named_by_what_varies(dg: Command, folder: Path) -> None:
    letter = write("letter.yaml", NOTE)
    (folder / "out").mkdir()
    write("texts.txt", "A red  apple!\nA red apple?\n12")
    done = dg("run", letter, "--text", "@texts.txt", "--seed", "3..4", "-o", "out")
    names = [f"letter-{part}-{seed}.txt" for part in ("A-red-apple", "A-red-apple-2", "text=12") for seed in (3, 4)]
    assert done.lines[:6] == [f"out/{name}" for name in names]
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(names)
    assert (folder / "out" / names[2]).read_text() != (folder / "out" / names[0]).read_text()


def test_pictures_of_a_sweep_come_with_a_labelled_grid(dg: Command, folder: Path) -> None:
    """One axis: pictures with captions, in rows. Two: the last across, the other down."""
    dots = write("dots.yaml", PICTURE)
    done = dg("run", dots, "--seed", "0..4")
    assert done.lines == [*(f"dots-{seed}.png" for seed in range(5)), "dots-grid.png"]
    with Image.open("dots-grid.png") as grid, Image.open("dots-3.png") as picture:
        assert grid.size == (3 * CELL + GAP, 2 * (HEAD + CELL) + GAP)
        at = GAP, GAP + 2 * HEAD + CELL
        large = picture.resize((128, 128), Image.Resampling.NEAREST)
        assert grid.crop((*at, at[0] + 128, at[1] + 128)).tobytes() == large.tobytes()
        assert grid.crop((0, GAP, grid.width, GAP + HEAD)).getextrema() != ((255, 255),) * 3
    both = dg("run", dots, "--seed", "0..4", "--sweep", "scheduler.node=DDPMScheduler,EulerScheduler")
    assert both.lines[4:6] == ["dots-scheduler.node=DDPMScheduler-4.png", "dots-scheduler.node=EulerScheduler-0.png"]
    with Image.open("dots-grid-1.png") as grid:
        assert grid.width > 5 * CELL + GAP
        assert grid.height == HEAD + 2 * CELL + GAP


def test_several_pictures_of_one_run_come_with_a_sheet(dg: Command, folder: Path) -> None:
    done = dg("run", write("dots.yaml", PICTURE), "--num-images", "3", "-o", "mine.png", "--json")
    assert done.data["outputs"]["image"] == {
        "files": ["mine-0.png", "mine-1.png", "mine-2.png"],
        "sheet": "mine-sheet.png",
    }
    with Image.open("mine-sheet.png") as picture:
        assert picture.size == (2 * CELL + GAP, 2 * CELL + GAP)


def test_a_sweep_in_python_has_a_grid(folder: Path) -> None:
    swept = Graph.load(write("dots.yaml", PICTURE)).sweep({"seed": range(3)})
    assert swept.grid().size == (2 * CELL + GAP, 2 * (HEAD + CELL) + GAP)
    assert repr(swept) == "<Sweep of 3 seed>"
    assert swept._repr_png_() is not None


def test_long_captions_are_wrapped_and_cut() -> None:
    with_text = sheet([Row([None], ["a word " * 60 + "x" * 500], "left")])
    assert with_text.startswith(b"\x89PNG")


def test_a_sweep_goes_on_where_it_was_killed(dg: Command, folder: Path, slow: list[str | Path]) -> None:
    """What was finished is on the disk, with its files, and is not run again."""
    asked = [*map(str, slow), "--sweep", "x=1..10"]
    command = [sys.executable, "-m", "diffgraph", "run", *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if len(list(folder.glob("slow-*.txt"))) >= 2:
                break
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    before = len(list(folder.glob("slow-*.txt")))
    assert 2 <= before < 10
    assert f"{before} of 10 runs are finished; the same command does the rest" in err
    states = [unit["state"] for unit in dg("plan", *asked, "--json").data["nodes"] if unit["node"] == "note"]
    assert (states.count("cached"), states.count("run")) == (before, 10 - before)
    assert dg("run", *asked).lines == [f"slow-x={x}.txt" for x in range(1, 11)]


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seed", "7..0"], ["7..0 is no range", "write 0..7"]),
        (["--seed", "0..99999"], ["no range", "at most 10,000"]),
        (["--seed", "0..200", "--sweep", "factor=0..99"], ["20,100 runs", "10,000"]),
        (["--sweep", "factor=1,,2"], ["a value is empty"]),
        (["--sweep", "factor=1,1"], ["factor names a value twice"]),
        (["--sweep", "factor"], ["write NAME=A,B"]),
        (["--sweep", "fcator=1,2"], ["no input 'fcator'", "did you mean factor?"]),
        (["--sweep", "factor=1,two"], ["factor", "two"]),
        (["--factor", "1", "--sweep", "factor=1,2"], ["factor is given twice"]),
        (["--sweep", "nothing.node=A,B"], ["no node 'nothing'"]),
        (["--text", "@missing.txt"], ["--text", "no file missing.txt", "@@"]),
        (["--text", "@empty.txt"], ["no line that is not blank"]),
        (["--text", "@latin.txt"], ["line 2", "not UTF-8"]),
        (["--seed", "0..1", "-o", "new"], ["no such folder", "mkdir -p new"]),
        (["--seed", "0..1", "-o", "empty.txt"], ["is a file", "name a folder"]),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    dg: Command, words: Path, arguments: list[str], told: list[str]
) -> None:
    write("empty.txt", "\n")
    Path("latin.txt").write_bytes("red\nblå\n".encode("latin-1"))
    done = dg("run", words, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    for part in told:
        assert part in done.err


def test_a_failing_run_of_a_sweep_is_named_and_the_others_are_kept(
    dg: Command, folder: Path, slow: list[str | Path]
) -> None:
    done = dg("run", *slow, "--sweep", "x=1,2,0,4")
    assert done.code == 1
    assert "text failed: ZeroDivisionError" in done.err
    assert "2 of 4 runs are finished" in done.err
    assert sorted(path.name for path in folder.glob("slow-*.txt")) == ["slow-x=1.txt", "slow-x=2.txt"]
