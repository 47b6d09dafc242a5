"""From what a user gives to results: inputs, files, variants, the store and its damage, several processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.builder import Graph
from diffgraph.components import GivenAddress
from diffgraph.errors import CheckFailed, DiffgraphError, InputError, RunError, WeightsError
from diffgraph.results import kind_writer, make_files, make_result, provenance, writer_of
from diffgraph.running.store import Store
from diffgraph.session import Options, pick_device, precision_flags, torch_version

from .lab import Lab, document, load

NOT_KEPT = Options(device="cpu", cache=False)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# --- values of inputs


def refused(inputs: str, **given: Any) -> str:
    names = [line.split(":")[0] for line in inputs.strip().split("\n")]
    nodes = "value: {node: arith.Pass, value: [" + ", ".join(f"${name.strip()}" for name in names) + "]}"
    with pytest.raises(DiffgraphError) as raised:
        Lab(Path("unused")).run(document(nodes, inputs=inputs), NOT_KEPT, **given)
    return str(raised.value)


@pytest.mark.parametrize(
    ("inputs", "given", "said"),
    [
        ("x: {type: int}", {}, "the input x (int) is missing\n  give --x"),
        ("big_x: {type: int, help: how many}", {}, "the input big_x (int) is missing\n  give --big-x: how many"),
        ("x: {type: int}", {"x": 1.5}, "x: expected int, got 1.5"),
        ("x: {type: int}", {"x": "1"}, "x: expected int, got text '1'"),
        ("x: {type: int}", {"x": True}, "x: expected int, got True"),
        ("x: {type: int, min: 0}", {"x": -1}, "x: -1 must be at least 0"),
        ("x: {type: float, max: 1}", {"x": 2}, "x: 2 must be at most 1"),
        ("x: {type: float}", {"x": float("nan")}, "x: nan is not a finite number"),
        ("x: {type: float}", {"x": float("inf")}, "x: inf is not a finite number"),
        ("x: {type: float}", {"x": None}, "x: is null; expected float"),
        ("x: {type: choice, choices: [a, b]}", {"x": "c"}, "x: expected one of 'a', 'b', got 'c'"),
        ("x: {type: 'list[int]'}", {"x": [1, "b"]}, "x: expected int, got text 'b'"),
        ("x: {type: text}", {"x": 1}, "x: expected text, got 1"),
        ("x: {type: bool}", {"x": 1}, "x: expected bool, got 1"),
        ("x: {type: int, default: 1}", {"y": 2}, "there is no input 'y'\n  it has: x"),
        ("steps: {type: int, default: 1}", {"setps": 2}, "there is no input 'setps'\n  did you mean 'steps'?"),
    ],
)
def test_values_that_are_refused(inputs: str, given: dict[str, Any], said: str) -> None:
    assert refused(inputs, **given) == said


def test_all_that_is_wrong_with_the_inputs_is_told_together() -> None:
    with pytest.raises(CheckFailed) as raised:
        load(document("value: {node: arith.Add, a: $x, b: $y}", inputs="x: {type: float}\ny: {type: float}"))(
            y="b", z=1, options=NOT_KEPT
        )
    assert len(raised.value.problems) == 3


def test_a_whole_number_for_a_number_is_the_same_number(lab: Lab) -> None:
    text = document("value: {node: arith.Sum, values: [$x, $x]}", inputs="x: {type: float}")
    lab.run(text, x=2)
    lab.run(text, x=2.0)
    assert lab.ran == []
    text = document("value: {node: arith.Sum, values: $x}", inputs="x: {type: 'list[float]'}")
    lab.run(text, x=[1, 2])
    lab.run(text, x=(1.0, 2.0))
    assert lab.ran == []


def test_a_secret_is_given_and_never_written(lab: Lab) -> None:
    text = document("value: {node: arith.MakeNote, text: $key}", inputs="key: {type: text, secret: true}\n")
    prepared = lab.prepare(text, key="hush")
    assert prepared.run()["value"].text == "hush"
    assert "hush" not in str(provenance(prepared))


# --- files


def test_a_file_is_read_by_the_reader_of_its_kind_and_keyed_by_content(tmp_path: Path, lab: Lab) -> None:
    text = document(
        "value: {node: arith.NoteText, note: $note}\nsize: {node: arith.FileSize, file: $file}",
        inputs="note: {type: Note}\nfile: {type: file}", outputs="{value: $value, size: $size}",
    )  # fmt: skip
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    found = lab.run(text, note=tmp_path / "a.txt", file=str(tmp_path / "a.txt"))
    assert found == {"value": "one", "size": 3}
    lab.run(text, note=tmp_path / "b.txt", file=tmp_path / "b.txt")
    assert lab.ran == [], "another name for the same content"
    (tmp_path / "b.txt").write_text("three")
    assert lab.run(text, note=tmp_path / "b.txt", file=tmp_path / "a.txt") == {"value": "three", "size": 3}
    assert lab.ran == ["note", "value"]


def test_a_live_value_of_a_kind_with_a_reader(lab: Lab) -> None:
    from arith.kinds import Page

    text = document("value: {node: arith.NoteText, note: $note}", inputs="note: {type: Note}")
    assert lab.run(text, note=Page("live", 1))["value"] == "live"


def test_a_list_of_files(tmp_path: Path, lab: Lab) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 3)
    text = document(
        "value: {map: $notes, as: n, nodes: {t: {node: arith.NoteText, note: $n}}, outputs: {t: $t}}",
        inputs="notes: {type: 'list[Note]'}",
    )
    assert lab.run(text, notes=[tmp_path / "a.txt", tmp_path / "b.txt"])["value"] == ["aaa", "bbb"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"\xff\xfe")
    inputs = "note: {type: Note}"
    assert f"note: there is no file {tmp_path}/note.txt\n  did you mean {tmp_path}/notes.txt?" == refused(
        inputs, note=tmp_path / "note.txt"
    )
    assert refused(inputs, note=tmp_path) == f"note: {tmp_path} is a folder, not a file"
    assert "notes.txt" in refused(inputs, note=tmp_path / "notes.txt") and "UTF-8" in refused(
        inputs, note=tmp_path / "notes.txt"
    )
    assert "cannot be read" in refused(inputs, note="a\0b") or "no file" in refused(inputs, note="a\0b")
    assert "no node package reads files of kind Grid" in refused("grid: {type: Grid}", grid=str(tmp_path / "notes.txt"))


def test_a_file_that_a_document_names_lies_beside_it(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("beside")
    place = tmp_path / "g.yaml"
    text = document("value: {node: arith.NoteText, note: $note}", inputs="note: {type: Note, default: %s}")
    place.write_text(text % "notes/a.txt")
    assert lab.run(place)["value"] == "beside"
    for outside in ("../secret.txt", "/etc/hostname"):
        place.write_text(text % outside)
        with pytest.raises(DiffgraphError):
            lab.run(place)


# --- weights


def test_weights_of_a_document_and_of_the_user(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "graphs" / "words").mkdir(parents=True)
    (tmp_path / "graphs" / "words" / "words.txt").write_text("red blue")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.txt").write_text("blue red")
    place = tmp_path / "graphs" / "g.yaml"
    place.write_text(
        document(
            "l: {node: arith.Lexicon, weights: $w}\nvalue: {call: $l, text: red}",
            inputs="w: {type: weights, default: words}",
        )
    )
    monkeypatch.chdir(tmp_path)
    assert lab.run(place)["value"] == [0], "a document's address is relative to it"
    assert lab.run(place, w="words")["value"] == [1], "the user's to the working directory"
    assert lab.run(place, w=str(tmp_path / "words"))["value"] == [1]
    assert isinstance(lab.prepare(place, w="words").values["w"], GivenAddress)


def test_weights_that_are_damaged_are_named_where_they_are_called(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.txt").write_text("")
    place = tmp_path / "g.yaml"
    place.write_text(document("l: {node: arith.Lexicon, weights: words}\nvalue: {call: $l, text: red}"))
    with pytest.raises(WeightsError, match="words.txt: holds no words") as raised:
        lab.run(place)
    assert raised.value.place is not None and raised.value.place.line == 4
    assert raised.value.message.startswith("value: ")


def test_weights_are_opened_at_the_first_call_and_not_before(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.txt").write_text("red")
    place = tmp_path / "g.yaml"
    place.write_text(
        document(
            "l: {node: arith.Lexicon, weights: words}\nf: {node: arith.Fail, value: 1, at: $stop}\nt: {node: arith.Pass, value: [$f]}\n"
            "value: {call: $l, text: red}",
            inputs="stop: {type: float, default: 1}", outputs="{value: $value, t: $t}",
        )
    )  # fmt: skip
    with pytest.raises(RunError):
        lab.run(place)
    assert lab.loaded == []
    lab.run(place, stop=0)
    assert [event.path for event in lab.events if event.kind in ("started", "loaded")] == ["f", "t", "value", "l"]


# --- several values of one kind of work


def test_a_plan_shows_what_will_be_done(tmp_path: Path, lab: Lab) -> None:
    text = document(
        'f: {node: arith.Formatter, template: "<{}>"}\na: {call: $f, text: $x}\nvalue: {node: arith.Length, text: $a}',
        inputs="x: {type: text}",
    )
    states = {unit.path: unit.state for unit in lab.prepare(text, x="a").program().units}
    assert states == {"a": "run", "value": "run"}
    lab.run(text, x="a")
    states = {unit.path: unit.state for unit in lab.prepare(text, x="a").program().units}
    assert states == {"a": "unused", "value": "cached"}


def test_an_intermediate_result_is_shown(lab: Lab) -> None:
    text = document(
        "parts: {node: arith.DivMod, a: 7, b: 2}\nvalue: {node: arith.Add, a: $parts.quotient, b: $parts.remainder}"
    )
    assert lab.run(text, show=("parts.quotient", "parts"))["parts.quotient"] == 3
    for show, said in (
        ("part", "no $part here"),
        ("parts.quot", "has no port or attribute 'quot'"),
        ("a b", "write NODE"),
    ):
        with pytest.raises(DiffgraphError, match=said.replace("$", r"\$")):
            lab.run(text, show=(show,))


# --- the store


def damage(store: Store, text: bytes = b"no entry") -> int:
    places = list(Path(store.folder).rglob("*.safetensors"))
    for place in places:
        place.write_bytes(text)
    return len(places)


def test_damaged_entries_are_noticed_and_computed_again_with_a_warning(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lines = [f'f{i}: {{node: arith.Formatter, template: "{i}{{}}"}}\na{i}: {{call: $f{i}, text: x}}' for i in range(12)]
    text = document("\n".join(lines), outputs="{" + ", ".join(f"a{i}: $a{i}" for i in range(12)) + "}")
    first = lab.run(text)
    assert damage(lab.results) == 12
    assert lab.run(text) == first
    assert lab.said == ["a stored result was damaged; it is computed again"] * 12
    assert len(lab.damaged) == 12 and set(lab.ran) == {f"a{i}" for i in range(12)}
    assert lab.run(text) == first and lab.ran == []


def test_python_is_warned_of_damage(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    text = document("value: {node: arith.Add, a: 1}")
    lab.run(text)
    damage(lab.results)
    with pytest.warns(UserWarning, match="a stored result was damaged"):
        assert lab.prepare(text).run() == {"value": 1.0}


def test_an_entry_cut_off_is_damage_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    text = document("value: {node: arith.Ones, n: 100}")
    lab.run(text)
    (place,) = Path(lab.results.folder).rglob("*.safetensors")
    place.write_bytes(place.read_bytes()[:-10])
    assert lab.run(text)["value"].sum() == 100
    assert lab.ran == ["value"] and len(lab.said) == 1


def test_a_store_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    lab = Lab(tmp_path)
    assert (
        lab.run(
            document("a: {node: arith.Add, a: 1}\nvalue: {node: arith.Add, a: $a}", outputs="{value: $value, a: $a}")
        )["value"]
        == 1.0
    )
    assert len(lab.said) == 1 and lab.said[0].startswith("a result is not kept: ")


def test_without_a_store_everything_runs(lab: Lab) -> None:
    text = document("value: {node: arith.Add, a: 1}")
    for _ in range(2):
        lab.run(text, NOT_KEPT)
        assert lab.ran == ["value"]


def test_a_result_changed_by_the_user_does_not_come_back(tmp_path: Path) -> None:
    lab = Lab(tmp_path, memory=True)
    text = document("value: {node: arith.Ones, n: 3}")
    lab.run(text)["value"].zero_()
    assert lab.run(text)["value"].tolist() == [1.0, 1.0, 1.0]


def test_changed_weights_are_noticed_by_a_graph_called_again(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.txt").write_text("red blue")
    (tmp_path / "g.yaml").write_text(document("l: {node: arith.Lexicon, weights: words}\nvalue: {call: $l, text: red}"))
    g = Graph.load(tmp_path / "g.yaml")
    assert g(options=NOT_KEPT).value == [0]
    (tmp_path / "words" / "words.txt").write_text("blue red")
    assert g(options=NOT_KEPT).value == [1]
    assert Graph.load(tmp_path / "g.yaml")(options=NOT_KEPT).value == [1]


WORKER = """
import sys
from pathlib import Path
from diffgraph.registry import registry
from diffgraph.session import Options, Session
from diffgraph.language.sources import Loader, open_source
from diffgraph.running.store import Store
store = Store(Path(sys.argv[2]), records=lambda place: registry().record_types(place))
for number in range(int(sys.argv[3])):
    source, loader = open_source(sys.argv[1]), Loader()
    prepared = Session(Options(device="cpu"), store).prepare(loader.load(source), source, loader, {"x": number})
    print(prepared.run()["value"], flush=True)
