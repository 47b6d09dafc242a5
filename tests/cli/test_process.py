"""What only a process of its own can show: what it imports, how it is stopped, what it draws on a terminal."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ..parts import save_ddpm
from .conftest import NOTE, PICTURE, SUM, Command, write

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "rich", "pydantic", "huggingface_hub", "networkx", "tokenizers", "PIL")
PROBE = textwrap.dedent(
    """
    import sys
    from diffgraph.cli import main
    try:
        main(sys.argv[2:], prog_name="diffgraph")
    except SystemExit as end:
        code = end.code
    found = [name for name in sys.argv[1].split(",") if name in sys.modules]
    sys.exit(f"imported {found}" if found else code)
    """
)


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffgraph", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def without(modules: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; fails where it imports one of these modules."""
    command = [sys.executable, "-c", PROBE, ",".join(modules), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def graphs(folder: Path) -> Path:
    write("sum.yaml", SUM)
    write("letter.yaml", NOTE)
    write("dots.yaml", PICTURE)
    return folder


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["cache"], ["graphs"], []])
def test_help_imports_nothing_heavy(graphs: Path, arguments: list[str]) -> None:
    without((*HEAVY, "numpy"), *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "glide", "--help"],
        ["run", "dots.yaml", "--help"],
        ["nodes", "DDIMScheduler"],
        ["nodes"],
    ],
)
def test_what_a_document_or_the_index_says_imports_nothing_heavy(graphs: Path, arguments: list[str]) -> None:
    process(*arguments)  # which may make the index
    without(HEAVY, *arguments)


@pytest.mark.parametrize("graph", ["glide", "sum.yaml", "dots.yaml"])
def test_check_and_plan_import_no_torch(graphs: Path, graph: str) -> None:
    given = {"glide": ["--prompt", "red apple"], "sum.yaml": ["--second-one", "1"]}.get(graph, [])
    without(("torch", "rich"), "check", graph)
    without(("torch", "rich"), "info", graph)
    without(("torch", "rich"), "plan", graph, *given)


def test_an_answer_from_the_store_imports_no_torch(graphs: Path, dg: Command) -> None:
    commands = (
        ["run", "dots.yaml", "--seed", "4"],
        ["run", "dots.yaml", "--seed", "4", "--json"],
        ["run", "dots-4.png"],
        ["run", "letter.yaml"],
        ["run", "sum.yaml", "--second-one", "2"],
    )
    first = [dg(*command) for command in commands]
    assert [done.code for done in first] == [0] * len(first), first
    for command, before in zip(commands, first, strict=True):
        again = without(("torch", "rich"), *command)
        if "--json" not in command:
            assert (again.stdout, again.stderr) == (before.out, before.err)


def test_offline_nothing_is_asked(graphs: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = process("check", "ddpm", "--variant", "cat", "--offline", env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        "diffgraph: offline, and not on this machine:\n"
        "  hf://google/ddpm-ema-cat-256@main\n"
        "  fetch it once: diffgraph pull pkg://diffgraph/ddpm.yaml\n"
    )


# --- stopping -------------------------------------------------------------------------------------------------------

SLOW = '''
import time
from pathlib import Path
from diffgraph import node

@node("Wait", version=1)
def wait(value: float, seconds: float) -> float:
    """The value, after a while."""
    Path("waiting").touch()
    time.sleep(seconds)
    return value
'''
LONG = """
    diffgraph: 1
    inputs:
      seconds: {type: float, default: 0.2}
      turns: {type: int, default: 200}
    nodes:
      kept: {node: arith.MakeNote, text: kept}
      numbers: {node: arith.Roll, n: $turns}
      slow:
        loop: $numbers
        as: number
        carry: {sum: 0.0}
        nodes:
          wait: {node: Wait, value: $number, seconds: $seconds}
          add: {node: arith.Add, a: $sum, b: $wait}
        next: {sum: $add}
    outputs: {sum: $slow.sum, kept: $kept}
"""


@pytest.fixture
def slow(folder: Path) -> Path:
    write("slow.py", SLOW)
    return write("long.yaml", LONG)


def test_ctrl_c_stops_within_a_step_and_leaves_the_store_sound(slow: Path) -> None:
    command = [sys.executable, "-m", "diffgraph", "run", "long.yaml", "--nodes", "slow.py"]
    process("check", "long.yaml", "--nodes", "slow.py")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while not Path("waiting").exists() and time.monotonic() - began < 60:
        time.sleep(0.05)
    sent = time.monotonic()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert time.monotonic() - sent < 2
    assert (run.returncode, out) == (130, ""), err
    assert "diffgraph: interrupted\n  finished results are kept" in err
    assert "Traceback" not in err
    assert list(Path(os.environ["DIFFGRAPH_CACHE_DIR"]).rglob("*.tmp")) == []
    done = process("run", "long.yaml", "--nodes", "slow.py", "--turns", "3")
    assert (done.returncode, done.stdout) == (0, 'long.txt\n{"sum": 3.0}\n')


ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["diffgraph"].split(":")
STARTS = {
    "installed": f"from {ENTRY[0]} import {ENTRY[1]}; sys.exit({ENTRY[1]}())",  # as pip writes it
    "-m": "import runpy; runpy.run_module('diffgraph', run_name='__main__')",
}
SIGNAL = textwrap.dedent(
    """
    import os, signal, sys

    class Signal:
        def find_spec(self, name, path, target=None):
            if name == sys.argv[2]:
                os.kill(os.getpid(), signal.SIGINT)

    sys.meta_path.insert(0, Signal())
    """
)


@pytest.mark.parametrize("module", ["click", "diffgraph.cli.report", "diffgraph.cli.nodes"])
@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_during_an_import(start: str, module: str) -> None:
    """Of what the command line needs, or of the command itself."""
    command = [sys.executable, "-c", SIGNAL + STARTS[start], "nodes", module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "diffgraph: interrupted")


def test_a_reader_that_leaves_early_is_no_error(graphs: Path) -> None:
    whole = f"{sys.executable} -m diffgraph nodes | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {whole}"], capture_output=True, text=True, check=False)
    assert "Broken" not in done.stderr
    assert "Traceback" not in done.stderr


