"""Every shipped graph: reads, checks at both levels, keeps its meaning through Python, and runs from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffgraph.builder import Graph
from diffgraph.components import Opener
from diffgraph.errors import InputError, Interrupted
from diffgraph.inputs import apply_sets, resolve_inputs
from diffgraph.language.sources import open_source
from diffgraph.running.run import Event
from diffgraph.session import Options, Session
from diffgraph.training.train import train
from diffgraph.training.trainer import Trainer

from ..engine.test_schema import faults
from .conftest import GRAPHS, Cli

CPU = Options(device="cpu")
NAMES = sorted(str(path.relative_to(GRAPHS).with_suffix("")) for path in GRAPHS.rglob("*.yaml"))
TRAININGS = [name for name in NAMES if name.startswith("train/")]
FURTHER = {  # trainings that go on from weights: the fixture with these, and their size; see test_finetune.py
    "train/ddpm_finetune": ("ddpm_parts", 8), "train/glide_finetune": ("glide_parts", 8),
    "train/imagen_if_finetune": ("if_base_parts", 8), "train/stable_diffusion": ("clip_parts", 16),
}  # fmt: skip
SHARED = [name for name in NAMES if name.startswith("samplers/")]
SYSTEMS = sorted(set(NAMES) - set(TRAININGS) - set(SHARED))
LATENT = {  # the systems over latents: the fixture with their parts
    "ldm": "ldm_parts", "ldm_unconditional": "codebook_parts", "ldm_super_resolution": "super_resolution_parts",
    "stable_diffusion": "clip_parts", "stable_diffusion_img2img": "clip_parts",
    "stable_diffusion_inpaint": "inpainting_parts",
}  # fmt: skip
SAMPLERS = {
    "ddpm": "plain", "ldm_unconditional": "plain", "ldm_super_resolution": "plain",
    "stable_diffusion_img2img": "img2img", "stable_diffusion_inpaint": "inpaint",
    "glide_img2img": "img2img", "glide_inpaint": "inpaint_clean", "imagen_if_upsampler": "hand_off",
}  # fmt: skip
FILES = ("image", "mask")  # inputs that are the user's files


@pytest.fixture
def given(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Values for the inputs of a system, with tiny weights, or of a training. A new system needs an entry here."""
    if name in FURTHER:
        weights, size = FURTHER[name]
        given = {"data": request.getfixturevalue("data"), "weights": request.getfixturevalue(weights)}
        return {key: str(value) for key, value in given.items()} | {"size": size, "steps": 2, "batch": 2}
    if name in TRAININGS:
        tokenizer = {"tokenizer": str(request.getfixturevalue("words"))} if "glide" in name else {}
        return {"data": str(request.getfixturevalue("data")), "steps": 2, "batch": 2, **tokenizer}
    if name.startswith("glide"):
        parts = "glide_inpaint_parts" if name == "glide_inpaint" else "glide_parts"
        values = {"prompt": "a cat", "steps": "4", "weights": str(request.getfixturevalue(parts))}
        return values | pictures(name, request) | ({} if name == "glide_base" else {"upsampler_steps": "3"})
    if name == "imagen_if":
        parts = {key: str(place) for key, place in request.getfixturevalue("if_parts").items()}
        return {"prompt": "a cat", "steps": "4", "upsampler_steps": "3", **parts}
    if name in ("imagen_if_base", "imagen_if_upsampler"):
        part = "weights" if name == "imagen_if_base" else "upsampler_weights"
        weights = str(request.getfixturevalue("if_parts")[part])
        return {"prompt": "a cat", "steps": "4", "weights": weights, **pictures(name, request)}
    if name == "dit":
        return {"label": "ostrich", "steps": 4, "weights": str(request.getfixturevalue("dit_parts"))}
    if name.startswith("imagen"):
        values = {"prompt": "a cat", "steps": "4", "weights": str(request.getfixturevalue("imagen_parts"))}
        return values | ({"upsampler_steps": "3"} if name == "imagen" else {})
    if name == "ddpm":
        return {"steps": 3, "weights": str(request.getfixturevalue("ddpm_parts"))}
    if name in LATENT:
        values = {"steps": 4, "weights": str(request.getfixturevalue(LATENT[name])), **pictures(name, request)}
        values |= {"prompt": "a cat"} if "prompt" in Graph.load(GRAPHS / f"{name}.yaml").document.inputs else {}
        return values | ({"size": 8} if name == "ldm_super_resolution" else {})
    raise AssertionError(f"say here what inputs {name} takes")


