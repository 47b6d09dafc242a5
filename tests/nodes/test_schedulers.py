"""DDPM and DDIM schedulers against published numbers, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffgraph.errors import PortError
from diffgraph.nodes.draw import seeded
from diffgraph.nodes.kinds import Prediction, Step
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from diffgraph.nodes.schedulers.noise_schedule import (
    beta_table,
    discretized_log_likelihood,
    log_variance_tables,
    posterior,
    respaced_timesteps,
)

Scheduler = DDPMScheduler | DDIMScheduler
SD: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LDM_OFFSET: dict[str, Any] = {**SD, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}


def ddpm(**config: Any) -> DDPMScheduler:
    return DDPMScheduler(DDPMConfig(**config))


def ddim(**config: Any) -> DDIMScheduler:
    return DDIMScheduler(DDIMConfig(**config))


def step_at(index: int, timestep: int, then: int) -> Step:
    """A step made by hand, for schedulers that look at nothing else in it."""
    return Step(index, timestep, then, 1000, math.nan, math.nan)


def walk(scheduler: Scheduler, steps: int | str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Tensor, Tensor]:
    """Timesteps, the sample after the first call and the last one, of the toy model of the table, with noise 0."""
    monkeypatch.setattr("diffgraph.nodes.schedulers.discrete.normal", lambda rng, shape: (torch.zeros(1, *shape), rng))
    schedule = scheduler.schedule(steps)
    x = torch.tensor([-1, -0.3, 0.4, 1.1]).reshape(1, 1, 2, 2)
    sample, state = scheduler.start(x, schedule)
    rng, seen = seeded([0]), []
    for step in schedule:
        scaled = scheduler.scale_input(sample, step)
        prediction = Prediction(0.3 * scaled + 0.1 * math.sin(float(step.timestep) / 100))
        sample, state, rng = scheduler.step(prediction, sample, step, state, rng)
        seen.append(sample)
    return [int(step.timestep) for step in schedule], seen[0].flatten(), seen[-1].flatten()


# Made by running the published library (0.42) in float32 with its noise replaced by zeros. Its float32 tables lose
# digits where alpha_cumprod is tiny; for the cosine rows the numbers are those of float64 tables.
GOLDEN: list[tuple[str, Scheduler, int | str, str, str, str]] = [
    (
        "DDPM linear",
        ddpm(clip_sample=False),
        10,
        "900 800 700 600 500 400 300 200 100 0",
        "-1.86014 -0.61397 0.632197 1.87836",
        "-10.7101 -3.93958 2.83094 9.60146",
    ),
    (
        "DDPM linear, clipped",
        ddpm(),
        10,
        "900 800 700 600 500 400 300 200 100 0",
        "-0.454747 -0.158737 0.201024 0.497034",
        "-0.420997 -0.266011 0.471292 0.566793",
    ),
    (
        "DDIM Stable Diffusion",
        ddim(**LDM_OFFSET),
        10,
        "901 801 701 601 501 401 301 201 101 1",
        "-1.45375 -0.453684 0.546378 1.54644",
        "-4.11617 -1.37383 1.36851 4.11084",
    ),
    (
        "DDIM linear",
        ddim(clip_sample=False),
        10,
        "900 800 700 600 500 400 300 200 100 0",
        "-2.00931 -0.642093 0.725125 2.09234",
        "-19.5228 -6.69459 6.13362 18.9618",
    ),
    (
        "DDIM v prediction",
        ddim(**LDM_OFFSET, prediction_type="v_prediction"),
        10,
        "901 801 701 601 501 401 301 201 101 1",
        "-0.978151 -0.295523 0.387104 1.06973",
        "-0.595405 -0.20026 0.194886 0.590032",
    ),
    (
        "DDIM trailing, zero terminal SNR, v prediction",
        ddim(
            **LDM_OFFSET,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
        ),
        10,
        "999 899 799 699 599 499 399 299 199 99",
        "-0.979011 -0.291638 0.395734 1.08311",
        "-0.566075 -0.191732 0.18261 0.556953",
    ),
    (
        "unCLIP of epsilon, true previous timestep",
        ddpm(beta_schedule="squaredcos_cap_v2", variance_type="fixed_small_log", timestep_spacing="linspace"),
        7,
        "999 832 666 500 333 166 0",
        "",
        "-0.57188 -0.57182 0.29605 0.29627",
    ),
    (
        "unCLIP of the sample, true previous timestep",
        ddpm(
            beta_schedule="squaredcos_cap_v2",
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample_range=5.0,
        ),
        "7",
        "999 832 666 500 333 166 0",
        "",
        "0.02647 0.02692 0.02737 0.02781",
    ),
]


@pytest.mark.parametrize(
    ("scheduler", "steps", "timesteps", "first", "last"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN]
)
def test_golden_walk(
    scheduler: Scheduler, steps: int | str, timesteps: str, first: str, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, after_first, final = walk(scheduler, steps, monkeypatch)
    assert listed == [int(word) for word in timesteps.split()]
    if first:
        torch.testing.assert_close(after_first, torch.tensor([float(w) for w in first.split()]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(final, torch.tensor([float(w) for w in last.split()]), rtol=1e-4, atol=1e-5)


INDICES = (0, 1, 10, 100, 250, 500, 750, 900, 990, 998, 999)


@pytest.mark.parametrize(
    ("schedule", "start", "end", "values"),
    [
        (
            "linear",
            0.0001,
            0.02,
            "0.9999 0.99978009 0.99780657 0.89514159 0.52142303 0.077796658 0.0033001584 0.00027024452 4.8370478e-05 "
            "4.1181936e-05 4.0358298e-05",
        ),
        (
            "scaled_linear",
            0.00085,
            0.012,
            "0.99915 0.99829603 0.99043131 0.89422348 0.67379263 0.27633268 0.056169848 0.014151142 0.0051916356 "
            "0.0047166989 0.0046600985",
        ),
        (
            "scaled_linear",
            0.0015,
            0.0195,
            "0.9985 0.99699443 0.98319547 0.82311704 0.50842433 0.114922 0.008334136 0.00087253251 0.00016972263 "
            "0.00014513409 0.00014230398",
        ),
        (
            "scaled_linear",
            0.0015,
            0.0155,
            "0.9985 0.9969956 0.98326014 0.82881792 0.535476 0.15007005 0.017394474 0.0028325152 0.00076900367 "
            "0.00067919266 0.00066866517",
        ),
        (
            "squaredcos_cap_v2",
            0.0001,
            0.02,
            "0.99995872 0.99991258 0.9992789 0.97157568 0.84588799 0.49228517 0.14317865 0.023616109 0.00019671738 "
            "2.4287669e-06 2.4287669e-09",
        ),
        (
            "linear",
            1e-6,
            0.01,
            "0.999999 0.99998799 0.99943864 0.95059849 0.73011972 0.28472563 0.05921232 0.017055113 0.0072469721 "
            "0.0066895393 0.0066226439",
        ),
    ],
)
def test_alpha_cumprod(schedule: Any, start: float, end: float, values: str) -> None:
    table = ddpm(beta_schedule=schedule, beta_start=start, beta_end=end).alpha_cumprod[list(INDICES)]
    np.testing.assert_allclose(table, [float(word) for word in values.split()], rtol=1e-7)


def test_cosine_betas() -> None:
    betas = beta_table("squaredcos_cap_v2", 0.0001, 0.02, 1000)
    np.testing.assert_allclose(betas[[0, 500, 998, 999]], [4.128422e-05, 3.155691e-03, 0.7499994, 0.999], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "timestep", "small", "large", "middle"),
    [
        ("linear", 0, -9.816725, -9.21034, -9.361937),
        ("linear", 1, -9.816725, -9.028686, -9.225696),
        ("linear", 500, -4.60005, -4.599192, -4.599407),
        ("linear", 999, -3.912024, -3.912023, -3.912023),
        ("squaredcos_cap_v2", 0, -10.734083, -10.09503, -10.254793),
        ("squaredcos_cap_v2", 1, -10.734083, -9.983792, -10.171365),
        ("squaredcos_cap_v2", 500, -5.761622, -5.758548, -5.759316),
        ("squaredcos_cap_v2", 999, -0.001003, -0.001001, -0.001001),
    ],
)
def test_learned_range(schedule: Any, timestep: int, small: float, large: float, middle: float) -> None:
    low, high = (table[timestep] for table in log_variance_tables(ddpm(beta_schedule=schedule).alpha_cumprod))
    assert (low, high) == (pytest.approx(small, abs=2e-6), pytest.approx(large, abs=2e-6))
    assert 0.75 * high + 0.25 * low == pytest.approx(middle, abs=2e-6)  # a network that says 0.5


def test_learned_range_deviation() -> None:
    """A step of 1000 with a network that says 0.5 has the standard deviation that the table's variance gives."""
    scheduler = ddpm(variance_type="learned_range")
    x = torch.zeros(1, 3, 8, 8)
    step = step_at(499, 500, 499)
    noisy, _, _ = scheduler.step(Prediction(x, torch.full_like(x, 0.5)), x, step, None, seeded([3]))
    expected = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * math.exp(0.5 * -4.599407)
    torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-7)


