"""Tiny untrained weights for the shipped systems, and a small set of pictures to train on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from diffgraph.cli import main

from ..parts import (
    save_clip,
    save_codebook,
    save_data,
    save_ddpm,
    save_dit,
    save_glide,
    save_glide_inpaint,
    save_imagen,
    save_ldm,
    save_photo,
    write_tokenizer,
)

GRAPHS = Path(__file__).parents[2] / "graphs"


@pytest.fixture(scope="session")
def glide_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GLIDE: 8 pixels, then 16."""
    return save_glide(tmp_path_factory.mktemp("glide"))


@pytest.fixture(scope="session")
def glide_inpaint_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GLIDE made for inpainting."""
    return save_glide_inpaint(tmp_path_factory.mktemp("glide_inpaint"))


@pytest.fixture(scope="session")
def ddpm_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny U-Net of DDPM with its scheduler's config."""
    return save_ddpm(tmp_path_factory.mktemp("ddpm"))


@pytest.fixture(scope="session")
def imagen_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Imagen: base, 8 pixels, and upsampler, 16."""
    return save_imagen(tmp_path_factory.mktemp("imagen"))


@pytest.fixture(scope="session")
def ldm_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny latent diffusion: 8 x 8 latents, 16 pixels."""
    return save_ldm(tmp_path_factory.mktemp("ldm"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, and a mask that covers its right half."""
    return save_photo(tmp_path_factory.mktemp("photo"))


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer that the training graphs need."""
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder, 16)
    return folder


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders with so many captioned pictures of discs and squares."""
    return lambda count: save_data(tmp_path_factory.mktemp(f"data{count}-"), count)


@pytest.fixture(scope="session")
def if_parts(imagen_parts: Path) -> dict[str, Path]:
    """Its two repositories, as inputs of imagen_if."""
    return {"weights": imagen_parts / "base", "upsampler_weights": imagen_parts / "upsampler"}


@pytest.fixture(scope="session")
def if_base_parts(if_parts: dict[str, Path]) -> Path:
    """The repository of its first stage."""
    return if_parts["weights"]


@pytest.fixture(scope="session")
def dit_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DiT."""
    return save_dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="session")
def clip_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion."""
    return save_clip(tmp_path_factory.mktemp("clip"), 4)


@pytest.fixture(scope="session")
def inpainting_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion made for inpainting."""
    return save_clip(tmp_path_factory.mktemp("inpainting"), 9)


@pytest.fixture(scope="session")
def codebook_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ldm_unconditional."""
    return save_codebook(tmp_path_factory.mktemp("codebook"), 3)


@pytest.fixture(scope="session")
def super_resolution_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ldm_super_resolution: the U-Net sees a small picture beside the latents."""
    return save_codebook(tmp_path_factory.mktemp("super_resolution"), 6)


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