def pictures(name: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """Those that a system starts from, and their masks."""
    photo, inputs = request.getfixturevalue("photo"), Graph.load(GRAPHS / f"{name}.yaml").document.inputs
    return {key: str(photo / f"{key}.png") for key in FILES if key in inputs}


def options(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key.replace('_', '-')}", str(value))]


# --- by name --------------------------------------------------------------------------------------------------------


def test_an_existing_file_wins_over_a_shipped_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glide").mkdir()
    assert open_source("glide").address == "pkg://diffgraph/glide.yaml"
    (tmp_path / "glide").rmdir()
    (tmp_path / "glide").write_text("diffgraph: 1\n")
    assert open_source("glide").address == "glide"


def test_a_name_that_is_nothing_gets_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="did you mean glide"):
        open_source("glid")


# --- reading and checking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_mistakes_in_structure(name: str) -> None:
    graph = Graph.load(GRAPHS / f"{name}.yaml")
    problems, outputs = Session().check(graph.document, graph.source, graph.loader, {})
    assert problems == []
    assert outputs.keys() == graph.document.outputs.keys()


@pytest.mark.parametrize("name", NAMES)
def test_no_faults_to_an_editor(name: str) -> None:
    assert faults((GRAPHS / f"{name}.yaml").read_text()) == []


@pytest.mark.parametrize("name", SYSTEMS + TRAININGS)
def test_no_mistakes_with_the_configs_of_its_parts(name: str, given: dict[str, Any]) -> None:
    graph, session = Graph.load(GRAPHS / f"{name}.yaml"), Session()
    values, sets = resolve_inputs(graph.document, given, session.registry, source=graph.source)
    document = apply_sets(graph.document, sets)
    assert session.check(document, graph.source, graph.loader, values, Opener())[0] == []


@pytest.mark.parametrize("name", NAMES)
def test_yaml_to_graph_to_yaml(name: str, tmp_path: Path) -> None:
    """What is saved means the same, and saved again it is the same text."""
    shutil.copytree(GRAPHS / "samplers", tmp_path / "samplers")
    first = Graph.load(GRAPHS / f"{name}.yaml")
    path = tmp_path / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    first.save(path)
    second = Graph.load(path)
    assert second.hash() == first.hash()
    assert second.text() == first.text() == path.read_text()
    assert list(second.document.nodes) == list(first.document.nodes)