RESPACED = {
    "smart50": (
        "0 11 22 33 44 55 66 77 88 99 100 120 140 159 179 199 200 233 266 299 300 350 399 400 499 500 599 600 650 "
        "699 700 733 766 799 800 820 840 859 879 899 900 911 922 933 944 955 966 977 988 999"
    ),
    "super40": (
        "0 99 100 199 200 299 300 399 400 499 500 599 600 650 699 700 733 766 799 800 820 840 859 879 899 900 907 "
        "914 921 928 935 942 949 957 964 971 978 985 992 999"
    ),
    "smart27": (
        "0 24 47 71 95 118 142 143 190 238 285 286 428 429 572 714 715 762 810 857 858 882 905 928 952 976 999"
    ),
    "7": "0 166 333 500 666 832 999",
    "25": "0 42 83 125 166 208 250 291 333 375 416 458 500 541 583 624 666 708 749 791 832 874 916 957 999",
    "fast27": "0 22 44 66 88 111 133 155 177 199 200 222 244 266 288 311 333 355 377 399 400 500 599 600 799 800 997",
    "10,10,3,2,2": (
        "0 22 44 66 88 111 133 155 177 199 200 222 244 266 288 311 333 355 377 399 400 500 599 600 799 800 999"
    ),
    "1,2": "0 500 999",
    "1": "0",
    "ddim5": "0 200 400 600 800",
}


