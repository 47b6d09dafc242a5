"""`diffgraph run`: values given, results written, errors told, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from .conftest import COARSE, NOTE, PICTURE, SUM, Command, write

# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def total(folder: Path) -> Path:
    return write("sum.yaml", SUM)


def test_inputs_are_options_and_plain_results_are_lines_of_json(dg: Command, total: Path) -> None:
    done = dg("run", "sum.yaml", "--second-one", "3", "--text", "hi")
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.lines] == [{"total": 5.0}, {"loud": "HI"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--second_one", "3"],
        ["--second-one=3"],
        ["--input", "second_one=3"],
        ["--input", "second-one=3"],
        ["--second-one", "3", "--a", "2"],
        ["--variant", "small", "--second-one", "3"],
        ["--set", "total.b=3", "--second-one", "0"],
        ["--set", "total.b=$second_one", "--second-one", "3"],
    ],
)
def test_ways_to_say_an_input(dg: Command, total: Path, arguments: list[str]) -> None:
    done = dg("run", total, *arguments, "--json")
    # b: $second_one is used by no other node where it is replaced, which is a mistake of its own
    if "total.b=3" in arguments:
        assert done.data["errors"][0]["message"] == "nothing uses the input second_one"
        return
    assert done.data["outputs"]["total"]["value"] == 5.0


def test_options_may_come_before_the_graph(dg: Command, total: Path) -> None:
    done = dg("run", "--variant", "large", "--json", "sum.yaml", "--second-one", "2")
    assert done.data["outputs"]["total"]["value"] == 18.0


def test_a_variant_sets_nodes_and_an_option_wins_over_it(dg: Command, total: Path) -> None:
    assert dg("run", total, "--variant", "large", "--second-one", "2").lines[0] == '{"total": 18.0}'
    assert dg("run", total, "--variant", "large", "--second-one", "2", "--a", "1").lines[0] == '{"total": 2.0}'
    assert dg("run", total, "--set", "total.node=arith.Multiply", "--second-one", "4").lines[0] == '{"total": 8.0}'


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "diffgraph: the input second_one (float) is missing", "give --second-one: the second number"),
        (["--secondone", "3"], "diffgraph run: there is no option --secondone", "did you mean --second-one?"),
        (["--second-one"], "diffgraph run: option '--second-one' requires an argument", ""),
        (["--second-one", "abc"], "diffgraph: second_one: expected float, got text 'abc'", ""),
        (
            ["--second-one", "1", "--second_one=2"],
            "diffgraph run: --second-one is given twice",
            "--sweep second_one=A,B",
        ),
        (["--second-one", ".nan"], "diffgraph: second_one: nan is not a finite number", ""),
        (["--second-one", ".inf"], "diffgraph: second_one: inf is not a finite number", ""),
        (["--second-one", "9" * 30], "diffgraph: second_one: expected float, got text", ""),
        (["--second-one", "1", "--a", "11"], "diffgraph: a: 11 must be at most 10", ""),
        (["--input", "secnd_one=1"], "diffgraph: --input secnd_one=1: there is no input 'secnd_one'", "second_one?"),
        (["--input", "second_one"], "diffgraph: --input second_one: write NAME=VALUE", ""),
        (["--second-one", "1", "--input", "second_one=1"], "second_one is given twice", ""),
        (["--second-one", "1", "--variant", "smal"], "diffgraph: there is no variant 'smal'", "did you mean 'small'?"),
        (["--second-one", "1", "--set", "totl.b=1"], "--set totl.b: there is no node 'totl'", "did you mean 'total'?"),
        (["--second-one", "1", "--set", "total=1"], "--set total=1: write NODE.KEY=VALUE", ""),
        (["--second-one", "1", "--set", "total.c=1"], "has no input 'c'", ""),
        (["--second-one", "1", "--set", "total.a={b: 1}"], "--set total.a: a dict cannot be set", ""),
        (["--second-one", "1", "--memory", "lots"], "diffgraph: --memory lots: this is no size", "6GiB"),
        (["--second-one", "1", "--memory", "6"], "diffgraph: --memory 6: a size needs a unit", "6GiB, 6MB, or 6B"),
        (["--second-one", "1", "--device", "gpu"], "diffgraph: --device gpu: there is no such device", "cuda"),
        (["--second-one", "1", "--dtype", "fp8"], "'fp8' is not one of", ""),
        (["--second-one", "1", "--show", "totl"], "--show totl", "did you mean $total?"),
        (["--second-one", "1", "--show", "a b"], "--show a b: write NODE or NODE.PORT", ""),
        (["--second-one", "1", "extra"], "unexpected extra argument (extra)", ""),
        (["--second-one", "1", "--nodes", "none.py"], "none.py", ""),
    ],
)
def test_what_is_found_before_the_run(dg: Command, total: Path, arguments: list[str], message: str, hint: str) -> None:
    done = dg("run", "sum.yaml", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert hint in done.err
    assert "Traceback" not in done.err


def test_all_values_that_are_wrong_are_told_together(dg: Command, total: Path) -> None:
    done = dg("run", total, "--a", "x", "--second-one", "y", "--json")
    assert done.code == 2
    assert [error["message"][:3] for error in done.data["errors"]] == ["a: ", "sec"]


def test_an_option_before_the_graph_that_only_the_graph_can_know(dg: Command, total: Path) -> None:
    done = dg("run", "--second-one", "3", "sum.yaml")
    assert done.code == 2
    assert "name the graph first: diffgraph run GRAPH --second-one ..." in done.err


INPUTS = """
    diffgraph: 1
    inputs:
      quick: {type: bool, default: false}
      mode: {type: choice, choices: [up, down], default: up}
      level: {type: choice, choices: [1, 2], default: 1}
      values: {type: "list[float]", default: [1, 2]}
      amount: {type: Amount, default: dozen}
      device: {type: text, default: mine, help: which one}
      size: {type: file}
      nothing: {type: float, default: null}
    nodes:
      sum: {node: arith.Sum, values: $values}
      measure: {node: arith.Measure, amount: $amount}
      bytes: {node: arith.FileSize, file: $size}
      or: {node: arith.Or, value: $nothing, other: -1.0}
    outputs:
      quick: $quick
      mode: $mode
      level: $level
      sum: $sum
      amount: $measure
      device: $device
      bytes: $bytes
      or: $or
