"""Folders that diffusers writes are read, and diffusers reads the folders that are written here.

Tolerance 1e-5: the same weights in another order of additions.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.errors import WeightsError
from diffgraph.nodes.models.unet2d import UNet2D
from diffgraph.nodes.schedulers.ddim import DDIMScheduler

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

TOLERANCE = 1e-5


@pytest.fixture
def theirs() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()


def difference(theirs: Any, ours: UNet2D) -> float:
    sample = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((theirs(sample, 10).sample - ours(sample, 10).value).abs().max())


@pytest.mark.parametrize(
    "options",
    [{}, {"safe_serialization": False}, {"max_shard_size": "100KB"}, {"variant": "fp16"}],
    ids=["safetensors", "pickle", "shards", "variant"],
)
def test_read_what_diffusers_writes(theirs: Any, options: dict[str, Any], tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or "max_shard_size" not in options
    assert difference(theirs, UNet2D.from_pretrained(tmp_path)) < TOLERANCE
    assert difference(theirs, UNet2D.from_pretrained(tmp_path, variant=options.get("variant"))) < TOLERANCE


def test_read_a_pipeline_in_both_layouts(theirs: Any, tmp_path: Path) -> None:
    diffusers.DDPMPipeline(theirs, diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path)
    for _ in range(2):
        assert difference(theirs, UNet2D.from_pretrained(tmp_path)) < TOLERANCE
        assert difference(theirs, UNet2D.from_pretrained(tmp_path, subfolder="unet")) < TOLERANCE
        assert DDIMScheduler.from_pretrained(tmp_path).config.beta_schedule == "squaredcos_cap_v2"
        for path in [*tmp_path.glob("unet/*"), *tmp_path.glob("scheduler/*")]:
            path.rename(tmp_path / path.name)  # as google/ddpm-* hold them
        for name in ("unet", "scheduler"):
            if (tmp_path / name).exists():
                (tmp_path / name).rmdir()


def test_diffusers_reads_what_is_written(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs")
    ours = UNet2D.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours")
    assert difference(again.eval(), ours) < TOLERANCE
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert {key: second[key] for key in first} == first
    half = UNet2D.from_pretrained(tmp_path / "ours", dtype="float16").save_pretrained(tmp_path / "half")
    assert half.size(["diffusion_pytorch_model.safetensors"]) < ours_size(tmp_path) * 0.6


def ours_size(folder: Path) -> int:
    return (folder / "ours" / "diffusion_pytorch_model.safetensors").stat().st_size


def test_another_class_is_named(tmp_path: Path) -> None:
    diffusers.AutoencoderKL(norm_num_groups=8, block_out_channels=(8,)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="this is an AutoencoderKL; UNet2D wants UNet2DModel"):
        UNet2D.from_pretrained(tmp_path)