"""


def start_worker(folder: Path, count: int) -> subprocess.Popen[str]:
    (folder / "g.yaml").write_text(
        document(
            'f: {node: arith.Formatter, template: "<{}>", width: 100}\nt: {call: $f, text: a}\nn: {node: arith.Length, text: $t}\n'
            "value: {node: arith.Add, a: $n, b: $x}",
            inputs="x: {type: float}",
        )
    )
    command = [sys.executable, "-c", WORKER, str(folder / "g.yaml"), str(folder / "results"), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_share_a_store(tmp_path: Path) -> None:
    workers = [start_worker(tmp_path, 20) for _ in range(3)]
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
        assert out.split() == [str(100.0 + number) for number in range(20)]
    lab = Lab(tmp_path)
    assert lab.run(tmp_path / "g.yaml", x=7)["value"] == 107.0
    assert lab.ran == []


def test_a_killed_process_leaves_a_sound_store(tmp_path: Path) -> None:
    worker = start_worker(tmp_path, 5000)
    assert worker.stdout is not None
    for _ in range(3):
        worker.stdout.readline()
    time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    lab = Lab(tmp_path)
    for number in range(20):
        assert lab.run(tmp_path / "g.yaml", x=number)["value"] == 100.0 + number
    assert lab.damaged == []


# --- results


def test_a_result_is_written_by_the_writer_of_its_kind(lab: Lab) -> None:
    prepared = lab.prepare(document("value: {node: arith.MakeNote, text: hello}"))
    outputs = prepared.run()
    writer = writer_of(prepared, "value")
    assert writer is not None and writer.suffix == ".txt"
    assert make_files(writer, outputs["value"], {"graph": "g"}) == [b"hello\n# graph"]
    assert kind_writer(prepared.registry, prepared.kinds["value"]) == writer
    assert make_result(prepared, outputs).value == outputs["value"]
    assert writer_of(lab.prepare(document("value: {node: arith.Add, a: 1}")), "value") is None


def test_provenance_holds_the_documents_and_the_inputs(tmp_path: Path, lab: Lab) -> None:
    import json

    (tmp_path / "part.yaml").write_text(document("value: {node: arith.Add, a: $x}", inputs="x: {type: float}"))
    (tmp_path / "g.yaml").write_text(
        document(
            "p: {graph: part.yaml, x: $x}\nt: {node: arith.NoteText, note: $note}\nn: {node: arith.Length, text: $t}\n"
            "value: {node: arith.Add, a: $p, b: $n}",
            inputs="x: {type: float, default: 2}\nnote: {type: Note}",
        )
    )
    (tmp_path / "note.txt").write_text("abc")
    held = json.loads(provenance(lab.prepare(tmp_path / "g.yaml", note=tmp_path / "note.txt"))["diffgraph"])
    assert set(held["documents"]) == {"g.yaml", "g.yaml.lock", "part.yaml"} and held["main"] == "g.yaml"
    assert held["inputs"]["x"] == 2.0
    assert held["inputs"]["note"]["file"] == "note.txt" and len(held["inputs"]["note"]["sha256"]) == 64


# --- where it runs


def test_the_device_is_found_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pick_device(None) in ("cpu", "mps")
    for name in ("cpu", "mps", "cuda", "cuda:1"):
        assert pick_device(name) == name
    for name in ("gpu", "cuda:", "cuda:a", "CPU"):
        with pytest.raises(InputError, match="no such device"):
            pick_device(name)
    assert torch_version() == torch.__version__ or torch.__version__.startswith(torch_version())


def test_a_device_that_is_not_there_is_an_error_before_the_first_node(lab: Lab) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="the device cuda:7 is not available"):
        lab.run(document("value: {node: arith.Add, a: 1}"), Options(device="cuda:7"))
    text = "l: {node: arith.Linear, in_features: 2, out_features: 2, device: cuda}\nv: {node: arith.Ones, n: 2}\nvalue: {call: $l, vector: $v}"
    with pytest.raises(InputError, match="the device cuda is not available"):
        lab.run(document(text))
    assert lab.events == []


def test_precision_flags_are_in_the_keys(lab: Lab) -> None:
    text = document("value: {node: arith.Ones, n: 3}")
    before = lab.prepare(text).program().keys
    assert precision_flags() == ""
    torch.set_float32_matmul_precision("high")
    try:
        assert precision_flags() == "matmul high"
        assert lab.prepare(text).program().keys != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert lab.prepare(text).program().keys == before
