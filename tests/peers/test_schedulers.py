"""DDPM and DDIM schedulers beside the published library, step by step, over their configs.

The library keeps its tables in float32 and this project in float64; where a table's float32 digits decide (cosine
betas, zero terminal SNR), the library is given its own table in float64, so that what is compared is the arithmetic.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from diffgraph.nodes.draw import normal, seeded
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from tests.parity import agree

BATCH = (2, 3, 8, 8)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


def toy(scaled: Tensor, timestep: int, channels: int) -> Tensor:
    """What stands for a network: bounded, nowhere linear, different in every channel."""
    waves = [torch.sin((1.3 + 0.4 * i) * scaled + timestep / 200 + i) for i in range(channels // 3)]
    return torch.cat(waves, dim=1)


def peer(cls: Any, config: dict[str, Any], ours: Any) -> Any:
    """The library's scheduler, with float64 tables."""
    theirs = cls.from_config(config)
    table = torch.from_numpy(np.ascontiguousarray(ours.alpha_cumprod))
    torch.testing.assert_close(theirs.alphas_cumprod.double(), table, rtol=2e-3, atol=1e-6)
    theirs.alphas_cumprod = table
    if hasattr(theirs, "final_alpha_cumprod"):
        theirs.final_alpha_cumprod = torch.tensor(1.0) if config.get("set_alpha_to_one", True) else table[0]
    return theirs


def compare(ours: Any, theirs: Any, steps: int, learned: bool, **options: Any) -> None:
    """Walks both from the same noise; each step of ours starts where theirs is, so that errors do not add up."""
    schedule = ours.schedule(steps)
    theirs.set_timesteps(steps)
    assert [step.timestep for step in schedule] == theirs.timesteps.tolist()
    x, rng = normal(seeded([11, 12]), BATCH[1:])
    for step in schedule:
        timestep = int(step.timestep)
        out = toy(x, timestep, 6 if learned else 3)
        if learned:  # a variance itself is positive; a place in the range is not
            value, variance = out.split(3, dim=1)
            variance = variance.square() + 0.01 if ours.config.variance_type == "learned" else variance
            out, prediction = torch.cat([value, variance], dim=1), Prediction(value, variance)
        else:
            prediction = Prediction(out)
        generators = [torch.Generator() for _ in range(BATCH[0])]
        for generator, state in zip(generators, rng.states, strict=True):
            generator.set_state(state.clone())
        wanted = theirs.step(out, timestep, x, generator=generators, **options)
        got = ours.step(prediction, x, step, None, rng)
        part, library = type(ours).__name__, f"diffusers {type(theirs).__name__}"
        # 1e-5 of the largest value: both compute in float32, with their operations in another order
        original = ours.original(prediction, x, step)
        agree(part, library, original, wanted.pred_original_sample.float(), what="clean estimate")
        last_noise = step.next == -1 and timestep > 0 and isinstance(ours, DDPMScheduler)
        if not last_noise:  # the library adds noise to the finished picture where the last timestep is not 0
            agree(part, library, got.sample, wanted.prev_sample.float(), what="step")
        x, rng = wanted.prev_sample.float(), got.rng


DDPM_CONFIGS = [
    {**betas, "prediction_type": prediction, "timestep_spacing": spacing, "variance_type": variance, **clip}
    for betas, prediction, (spacing, clip), variance in itertools.product(
        ({}, SD, COSINE),
        PREDICTIONS,
        (
            ("leading", {}),
            ("linspace", {"clip_sample_range": 2.5}),
            ("trailing", {"thresholding": True, "sample_max_value": 1.5}),
            ("leading", {"clip_sample": False, "steps_offset": 1}),
        ),
        ("fixed_small", "fixed_large", "learned_range"),
    )
    # without a clip, x_0 from epsilon is a division by sqrt(alpha_cumprod) of 5e-5: no digits to compare
    if not (betas is COSINE and prediction == "epsilon" and not clip.get("clip_sample", True))
]