"""


@pytest.fixture
def many(folder: Path) -> Path:
    (folder / "four.bin").write_bytes(b"four")
    return write("many.yaml", INPUTS)


def values(dg: Command, *arguments: str) -> dict[str, object]:
    done = dg("run", "many.yaml", "--size", "four.bin", *arguments)
    assert done.code == 0, done.err
    return {name: value for line in done.lines for name, value in json.loads(line).items()}


def test_every_type_of_input(dg: Command, many: Path) -> None:
    assert values(dg) == {
        "quick": False, "mode": "up", "level": 1, "sum": 3.0, "amount": 12.0, "device": "mine", "bytes": 4, "or": -1.0,
    }  # fmt: skip
    given = values(
        dg, "--quick", "--mode", "down", "--level", "2", "--values", "5", "--values", "6e0", "--amount", "0x10",
        "--input", "device=yours", "--nothing", "4",
    )  # fmt: skip
    assert given == {
        "quick": True, "mode": "down", "level": 2, "sum": 11.0, "amount": 16.0, "device": "yours", "bytes": 4,
        "or": 4.0,
    }  # fmt: skip
    assert values(dg, "--no-quick", "--nothing", "null")["or"] == -1.0
    assert values(dg, "--input", "quick=true", "--input", "values=7")["sum"] == 7.0


def test_wrong_values_of_every_type(dg: Command, many: Path) -> None:
    done = dg("run", "many.yaml", "--mode", "left", "--level", "3", "--values", "x", "--size", "fuor.bin", "--json")
    told = [error["message"] for error in done.data["errors"]]
    assert done.code == 2
    assert told == [
        "mode: expected one of 'up', 'down', got 'left'",
        "level: expected one of 1, 2, got '3'",
        "values: expected float, got text 'x'",
        "size: there is no file fuor.bin",
    ]
    assert done.data["errors"][3]["hint"] == "did you mean four.bin?"


@pytest.mark.parametrize(
    ("path", "message"), [(".", "is a folder, not a file"), ("/dev/zero", "is a device"), ("a\0b", "cannot be read")]
)
def test_files_that_cannot_be_read(dg: Command, many: Path, path: str, message: str) -> None:
    done = dg("run", "many.yaml", "--size", path)
    assert done.code == 2
    assert message in done.err


def test_help_shows_inputs_variants_and_the_name_that_collides(dg: Command, many: Path) -> None:
    done = dg("run", "many.yaml", "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "--quick / --no-quick [default: false]" in text
    assert "--mode up|down [default: up]" in text
    assert "--values FLOAT [default: 1, 2; may be repeated]" in text
    assert "--size FILE [required]" in text
    assert "--nothing FLOAT [default: none]" in text
    assert "--input device=... which one" in text
    write("sum.yaml", SUM)
    text = " ".join(dg("run", "sum.yaml", "--help").out.split())
    assert "Adds two numbers, and says a text" in text
    assert "--a FLOAT the first number [default: 2.0; -10 to 10]" in text
    assert "--second-one FLOAT the second number [required]" in text
    assert "small a: 2.0 [default]" in text
    assert "large a: 9.0, total.node: arith.Multiply" in text
    assert "Outputs: total, loud" in text


def test_help_of_the_shipped_graph(dg: Command) -> None:
    text = " ".join(dg("run", "glide", "--help").out.split())
    assert "--prompt TEXT" in text
    assert "[required]" in text
    assert "--guidance-scale FLOAT 1 is off" in text


def test_nodes_of_a_file(dg: Command, folder: Path) -> None:
    write(
        "mine.py",
        '''
        from diffgraph import node

        @node("Twice", version=1)
        def twice(value: float) -> float:
            """Twice the value."""
            return 2 * value
        ''',
    )
    write("g.yaml", "diffgraph: 1\nnodes:\n  n: {node: Twice, value: 4}\noutputs: {n: $n}\n")
    assert dg("run", "g.yaml", "--nodes", "mine.py").lines == ['{"n": 8.0}']
    done = dg("run", "g.yaml")
    assert done.code == 2
    assert "g.yaml:3:13  n: there is no node type 'Twice'" in done.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("glid", "did you mean glide?"),
        ("nothing-like-it", "shipped: "),
        ("no/such.yaml", "no such file"),
        ("empty.yaml", "empty"),
        ("binary.yaml", "binary file"),
        (".", "a folder"),
        ("broken.yaml", "broken.yaml:2:1"),
        ("version.yaml", "format version 2 is not known"),
    ],
)
def test_graphs_that_cannot_be_read(dg: Command, folder: Path, name: str, message: str) -> None:
    (folder / "empty.yaml").touch()
    (folder / "binary.yaml").write_bytes(b"\0\1\2\xff")
    (folder / "broken.yaml").write_text("diffgraph: 1\nnodes: {a: [}\n")
    (folder / "version.yaml").write_text("diffgraph: 2\n")
    for command in ("run", "check", "plan"):
        done = dg(command, name)
        assert done.code == 2
        assert message in done.err
        assert "Traceback" not in done.err


def test_a_path_wins_over_a_shipped_name(dg: Command, folder: Path) -> None:
    (folder / "glide").write_text("diffgraph: 1\nnodes:\n  n: {node: arith.Add, a: 1}\noutputs: {n: $n}\n")
    assert dg("run", "glide").lines == ['{"n": 1.0}']


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def letter(folder: Path) -> Path:
    return write("letter.yaml", NOTE)


def test_a_file_is_written_by_the_writer_of_its_kind_and_its_path_printed(dg: Command, letter: Path) -> None:
    done = dg("run", "letter.yaml")
    assert done.code == 0
    assert done.lines == ["letter-7.txt", '{"number": 7.0}']
    assert done.err == "note: this is 7\n"
    assert Path("letter-7.txt").read_text() == "HELLO\n# diffgraph"
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_a_note_is_said_again_where_the_result_comes_from_the_store(dg: Command, letter: Path) -> None:
    assert dg("run", "letter.yaml").err == dg("run", "letter.yaml").err == "note: this is 7\n"
    assert dg("run", "letter.yaml", "--quiet").err == ""
    assert dg("run", "letter.yaml", "--json").data["notes"] == ["this is 7"]


def test_never_over_a_different_file(dg: Command, letter: Path) -> None:
    assert dg("run", "letter.yaml").lines[0] == "letter-7.txt"
    assert dg("run", "letter.yaml").lines[0] == "letter-7.txt"
    assert dg("run", "letter.yaml", "--text", "other").lines[0] == "letter-7-1.txt"
    assert dg("run", "letter.yaml", "--text", "third").lines[0] == "letter-7-2.txt"
    assert dg("run", "letter.yaml", "--text", "other").lines[0] == "letter-7-1.txt"
    assert dg("run", "letter.yaml", "--seed", "8").lines[0] == "letter-8.txt"
    assert Path("letter-7.txt").read_text().startswith("HELLO")
    Path("letter-9.txt").mkdir()
    assert dg("run", "letter.yaml", "--seed", "9").lines[0] == "letter-9-1.txt"


def test_output_to_a_file_a_folder_and_over_an_old_file(dg: Command, letter: Path) -> None:
    Path("out").mkdir()
    assert dg("run", "letter.yaml", "-o", "out/x.txt").lines[0] == "out/x.txt"
    assert dg("run", "letter.yaml", "--output", "out").lines[0] == "out/letter-7.txt"
    assert dg("run", "letter.yaml", "-oout/", "--text", "b").lines[0] == "out/letter-7-1.txt"
    assert dg("run", "letter.yaml", "-o", "out/x.txt", "--text", "b").lines[0] == "out/x.txt"
    assert Path("out/x.txt").read_text().startswith("B")
    Path("link.txt").symlink_to("out/x.txt")
    assert dg("run", "letter.yaml", "-o", "link.txt").code == 0
    assert Path("link.txt").is_symlink()
    assert Path("out/x.txt").read_text().startswith("HELLO")


@pytest.mark.parametrize(
    ("output", "message", "hint"),
    [
        ("none/x.txt", "--output none: there is no such folder", "mkdir -p none"),
        ("none/", "--output none: there is no such folder", "mkdir -p none"),
        ("x.png", "--output x.png: note is written as .txt", "name it x.txt"),
        ("x", "--output x: note is written as .txt", "write x.txt or x/"),
        ("", "--output is empty", "name a file or a folder"),
        ("letter.yaml/x.txt", "is not a folder", ""),
        ("/proc/x.txt", "the folder /proc cannot be written", "give another with -o"),
    ],
)
def test_a_bad_output_is_found_before_the_run(dg: Command, letter: Path, output: str, message: str, hint: str) -> None:
    done = dg("run", "letter.yaml", "-o", output)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert hint in done.err
    assert "this is 7" not in done.err


def test_a_device_as_output_is_written_to_and_stays_a_device(dg: Command, letter: Path) -> None:
    assert dg("run", "letter.yaml", "-o", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
    done = dg("run", "letter.yaml", "-o", "/dev/full")
    assert done.code == 1
    assert "/dev/full cannot be written: No space left on device" in done.err
    assert "another -o writes it without a run" in done.err
    assert "runs are finished" not in done.err
    assert not Path("/dev/full").is_file()


def test_plain_results_go_to_a_file_where_one_is_named(dg: Command, folder: Path) -> None:
    write("sum.yaml", SUM)
    done = dg("run", "sum.yaml", "--second-one", "1", "-o", "out.json")
    assert done.lines == ["out.json"]
    assert json.loads(Path("out.json").read_text()) == {"total": 3.0, "loud": "HELLO"}
    assert dg("run", "sum.yaml", "--second-one", "1", "-o", "out.png").code == 2
    assert dg("run", "sum.yaml", "--second-one", "1", "-o", ".").lines == ["sum.json"]


def test_a_name_cannot_lead_out_of_the_folder(dg: Command, folder: Path) -> None:
    write("evil.yaml", NOTE.replace("name: letter", 'name: "../../etc/pass wd"'))
    assert dg("run", "evil.yaml").lines[0] == "etc-pass-wd-7.txt"
    write("blank.yaml", NOTE.replace("name: letter", 'name: "///"'))
    assert dg("run", "blank.yaml").lines[0] == "output-7.txt"
    write("unnamed.yaml", NOTE.replace("name: letter", "summary: none"))
    assert dg("run", "unnamed.yaml").lines[0] == "unnamed-7.txt"


def test_show_writes_an_intermediate_result(dg: Command, letter: Path, folder: Path) -> None:
    done = dg("run", "letter.yaml", "--show", "upper", "--show", "number", "--show", "seed", "--show", "note")
    assert done.lines == [
        "letter-7.txt", '{"number": 7.0}', '{"upper": "HELLO"}', '{"seed": 7}',
    ]  # fmt: skip
    write("division.yaml", "diffgraph: 1\nnodes:\n  d: {node: arith.DivMod, a: 7, b: 2}\noutputs: {q: $d.quotient}\n")
    assert dg("run", "division.yaml", "--show", "d.remainder").lines == ['{"q": 3}', '{"d.remainder": 1}']
    assert dg("run", "division.yaml", "--show", "d").lines == ['{"q": 3}', '{"d": {"quotient": 3, "remainder": 1}}']
    done = dg("run", "division.yaml", "--show", "d.rest")
    assert done.code == 2
    assert "d has no port or attribute 'rest'" in done.err


def test_a_tensor_without_a_writer_becomes_a_safetensors_file(dg: Command, folder: Path) -> None:
    from safetensors.torch import load_file

    write(
        "ones.yaml",
        """
        diffgraph: 1
        nodes:
          v: {node: arith.Ones, n: 3}
          l: {node: arith.Label, vector: $v, label: x}
        outputs: {v: $v, l: $l}
        """,
    )
    assert dg("run", "ones.yaml").lines == ["ones.safetensors", "ones-l.safetensors"]
    assert load_file("ones.safetensors")["v"].tolist() == [1, 1, 1]
    assert list(load_file("ones-l.safetensors")) == ["l.vector"]


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dots(folder: Path) -> Path:
    return write("dots.yaml", PICTURE)


def test_a_picture(dg: Command, dots: Path) -> None:
    done = dg("run", "dots.yaml", "--seed", "5")
    assert (done.code, done.out, done.err) == (0, "dots-5.png\n", "")
    with Image.open("dots-5.png") as picture:
        assert picture.size == (8, 8)
        assert "diffgraph" in picture.info
    assert dg("run", "dots.yaml", "--seed", "5").out == "dots-5.png\n"


def test_several_pictures_are_named_by_their_seeds(dg: Command, dots: Path) -> None:
    assert dg("run", "dots.yaml", "--num-images", "3", "--seed", "2").lines == [
        "dots-2.png",
        "dots-3.png",
        "dots-4.png",
        "dots-2-sheet.png",
    ]
    done = dg("run", "dots.yaml", "--num-images", "2", "-o", "x.png", "--show", "noise.sample")
    assert done.lines == ["x-0.png", "x-1.png", "x-sheet.png", "x-noise-sample.safetensors"]


def test_without_metadata(dg: Command, dots: Path) -> None:
    assert dg("run", "dots.yaml", "--no-metadata").out == "dots-0.png\n"
    with Image.open("dots-0.png") as picture:
        assert picture.info == {}
    assert dg("run", "dots-0.png").code == 2


def test_a_picture_as_input(dg: Command, folder: Path) -> None:
    write("coarse.yaml", COARSE)
    Image.new("RGB", (4, 4), (200, 90, 10)).save("in.png")
    assert dg("run", "coarse.yaml", "--image", "in.png").out == "coarse.png\n"
    with Image.open("coarse.png") as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0)
    Path("text.png").write_text("no picture")
    done = dg("run", "coarse.yaml", "--image", "text.png")
    assert done.code == 2
    assert "image: text.png: this is no picture that can be read" in done.err


# --- the run --------------------------------------------------------------------------------------------------------

FAILING = """
    diffgraph: 1
    inputs:
      bad: {type: float, default: 3}
    nodes:
      first: {node: arith.MakeNote, text: kept}
      numbers: {node: arith.Roll, n: 5}
      turns:
        loop: $numbers
        as: number
        carry: {sum: 0.0}
        nodes:
          try: {node: arith.Fail, value: $number, at: $bad}
          add: {node: arith.Add, a: $sum, b: $try}
        next: {sum: $add}
    outputs: {first: $first, sum: $turns.sum}
