"""Values of inputs marked `secret: true` stand nowhere: in no picture, lock, store, cache, message or drawing."""

from __future__ import annotations

import hashlib
import json
import traceback
from pathlib import Path

import pytest

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, InputError, RunError
from diffgraph.session import Options
from diffgraph.training.train import train

from ..hub import graph
from ..hub_server import HubServer
from .conftest import Command, write
from .test_pictures import bundle

NODES = '''
    """Nodes that do with a text what they like."""

    from diffgraph import node, note


    @node("Echo", version=1)
    def echo(text: str) -> str:
        """The text itself, which it tells."""
        note(f"got {text}")
        return text


    @node("Break", version=1)
    def broken(text: str) -> str:
        """Raises ValueError with the text in it."""
        raise ValueError(f"no {text!r}\\nat line two of {text}")
'''
WORD = "swordfish-7"
GRAPH = """
    diffgraph: 1
    name: login
    inputs:
      token: {type: text, default: "", secret: true}
      seed: {type: int, default: 0}
    nodes:
      said: {node: Echo, text: $token}
      loud: {node: arith.Upper, text: $said}
      length: {node: arith.Length, text: $loud}
      share: {node: arith.Multiply, a: $length, b: 0.1}
      plain: {node: arith.Add, a: $seed}
      rng: {node: Rng, seed: $seed, batch: 1}
      noise: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng, scale: $share}
      scheduler: {node: DDPMScheduler}
      schedule: {call: $scheduler.schedule, steps: 2}
      start: {call: $scheduler.start, noise: $noise.sample, schedule: $schedule}
    outputs: {image: $start.sample, length: $length, plain: $plain}
"""


@pytest.fixture
def login(folder: Path) -> Path:
    write("nodes.py", NODES)
    return write("login.yaml", GRAPH)


def holding(folder: Path, word: str = WORD) -> list[str]:
    """The files, of work and caches, that hold a word in any spelling, or are called so."""
    found = []
    for path in folder.parent.rglob("*"):
        held = path.read_bytes().lower() if path.is_file() and path.suffix != ".py" else b""
        if word.encode() in held or word in path.name.lower():
            found.append(str(path.relative_to(folder.parent)))
    return found


def test_a_secret_is_stored_nowhere(dg: Command, login: Path, folder: Path) -> None:
    said = dg("run", login, "--nodes", "nodes.py", "--token", WORD, "--show", "said", "--show", "loud", "-o", "a.png")
    assert said.code == 0, said.err
    assert WORD not in said.err
    assert "note: got ***" in said.err
    assert '{"plain": 0.0}' in said.out
    assert holding(folder) == []
    assert set(bundle("a.png")["inputs"]) == {"seed"}
    for path in (folder.parent / "cache" / "results").rglob("*"):
        assert hashlib.sha256(WORD.encode()).hexdigest() not in path.name


def test_what_depends_on_it_is_made_anew_and_the_rest_is_stored(dg: Command, login: Path) -> None:
    command = ("run", login, "--nodes", "nodes.py", "--token", WORD, "-o", "a.png")
    assert dg(*command).code == 0
    states = {one["node"]: one["state"] for one in dg("plan", *command[1:6], "--json").data["nodes"]}
    assert (states["said"], states["length"], states["noise"]) == ("run", "run", "run")
    assert states["plain"] == "cached"
    before = Path("a.png").read_bytes()
    assert dg(*command).code == 0
    assert Path("a.png").read_bytes() == before
    open_ = ("plan", login, "--nodes", "nodes.py")
    assert dg("run", login, "--nodes", "nodes.py").code == 0  # nothing secret was given
    assert dg(*open_).out.count("cached") >= 3