@pytest.mark.parametrize("config", DDPM_CONFIGS, ids=lambda config: json.dumps(config))
def test_ddpm_step_by_step(config: dict[str, Any]) -> None:
    ours = DDPMScheduler(DDPMConfig(**config))
    learned = config["variance_type"] == "learned_range"
    for steps in (7, 25):
        compare(ours, peer(diffusers.DDPMScheduler, config, ours), steps, learned)


@pytest.mark.parametrize("variance", ["fixed_small_log", "learned"])
@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_ddpm_rarer_options(variance: Any, schedule: Any) -> None:
    config = {"variance_type": variance, "beta_schedule": schedule}
    ours = DDPMScheduler(DDPMConfig(**config))
    compare(ours, peer(diffusers.DDPMScheduler, config, ours), 20, variance == "learned")


def test_ddpm_all_thousand() -> None:
    """google/ddpm-* as published: linear betas, clipped, small variance, every timestep."""
    ours = DDPMScheduler(DDPMConfig())
    compare(ours, peer(diffusers.DDPMScheduler, {}, ours), 1000, False)


DDIM_CONFIGS = [
    {**betas, "prediction_type": prediction, "timestep_spacing": spacing, **clip}
    for betas, prediction, spacing, clip in itertools.product(
        ({}, SD, COSINE),
        PREDICTIONS,
        SPACINGS,
        (
            {},
            {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0},
            {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
        ),
    )
    if not (betas is COSINE and prediction == "epsilon" and not clip.get("clip_sample", True))
]


@pytest.mark.parametrize("config", DDIM_CONFIGS, ids=lambda config: json.dumps(config))
def test_ddim_step_by_step(config: dict[str, Any]) -> None:
    for steps, eta, clipped in ((7, 0.0, False), (10, 0.3, True), (25, 1.0, False)):
        ours = DDIMScheduler(DDIMConfig(**config, eta=eta, use_clipped_model_output=clipped))
        theirs = peer(diffusers.DDIMScheduler, config, ours)
        compare(ours, theirs, steps, False, eta=eta, use_clipped_model_output=clipped)


@pytest.mark.parametrize("slope", [1.3, 2.0])
def test_ddim_whole_runs(slope: float) -> None:
    """With the library's table in float64, 25 steps end in the same bits: no step of ours loses anything.

    As the library is, with a table of float32, whose 1 - alpha_cumprod is right to 2e-4 at t = 0, the runs part as far as
    the network makes of that: for this one of slope 2, by what a change of one part in 1e7 of the noise makes too.
    """
    noise, rng = normal(seeded([11, 12]), BATCH[1:])
    shift = torch.arange(3.0).reshape(3, 1, 1)

    def library(x: Tensor, **tables: Tensor) -> Tensor:
        theirs = diffusers.DDIMScheduler()
        theirs.alphas_cumprod = tables.get("table", theirs.alphas_cumprod)
        theirs.set_timesteps(25)
        for timestep in theirs.timesteps:
            x = theirs.step(torch.sin(slope * x + timestep / 200 + shift), timestep, x).prev_sample.float()
        return x

    ours = DDIMScheduler(DDIMConfig())
    x = noise
    for step in ours.schedule(25):
        value = torch.sin(slope * x + torch.tensor(step.timestep) / 200 + shift)
        x = ours.step(Prediction(value), x, step, None, rng).sample
    exact = library(noise, table=torch.from_numpy(ours.alpha_cumprod))
    agree("DDIMScheduler", "diffusers DDIMScheduler, float64 table", x, exact, tolerance=1e-7, what=f"slope {slope}")
    changed = library(noise * (1 + 1e-7), table=torch.from_numpy(ours.alpha_cumprod))
    # ten times what that change makes: one trial of a digit is no bound
    tolerance = max(1e-5, 10 * float((changed - exact).abs().max() / exact.abs().max()))
    assert tolerance < 1e-2
    agree("DDIMScheduler", "diffusers DDIMScheduler", x, library(noise), tolerance=tolerance, what=f"slope {slope}")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_zero_terminal_snr(spacing: Any) -> None:
    config = {
        **SD,
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "timestep_spacing": spacing,
        "clip_sample": False,
    }
    ours = DDIMScheduler(DDIMConfig(**config))
    assert ours.alpha_cumprod[-1] == 0
    compare(ours, peer(diffusers.DDIMScheduler, config, ours), 20, False)


def test_trained_betas() -> None:
    config = {"trained_betas": [0.01, 0.02, 0.05, 0.2, 0.4], "num_train_timesteps": 5}
    ours = DDPMScheduler(DDPMConfig(trained_betas=(0.01, 0.02, 0.05, 0.2, 0.4), num_train_timesteps=5))
    compare(ours, peer(diffusers.DDPMScheduler, config, ours), 5, False)


def test_the_timesteps_of_every_count() -> None:
    """But for those counts where the library's `trailing` lists one timestep too many, the last of them -1."""
    for spacing, offset in (("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)):
        ours = DDIMScheduler(DDIMConfig(timestep_spacing=spacing, steps_offset=offset))
        theirs = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
        for steps in range(1, 1001 - offset):
            theirs.set_timesteps(steps)
            wanted = theirs.timesteps.tolist()
            listed = [step.timestep for step in ours.schedule(steps)]
            assert len(listed) == steps
            assert listed == (wanted[:steps] if spacing == "trailing" else wanted)
            assert wanted[steps:] in ([], [-1])


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, SD, {**SD, "rescale_betas_zero_snr": True}], ids=["linear", "SD", "zero-snr"])
def test_noise_and_velocity(config: dict[str, Any]) -> None:
    ours = DDPMScheduler(DDPMConfig(**config, prediction_type="v_prediction"))
    theirs = diffusers.DDPMScheduler.from_config({**config, "prediction_type": "v_prediction"})
    timestep = torch.tensor([0, 1, 250, 999])
    sample, noise = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    wanted = theirs.add_noise(sample, noise, timestep)
    # 2e-5: the library's alpha_cumprod has float32 digits, of which 1 - alpha_cumprod at t = 0 keeps four
    torch.testing.assert_close(ours.add_noise(sample, noise, timestep), wanted, rtol=0, atol=2e-5)
    velocity = theirs.get_velocity(sample, noise, timestep)
    torch.testing.assert_close(ours.velocity(sample, noise, timestep), velocity, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.target(sample, noise, timestep), velocity, rtol=0, atol=2e-5)
    for row, t in enumerate(timestep.tolist()):
        one = ours.add_noise(sample[row : row + 1], noise[row : row + 1], t)
        torch.testing.assert_close(one, wanted[row : row + 1], rtol=0, atol=2e-5)


def test_snr_of_the_library() -> None:
    from diffusers.training_utils import compute_snr

    timestep = torch.arange(0, 1000, 37)
    wanted = compute_snr(diffusers.DDPMScheduler(), timestep)
    torch.testing.assert_close(DDPMScheduler(DDPMConfig()).snr(timestep), wanted, rtol=1e-3, atol=0)


# --- configs --------------------------------------------------------------------------------------------------------


def test_saving_what_the_library_reads(tmp_path: Any) -> None:
    ours = DDPMScheduler(DDPMConfig(variance_type="learned_range", beta_schedule="squaredcos_cap_v2", steps_offset=1))
    ours.save_pretrained(tmp_path)
    theirs = diffusers.DDPMScheduler.from_pretrained(tmp_path)
    assert (theirs.config.variance_type, theirs.config.beta_schedule, theirs.config.steps_offset) == (
        "learned_range",
        "squaredcos_cap_v2",
        1,
    )
    assert DDPMScheduler.from_pretrained(tmp_path).config == ours.config
    # another scheduler from the same file, with a field replaced
    swapped = DDIMScheduler.from_pretrained(tmp_path, eta=0.5)
    assert swapped.config.eta == 0.5
    swapped.save_pretrained(tmp_path)
    assert DDPMScheduler.from_pretrained(tmp_path).config.beta_schedule == "squaredcos_cap_v2"