"""


def test_a_failing_node_is_told_with_its_place_and_exit_1(dg: Command, folder: Path) -> None:
    write("fail.yaml", FAILING)
    done = dg("run", "fail.yaml")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("fail.yaml:12:12  turns[step 4 of 5].try failed: ValueError: no 3\n")
    assert "Traceback" not in done.err
    assert "Traceback" in dg("run", "fail.yaml", "--debug").err
    told = dg("run", "fail.yaml", "--json")
    assert told.code == 1
    (error,) = told.data["errors"]
    assert error["code"] == "run"
    assert error["node"] == "turns[step 4 of 5].try"
    assert error["place"] == {"file": "fail.yaml", "line": 12, "column": 12}
    assert error["hint"]


def test_interrupted_is_130_and_finished_results_are_kept(dg: Command, folder: Path) -> None:
    write("stop.yaml", FAILING.replace("arith.Fail", "arith.Interrupt"))
    done = dg("run", "stop.yaml")
    assert (done.code, done.out) == (130, "")
    assert done.err == "diffgraph: interrupted\n  finished results are kept\n"
    assert dg("run", "stop.yaml", "--json").data["errors"][0]["code"] == "interrupted"
    assert dg("run", "stop.yaml", "--bad", "9").lines[-1] == '{"sum": 10.0}'


def test_a_result_with_nan_names_the_node_that_made_it(dg: Command, folder: Path) -> None:
    write("nan.yaml", "diffgraph: 1\nnodes:\n  n: {node: arith.NotANumber, value: 1}\n  m: {node: arith.Add, a: $n}\n"
          "outputs: {m: $m}\n")  # fmt: skip
    done = dg("run", "nan.yaml")
    assert (done.code, done.out) == (1, "")
    assert "nan.yaml:3:6  n made a result with NaN in it" in done.err


def test_json_of_a_run(dg: Command, letter: Path) -> None:
    data = dg("run", "letter.yaml", "--json").data
    assert data["outputs"] == {"note": {"files": ["letter-7.txt"]}, "number": {"value": 7.0}}
    assert data["notes"] == ["this is 7"]
    assert data["warnings"] == []
    assert data["seconds"] > 0


def test_no_cache_keeps_nothing(dg: Command, letter: Path) -> None:
    assert dg("run", "letter.yaml", "--no-cache").code == 0
    assert dg("cache", "--json").data["entries"] == 0
    assert dg("run", "letter.yaml").code == 0
    assert dg("cache", "--json").data["entries"] > 0


def test_a_damaged_result_is_computed_again_with_a_warning(dg: Command, folder: Path) -> None:
    write("sum.yaml", SUM)
    write("letter.yaml", NOTE)
    for words, line in (["sum.yaml", "--second-one", "1"], '{"total": 3.0}'), (["letter.yaml"], "letter-7.txt"):
        assert dg("run", *words).lines[0] == line
        store = Path(dg("cache", "--json").data["folder"])
        for path in store.rglob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-3])
        done = dg("run", *words)
        assert (done.code, done.lines[0]) == (0, line)
        assert done.err.count("warning: a stored result was damaged; it is computed again\n") == 1


def test_a_cache_that_cannot_be_written_costs_a_warning(
    dg: Command, letter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(Path("file").absolute()))
    done = dg("run", "letter.yaml")
    assert (done.code, done.lines[0]) == (0, "letter-7.txt")
    assert "warning: a result is not kept" in done.err


def test_memory_and_device_are_taken(dg: Command, dots: Path) -> None:
    done = dg("run", "dots.yaml", "--device", "cpu", "--memory", "1GiB", "--dtype", "fp32")
    assert (done.code, done.lines) == (0, ["dots-0.png"])
    done = dg("run", "dots.yaml", "--device", "cuda:99", "--no-cache")
    assert done.code == 2
    assert "the device cuda:99 is not available" in done.err


def test_a_fault_of_ours_is_one_message(dg: Command, letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr("diffgraph.session.Session.prepare", broken)
    done = dg("run", "letter.yaml")
    assert done.code == 2
    assert done.err.startswith(
        "diffgraph: a fault of diffgraph itself: KeyError: 'what'\n  --debug shows the traceback"
    )


# --- graphs that cannot be run, and names that collide --------------------------------------------------------------


def test_a_graph_that_trains_and_a_part_of_others(dg: Command, folder: Path) -> None:
    for command in ("run", "plan"):
        done = dg(command, "train/glide")
        assert done.code == 2
        assert "train/glide gives nothing but weights\n  diffgraph train train/glide" in done.err
    dg("graphs", "--copy", "glide")
    done = dg("run", "samplers/plain.yaml")
    assert done.code == 2
    assert "samplers/plain.yaml is a part of other graphs: nobody can type its input model (Denoiser)" in done.err
    assert dg("check", "samplers/plain.yaml").code == 0
    assert dg("check", "samplers/plain").out == "samplers/plain: no mistakes\n"
    assert "did you mean samplers/plain?" in dg("check", "samplers/plane").err
    assert dg("run", "samplers/plain.yaml", "--help").code == 0


def test_inputs_whose_options_would_collide(dg: Command, folder: Path) -> None:
    write(
        "names.yaml",
        """
        diffgraph: 1
        inputs:
          cache: {type: bool, default: true}
          help: {type: int, default: 1}
          output: {type: text, default: out}
          N: {type: int, default: 2}
          n: {type: int, default: 3}
          _hidden: {type: int, default: 4}
          quick: {type: bool, default: false}
          no_quick: {type: int, default: 5}
        nodes: {}
        outputs:
          cache: $cache
          help: $help
          output: $output
          upper: $N
          lower: $n
          hidden: $_hidden
          quick: $quick
          no_quick: $no_quick
        """,
    )
    shown = " ".join(dg("run", "names.yaml", "--help").out.split())
    for name in ("cache", "help", "output", "_hidden", "no_quick"):
        assert f"--input {name}=..." in shown
    given = [f"--input={name}={value}" for name, value in
             {"cache": "false", "help": 7, "output": "o", "_hidden": 8, "no-quick": 9}.items()]  # fmt: skip
    done = dg("run", "names.yaml", *given, "--N", "10", "--n", "11", "--quick", "--json")
    assert {name: output["value"] for name, output in done.data["outputs"].items()} == {
        "cache": False, "help": 7, "output": "o", "upper": 10, "lower": 11, "hidden": 8, "quick": True, "no_quick": 9,
    }  # fmt: skip


WORDS = st.sampled_from(
    ["sum.yaml", "glide", "run", "--a", "3", "--second-one", "-1e3", "--second-one=2", "--text", "", "--set", "total.b=1",
     "total.a=[", "--input", "a=1", "=", "--variant", "large", "--show", "total", "loud.x", "--json", "--debug", "-o",
     "x.json", ".", "--", "-", "--no-cache", "--memory", "1GiB", "--dtype", "fp16", "--device", "cpu", "--quiet",
     "--nodes", "sum.yaml", "--help", "\N{SNOWMAN}", "a\nb", "$a", "--no-metadata", "--offline"]
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(command=st.sampled_from(["run", "check", "plan"]), words=st.lists(WORDS, max_size=7))
def test_no_words_make_it_fail_in_a_way_of_its_own(dg: Command, total: Path, command: str, words: list[str]) -> None:
    done = dg(command, "sum.yaml", *words)
    assert done.code in (0, 2)
    assert "a fault of diffgraph" not in done.err + done.out
    assert done.code == 0 or "--json" in words or done.err


def test_addresses_of_graphs(dg: Command) -> None:
    assert dg("check", "pkg://diffgraph/glide.yaml").code == 0
    done = dg("run", "https://example.org/glide.yaml")
    assert done.code == 2
    assert "https://example.org/glide.yaml: graphs are not read from there" in done.err
    assert dg("run", "pkg://diffgraph/glid.yaml").code == 2
    assert dg("run", "pkg://nothing_here/x.yaml").code == 2


def test_a_secret_is_not_told(dg: Command, folder: Path) -> None:
    write(
        "secret.yaml",
        "diffgraph: 1\ninputs:\n  pin: {type: int, max: 9999, secret: true}\nnodes: {}\noutputs: {n: 1}\n",
    )
    for value in ("swordfish", "123456"):
        done = dg("run", "secret.yaml", "--pin", value)
        assert done.code == 2
        assert "pin: its value is not a permitted int" in done.err
        assert value not in done.err