@pytest.mark.parametrize("respacing", RESPACED)
def test_respaced_lists(respacing: str) -> None:
    expected = [int(word) for word in RESPACED[respacing].split()]
    assert respaced_timesteps(respacing, 1000) == expected[::-1]


@pytest.mark.parametrize(
    ("name", "count"), [("smart100", 100), ("smart185", 185), ("super27", 27), ("super100", 100), (" Fast27 ", 27)]
)
def test_respaced_counts(name: str, count: int) -> None:
    assert len(respaced_timesteps(name, 1000)) == count


def test_sections_of_a_number_that_does_not_divide() -> None:
    """The remainder goes to the first sections: 10 indices in 3 sections are 4, 3 and 3."""
    assert respaced_timesteps("2,2,1", 10) == [7, 6, 4, 3, 0]


@pytest.mark.parametrize("steps", [100, "100"])
def test_glide_base(steps: int | str) -> None:
    """GLIDE's base model: indices 0 10 20 .. 979 989 999, ancestral steps of the respaced process."""
    scheduler = ddpm(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", respaced=True)
    schedule = scheduler.schedule(steps)
    ascending = [step.timestep for step in schedule][::-1]
    assert ascending[:8] == [0, 10, 20, 30, 40, 50, 61, 71]
    assert ascending[-5:] == [959, 969, 979, 989, 999]
    betas = [posterior(scheduler._at(s.timestep), scheduler._at(s.next))[0] for s in schedule][::-1]
    np.testing.assert_allclose(betas[:3], [4.128422e-05, 6.798401e-04, 1.165516e-03], rtol=1e-6)
    np.testing.assert_allclose(betas[-3:], [0.5553756, 0.7499393, 0.99999], rtol=1e-5)


def test_glide_upsampler() -> None:
    """GLIDE's upsampler: fast27 on linear betas; each step ends where the next begins."""
    scheduler = ddim(use_clipped_model_output=True)
    schedule = scheduler.schedule("fast27")
    assert [step.timestep for step in schedule][1:] == [step.next for step in schedule][:-1]
    assert schedule[0].timestep == 997
    assert schedule[-1].next == -1
    betas = [posterior(scheduler._at(s.timestep), scheduler._at(s.next))[0] for s in schedule][::-1]
    np.testing.assert_allclose(betas[:4], [1e-4, 0.00721495, 0.01674584, 0.02618935], rtol=1e-5)
    np.testing.assert_allclose(betas[-4:], [0.01205195, 0.94007666, 0.01603594, 0.97212541], rtol=1e-5)


def test_linspace_is_the_respacing_of_a_count() -> None:
    """But for ties, which the original decides by adding up: both lists agree within one index."""
    for count in (1, 2, 7, 25, 27, 100, 250, 999, 1000):
        listed = [step.timestep for step in ddpm(timestep_spacing="linspace").schedule(count)]
        respaced = respaced_timesteps(str(count), 1000)
        assert max(abs(a - b) for a, b in zip(listed, respaced, strict=True)) <= 1


def test_ddim_counts_step_by_a_whole_stride() -> None:
    schedule = ddim(timestep_spacing="linspace").schedule(10)
    assert [(s.timestep, s.next) for s in schedule][:2] == [(999, 899), (888, 788)]
    respaced = ddim(timestep_spacing="linspace", respaced=True).schedule(10)
    assert [(s.timestep, s.next) for s in respaced][:2] == [(999, 888), (888, 777)]


# --- image to image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strength", "first", "count"), [(1.0, 0, 50), (0.8, 10, 40), (0.58, 22, 28), (0.01, None, 0), (0.0, None, 0)]
)
def test_strength(strength: float, first: int | None, count: int) -> None:
    """N - floor(N * strength) steps are left out (0.58 * 50 is 28.999... in floating point)."""
    schedule = ddim().schedule(50, strength)
    assert len(schedule) == count
    assert (schedule[0].index if schedule else None) == first


