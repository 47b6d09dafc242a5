"""`diffgraph convert`: what it recognises, refuses and writes; the networks themselves are compared in tests/peers."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.builder import Graph
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.weights import unpickle

from .. import originals as made
from ..hub_server import HubServer
from ..nodes.test_tokenizers import write_bert
from ..parts import save_imagen, write_tokenizer
from .conftest import Command, Said

State = dict[str, torch.Tensor]


def ddpm(seed: int = 0) -> State:
    return made.random_state(made.ddpm(32, (1, 2), 1, 1), seed)


def glide(channels: int) -> State:
    """A base network of 16 pixels, or with the channels of a small picture an upsampler to 64."""
    levels: Any = ((1, 1, 1, 2), 1, (8,)) if channels in (6, 10) else ((1, 2), 1, (2,))
    return made.random_state(made.glide(64, *levels, channels, text=64, layers=1, vocabulary=257, length=8))


def stable_diffusion(version: int) -> State:
    shapes = made.stable_diffusion(
        version, 64, (1, 2), 1, (1,), text=64, depth=2, vocabulary=60, length=8, coder_width=32
    )
    return made.random_state(shapes)


def file(name: str, state: Any) -> Path:
    """A file in the working directory."""
    if name.endswith(".safetensors"):
        save_file(state, name)
    else:
        torch.save(state, name)
    return Path(name)


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of pickles in this process, without its limit of memory: starting another takes two seconds."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        answer = unpickle.main(*command[command.index("-P") + 2 :])
        return subprocess.CompletedProcess(command, 0, json.dumps(answer).encode(), b"")

    monkeypatch.setattr(unpickle, "limit_memory", lambda extra: None)
    stands_in = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr("diffgraph.weights.pickles.subprocess", stands_in)


def refused(done: Said, *texts: str) -> None:
    """One error that says all this, and nothing is left behind."""
    assert done.code == 2, done.err
    assert done.err.count("diffgraph: ") == 1
    for text in texts:
        assert text in done.err
    assert not Path("out").exists()
    assert not list(Path().glob(".out*"))


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_folder_with_everything(dg: Command) -> None:
    file("church.ckpt", ddpm())
    done = dg("convert", "church.ckpt", "-o", "out")
    assert done.code == 0, done.err
    assert done.lines == ["out"]
    assert "DDPM" in done.err and "UNet2D, 702,499 parameters" in done.err
    names = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert names == [
        "README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    card = Path("out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffgraph\n")
    assert "| church.ckpt |" in card and "diffgraph run out" in card
    assert str(Path.cwd()) not in card
    assert not list(Path().glob(".*"))
    assert os.stat("out").st_mode & 0o777 == 0o777 & ~_umask()
    done = dg("run", "out", "--steps", "2", "-o", "picture.png")
    assert done.code == 0, done.err


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_as_data(dg: Command) -> None:
    file("church.safetensors", ddpm())
    done = dg("convert", "church.safetensors", "-o", "out", "--json", "--dtype", "bf16")
    assert done.data["title"] == "DDPM" and done.data["folder"] == "out" and done.data["run"] == "out"
    assert done.data["parts"][0] == {"folder": "unet", "node": "UNet2D", "parameters": 702_499, "source": ""}
    stored = load_file("out/unet/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


@pytest.mark.usefixtures("read_here")
def test_glide_of_two_files(dg: Command) -> None:
    """Both networks run as the ones that the files are of; the tokenizer is a local folder's."""
    write_tokenizer(Path("words"), 77)
    state = glide(3)
    file("base.pt", state)
    file("upsample.safetensors", glide(6))
    done = dg("convert", "upsample.safetensors", "base.pt", "-o", "out", "--part", "tokenizer=words", "--dtype", "fp16")
    assert done.code == 0, done.err
    assert json.loads(Path("out/base/tokenizer_config.json").read_text())["model_max_length"] == 8
    upsampler = json.loads(Path("out/upsampler/config.json").read_text())
    assert (upsampler["image_size"], upsampler["low_res_size"]) == (64, 16)
    assert "use_clipped_model_output" in Path("out/upsampler/scheduler_config.json").read_text()
    assert "learned_range" in Path("out/upsampler/scheduler_config.json").read_text()
    network = UNetGLIDE.from_pretrained("out/base").state_dict()
    assert network.keys() == state.keys()
    assert all(torch.equal(network[name], value.half().float()) for name, value in state.items())
    assert "a local folder" in Path("out/README.md").read_text() and "words" not in Path("out/README.md").read_text()