def no_room() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_folder_without_room_is_found_before_the_run(graphs: Path) -> None:
    process("plan", "letter.yaml")  # which makes the index while there is room
    done = process("run", "letter.yaml", preexec_fn=no_room)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the folder {graphs} cannot be written" in done.stderr
    assert "this is 7" not in done.stderr
    assert sorted(path.name for path in graphs.iterdir()) == ["dots.yaml", "letter.yaml", "sum.yaml"]


# --- terminals ------------------------------------------------------------------------------------------------------


def on_terminal(
    *arguments: str, until: Callable[[str], bool] = lambda text: False, send: bytes = b""
) -> tuple[int, str]:
    """Exit code and all that a command draws on a terminal; `send` is typed when `until` is true of it."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="30")
        os.execv(sys.executable, [sys.executable, "-m", "diffgraph", *arguments])
    said, began = "", time.monotonic()
    while time.monotonic() - began < 60:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        try:
            said += os.read(terminal, 65536).decode(errors="replace") if ready else ""
        except OSError:
            break
        if send and until(said):
            os.write(terminal, send)
            send = b""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def test_a_terminal_shows_loops_steps_and_the_node_at_work(slow: Path) -> None:
    code, said = on_terminal("run", "long.yaml", "--nodes", "slow.py", "--turns", "12", "--seconds", "0.1")
    assert code == 0
    for words in ("slow.wait", "/12", "12/12", " left", "✓", "long.txt"):
        assert words in said
    code, said = on_terminal("run", "long.yaml", "--nodes", "slow.py", "--turns", "12", "--seconds", "0.1")
    assert code == 0
    assert "from the store" in said
    assert "/12" not in said


def test_ctrl_c_on_a_terminal_leaves_the_bar_and_says_so(slow: Path) -> None:
    code, said = on_terminal("run", "long.yaml", "--nodes", "slow.py", until=lambda text: "4/200" in text, send=b"\x03")
    assert code == 130
    assert "interrupted" in said
    assert "finished results are kept" in said
    assert said.count("\x1b[?25h") >= 1  # the cursor is shown again


def test_a_terminal_shows_the_picture_as_it_develops(graphs: Path) -> None:
    weights = save_ddpm(graphs / "weights")
    command = ["run", "ddpm", "--weights", str(weights), "--steps", "6", "--device", "cpu", "--preview", "--no-cache"]
    code, said = on_terminal(*command)
    assert code == 0
    assert "6/6" in said
    assert "▀" in said
    assert "\x1b[38;5;" in said or "\x1b[38;2;" in said
    code, said = on_terminal(*command[:-2], "--no-cache", "-o", "plain.png")
    assert code == 0
    assert "▀" not in said


def test_nothing_is_drawn_where_nobody_looks(slow: Path) -> None:
    done = process("run", "long.yaml", "--nodes", "slow.py", "--turns", "2", "--seconds", "0")
    assert done.stderr == ""
    code, said = on_terminal("run", "long.yaml", "--nodes", "slow.py", "--turns", "4", "--seconds", "0", "--quiet")
    assert code == 0
    assert "\x1b" not in said