def test_a_picture_asks_for_it_again(dg: Command, login: Path) -> None:
    text = login.read_text().replace('default: "", secret', "secret")
    login.write_text(text)
    dg("run", login, "--nodes", "nodes.py", "--token", WORD, "-o", "a.png")
    said = dg("run", "a.png", "--nodes", "nodes.py")
    assert said.code == 2
    assert "the input token (text) is missing" in said.err
    assert dg("run", "a.png", "--nodes", "nodes.py", "--token", WORD, "--no-cache", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_secret_that_stands_in_documents(dg: Command, folder: Path) -> None:
    """A default, a variant, and what is handed to an included graph: the picture's documents are without them."""
    write("nodes.py", NODES)
    write("parts/inner.yaml", GRAPH.replace("name: login", "name: inner"))
    write(
        "outer.yaml",
        f"""
        diffgraph: 1
        name: outer
        inputs:
          pin: {{type: text, default: {WORD}-pin, secret: true}}
        variants:
          first: {{pin: {WORD}-first}}
        nodes:
          made: {{graph: parts/inner.yaml, token: {WORD}-inner}}
          size: {{node: arith.Length, text: $pin}}
        outputs: {{image: $made.image, size: $size}}
        """,
    )
    said = dg("run", "outer.yaml", "--nodes", "nodes.py", "-o", "a.png")
    assert said.code == 0, said.err
    assert WORD not in json.dumps(bundle("a.png"))
    assert WORD not in dg("run", "outer.yaml", "--help").out
    assert "default: ***" in " ".join(dg("run", "outer.yaml", "--help").out.split())
    Path("outer.yaml").unlink()
    assert holding(folder) == []


@pytest.mark.parametrize("options", [(), ("--debug",), ("--json",), ("--json", "--debug")])
@pytest.mark.parametrize("given", ["--token={}", "--input=token={}"])
def test_errors_do_not_tell_it(dg: Command, login: Path, given: str, options: tuple[str, ...]) -> None:
    login.write_text(login.read_text().replace("Echo", "Break"))
    said = dg("run", login, "--nodes", "nodes.py", given.format(WORD), *options)
    assert said.code == 1
    assert WORD not in said.out + said.err
    assert "said failed: ValueError: no '***'" in (said.data["errors"][0]["message"] if said.out else said.err)
    assert ("Traceback" in said.err) == ("--debug" in options)


def test_mistakes_in_giving_it_do_not_tell_it(dg: Command, login: Path) -> None:
    said = dg("run", login, "--nodes", "nodes.py", "--token", WORD, "--input", f"token={WORD}")
    assert said.code == 2
    assert WORD not in said.err
    login.write_text(login.read_text().replace("type: text", "type: file").replace('""', "null"))
    said = dg("run", login, "--nodes", "nodes.py", "--token", f"{WORD}.key")
    assert said.code == 2
    assert WORD not in said.err
    assert "there is no file ***" in said.err


@pytest.mark.parametrize("secret", ["a b", "quo'te\"", "two\nlines", "ümlaut", "back\\slash", "q"])
def test_it_is_hidden_however_it_is_quoted(dg: Command, login: Path, secret: str) -> None:
    login.write_text(login.read_text().replace("Echo", "Break"))
    said = dg("run", login, "--nodes", "nodes.py", "--token", secret)
    assert secret not in said.err.replace(str(login), "").replace("line", "")
    assert repr(secret)[1:-1] not in said.err
    assert "***" in said.err


def test_in_python(dg: Command, login: Path) -> None:
    login.write_text(login.read_text().replace("Echo", "Break"))
    with pytest.raises(RunError) as caught:
        Graph.load(login, nodes=["nodes.py"])(token=WORD)
    told = "".join(traceback.format_exception(caught.value))
    assert WORD not in told + repr(caught.value)
    assert "in broken" in told  # where it failed is told
    assert "ValueError: no '***'" in told.partition("RunError")[2]
    with pytest.raises(InputError, match="token is secret"):
        Graph.load(login, nodes=["nodes.py"]).sweep({"token": [WORD, "other"]})


def test_an_error_that_tells_no_secret_keeps_its_cause(dg: Command, login: Path) -> None:
    login.write_text(login.read_text().replace("arith.Add, a: $seed", "Break, text: open"))
    with pytest.raises(RunError) as caught:
        Graph.load(login, nodes=["nodes.py"])(token=WORD)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_training_does_not_tell_it(dg: Command, login: Path, folder: Path) -> None:
    write(
        "train.yaml",
        """
        diffgraph: 1
        inputs: {data: {type: folder}, token: {type: text, secret: true}}
        nodes:
          line: {node: arith.Linear, in_features: 2, out_features: 2, init_seed: 0}
          out: {call: $line, vector: $batch.given}
          said: {node: Break, text: $token}
          size: {node: arith.Length, text: $said}
          less: {node: arith.Scale, vector: $out, factor: $size}
          loss: {node: arith.Energy, vector: $less}
        train:
          data: {node: arith.Series, folder: $data, as: batch}
          update: {line: line}
          loss: $loss
          steps: 1
        """,
    )
    write("numbers.txt", "1 2 3")
    graph = Graph.load("train.yaml", nodes=["nodes.py"])
    with pytest.raises(RunError, match=r"said failed: ValueError: no '\*\*\*'") as caught:
        train(graph, {"data": ".", "token": WORD}, out=Path("out"), options=Options("cpu", nodes=(Path("nodes.py"),)))
    assert WORD not in "".join(traceback.format_exception(caught.value))
    assert holding(folder) == []


def test_a_check_in_python_does_not_tell_it() -> None:
    graph = Graph.from_text(
        "diffgraph: 1\ninputs: {pin: {type: int, secret: true}}\n"
        "nodes: {x: {node: arith.Power, base: 2, exponent: $pin}}\noutputs: {x: $x}\n"
    )
    pin = 4711
    with pytest.raises(CheckFailed, match=r"x.exponent: \*\*\* must be at most 64") as caught:
        graph(pin=pin)
    assert str(pin) not in "".join(traceback.format_exception(caught.value))


def test_a_sweep_would_show_it(dg: Command, login: Path, folder: Path) -> None:
    for options in (["--sweep", f"token={WORD},b"], ["--token", "@words.txt"]):
        Path("words.txt").write_text(f"{WORD}\nother\n")
        said = dg("run", login, "--nodes", "nodes.py", *options)
        assert said.code == 2
        assert WORD not in said.err + said.out
        assert "token is secret, and a sweep shows its values" in said.err


def test_a_secret_seed_names_no_file(dg: Command, folder: Path) -> None:
    write("nodes.py", NODES)
    write("login.yaml", GRAPH.replace("seed: {type: int, default: 0}", "seed: {type: int, default: 0, secret: true}"))
    assert dg("run", "login.yaml", "--nodes", "nodes.py", "--seed", "12345").lines[0] == "login.png"


def test_an_address_cannot_be_secret(dg: Command, folder: Path) -> None:
    text = graph("$weights").replace("inputs:\n", "inputs:\n  weights: {type: weights, secret: true}\n")
    write("line.yaml", text)
    assert "input weights: an address cannot be secret" in dg("check", "line.yaml").err
    with pytest.raises(CheckFailed, match="an address cannot be secret"):
        Graph.load("line.yaml")


def test_a_lock_does_not_hold_it(server: HubServer, hub: Command, folder: Path) -> None:
    secret = "inputs:\n  pin: {type: text, secret: true}\n"
    text = graph().replace("inputs:\n", secret).replace("  norm:", "  size: {node: arith.Length, text: $pin}\n  norm:")
    write("line.yaml", text.replace("outputs: {", "outputs: {size: $size, "))
    assert hub("lock", "line.yaml", "--pin", WORD).code == 0
    assert hub("run", "line.yaml", "--pin", WORD).lines[0] == '{"size": 11}'
    assert holding(folder) == []


def test_a_secret_picture(dg: Command, folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4), (200, 90, 10)).save("face-of-someone.png")
    write(
        "coarse.yaml",
        """
        diffgraph: 1
        inputs: {image: {type: Image, secret: true}}
        nodes: {fewer: {node: Quantize, image: $image, levels: 2}}
        outputs: {image: $fewer}
        """,
    )
    assert dg("run", "coarse.yaml", "--image", "face-of-someone.png", "-o", "a.png").code == 0
    assert bundle("a.png")["inputs"] == {}
    assert not list((folder.parent / "cache" / "results").rglob("*.safetensors"))