def test_start_from_a_sample() -> None:
    scheduler = ddim()
    schedule = scheduler.schedule(50, 0.5)
    sample, noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 4, 4)
    started = scheduler.start(noise, schedule, sample)
    torch.testing.assert_close(started.sample, scheduler.add_noise(sample, noise, schedule[0].timestep))
    assert scheduler.start(noise, [], sample).sample is sample
    assert scheduler.start(noise, scheduler.schedule(50)).sample is noise
    with pytest.raises(PortError, match="strength below 1"):
        scheduler.start(noise, schedule)
    with pytest.raises(PortError, match="shape"):
        scheduler.start(noise, schedule, sample[:1])


# --- one step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "fixed_small_log", "fixed_large_log"])
def test_fixed_variances(kind: Any) -> None:
    """Between training neighbours: beta, or beta (1 - a_{t-1}) / (1 - a_t)."""
    scheduler = ddpm(variance_type=kind, clip_sample=False)
    x = torch.zeros(1, 1, 4, 4)
    sample, _, _ = scheduler.step(Prediction(x), x, step_at(0, 600, 599), None, seeded([5]))
    beta = 0.0001 + (0.02 - 0.0001) * 600 / 999
    a, b = scheduler.alpha_cumprod[600], scheduler.alpha_cumprod[599]
    variance = beta if "large" in kind else beta * (1 - b) / (1 - a)
    z = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(sample, z * math.sqrt(variance), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheduler", [ddpm(variance_type="fixed_large"), ddim(eta=1.0)], ids=["ddpm", "ddim"])
def test_the_last_step_gives_the_clean_estimate(scheduler: Scheduler) -> None:
    x, value, rng = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), seeded([0, 1])
    step = step_at(9, 99, -1)
    stepped = scheduler.step(Prediction(value), x, step, None, rng)
    torch.testing.assert_close(stepped.sample, scheduler.original(Prediction(value), x, step))
    assert stepped.rng is rng  # nothing was drawn


