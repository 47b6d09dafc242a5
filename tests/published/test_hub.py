"""The published checkpoints, from the Hub; and the very same on small ones, from a server on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.errors import DiffgraphError, HubError, WeightsError
from diffgraph.weights import hub
from diffgraph.weights.folders import open_folder

from ..graphs.test_import import OURS, PICTURES, REPOSITORIES, rewrite
from ..hub import users_hub
from ..hub_server import HubServer
from ..library import SEED
from .checkpoints import CHECKPOINTS, Checkpoint, try_checkpoint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the library's own, of NumPy


@pytest.fixture
def the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's Hub, with the user's cache and token. Where it does not answer, the whole run ends, and says so."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.default_hub.cache_clear()
    try:
        open_folder(f"hf://{CHECKPOINTS[0].repository}")
    except HubError as error:
        pytest.exit(f"these tests need the Hub: {error}", returncode=1)


@pytest.mark.hub
@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.repository)
def test_published(checkpoint: Checkpoint, the_hub: None, tmp_path: Path) -> None:
    """Downloads it, loads it key for key, and draws what diffusers draws of it."""
    try_checkpoint(checkpoint, tmp_path)


# --- the same, of small ones ------------------------------------------------------------------------------------------

KINDS = {checkpoint.kind: checkpoint for checkpoint in CHECKPOINTS}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with users_hub(tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The files of a small repository of a kind, with what published ones hold besides."""
    made: dict[str, dict[str, bytes]] = {}

    def write(kind: str) -> dict[str, bytes]:
        if kind not in made:
            with torch.random.fork_rng(devices=[]):
                folder = REPOSITORIES[kind](tmp_path_factory.mktemp("small") / kind)
            age(kind, folder)
            files = (path for path in folder.rglob("*") if path.is_file())
            made[kind] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        return dict(made[kind])

    return write


def age(kind: str, folder: Path) -> None:
    """Gives a repository what published ones of this kind have: pickles, a checker, no word of a scale."""
    if kind == "dit":
        for path in folder.rglob("*.safetensors"):
            stem = "pytorch_model" if path.stem == "model" else path.stem
            torch.save(load_file(path), path.with_name(f"{stem}.bin"))
            path.unlink()
    if kind == "ldm_unconditional":
        rewrite(folder / "vqvae/config.json", scaling_factor=None)
    if kind.startswith("stable_diffusion"):
        rewrite(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])


def smaller(kind: str) -> Checkpoint:
    """The published checkpoint of a kind, given what small networks take."""
    return replace(KINDS[kind], given=OURS[kind] | {"steps": 4}, picture=PICTURES.get(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_small(kind: str, server: HubServer, small: Callable[[str], dict[str, bytes]], tmp_path: Path) -> None:
    """One of each kind goes the whole way, under the published name."""
    server.commit(KINDS[kind].repository, small(kind) | {"flax_model.msgpack": b"not wanted", "README.md": b"#"})
    test_published(smaller(kind), None, tmp_path)
    assert server.count(r"GET .*(safetensors|\.bin)$") >= 1
    assert not server.count("msgpack")


def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "conv_in.bias"}


def with_one_more(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"conv_in.scale": torch.ones(1)}


@pytest.mark.parametrize(
    ("change", "said"), [(without_one, "1 missing: conv_in.bias"), (with_one_more, "1 left over: conv_in.scale")]
)
def test_other_keys_are_found(
    change: Callable[..., dict[str, torch.Tensor]], said: str, server: HubServer,
    small: Callable[[str], dict[str, bytes]], tmp_path: Path,
) -> None:  # fmt: skip
    files = small("ddpm")
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).write_bytes(files[weights])
    save_file(change(load_file(tmp_path / weights)), tmp_path / "changed.safetensors", metadata={"format": "pt"})
    server.commit(KINDS["ddpm"].repository, files | {weights: (tmp_path / "changed.safetensors").read_bytes()})
    with pytest.raises(WeightsError, match=re.escape(said)):
        try_checkpoint(smaller("ddpm"), tmp_path)


def test_another_picture_is_found(
    server: HubServer, small: Callable[[str], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the peer's another one, such as that of another seed, the comparison would say so."""
    monkeypatch.setattr("tests.library.SEED", SEED + 1)
    server.commit(KINDS["ddpm"].repository, small("ddpm"))
    with pytest.raises(AssertionError, match="differs by"):
        try_checkpoint(smaller("ddpm"), tmp_path)


def test_what_is_not_there_is_told(server: HubServer, tmp_path: Path) -> None:
    """Such as a repository that has moved, or one whose licence was not accepted."""
    with pytest.raises(DiffgraphError, match=KINDS["ddpm"].repository):
        try_checkpoint(smaller("ddpm"), tmp_path)


def test_never_run_by_default(request: pytest.FixtureRequest) -> None:
    if request.config.option.markexpr == "not hub":
        assert not [item for item in request.session.items if item.get_closest_marker("hub")]


def test_without_a_network_it_says_so_once(tmp_path: Path) -> None:
    """In no time, and as a failure."""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-m", "hub", "-p", "no:cacheprovider", "tests/published"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert said.count("these tests need the Hub: ") == 1
    assert "127.0.0.1" in said
    assert time.monotonic() - started < 60  # of which most are imports


def test_the_page_lists_them() -> None:
    """Each has a row in docs/published.md, and says there whether it was run."""
    page = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+/\S+) \|.*\| (.+) \|$", page, re.MULTILINE)
    assert [repository for repository, _ in rows] == [checkpoint.repository for checkpoint in CHECKPOINTS]
    assert all(ran for _, ran in rows)
