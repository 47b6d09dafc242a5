"""GLIDE's cascade end to end, with tiny networks that have all that the published ones have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffgraph.builder import Graph
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.text.tokenizer import Tokenizer
from diffgraph.running.run import Event
from diffgraph.session import Options

from ..engine.lab import Lab
from ..parity import agree
from .conftest import GRAPHS

GLIDE = GRAPHS / "glide.yaml"
CPU = Options(device="cpu")
FEW: dict[str, Any] = {"steps": "6", "upsampler_steps": "4", "prompt": "a cat", "negative_prompt": "blur"}

# The retained timesteps of the published demo (OpenAI's glide-text2im, respacing "100" and "fast27" of 1000).
FAST27 = [
    0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399, 400, 500, 599, 600,
    799, 800, 997,
]  # fmt: skip
HUNDRED = [round(i * 999 / 99) for i in range(100)]


# --- a batch, and what another seed costs ----------------------------------------------------------------------------


def test_an_image_of_a_batch_is_that_of_its_own_seed(tmp_path: Path) -> None:
    """Image i of a batch is made alone by seed + i: to 1e-5, since a batch is multiplied in another order."""
    lab = Lab(tmp_path)
    given = {"prompt": "red apple", "steps": "6", "upsampler_steps": "4"}
    batch = lab.run(GLIDE, CPU, num_images=4, seed=11, **given)["image"]
    assert batch.shape == (4, 3, 64, 64)
    for i in range(4):
        alone = lab.run(GLIDE, CPU, num_images=1, seed=11 + i, **given)["image"]
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-5)
    assert (batch[0] - batch[1]).abs().max() > 0.1


def test_an_image_of_a_batch_from_a_network_of_epsilon(glide_parts: Path, tmp_path: Path) -> None:
    """The same to 1e-3: at t = 999 of the cosine, x_0 is 20,000 times the rounding error of epsilon."""
    lab = Lab(tmp_path)
    given = FEW | {"weights": glide_parts}
    batch = lab.run(GLIDE, CPU, num_images=3, seed=11, **given)["image"]
    for i in range(3):
        alone = lab.run(GLIDE, CPU, num_images=1, seed=11 + i, **given)["image"]
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-3)


def test_the_noise_of_a_batch_is_that_of_its_seeds_to_the_bit(glide_parts: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    Lab(tmp_path).prepare(GLIDE, CPU, num_images=4, seed=11, weights=glide_parts, **FEW).run([heard.append])
    noise = {
        event.path: event.value.sample for event in heard if event.kind == "finished" and event.path.endswith("noise")
    }
    assert noise.keys() == {"small.noise", "large.noise"}
    for i in range(4):
        generator = torch.Generator().manual_seed(11 + i)
        draws = [torch.randn((1, 3, 8, 8), generator=generator) for _ in range(6)]  # the start, and 5 of 6 steps
        assert torch.equal(noise["small.noise"][i : i + 1], draws[0])
        assert torch.equal(noise["large.noise"][i : i + 1], 0.997 * torch.randn((1, 3, 16, 16), generator=generator))


def test_another_seed_reads_no_text(glide_parts: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    given = FEW | {"weights": glide_parts}
    lab.run(GLIDE, CPU, seed=0, **given)
    assert {"tokens", "no_tokens", "text", "no_text", "hint"} <= set(lab.ran)
    assert set(lab.loaded) == {"tokenizer", "base", "upsampler", "ancestral", "ddim"}

    lab.run(GLIDE, CPU, seed=1, **given)
    assert not {"tokens", "no_tokens", "text", "no_text"} & set(lab.ran)
    assert "tokenizer" not in lab.loaded  # and the networks are, since they denoise
    assert {"hint", "small.denoise.stepped", "large.denoise.prediction"} <= set(lab.ran)


def test_other_steps_of_the_large_image_leave_the_small_one(glide_parts: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    first = lab.run(GLIDE, CPU, weights=glide_parts, **FEW)
    second = lab.run(GLIDE, CPU, weights=glide_parts, **FEW | {"upsampler_steps": "3"})
    assert set(lab.loaded) == {"upsampler", "ddim"}
    assert not [path for path in lab.ran if path.startswith("small.")]
    assert not torch.equal(first["image"], second["image"])


def test_the_same_again_runs_and_loads_nothing(glide_parts: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    first = lab.run(GLIDE, CPU, weights=glide_parts, **FEW)
    again = lab.run(GLIDE, CPU, weights=glide_parts, **FEW)
    assert (lab.ran, lab.loaded) == ([], [])
    assert torch.equal(first["image"], again["image"])


# --- by hand ---------------------------------------------------------------------------------------------------------


def cosine_levels() -> Any:
    """alpha_cumprod of betas min(1 - f(t+1)/f(t), 0.999), f = cos^2 (arXiv:2102.09672, eq. 17)."""
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    return np.cumprod([1 - min(1 - f[t + 1] / f[t], 0.999) for t in range(1000)])


def linear_levels() -> Any:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


@torch.no_grad()
def by_hand(
    folder: Path, prompt: str, negative: str, seed: int, scale: float, base_steps: list[int], upsampler_steps: list[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """GLIDE for one image, as its paper and the published demo have it; x after every step of both networks."""
    base, upsampler = UNetGLIDE.from_pretrained(folder / "base"), UNetGLIDE.from_pretrained(folder / "upsampler")
    tokenizer = Tokenizer.from_pretrained(folder / "base")
    generator = torch.Generator().manual_seed(seed)

    told = base.condition(tokenizer(prompt)), base.condition(tokenizer(negative))
    levels = cosine_levels()[base_steps]
    x = torch.randn((1, 3, 8, 8), generator=generator)
    small = []
    for i in reversed(range(len(base_steps))):
        cond, uncond = (base(x, base_steps[i], condition) for condition in told)
        epsilon = uncond.value + scale * (cond.value - uncond.value)
        level, before = levels[i], levels[i - 1] if i else 1.0
        beta = 1 - level / before  # of the respaced process
        posterior = beta * (1 - before) / (1 - level)
        clean = ((x - math.sqrt(1 - level) * epsilon) / math.sqrt(level)).clamp(-1, 1)
        x = (
            math.sqrt(before) * beta / (1 - level) * clean + math.sqrt(1 - beta) * (1 - before) / (1 - level) * x
        )  # arXiv:2006.11239, eq. 7
        if i:
            share = (cond.variance + 1) / 2  # arXiv:2102.09672, eq. 15
            deviation = (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()
            x = x + deviation * torch.randn((1, 3, 8, 8), generator=generator)
        small.append(x)

    low_res = ((x + 1) * 127.5).round() / 127.5 - 1
    hint = upsampler.condition(tokenizer(prompt), low_res=low_res)
    enlarged = F.interpolate(low_res, (16, 16), mode="bilinear", align_corners=False)
    assert hint.hint is not None
    torch.testing.assert_close(hint.hint, enlarged)
    levels = linear_levels()[upsampler_steps]
    x = 0.997 * torch.randn((1, 3, 16, 16), generator=generator)
    large = []
    for i in reversed(range(len(upsampler_steps))):
        epsilon = upsampler(x, upsampler_steps[i], hint).value
        level, before = levels[i], levels[i - 1] if i else 1.0
        clean = ((x - math.sqrt(1 - level) * epsilon) / math.sqrt(level)).clamp(-1, 1)
        epsilon = (x - math.sqrt(level) * clean) / math.sqrt(1 - level)  # of the clipped image
        x = math.sqrt(before) * clean + math.sqrt(1 - before) * epsilon  # arXiv:2010.02502, eq. 12, sigma 0
        large.append(x)
    return small, large


def test_the_cascade_is_the_paper_step_for_step(glide_parts: Path, tmp_path: Path) -> None:
    """100 guided ancestral steps, 8 bits, 27 steps of DDIM from noise times 0.997; to 2e-4 after all of them.

    The graph guides both halves in one batch, so sums are in another order, which 100 steps of an untrained network
    amplify; the first ten steps agree to 1e-5.
    """
    heard: list[Event] = []
    outputs = Lab(tmp_path).prepare(
        GLIDE, CPU, prompt="a cat", negative_prompt="blur", seed=3, guidance_scale=3.0, weights=glide_parts,
        variant="openai",
    ).run([heard.append])  # fmt: skip
    small, large = by_hand(glide_parts, "a cat", "blur", 3, 3.0, HUNDRED, FAST27)
    for path, expected in (("small", small), ("large", large)):
        done = [e.value.sample for e in heard if e.kind == "finished" and e.path == f"{path}.denoise.stepped"]
        assert len(done) == len(expected) == (100 if path == "small" else 27)
        for number, (ours, theirs) in enumerate(zip(done, expected, strict=True)):
            tolerance = 1e-5 if path == "small" and number < 10 else 2e-4
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
        agree("glide", "the algorithm by hand", done[-1], expected[-1], tolerance=2e-4, what=path)
    assert torch.equal(outputs["image"], done[-1])
    timesteps = [e.total for e in heard if e.kind == "step"]
    assert timesteps.count(100) == 100
    assert timesteps.count(27) == 27


def test_guidance_one_is_the_conditioned_model(glide_parts: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    off = lab.run(GLIDE, CPU, weights=glide_parts, guidance_scale=1.0, **FEW)
    other = lab.run(GLIDE, CPU, weights=glide_parts, guidance_scale=1.0, **FEW | {"negative_prompt": "something else"})
    on = lab.run(GLIDE, CPU, weights=glide_parts, guidance_scale=2.0, **FEW)
    torch.testing.assert_close(off["image"], other["image"], rtol=0, atol=1e-6)
    assert (off["image"] - on["image"]).abs().max() > 1e-3


# --- precision, other parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 0.02), ("bf16", 0.1)])
def test_half_precision(glide_parts: Path, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """The weights are rounded to 11 and 8 bits; a few steps of each network keep the mean error in that order."""
    full = Lab(tmp_path / "full").run(GLIDE, CPU, weights=glide_parts, **FEW)["image"]
    half = Lab(tmp_path / "half").run(GLIDE, Options(device="cpu", dtype=dtype), weights=glide_parts, **FEW)["image"]
    assert bool(half.isfinite().all())
    assert 0 < (half.float() - full).abs().mean() < tolerance


def test_another_solver_by_set(glide_parts: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    sets = {"ancestral.node": "DDIMScheduler"}
    image = lab.run(GLIDE, CPU, weights=glide_parts, sets=sets, **FEW)["image"]
    assert bool(image.isfinite().all())
    assert not torch.equal(image, lab.run(GLIDE, CPU, weights=glide_parts, **FEW)["image"])


def test_in_python(glide_parts: Path) -> None:
    result = Graph.load(GLIDE)(weights=str(glide_parts), num_images=2, options=Options("cpu", cache=False), **FEW)
    pictures = result.image.pil()
    assert [picture.size for picture in pictures] == [(16, 16), (16, 16)]


# --- the weights that are shipped ------------------------------------------------------------------------------------


def test_the_shipped_weights_tell_colours_apart(tmp_path: Path) -> None:
    """A few steps are enough for the colour that a prompt names."""
    lab = Lab(tmp_path)

    def colour(prompt: str) -> torch.Tensor:
        image: torch.Tensor = lab.run(GLIDE, CPU, prompt=prompt, num_images=2, steps="8", upsampler_steps="3")["image"]
        assert image.shape == (2, 3, 64, 64)
        assert bool(image.isfinite().all())
        return image.clamp(-1, 1).mean(dim=(0, 2, 3))

    red, blue = colour("red apple"), colour("blue car")
    assert red[0] - red[2] > blue[0] - blue[2] + 0.1
