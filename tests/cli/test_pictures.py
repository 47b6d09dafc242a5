"""A picture carries the run that made it: making it again, and what a picture from a stranger may not do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgraph.nodes.images import read_metadata

from .conftest import COARSE, PICTURE, Command, write

INNER = """
    diffgraph: 1
    inputs:
      rng: {type: Rng}
    nodes:
      noise: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng}
    outputs: {noise: $noise.sample}
"""
OUTER = """
    diffgraph: 1  # a comment, which stays
    name: outer
    inputs:
      seed: {type: int, default: 0}
      steps: {type: Steps, default: 2}
      token: {type: text, default: "", secret: true}
    variants:
      two: {steps: 2}
      three: {steps: 3, set: {scheduler.beta_schedule: squaredcos_cap_v2}}
    nodes:
      scheduler: {node: DDPMScheduler}
      schedule: {call: $scheduler.schedule, steps: $steps}
      rng: {node: Rng, seed: $seed, batch: 1}
      made: {graph: parts/inner.yaml, rng: $rng}
      start: {call: $scheduler.start, noise: $made.noise, schedule: $schedule}
      length: {node: arith.Length, text: $token}
      tagged: {node: arith.Add, a: $length}
    outputs: {image: $start.sample, length: $tagged}
"""


def bundle(path: str | Path) -> dict[str, Any]:
    """What a picture carries."""
    data: dict[str, Any] = json.loads(read_metadata(Path(path).read_bytes())["diffgraph"])
    return data


def picture(path: str, text: str) -> Path:
    """A picture that carries a text as if it were a run."""
    info = PngInfo()
    info.add_itxt("diffgraph", text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return Path(path)


def forged(path: str, document: str, inputs: dict[str, Any] | None = None, **more: str) -> Path:
    """A picture that carries a document."""
    import textwrap

    documents = {"main.yaml": textwrap.dedent(document).lstrip(), **more}
    return picture(
        path, json.dumps({"diffgraph": 1, "main": "main.yaml", "documents": documents, "inputs": inputs or {}})
    )


@pytest.fixture
def outer(folder: Path) -> Path:
    write("graphs/parts/inner.yaml", INNER)
    return write("graphs/outer.yaml", OUTER)


def test_a_picture_is_made_again_from_itself_alone(dg: Command, outer: Path, folder: Path) -> None:
    assert dg("run", outer, "--seed", "3", "--token", "swordfish").lines == ["outer-3.png", '{"length": 9.0}']
    found = bundle("outer-3.png")
    assert found["main"] == "outer.yaml"
    assert list(found["documents"]) == ["outer.yaml", "outer.yaml.lock", "parts/inner.yaml"]
    assert "# a comment, which stays" in found["documents"]["outer.yaml"]
    assert found["inputs"] == {"seed": 3, "steps": 2}
    assert b"swordfish" not in Path("outer-3.png").read_bytes()
    assert str(folder) not in json.dumps(found)
    before = Path("outer-3.png").read_bytes()
    for path in ("graphs/parts/inner.yaml", "graphs/outer.yaml"):
        Path(path).unlink()
    for options in ((), ("--no-cache",)):
        assert dg("run", "outer-3.png", "--token", "swordfish", *options).lines[0] == "outer-3.png"
    Path("outer-3.png").rename("moved.png")
    assert dg("run", "moved.png", "--no-cache").lines[0] == "outer-3.png"
    assert Path("outer-3.png").read_bytes() == before


def test_what_was_set_is_part_of_the_run(dg: Command, outer: Path) -> None:
    dg("run", outer, "--variant", "three", "-o", "three.png")
    dg("run", outer, "--set", "scheduler.beta_end=0.5", "-o", "set.png")
    for name in ("three.png", "set.png"):
        before = Path(name).read_bytes()
        assert dg("run", name, "--no-cache", "-o", "again.png").code == 0
        assert Path("again.png").read_bytes() == before
    done = dg("run", "three.png", "--variant", "two")
    assert done.code == 2
    assert "three.png holds one run; give inputs instead" in done.err


def test_inputs_can_be_given_anew(dg: Command, outer: Path) -> None:
    dg("run", outer, "--seed", "3")
    help_text = " ".join(dg("run", "outer-3.png", "--help").out.split())
    assert "--seed INT [default: 3]" in help_text
    assert "Variants" not in help_text
    assert dg("run", "outer-3.png", "--seed", "4").lines[0] == "outer-4.png"
    assert bundle("outer-4.png")["inputs"]["seed"] == 4
    assert dg("check", "outer-3.png").code == 0
    assert "start" in dg("plan", "outer-3.png").out


def test_the_shipped_graph_from_a_picture(dg: Command, folder: Path) -> None:
    write("mine.yaml", PICTURE)
    dg("run", "mine.yaml")
    assert bundle("dots-0.png")["inputs"] == {"seed": 0, "num_images": 1}


def test_an_input_picture_is_asked_for_again(dg: Command, folder: Path) -> None:
    write("coarse.yaml", COARSE)
    Image.new("RGB", (4, 4), (200, 90, 10)).save("in.png")
    dg("run", "coarse.yaml", "--image", "in.png")
    digest = hashlib.sha256(Path("in.png").read_bytes()).hexdigest()
    assert bundle("coarse.png")["inputs"] == {"image": {"file": "in.png", "sha256": digest}, "levels": 2}
    done = dg("run", "coarse.png")
    assert done.code == 2
    assert f"the input image was the file 'in.png' (SHA-256 {digest[:12]}...)" in done.err
    assert "give it again: --image FILE" in done.err
    done = dg("run", "coarse.png", "--image", "in.png")
    assert (done.out, done.err) == ("coarse.png\n", "")
    Image.new("RGB", (4, 4), (1, 2, 3)).save("other.png")
    done = dg("run", "coarse.png", "--image", "other.png")
    assert done.out == "coarse-1.png\n"
    assert "warning: image: this is not the file that coarse.png was made from" in done.err
    assert "[was the file in.png]" in " ".join(dg("run", "coarse.png", "--help").out.split())


def test_weights_that_a_picture_may_not_open(dg: Command, folder: Path) -> None:
    document = """
        diffgraph: 1
        inputs:
          weights: {type: weights}
        nodes:
          line: {node: arith.Linear, weights: $weights}
          norm: {call: $line.norm}
        outputs: {norm: $norm}
    """
    forged("one.png", document, {"weights": "/etc"})
    done = dg("run", "one.png")
    assert done.code == 2
    assert "the picture was made with --weights /etc, which it may not open by itself" in done.err
    assert "give --weights /etc" in done.err
    forged("two.png", document, {"weights": "../up"})
    assert "give --weights ../up" in dg("run", "two.png").err
    done = dg("run", "one.png", "--weights", "nowhere")
    assert "there is no such folder" in done.err


# --- strangers ------------------------------------------------------------------------------------------------------

PLAIN = """
    diffgraph: 1
    inputs:
      image: {type: Image, default: null}
      file: {type: file, default: null}
      number: {type: int, default: 1, max: 9}
    nodes:
      n: {node: arith.Add, a: $number}
      f: {node: arith.FileSize, file: $file}
      q: {node: Quantize, image: $image, levels: 2}
    outputs: {n: $n, f: $f, q: $q}