@pytest.mark.parametrize("name", NAMES)
def test_a_summary_and_help(name: str) -> None:
    """Each says what it is and which paper it is of; each input that is not plain from its name says what it takes."""
    document = Graph.load(GRAPHS / f"{name}.yaml").document
    assert document.name
    assert document.summary
    assert "arXiv:" in document.summary or name in SHARED
    for item in document.inputs.values():
        assert (
            item.help
            or item.type not in ("weights", "folder", "Steps", "Condition")
            or not item.required
            or name in SHARED
        )


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_run_and_run_again_from_the_picture(name: str, given: dict[str, Any], cli: Cli, tmp_path: Path) -> None:
    """The PNG holds the documents and the inputs; `run picture.png` makes the same bytes."""
    arguments = ["--device", "cpu", *options(given), "--seed", "7", "--num-images", "2"]
    done = cli("run", GRAPHS / f"{name}.yaml", *arguments, "-o", f"{tmp_path}/")
    assert done.exit_code == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert paths == [tmp_path / f"{name}-{part}.png" for part in ("7", "8", "7-sheet")]
    with Image.open(paths[0]) as picture:
        carried = json.loads(picture.info["diffgraph"])
    assert {key: str(value) for key, value in carried["inputs"].items()}.items() >= {
        key: str(value) for key, value in (given | {"seed": 7, "num_images": 2}).items() if key not in FILES
    }.items()
    assert all(set(carried["inputs"][key]) == {"file", "sha256"} for key in given if key in FILES)
    assert set(carried["documents"]) >= {f"{name}.yaml", f"samplers/{SAMPLERS.get(name, 'guided')}.yaml"}
    graph = Graph.load(GRAPHS / f"{name}.yaml")
    sets = resolve_inputs(graph.document, given, graph.registry, source=graph.source)[1]
    graph.document = apply_sets(graph.document, sets)  # of the variant that was run
    assert carried["documents"][f"{name}.yaml"] == (graph.text() if sets else (GRAPHS / f"{name}.yaml").read_text())

    (tmp_path / "again").mkdir()
    again = ["run", paths[0], "--no-cache", "--device", "cpu", "-o", f"{tmp_path}/again/"]
    done = cli(*again)
    assert done.exit_code == 2  # a picture does not open folders of the user's by itself
    done.says("--(upsampler-)?weights")
    done = cli(*again, *options({key: value for key, value in given.items() if key.endswith(("weights", *FILES))}))
    assert done.exit_code == 0, done.stderr
    for path in paths:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_picture_of_the_shipped_weights_needs_nothing_else(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty folder, by the shipped graph's name; then `run picture.png` in another folder."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    arguments = ["--prompt", "red apple", "--seed", "4", "--steps", "3", "--upsampler-steps", "2", "--device", "cpu"]
    done = cli("run", "glide", *arguments, "--no-cache")
    assert (done.exit_code, done.stdout) == (0, "glide-4.png\n"), done.stderr
    monkeypatch.chdir(tmp_path / "there")
    done = cli("run", tmp_path / "here/glide-4.png", "--device", "cpu", "--no-cache")
    assert (done.exit_code, done.stdout) == (0, "glide-4.png\n"), done.stderr
    first, second = ((tmp_path / folder / "glide-4.png").read_bytes() for folder in ("here", "there"))
    assert first == second
    done = cli("run", tmp_path / "here/glide-4.png", "--seed", "5", "--device", "cpu", "--no-cache")
    assert (done.exit_code, done.stdout) == (0, "glide-5.png\n"), done.stderr
    assert (tmp_path / "there/glide-5.png").read_bytes() != first


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_copy_still_works(
    name: str, given: dict[str, Any], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("graphs", "--copy", name).exit_code == 0
    copied = tmp_path / f"{name}.yaml"
    copied.write_text(copied.read_text().replace(f"name: {name}", "name: mine"))
    done = cli("run", f"{name}.yaml", "--device", "cpu", *options(given))
    assert (done.exit_code, done.stdout) == (0, "mine-0.png\n"), done.stderr
    assert cli("check", f"{name}.yaml", *options(given)).exit_code == 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_plan_says_what_will_run(name: str, given: dict[str, Any], cli: Cli) -> None:
    done = cli("plan", GRAPHS / f"{name}.yaml", "--device", "cpu", "--json", "--no-cache", *options(given))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("name", sorted(set(TRAININGS) - set(FURTHER)))
def test_a_training_learns_and_its_weights_run(
    name: str, given: dict[str, Any], cli: Cli, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Some steps on 32 pictures: the loss of the first batches falls; then the system makes a picture with the new
    weights. The same batches are looked at again, since the loss of one depends most on the noise that it got.
    """
    system = name.removeprefix("train/").partition("_")[0]
    out = tmp_path / "out"
    arguments = ["--device", "cpu", "--quiet", "--out", out, *options(given | {"steps": 16, "batch": 4})]
    settings = Graph.load(GRAPHS / f"{name}.yaml").document.train
    assert settings is not None
    sheet = "sample" in settings.settings
    if sheet:  # of few pictures
        arguments += ["--set", "train.sample.inputs.num_images=2"]
    done = cli("train", GRAPHS / f"{name}.yaml", *arguments)
    assert (done.exit_code, done.stdout.strip()) == (0, str(out)), done.stderr
    assert len(list(out.glob("samples-*.png"))) == sheet
    losses = [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 16
    trainer = Trainer(Graph.load(GRAPHS / f"{name}.yaml"), given | {"steps": 16, "batch": 4}, out=out, options=CPU)
    trainer._restore()
    with torch.no_grad():
        again = [float(trainer._loss(trainer.data(number))) for number in range(4)]
    assert sum(again) < 0.99 * sum(losses[:4])

    inputs = {"steps": 2, "weights": out}
    if name == "train/ldm_autoencoder":  # the other parts come from a moment of their own training
        inputs["weights"] = tmp_path / "whole"
        rest = given | {"autoencoder": out / "vqvae", "steps": 1}
        done = cli("train", GRAPHS / "train/ldm.yaml", "--quiet", "--out", inputs["weights"], *options(rest))
        assert done.exit_code == 0, done.stderr
    if system == "ldm":
        inputs["prompt"] = "red disc"
    elif system != "ddpm":
        weights = tmp_path / "weights"
        shutil.copytree(GRAPHS / f"weights/{system}-demo", weights)
        for trained in (*trainer.train.update.values(), *trainer.train.save.values()):
            shutil.rmtree(weights / trained)
            shutil.copytree(out / trained, weights / trained)
        if name == "train/glide":
            assert {"config.json", "tokenizer.json", "scheduler_config.json"} <= {
                p.name for p in weights.glob("base/*")
            }
        inputs |= {"prompt": "red disc", "weights": weights, "upsampler_steps": 2}
    done = cli("run", GRAPHS / f"{system}.yaml", "--device", "cpu", *options(inputs), "-o", tmp_path / "picture.png")
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == ((32, 32) if system == "ddpm" else (64, 64))


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_stopped_and_resumed_is_the_same(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    """The same curve, and the same weights to the bit."""
    graph, given = Graph.load(GRAPHS / f"{name}.yaml"), given | {"steps": 4, "batch": 2}
    rest: dict[str, Any] = {"options": CPU, "sets": {"train.sample": None}}

    def stop(event: Event) -> None:
        if event.kind == "step" and event.path == "train" and event.number == 2:
            raise KeyboardInterrupt

    whole = train(graph, given, out=tmp_path / "whole", **rest)
    with pytest.raises(Interrupted):
        train(graph, given, out=tmp_path / "parts", listeners=[stop], **rest)
    assert len((tmp_path / "parts/log.jsonl").read_text().splitlines()) == 2
    parts = train(graph, given, out=tmp_path / "parts", **rest)
    settings = graph.document.train
    assert settings is not None
    for place in settings.update.values():
        (trained,) = (parts / place).glob("*.safetensors")
        assert trained.read_bytes() == (whole / place / trained.name).read_bytes(), place
    assert (parts / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert all((parts / place).is_dir() for place in settings.save.values())


# --- variants and versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_variants_set_inputs_that_exist(name: str) -> None:
    graph = Graph.load(GRAPHS / f"{name}.yaml")
    for variant in graph.document.variants:
        given = {"prompt": "x"} if "prompt" in graph.document.inputs else {}
        resolve_inputs(graph.document, given, graph.registry, variant, source=graph.source, partial=True)


@pytest.mark.parametrize("command", ["check", "plan", "run"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_steps_are_refused_by_check_as_by_run(name: str, command: str, cli: Cli) -> None:
    """Before anything is opened: a loop may have no turn, a schedule has one step at least."""
    for option in (f"--{key.replace('_', '-')}" for key in Graph.load(name).document.inputs if key.endswith("steps")):
        done = cli(command, name, option, "0", "--offline")
        assert done.exit_code == 2
        done.says(f"{option[2:].replace('-', '_')}: 0 must be at least 1")


def test_steps_as_a_number_are_those_of_the_default() -> None:
    """The demo's `steps: "25"` is a respacing, and so is what `--steps 25` gives."""
    graph, few = Graph.load("glide"), Options("cpu", cache=False)
    images = [graph(prompt="x", options=few, steps=n, upsampler_steps=m).image for n, m in (("4", "3"), (4, 3))]
    assert torch.equal(*images)


def test_the_shipped_weights_are_small() -> None:
    """Under 50 MB together, half precision."""
    files = [p for p in (GRAPHS / "weights").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 50_000_000
    assert Options().dtype == "fp32"  # the halves are computed with in full
