"""Tiny untrained weights for the shipped systems, and a small set of pictures to train on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers

from diffgraph.cli import main
from diffgraph.nodes.models.t5_encoder import T5Encoder, T5EncoderConfig
from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig
from diffgraph.nodes.models.unet_glide import UNetGLIDE, UNetGLIDEConfig
from diffgraph.nodes.models.unet_if import UNetIF, UNetIFConfig

from ..fill import fill
from ..nodes.test_unet_if import first_stage, second_stage

GRAPHS = Path(__file__).parents[2] / "graphs"
SMALL: dict[str, Any] = {
    "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_head_channels": 32,
    "attention_sizes": (8, 4), "text_context": 8, "text_width": 32, "text_layers": 1, "text_heads": 2,
    "vocab_size": 257, "learn_variance": True,
}  # fmt: skip
COSINE = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"}
LINEAR = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "use_clipped_model_output": True}


def write_tokenizer(folder: Path, length: int) -> None:
    """A vocabulary of the 256 bytes and the end of text, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.BPE(vocab=vocabulary, merges=[])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))


def write_scheduler(folder: Path, config: dict[str, Any]) -> None:
    (folder / "scheduler_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def glide_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GLIDE with OpenAI's settings: learned variance, cosine and linear betas. 8 pixels, then 16."""
    folder = tmp_path_factory.mktemp("glide")
    with torch.random.fork_rng(devices=[]):
        networks = {
            "base": UNetGLIDE(UNetGLIDEConfig(image_size=8, **SMALL)),
            "upsampler": UNetGLIDE(UNetGLIDEConfig(image_size=16, low_res_size=8, **SMALL)),
        }
    for name, network in networks.items():
        fill(network)
        network.save_pretrained(folder / name)
        write_scheduler(folder / name, COSINE if name == "base" else LINEAR)
    write_tokenizer(folder / "base", 8)
    return folder


@pytest.fixture(scope="session")
def ddpm_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny U-Net of DDPM with its scheduler's config."""
    folder = tmp_path_factory.mktemp("ddpm")
    config = UNet2DConfig(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        network = UNet2D(config)
    fill(network)
    network.save_pretrained(folder)
    write_scheduler(folder, {"_class_name": "DDPMScheduler"})
    return folder


def write_pieces(folder: Path, length: int) -> None:
    """A vocabulary of T5's form: letters as sentence pieces."""
    letters = [(letter, -3.0) for letter in ("▁", *"abcdefghijklmnopqrstuvwxyz")]
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    folder.mkdir(parents=True, exist_ok=True)
    model = {"type": "Unigram", "unk_id": 2, "vocab": [*special, *letters]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))


@pytest.fixture(scope="session")
def imagen_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Imagen in DeepFloyd IF's layout, with its schedulers' configs: base, 8 pixels, and upsampler, 16."""
    folder = tmp_path_factory.mktemp("imagen")
    tiny = {"encoder_hid_dim": 32, "addition_embed_type_num_heads": 4, "attention_head_dim": 16, "layers_per_block": 1}
    text = T5EncoderConfig(
        vocab_size=32, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng(devices=[]):
        modules = {
            "base/text_encoder": T5Encoder(text),
            "base/unet": UNetIF(UNetIFConfig(**(first_stage(32) | tiny | {"sample_size": 8}))),
            "upsampler/unet": UNetIF(
                UNetIFConfig(**(second_stage(32) | tiny | {"sample_size": 16, "time_embedding_dim": 64}))
            ),
        }
    for name, module in modules.items():
        fill(module)
        module.save_pretrained(folder / name)
    write_pieces(folder / "base/tokenizer", 512)
    for name, largest in (("base", 1.5), ("upsampler", 1.0)):
        threshold = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": largest}
        (folder / name / "scheduler").mkdir()
        write_scheduler(folder / name / "scheduler", COSINE | threshold)
    (folder / "upsampler/image_noising_scheduler").mkdir()
    write_scheduler(
        folder / "upsampler/image_noising_scheduler", {k: v for k, v in COSINE.items() if k != "variance_type"}
    )
    return folder


@pytest.fixture(scope="session")
def if_parts(imagen_parts: Path) -> dict[str, Path]:
    """Its two repositories, as inputs of imagen_if."""
    return {"weights": imagen_parts / "base", "upsampler_weights": imagen_parts / "upsampler"}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer that the training graphs need."""
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder, 16)
    return folder


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders with so many captioned pictures of discs and squares."""

    def make(count: int) -> Path:
        folder = tmp_path_factory.mktemp(f"data{count}-")
        with (folder / "metadata.jsonl").open("w") as metadata:
            for number in range(count):
                colour = ("red", "green", "blue", "orange")[number % 4]
                shape = "disc" if number % 8 < 4 else "square"
                picture = Image.new("RGB", (32, 32), "white")
                draw = ImageDraw.Draw(picture)
                box = (4 + number % 5, 6, 24 + number % 5, 26)
                (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
                picture.save(folder / f"{number:02}.png")
                metadata.write(json.dumps({"file_name": f"{number:02}.png", "text": f"{colour} {shape}"}) + "\n")
        return folder

    return make


@pytest.fixture(scope="session")
def data(make_data: Callable[[int], Path]) -> Path:
    """32 pictures."""
    return make_data(32)


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a folder, to break."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "damaged"))

    return copy


@pytest.fixture(autouse=True)
def no_global_randomness() -> Any:
    """Nothing here may draw from torch's own generator, nor leave it changed."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


class Done:
    """What a command said and how it ended."""

    def __init__(self, exit_code: int, stdout: str, stderr: str) -> None:
        self.exit_code, self.stdout, self.stderr = exit_code, stdout, stderr

    def says(self, pattern: str) -> None:
        """Holds that standard error matches, and is for a user."""
        assert re.search(pattern, self.stderr), self.stderr
        assert "Traceback" not in self.stderr
        assert "fault of diffgraph" not in self.stderr


Cli = Callable[..., Done]


@pytest.fixture
def cli() -> Cli:
    """The command line, in this process: `cli("run", path, "--prompt", "red apple")`."""

    def call(*args: Any) -> Done:
        done = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="diffgraph")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return call
