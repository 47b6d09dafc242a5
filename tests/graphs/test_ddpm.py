"""The graph ddpm beside the library's pipelines, with the same weights and the same draws."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.running.run import Event
from diffgraph.session import Options

from ..engine.lab import Lab
from ..fill import randomise
from ..nodes.test_unet2d import CHURCH, CIFAR
from ..nodes.test_unet2d import DDPM as DDPM_LAYOUT
from ..parity import agree
from .conftest import GRAPHS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

DDPM = GRAPHS / "ddpm.yaml"
CPU = Options(device="cpu")
Library: Any = diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the library's own, of NumPy


SMALL = DDPM_LAYOUT | {
    "sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {  # as published, but narrow: the variants of 256 pixels have one layout
    "cifar10": CIFAR | {"sample_size": 16, "block_out_channels": (32,) * 4},
    "church, bedroom, cat, celebahq": CHURCH | {"sample_size": 64, "block_out_channels": (32,) * 6},
}
SOLVERS = {
    "DDIMScheduler": "DDIMScheduler",
    "PNDMScheduler": "PNDMScheduler",
    "DEISMultistepScheduler": "DEISScheduler",
}


def write_ddpm(folder: Path, config: dict[str, Any] = SMALL, share: float = 1.0) -> Any:
    """A folder as google/ddpm-* have it, all files at its root, and the pipeline that wrote it.

    share: of what the random network predicts.
    """
    unet = Library.UNet2DModel(**config).eval()
    randomise(unet, seed=1)
    unet.conv_out.weight.data *= share
    pipeline = Library.DDPMPipeline(unet, Library.DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            shutil.move(file, folder / file.name)
        (folder / part).rmdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors", "model_index.json", "scheduler_config.json",
    ]  # fmt: skip
    return pipeline


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Its folder, and the pipeline that wrote it."""
    folder = tmp_path_factory.mktemp("published")
    return folder, write_ddpm(folder)


def theirs(pipeline: Any, seeds: list[int], **given: Any) -> torch.Tensor:
    """The library's images, in [-1, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(batch_size=len(seeds), generator=generators, output_type="np", **given).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


@pytest.mark.parametrize("steps", [1000, 40])
def test_ddpm_is_the_librarys(published: tuple[Path, Any], tmp_path: Path, steps: int) -> None:
    """All steps of a published model, or some of them. 1e-4 after a thousand steps: fp32 sums in another order."""
    folder, pipeline = published
    seeds = [5] if steps == 1000 else [5, 6, 7]
    images = Lab(tmp_path).run(DDPM, CPU, weights=folder, seed=5, num_images=len(seeds), steps=steps)["image"]
    expected = theirs(pipeline, seeds, num_inference_steps=steps)
    agree("ddpm", "diffusers DDPMPipeline", images.clamp(-1, 1), expected, tolerance=1e-4, what=f"{steps} steps")
    assert expected.std() > 0.1


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Each published layout, with networks that predict a twentieth: early steps of a solver that draws no noise, and
    makes x_0 of a prediction at t = 900, enlarge a rounding error sixty times, and keep it.
    """
    found = {}
    for layout, config in LAYOUTS.items():
        folder = tmp_path_factory.mktemp("narrow")
        found[layout] = folder, write_ddpm(folder, config, share=0.05)
    return found


@pytest.mark.parametrize("solver", ["DDPMScheduler", *SOLVERS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_librarys(
    narrow: dict[str, tuple[Path, Any]], tmp_path: Path, layout: str, solver: str
) -> None:
    """By its own scheduler, and by others that `--set` names. The library has a pipeline of the first two; the others are
    called step by step, and not clipped.
    """
    (folder, pipeline), sets = narrow[layout], {"scheduler.node": SOLVERS.get(solver, solver)}
    images = Lab(tmp_path).run(DDPM, CPU, weights=folder, seed=5, num_images=2, steps=10, sets=sets)["image"]
    scheduler = getattr(Library, solver).from_pretrained(folder)
    if solver in ("DDPMScheduler", "DDIMScheduler"):
        peer = getattr(Library, solver.replace("Scheduler", "Pipeline"))(pipeline.unet, scheduler)
        peer.set_progress_bar_config(disable=True)
        expected, images = theirs(peer, [5, 6], num_inference_steps=10), images.clamp(-1, 1)
    else:
        expected = walked(pipeline.unet, scheduler, [5, 6], 10)
    agree("ddpm", f"diffusers {solver}", images, expected, tolerance=1e-4, what=layout)
    assert expected.std() > 0.1


def walked(unet: Any, scheduler: Any, seeds: list[int], steps: int) -> torch.Tensor:
    """What a scheduler of the library makes of noise, and of the network's predictions."""
    size = unet.config.sample_size
    sample = torch.cat([torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(s)) for s in seeds])
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            sample = scheduler.step(unet(sample, timestep).sample, timestep, sample).prev_sample
    return sample


def test_the_last_step_draws_no_noise(published: tuple[Path, Any], tmp_path: Path) -> None:
    """As in algorithm 2 of the paper (z = 0 if t = 1): N steps draw the start and N - 1 times more."""
    heard: list[Event] = []
    Lab(tmp_path).prepare(DDPM, CPU, weights=published[0], seed=5, steps=4).run([heard.append])
    stepped = [e.value for e in heard if e.kind == "finished" and e.path == "sampled.denoise.stepped"]
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        torch.randn((1, 3, 8, 8), generator=generator)
    assert torch.equal(stepped[-1].rng.states[0], generator.get_state())
    assert torch.equal(stepped[-2].rng.states, stepped[-1].rng.states)


def test_a_published_config_of_2022(published: tuple[Path, Any], tmp_path: Path) -> None:
    """With nothing but the keys that the config files of google/ddpm-* have."""
    folder = tmp_path / "old"
    shutil.copytree(published[0], folder)
    config = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
    }
    config |= {"beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None}
    (folder / "scheduler_config.json").write_text(json.dumps(config | {"variance_type": "fixed_small"}))
    given = {"seed": 5, "steps": 10}
    images = [Lab(tmp_path / "a").run(DDPM, CPU, weights=place, **given)["image"] for place in (folder, published[0])]
    assert torch.equal(*images)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 0.02), ("bf16", 0.1)])
def test_half_precision(published: tuple[Path, Any], tmp_path: Path, dtype: str, tolerance: float) -> None:
    given = {"weights": published[0], "seed": 5, "steps": 10}
    full = Lab(tmp_path).run(DDPM, CPU, **given)["image"]
    half = Lab(tmp_path).run(DDPM, Options(device="cpu", dtype=dtype), **given)["image"]
    assert bool(half.isfinite().all())
    assert 0 < (half.float() - full).abs().mean() < tolerance