@pytest.mark.parametrize("scheduler", [ddpm(), ddim(eta=0.5), ddim(use_clipped_model_output=True)])
def test_handing_the_estimate_back_changes_nothing(scheduler: Scheduler) -> None:
    x, value = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    step = scheduler.schedule(10)[3]
    estimate = scheduler.original(Prediction(value), x, step)
    alone = scheduler.step(Prediction(value), x, step, None, seeded([0, 1]))
    back = scheduler.step(Prediction(value), x, step, None, seeded([0, 1]), estimate)
    assert torch.equal(alone.sample, back.sample)
    assert torch.equal(alone.rng.states, back.rng.states)
    edited = scheduler.step(Prediction(value), x, step, None, seeded([0, 1]), -estimate)
    assert not torch.allclose(alone.sample, edited.sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scheduler", [ddpm(thresholding=True, sample_max_value=1.5), ddim(eta=1.0)])
def test_half_precision_is_rounded_once(scheduler: Scheduler, dtype: torch.dtype) -> None:
    x, value = torch.randn(2, 3, 4, 4).to(dtype), torch.randn(2, 3, 4, 4).to(dtype)
    step = scheduler.schedule(10)[4]
    got = scheduler.step(Prediction(value), x, step, None, seeded([0, 1])).sample
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = scheduler.step(Prediction(value.to(wide)), x.to(wide), step, None, seeded([0, 1])).sample
    assert got.dtype == dtype
    assert torch.equal(got, exact.to(dtype))


def test_inputs_stay_as_they_are() -> None:
    for scheduler in (ddpm(variance_type="learned_range", thresholding=True), ddim(eta=1.0)):
        x, value, rng = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), seeded([0, 1])
        prediction, before = Prediction(value, value), rng.states.clone()
        copies = x.clone(), value.clone()
        step = scheduler.schedule(10)[4]
        scheduler.step(prediction, x, step, None, rng)
        scheduler.original(prediction, x, step)
        assert torch.equal(x, copies[0])
        assert torch.equal(value, copies[1])
        assert torch.equal(rng.states, before)


def test_a_batch_is_its_images() -> None:
    scheduler = ddpm(variance_type="learned_range", thresholding=True, sample_max_value=2.0)
    x, value, variance = (torch.randn(3, 3, 8, 8) for _ in range(3))
    step = scheduler.schedule(10)[4]
    together = scheduler.step(Prediction(value, variance), x, step, None, seeded([7, 8, 9]))
    for i in range(3):
        row = slice(i, i + 1)
        alone = scheduler.step(Prediction(value[row], variance[row]), x[row], step, None, seeded([7 + i]))
        torch.testing.assert_close(together.sample[row], alone.sample, rtol=0, atol=1e-6)
        assert torch.equal(together.rng.states[row], alone.rng.states)


@pytest.mark.parametrize(("steps", "order"), [((50, 100), 1), ((100, 200), 1)])
def test_ddim_converges_on_the_exact_denoiser(steps: tuple[int, int], order: int) -> None:
    """For data N(0, s^2) the ideal epsilon is known in closed form, and the exact flow maps x_T to x_0 by one factor.

    Doubling the steps of a method of first order about halves its error.
    """
    scheduler, spread = ddim(clip_sample=False, timestep_spacing="linspace", respaced=True), 0.5

    def variance(a: float) -> float:
        return a * spread**2 + 1 - a

    errors = []
    for count in steps:
        schedule = scheduler.schedule(count)
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        for step in schedule:
            a = scheduler._at(step.timestep)
            epsilon = math.sqrt(1 - a) / variance(a) * x
            x = scheduler.step(Prediction(epsilon), x, step, None, seeded([0])).sample
        exact = math.sqrt(spread**2 / variance(scheduler._at(schedule[0].timestep)))
        errors.append(abs(float(x) - exact))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