def test_glide_runs(dg: Command) -> None:
    write_tokenizer(Path("words"), 8)
    for name, channels in (("base", 3), ("upsample", 6), ("base_inpaint", 7), ("upsample_inpaint", 10)):
        file(f"{name}.safetensors", glide(channels))
    for kind, graph in (("", "glide"), ("_inpaint", "glide_inpaint")):
        files = [f"{name}{kind}.safetensors" for name in ("base", "upsample")]
        folder = f"openai{kind}"
        done = dg("convert", *files, "-o", folder, "--part", "tokenizer=words")
        assert done.code == 0, done.err
        assert f"diffgraph run {graph} --variant openai --weights {folder}" in done.err
        if not kind:
            image = Graph.load(graph)(
                variant="openai", weights=folder, prompt="x", steps=2, upsampler_steps=2
            ).image  # fmt: skip
            assert image.shape == (1, 3, 64, 64)
            assert bool(image.isfinite().all())


def test_files_of_other_kinds_are_not_mixed(dg: Command) -> None:
    file("base.safetensors", glide(3))
    file("upsample_inpaint.safetensors", glide(10))
    given = ("-o", "out", "--without", "tokenizer")
    refused(
        dg("convert", "base.safetensors", "upsample_inpaint.safetensors", *given),
        "base.safetensors is of OpenAI's GLIDE, upsample_inpaint.safetensors of OpenAI's GLIDE, made for inpainting",
    )
    file("again.safetensors", glide(3))
    refused(dg("convert", "base.safetensors", "again.safetensors", *given), "both hold the part base")


def test_averages_are_taken_unless_told(dg: Command) -> None:
    """Of latent diffusion beside the weights, their names without dots; of DDPM's training, in a list of states."""
    shapes = made.without_text(32, (1, 2), 1, (2,), coder_width=32, codebook=16)
    state = made.random_state(shapes)
    prefix = "model.diffusion_model."
    names = [name for name in state if name.startswith(prefix)]
    averages = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": state[name] + 1 for name in names}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(7)}
    file("faces.safetensors", state | averages | counters)
    for options, added in (((), 1), (("--no-ema",), 0)):
        folder = f"out{added}"
        done = dg("convert", "faces.safetensors", "-o", folder, *options)
        assert done.code == 0, done.err
        assert ("moving averages" in done.err) is bool(added)
        stored = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
        assert torch.equal(stored["conv_in.weight"], state[f"{prefix}input_blocks.0.0.weight"] + added)
    assert torch.equal(
        load_file("out1/vqvae/diffusion_pytorch_model.safetensors")["quantize.embedding.weight"],
        state["first_stage_model.quantize.embedding.weight"],
    )


@pytest.mark.usefixtures("read_here")
def test_the_states_of_ddims_training(dg: Command) -> None:
    trained, averages = ddpm(), ddpm(seed=1)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(5)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    file("ckpt.pth", [{f"module.{name}": value for name, value in trained.items()}, optimizer, 3, 900, averages])
    for options, state in (((), averages), (("--no-ema",), trained)):
        folder = f"out{len(options)}"
        assert dg("convert", "ckpt.pth", "-o", folder, *options).code == 0
        stored = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
        assert torch.equal(stored["mid_block.resnets.0.conv1.weight"], state["mid.block_1.conv1.weight"])