"""


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"file": "/etc/passwd", "image": "in.png"}, "is named by a document that has no folder"),
        ({"file": "in.png"}, "is named by a document that has no folder"),
        ({"number": 10}, "must be at most 9"),
        ({"number": "x"}, "expected int"),
        ({"number": {"file": 1}}, "is neither a value nor a file"),
    ],
)
def test_values_in_a_picture_open_no_files_and_are_checked(
    dg: Command, folder: Path, inputs: dict[str, Any], message: str
) -> None:
    Image.new("RGB", (4, 4)).save("in.png")
    forged("evil.png", PLAIN, inputs)
    done = dg("run", "evil.png")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("address", ["other.yaml", "../other.yaml", "/tmp/other.yaml", "hf://a/b", "pkg://os/x.yaml"])
def test_a_picture_includes_its_own_and_shipped_documents_only(dg: Command, folder: Path, address: str) -> None:
    write("other.yaml", "diffgraph: 1\nnodes:\n  n: {node: arith.Add, a: 1}\noutputs: {n: $n}\n")
    forged("evil.png", f"diffgraph: 1\nnodes:\n  g: {{graph: {address}}}\noutputs: {{n: $g.n}}\n")
    done = dg("run", "evil.png")
    assert (done.code, done.out) == (2, "")
    assert "evil.png:main.yaml:3:" in done.err


def test_its_own_documents_are_read_with_the_same_limits(dg: Command, folder: Path) -> None:
    forged("cycle.png", "diffgraph: 1\nnodes:\n  g: {graph: main.yaml}\noutputs: {n: $g}\n")
    assert dg("run", "cycle.png").code == 2
    forged("tag.png", "diffgraph: 1\nnodes: !!python/object:os.system {}\n")
    done = dg("run", "tag.png")
    assert done.code == 2
    assert "evil" not in done.err
    assert "tag.png:main.yaml:2:8" in done.err
    forged("deep.png", "diffgraph: 1\nnodes: " + "[" * 5000)
    assert "nested deeper than 64" in dg("run", "deep.png").err
    forged("nodes.png", "diffgraph: 1\nnodes:\n  g: {node: os.system}\noutputs: {n: $g}\n")
    assert "there is no node type 'os.system'" in dg("run", "nodes.png").err
    picture("surrogate.png", r'{"diffgraph": 1, "main": "m", "documents": {"m": "diffgraph: \ud800"}, "inputs": {}}')
    assert "not UTF-8" in dg("run", "surrogate.png").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "its format is not known"),
        ('{"diffgraph": 2}', "its format is not known"),
        ('{"diffgraph": 1}', "it holds no documents"),
        ('{"diffgraph": 1, "documents": {"a": 1}}', "it holds no documents"),
        ('{"diffgraph": 1, "documents": {}, "main": "a", "inputs": {}}', "it names no document"),
        ('{"diffgraph": 1, "documents": {"a": ""}, "main": "a", "inputs": []}', "no inputs"),
        ('{"diffgraph": 1, "documents": {"a": ""}, "main": "a", "inputs": {}}', "empty"),
    ],
)
def test_a_damaged_run_is_refused(dg: Command, folder: Path, text: str, message: str) -> None:
    picture("bad.png", text)
    done = dg("run", "bad.png")
    assert (done.code, done.out) == (2, "")
    assert "bad.png" in done.err
    assert message in done.err
    assert "Traceback" not in done.err


def test_files_that_carry_nothing(dg: Command, folder: Path) -> None:
    Image.new("RGB", (2, 2)).save("plain.png")
    assert "plain.png carries no graph" in dg("run", "plain.png").err
    Path("text.png").write_text("diffgraph: 1")
    assert "this is not a PNG, so it carries no graph" in dg("run", "text.png").err
    whole = forged("cut.png", PLAIN).read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in dg("run", "cut.png").err
    for name in ("plain.png", "text.png", "cut.png"):
        assert dg("run", name).code == 2


def test_a_picture_full_of_text_is_refused(dg: Command, folder: Path) -> None:
    picture("big.png", " " * (17 << 20))
    done = dg("run", "big.png")
    assert done.code == 2
    assert "more than 16 MiB of text" in done.err