# --- training -------------------------------------------------------------------------------------------------------


def test_add_noise_is_the_identity_at_the_end() -> None:
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert ddim().add_noise(x, noise, -1) is x
    mixed = ddim().add_noise(x, noise, torch.tensor([-1, 500]))
    assert torch.equal(mixed[0], x[0])
    torch.testing.assert_close(mixed[1:], ddim().add_noise(x[1:], noise[1:], 500))


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_target_is_what_original_undoes(kind: Any) -> None:
    scheduler = ddpm(prediction_type=kind, clip_sample=False)
    x, noise = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    noisy = scheduler.add_noise(x, noise, 321)
    target = scheduler.target(x, noise, 321)
    torch.testing.assert_close(scheduler.original(Prediction(target), noisy, step_at(0, 321, 320)), x)


def test_snr() -> None:
    """alpha_cumprod[999] of the linear schedule is 4.0358e-5."""
    assert float(ddpm().snr(999)) == pytest.approx(4.0358298e-05 / (1 - 4.0358298e-05), rel=1e-6)
    assert ddpm().snr(torch.tensor([0, 999, 0])).shape == (3,)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("weighting", "plus"), [("min_snr", 0), ("min_snr_plus_one", 1)])
def test_loss_weights_mean_the_same_for_x_0(kind: Any, weighting: Any, plus: int) -> None:
    """weight * squared error of any prediction type is min(SNR + plus, gamma) * squared error of x_0."""
    scheduler = ddpm(prediction_type=kind, clip_sample=False)
    timestep = torch.tensor([3, 250, 700, 999])
    x, noise = torch.randn(4, 1, 2, 2).double(), torch.randn(4, 1, 2, 2).double()
    noisy = scheduler.add_noise(x, noise, timestep)
    right = scheduler.target(x, noise, timestep)
    wrong = right + torch.randn(4, 1, 2, 2).double()
    weight = scheduler.loss_weight(timestep, weighting, 5.0).double()
    own = weight * (wrong - right).square().flatten(1).mean(1)
    estimates = [
        scheduler.original(Prediction(wrong[i : i + 1]), noisy[i : i + 1], step_at(0, int(t), 0))
        for i, t in enumerate(timestep)
    ]
    of_original = (torch.cat(estimates) - x).square().flatten(1).mean(1)
    wanted = (scheduler.snr(timestep).double() + plus).clamp(max=5.0)
    torch.testing.assert_close(own, wanted * of_original, rtol=1e-4, atol=0)


def test_constant_weight() -> None:
    assert ddpm().loss_weight(torch.tensor([0, 999])).tolist() == [1, 1]


def test_variational_bound_of_a_perfect_network() -> None:
    """The divergence is 0 where the mean is right and the variance is the posterior's (the network says -1)."""
    scheduler = ddpm(variance_type="learned_range")
    x = torch.rand(4, 3, 4, 4).double() * 2 - 1
    noise = torch.randn(4, 3, 4, 4).double()
    timestep = torch.tensor([1, 10, 500, 999])
    noisy = scheduler.add_noise(x, noise, timestep)
    bound = scheduler.variational_bound(Prediction(noise, -torch.ones_like(x)), x, noisy, timestep)
    torch.testing.assert_close(bound, torch.zeros(4).double(), rtol=0, atol=1e-6)
    more = scheduler.variational_bound(Prediction(noise, torch.zeros_like(x)), x, noisy, timestep)
    assert (more >= 0).all()
    assert more[0] > 1e-4