def test_what_a_trainer_wrote(dg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's file names a class of its own, which is passed over without being imported."""
    state = stable_diffusion(1)
    module = type(sys)("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
            patched.setitem(sys.modules, name, module)
        callbacks = {kind: {"best_model_score": torch.tensor(0.5), "monitor": "val/loss"}}
        optimizers = [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}]
        whole = {"epoch": 1, "state_dict": state, "callbacks": callbacks, "optimizer_states": optimizers}
        file("sd.ckpt", whole)
    done = dg("convert", "sd.ckpt", "-o", "out", "--without", "tokenizer")
    assert done.code == 0, done.err
    assert "Stable Diffusion 1.x" in done.err
    assert json.loads(Path("out/model_index.json").read_text())["safety_checker"] == [None, None]
    assert "tokenizer" not in json.loads(Path("out/model_index.json").read_text())


def test_latent_diffusion_runs(dg: Command) -> None:
    """From a text, from noise, and super-resolution: by the folder's name alone."""
    words = Path("words")
    words.mkdir()
    write_bert(words, "vocab.txt")
    count = len((words / "vocab.txt").read_text(encoding="utf-8").splitlines())
    plain = {"coder_width": 32, "codebook": 16}
    states = {
        "text2im": made.text2im(
            32, (1, 2), 1, (1,), text=24, depth=1, vocabulary=count, length=77, coder_width=32
        ),
        "faces": made.without_text(32, (1, 2), 1, (2,), **plain),
        "larger": made.without_text(32, (1, 2), 1, (2,), channels=6, **plain),
    }  # fmt: skip
    inputs: dict[str, dict[str, Any]] = {
        "text2im": {"prompt": "a green dog", "steps": 2, "guidance_scale": 3.0}, "faces": {"steps": 2},
    }  # fmt: skip
    for name, shapes in states.items():
        file(f"{name}.safetensors", made.random_state(shapes))
        parts = ("--part", "tokenizer=words") if name == "text2im" else ()
        done = dg("convert", f"{name}.safetensors", "-o", name, "--set", "sample_size=8", *parts)
        assert done.code == 0, done.err
        if name in inputs:
            image = Graph.load(name)(**inputs[name]).image
            assert image.shape == (1, 3, *((64, 64) if name == "text2im" else (32, 32)))
            assert bool(image.isfinite().all())
    Graph.load("larger").check()


def test_if_with_a_text_encoder_that_is_here(dg: Command) -> None:
    save_imagen(Path("imagen").absolute())
    for name, enlarges in (("one", False), ("two", True)):
        shapes = made.deepfloyd(64, (1, 2), 1, (2,), text=128, states=32, enlarges=enlarges)
        file(f"{name}.safetensors", made.random_state(shapes))
    done = dg(
        "convert", "two.safetensors", "-o", "second", "--without", "tokenizer", "--without", "text_encoder", "--set", "pooling_heads=4",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert Path("second/image_noising_scheduler/scheduler_config.json").is_file()
    parts = ("--part", "tokenizer=imagen/base/tokenizer", "--part", "text_encoder=imagen/base/text_encoder")
    done = dg("convert", "one.safetensors", "-o", "first", *parts, "--dtype", "fp16", "--set", "pooling_heads=4")
    assert done.code == 0, done.err
    encoder = load_file("first/text_encoder/model.safetensors")
    assert {value.dtype for value in encoder.values()} == {torch.float16}
    index = json.loads(Path("first/model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "T5EncoderModel"]
    image = Graph.load("first")(prompt="red", steps=2).image
    assert image.shape == (1, 3, 16, 16)
    assert bool(image.isfinite().all())


def test_an_autoencoder_alone(dg: Command) -> None:
    shapes = made.coder(32, (1, 2, 4), 3, codebook=16) | made.below("loss.discriminator.", made.layer("main.0", 4, 3))
    file("vq.safetensors", made.random_state(shapes))
    done = dg("convert", "vq.safetensors", "-o", "out")
    assert done.code == 0, done.err
    config = json.loads(Path("out/config.json").read_text())
    assert (config["_class_name"], config["scaling_factor"]) == ("VQModel", 1.0)


def test_the_tokenizer_comes_from_the_hub(server: HubServer, hub: Command, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "gpt2", 1024)
    files = {path.name: path.read_bytes() for path in (tmp_path / "gpt2").iterdir()}
    file("base.safetensors", glide(3))
    done = hub("convert", "base.safetensors", "-o", "out")
    refused(done, "tokenizer: ", "openai-community/gpt2", "--part tokenizer=FOLDER")
    server.commit("openai-community/gpt2", files)
    done = hub("convert", "base.safetensors", "-o", "out")
    assert done.code == 0, done.err
    assert Path("out/base/tokenizer.json").is_file()
    assert "| hf://openai-community/gpt2 |" in Path("out/README.md").read_text()


def test_offline_the_option_is_told(dg: Command) -> None:
    file("base.safetensors", glide(3))
    done = dg("convert", "base.safetensors", "-o", "out", "--offline")
    refused(done, "tokenizer: hf://openai-community/gpt2", "--part tokenizer=FOLDER")


# --- a package of its own ---------------------------------------------------------------------------------------------


def test_a_package_adds_an_original(dg: Command) -> None:
    state = {"lines.w": torch.arange(8.0).reshape(4, 2), "lines.b": torch.zeros(2), "age": torch.tensor(1.0)}
    file("old.safetensors", state)
    refused(dg("convert", "old.safetensors", "-o", "out", "--set", "units=foot"), "did you mean unit?")
    refused(dg("convert", "old.safetensors", "-o", "out", "--set", "unit=3"), "--set unit=3")
    done = dg("convert", "old.safetensors", "-o", "out", "--set", "unit=foot")
    assert done.code == 0, done.err
    assert torch.equal(load_file("out/linear/model.safetensors")["weight"], state["lines.w"][:2])
    assert json.loads(Path("out/linear/config.json").read_text())["unit"] == "foot"
    assert Graph.load("out")().norm == pytest.approx(14**0.5)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_unknown_file(dg: Command) -> None:
    file("other.safetensors", {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)})
    done = dg("convert", "other.safetensors", "-o", "out")
    refused(done, "its 2 tensors (a.weight, b.weight, ...) are of no system that is known")
    for name in ("GLIDE", "DDPM", "Stable Diffusion 1.x", "Stable Diffusion 2.x", "latent diffusion", "DeepFloyd IF"):
        assert name in done.err
    assert "temb.dense.0.weight" in done.err


KNOWN: dict[str, tuple[list[str], str]] = {
    "sdxl": (
        ["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.transformer.text_model.x",
         "first_stage_model.quant_conv.weight"],
        "is Stable Diffusion XL, which is not converted",
    ),
    "flux": (["double_blocks.0.img_attn.qkv.weight"], "is Flux, which is not converted"),
    "churches": (
        ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.quant_conv.weight", "scale_factor",
         "model.diffusion_model.output_blocks.2.2.in_layers.0.weight"],
        "whose residual blocks change sizes",
    ),
    "upscaler": (
        ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.weight",
         "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"],
        "is the x4 upscaler",
    ),
    "lora": (["lora_unet_down_blocks_0.lora_down.weight"], "adapters are not read here"),
    "library": (["down_blocks.0.resnets.0.norm1.weight"], "it needs no converting"),
    "adm": (["input_blocks.0.0.weight", "out.2.weight", "time_embed.0.weight"], "guided-diffusion"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_and_not_converted(name: str, dg: Command) -> None:
    tensors, told = KNOWN[name]
    file("other.safetensors", {tensor: torch.zeros(2) for tensor in tensors})
    refused(dg("convert", "other.safetensors", "-o", "out"), told, "those that are: ")


def test_version_2_does_not_tell_what_it_predicts(dg: Command) -> None:
    file("sd2.safetensors", stable_diffusion(2))
    given = ("convert", "sd2.safetensors", "-o", "out", "--without", "tokenizer")
    refused(dg(*given), "no tensor of a Stable Diffusion 2 tells what its network predicts", "prediction_type=epsilon")
    refused(dg(*given, "--set", "prediction_type=sample"), "prediction_type=v_prediction")
    done = dg(*given, "--set", "prediction_type=epsilon")
    assert done.code == 0, done.err
    assert json.loads(Path("out/unet/config.json").read_text())["sample_size"] == 64


Change = Callable[[State], object]
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda state: state.pop("down.1.block.0.conv2.bias"), "missing: down_blocks.1.resnets.0.conv2.bias [64]"),
    "left over": (
        lambda state: state.update({"down.0.block.9.conv2.bias": torch.zeros(3)}), "down.0.block.9.conv2.bias [3]",
    ),
    "misshapen": (
        lambda state: state.update({"norm_out.weight": torch.zeros(7)}), "norm_out.weight is F32 [7], the model's is [32]",
    ),
    "without its middle": (lambda state: state.pop("conv_in.weight"), "there is no tensor conv_in.weight"),
    "nan": (lambda state: state["conv_in.bias"].fill_(float("nan")), "conv_in.bias holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_another_network(name: str, dg: Command) -> None:
    """Twice: what was found of a file is not remembered as fine."""
    state = ddpm()
    change, told = WRONG[name]
    change(state)
    file("church.safetensors", state)
    for _ in range(2):
        refused(dg("convert", "church.safetensors", "-o", "out"), told)


def test_tensors_that_no_part_reads(dg: Command) -> None:
    """A file of a known system with something more is of a system that is not known."""
    state = stable_diffusion(1) | {"embedding_manager.a": torch.zeros(3)}
    file("more.safetensors", state)
    done = dg("convert", "more.safetensors", "-o", "out", "--without", "tokenizer")
    refused(
        done, "looks like Stable Diffusion 1.x, but holds 1 tensors that this does not have: embedding_manager.a [3]"
    )


def test_nan_in_a_part_that_is_read_later(dg: Command) -> None:
    """A file is remembered as free of it by no part alone."""
    state = made.random_state(made.without_text(32, (1, 2), 1, (2,), coder_width=32, codebook=16))
    state["model.diffusion_model.out.2.bias"].fill_(float("nan"))
    file("faces.safetensors", state)
    for _ in range(2):
        refused(dg("convert", "faces.safetensors", "-o", "out"), "model.diffusion_model.out.2.bias holds NaN")


class Evil:
    """What a pickle can do to whoever opens it carelessly."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("canary",)


def bomb(name: str) -> None:
    """An archive that unpacks to more than it holds."""
    torch.save({"a": torch.zeros(2**20)}, "plain.pt")
    with zipfile.ZipFile("plain.pt") as plain, zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))


def cut(name: str, **options: Any) -> None:
    torch.save(ddpm(), "whole.pt", **options)
    data = Path("whole.pt").read_bytes()
    Path(name).write_bytes(data[: len(data) * 2 // 3])


def safetensors_cut(name: str) -> None:
    save_file(ddpm(), "whole.safetensors")
    Path(name).write_bytes(Path("whole.safetensors").read_bytes()[:-100])


BAD: dict[str, tuple[Callable[[str], object], str]] = {
    "code.ckpt": (lambda name: torch.save({"state_dict": {"x": Evil()}}, name), "names posix.mkdir"),
    "code.pt": (lambda name: Path(name).write_bytes(pickle.dumps(Evil())), "the pickle is refused"),
    "code.safetensors": (lambda name: torch.save(ddpm(), name), "is a pickle under another name"),
    "cut.ckpt": (cut, "it was cut"),
    "legacy.ckpt": (lambda name: cut(name, _use_new_zipfile_serialization=False), "the pickle is refused"),
    "cut.safetensors": (safetensors_cut, "was cut"),
    "large.ckpt": (lambda name: torch.save({"a": torch.zeros(1).expand(2**14, 2**14)}, name), "larger than what is stored"),
    "bomb.ckpt": (bomb, "more than it holds"),
    "page.ckpt": (lambda name: Path(name).write_text("<html>404</html>"), "neither safetensors nor a pickle"),
    "empty.ckpt": (lambda name: Path(name).touch(), "neither safetensors nor a pickle"),
    "nothing.ckpt": (lambda name: torch.save({"epoch": 3}, name), "it holds no tensors"),
    "round.ckpt": (lambda name: torch.save(_round(), name), "it holds no tensors"),
    "absent.ckpt": (lambda name: None, "cannot be read: No such file"),
    "folder": (lambda name: Path(name).mkdir(), "is a folder"),
}  # fmt: skip


def _round() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, dg: Command, request: pytest.FixtureRequest) -> None:
    """Those that would run code are read as a user's are."""
    make, told = BAD[name]
    if not name.startswith("code."):
        request.getfixturevalue("read_here")
    make(name)
    refused(dg("convert", name, "-o", "out"), name, told)
    assert not Path("canary").exists()


def test_a_reader_that_takes_too_long(dg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffgraph.weights.pickles.SECONDS_AT_LEAST", 0.01)
    file("church.ckpt", ddpm())
    refused(dg("convert", "church.ckpt", "-o", "out"), "reading the pickle took more than")


def test_a_reader_that_needs_too_much_memory(dg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on the process that reads: with none to spare it ends, and this one goes on."""
    monkeypatch.setattr("diffgraph.weights.pickles.SPARE_BYTES", -(1 << 25))
    state = ddpm()
    file("church.ckpt", state)
    refused(dg("convert", "church.ckpt", "-o", "out"), "church.ckpt: the pickle is refused")


def test_options(dg: Command) -> None:
    file("base.safetensors", glide(3))
    given = ("convert", "base.safetensors", "-o", "out")
    refused(dg(*given, "--part", "vocabulary=x/y"), "--part vocabulary: no such part", "those that do: tokenizer")
    refused(dg(*given, "--without", "base"), "--without base: no such part")
    refused(dg(*given, "--set", "heads=3"), "--set heads: there is no such setting of GLIDE")
    refused(dg(*given, "--set", "heads"), "write NAME=VALUE")
    refused(dg("convert", "base.safetensors", "-o", "no/such"), "there is no folder")
    Path("taken").mkdir()
    Path("taken/file").touch()
    refused(dg("convert", "base.safetensors", "-o", "taken"), "taken is not empty")
    assert dg("convert", "base.safetensors").code == 2
    Path("empty").mkdir()
    assert dg("convert", "base.safetensors", "-o", "empty", "--without", "tokenizer").code == 0
    assert Path("empty/base/config.json").is_file()


def test_a_full_disk(dg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    file("church.safetensors", ddpm())
    for place in ("diffgraph.converting._write_index", "tempfile.TemporaryDirectory"):
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            refused(dg("convert", "church.safetensors", "-o", "out"), "out: cannot be written: No space left on device")


def test_recognising_needs_no_torch(dg: Command) -> None:
    script = "import sys; from diffgraph.converting import recognised; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