def test_variational_bound_against_torch() -> None:
    """The same divergence by torch.distributions, and at t = 0 the mass that the exact normal integral gives."""
    scheduler = ddpm(variance_type="learned_range", clip_sample=False)
    x = (torch.randint(0, 256, (2, 3, 8, 8)).double() / 127.5) - 1
    x[0, 0, 0] = torch.tensor([-1, 1] * 4)  # the ends of the range, whose bins are open
    noise, value, variance = (torch.randn(2, 3, 8, 8).double() for _ in range(3))
    timestep = torch.tensor([0, 400])
    noisy = scheduler.add_noise(x, noise, timestep)
    value = noise + 0.05 * value
    got = scheduler.variational_bound(Prediction(value, variance.tanh()), x, noisy, timestep)

    a, b = scheduler.alpha_cumprod[400], scheduler.alpha_cumprod[399]
    beta, small = posterior(a, b)
    clean = (noisy[1] - math.sqrt(1 - a) * value[1]) / math.sqrt(a)
    of_original, of_sample = math.sqrt(b) * beta / (1 - a), math.sqrt(1 - beta) * (1 - b) / (1 - a)
    place = (variance[1].tanh() + 1) / 2
    log_variance = place * math.log(beta) + (1 - place) * math.log(small)
    normal = torch.distributions.Normal
    truth = normal(of_original * x[1] + of_sample * noisy[1], math.sqrt(small))
    model = normal(of_original * clean + of_sample * noisy[1], (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(truth, model).mean() / math.log(2)
    torch.testing.assert_close(got[1], expected, rtol=1e-5, atol=1e-7)

    low, high = (table[0] for table in log_variance_tables(scheduler.alpha_cumprod))
    place = (variance[0].tanh() + 1) / 2
    clean = (noisy[0] - math.sqrt(1e-4) * value[0]) / math.sqrt(1 - 1e-4)
    pixel = normal(clean, (0.5 * (place * high + (1 - place) * low)).exp())
    above = torch.where(x[0] > 0.999, torch.ones_like(x[0]), pixel.cdf(x[0] + 1 / 255))
    below = torch.where(x[0] < -0.999, torch.zeros_like(x[0]), pixel.cdf(x[0] - 1 / 255))
    expected = -(above - below).clamp(min=1e-12).log().mean() / math.log(2)
    assert float(got[0]) == pytest.approx(float(expected), rel=0.02)  # the tanh form is an approximation


def test_discretized_masses_add_up_to_one() -> None:
    levels = torch.arange(256).double() / 127.5 - 1
    mean, log_variance = torch.tensor(0.3).double(), torch.tensor(-3.0).double()
    total = discretized_log_likelihood(levels, mean, log_variance).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["learned_range", "learned", "fixed_small", "fixed_large"])
def test_the_bound_trains_the_variance_alone(kind: Any) -> None:
    scheduler = ddpm(variance_type=kind)
    x, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    value, variance = noise.clone().requires_grad_(), torch.full_like(x, 0.3).requires_grad_()
    noisy = scheduler.add_noise(x, noise, torch.tensor([0, 500]))
    bound = scheduler.variational_bound(Prediction(value, variance), x, noisy, torch.tensor([0, 500]))
    assert bound.shape == (2,)
    if kind.startswith("learned"):
        bound.mean().backward()
        assert variance.grad is not None
        assert variance.grad.isfinite().all()
        assert value.grad is None


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "allowed: 1 to 1000"),
        (-3, "allowed: 1 to 1000"),
        (1001, "allowed: 1 to 1000"),
        (2.5, "expected a whole number"),
        (True, "expected a whole number"),
        (None, "expected a whole number"),
        ("", "cannot read"),
        ("fast", "cannot read"),
        ("10;10", "cannot read"),
        ("10,,10", "cannot read"),
        ("-5", "cannot read"),
        ("1e3", "cannot read"),
        ("２５", "cannot read"),
        ("0", "allowed: 1 to 1000"),
        ("10,0", "allowed: 1 to 500"),
        ("1001", "allowed: 1 to 1000"),
        ("9" * 30, "cannot read"),
        ("500,501", "takes 501 of a section of 500"),
        ("1," * 5000 + "1", "makes 5001 sections of 1000"),
        ("ddim0", "no whole stride"),
        ("ddim300", "no whole stride"),
        ("ddim", "cannot read"),
    ],
)
@pytest.mark.parametrize("make", [ddpm, ddim])
def test_bad_steps(make: Any, steps: Any, message: str) -> None:
    with pytest.raises(PortError, match=message) as caught:
        make().schedule(steps)
    assert caught.value.port == "steps"


@pytest.mark.parametrize(
    ("config", "port"),
    [
        ({"beta_schedule": "cosine"}, "beta_schedule"),
        ({"trained_betas": (0.1, 0.2)}, "trained_betas"),
        ({"trained_betas": (1.0, 0.5), "num_train_timesteps": 2}, "beta_schedule"),
        ({"beta_start": -0.1}, "beta_schedule"),
        ({"rescale_betas_zero_snr": True, "num_train_timesteps": 1}, "rescale_betas_zero_snr"),
    ],
)
def test_bad_configs(config: dict[str, Any], port: str) -> None:
    with pytest.raises(PortError) as caught:
        ddpm(**config)
    assert caught.value.port == port


def test_bad_spacing_and_offset() -> None:
    with pytest.raises(PortError, match="timestep_spacing"):
        ddpm(timestep_spacing="even").schedule(10)
    with pytest.raises(PortError, match="start at 1000, beyond 999"):
        ddim(steps_offset=1).schedule(1000)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), True])
def test_bad_strength(strength: Any) -> None:
    with pytest.raises(PortError, match="strength"):
        ddim().schedule(10, strength)


def test_bad_ports() -> None:
    x, step = torch.zeros(2, 3, 4, 4), step_at(0, 500, 400)
    other = torch.zeros(2, 3, 4, 5)
    cases: list[tuple[str, Any]] = [
        ("prediction", lambda: ddpm().step(Prediction(other), x, step, None, seeded([0, 1]))),
        ("prediction", lambda: ddim().step(Prediction(other), x, step, None, seeded([0, 1]))),
        ("prediction", lambda: ddim().step(Prediction(other), x, step, None, seeded([0, 1]), x)),
        ("original", lambda: ddim().step(Prediction(x), x, step, None, seeded([0, 1]), other)),
        ("original", lambda: ddpm().step(Prediction(x), x, step, None, seeded([0, 1]), other)),
        ("rng", lambda: ddpm().step(Prediction(x), x, step, None, seeded([0]))),
        ("rng", lambda: ddim(eta=1.0).step(Prediction(x), x, step, None, seeded([0, 1, 2]))),
        (
            "prediction",
            lambda: ddpm(variance_type="learned_range").step(Prediction(x), x, step, None, seeded([0, 1])),
        ),
        (
            "prediction",
            lambda: ddpm(variance_type="learned_range").step(Prediction(x, other), x, step, None, seeded([0, 1])),
        ),
        ("noise", lambda: ddpm().add_noise(x, other, 5)),
        ("noise", lambda: ddpm().target(x, other, 5)),
        ("noisy", lambda: ddpm().variational_bound(Prediction(x), x, other, 5)),
        ("timestep", lambda: ddpm().add_noise(x, x, 1000)),
        ("timestep", lambda: ddpm().add_noise(x, x, -2)),
        ("timestep", lambda: ddpm().add_noise(x, x, 2.5)),
        ("timestep", lambda: ddpm().add_noise(x, x, float("nan"))),
        ("timestep", lambda: ddpm().add_noise(x, x, torch.tensor([1, 2, 3]))),
        ("timestep", lambda: ddpm().add_noise(x, x, torch.tensor([1, 1000]))),
        ("timestep", lambda: ddpm().add_noise(x, x, torch.tensor([1, -2]))),
        ("timestep", lambda: ddpm().snr(-1)),
        ("timestep", lambda: ddpm().snr(torch.tensor([0.5]))),
        ("weighting", lambda: ddpm().loss_weight(5, "p2")),
        ("weighting", lambda: ddpm(rescale_betas_zero_snr=True).loss_weight(5, "min_snr")),
        ("prediction", lambda: ddim(rescale_betas_zero_snr=True).original(Prediction(x), x, step_at(0, 999, 0))),
    ]
    for port, call in cases:
        with pytest.raises(PortError) as caught:
            call()
        assert caught.value.port == port, caught.value
