"""The solvers against published numbers and exact solutions, what they keep, and what they refuse."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffgraph.errors import PortError, WeightsError
from diffgraph.nodes.draw import normal, seeded
from diffgraph.nodes.kinds import Prediction, Step
from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig
from diffgraph.nodes.schedulers.ddim import DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMScheduler
from diffgraph.nodes.schedulers.deis import DEISScheduler
from diffgraph.nodes.schedulers.dpm_solver import DPMSolverScheduler
from diffgraph.nodes.schedulers.edm import EDMScheduler
from diffgraph.nodes.schedulers.euler import EulerScheduler
from diffgraph.nodes.schedulers.euler_ancestral import EulerAncestralScheduler
from diffgraph.nodes.schedulers.heun import HeunScheduler
from diffgraph.nodes.schedulers.lms import LMSScheduler
from diffgraph.nodes.schedulers.noise_schedule import respaced_timesteps
from diffgraph.nodes.schedulers.pndm import PNDMScheduler
from diffgraph.nodes.schedulers.sigma_schedule import (
    adams_bashforth_factors,
    karras_sigmas,
    linear_multistep_factors,
    log_rho_factors,
    sigmas_at,
    timesteps_at,
)
from diffgraph.nodes.schedulers.unipc import UniPCScheduler
from diffgraph.session import Options
from diffgraph.values import leaves, tree_map
from diffgraph.weights.loading import init_module
from tests.engine.lab import Lab
from tests.parity import agree

DDPM = Path(__file__).parents[2] / "graphs" / "ddpm.yaml"
SD: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PLMS: dict[str, Any] = {**SD, "skip_prk_steps": True, "steps_offset": 1}
LEADING: dict[str, Any] = {**SD, "timestep_spacing": "leading", "steps_offset": 1}


def make(cls: Any, **config: Any) -> Any:
    return cls(cls.Config(**config))


# Made by running the published library (0.42) in float32 with its noise replaced by zeros; EDM from the paper's
# algorithm in float64. Timesteps; sigmas; the sample after the first call (EDM: the first interval); the last sample.
DPM_TIMES = "999 899 799 699 599 500 400 300 200 100"
DPM_SIGMAS = "14.6146 8.30281 5.08777 3.32108 2.27646 1.61828 1.16439 0.83275 0.57167 0.34393"
EULER_TIMES = "999 888 777 666 555 444 333 222 111 0"
EULER_SIGMAS = "14.6146 7.83988 4.60918 2.91831 1.95016 1.34493 0.93236 0.62498 0.36866 0.02917 0"
KARRAS_SIGMAS = "14.6146 9.10294 5.4784 3.16861 1.74942 0.91408 0.44692 0.2014 0.08191 0.02917 0"
GOLDEN: dict[str, tuple[Any, dict[str, Any], int, str, str, str, str]] = {
    "PLMS": (
        PNDMScheduler, PLMS, 10, "901 801 801 701 601 501 401 301 201 101 1", "",
        "-1.45375 -0.453684 0.546378 1.54644", "-3.83077 -1.29551 1.23975 3.77501",
    ),
    "PNDM with Runge-Kutta": (
        PNDMScheduler, {}, 10, "900 850 850 800 800 750 750 700 700 650 650 600 600 500 400 300 200 100 0", "",
        "-1.4124 -0.439774 0.532848 1.50547", "-14.8921 -5.17776 4.53659 14.2509",
    ),
    "DEIS of order 2": (
        DEISScheduler, SD, 10, DPM_TIMES, f"{DPM_SIGMAS} 0.02917",
        "-1.48481 -0.417146 0.65052 1.71819", "-5.67286 -1.781 2.11086 6.00272",
    ),
    "DEIS of order 3": (
        DEISScheduler, {**SD, "solver_order": 3}, 10, DPM_TIMES, f"{DPM_SIGMAS} 0.02917",
        "-1.48481 -0.417146 0.65052 1.71819", "-5.63018 -1.754 2.12219 5.99837",
    ),
    "DPM-Solver++ 2M": (
        DPMSolverScheduler, SD, 10, DPM_TIMES, f"{DPM_SIGMAS} 0",
        "-1.48481 -0.417146 0.65052 1.71819", "-5.55286 -1.76046 2.03193 5.82432",
    ),
    "DPM-Solver++ 2M, leading": (
        DPMSolverScheduler, LEADING, 10, "901 811 721 631 541 451 361 271 181 91",
        "8.39069 5.37634 3.63065 2.55766 1.85856 1.37618 1.02393 0.75151 0.52698 0.32353 0",
        "-1.40206 -0.436168 0.529726 1.49562", "-3.85083 -1.2944 1.26203 3.81847",
    ),
    "DPM-Solver++ 2M, Karras": (
        DPMSolverScheduler, {**SD, "use_karras_sigmas": True}, 10, "999 916 815 687 523 327 146 41 7 0", KARRAS_SIGMAS,
        "-1.38682 -0.393481 0.599859 1.5932", "-5.32095 -1.70612 1.90871 5.52354",
    ),
    "DPM-Solver++ 2M, 20 steps": (
        DPMSolverScheduler, SD, 20,
        "999 949 899 849 799 749 699 649 599 549 500 450 400 350 300 250 200 150 100 50",
        "14.6146 10.9042 8.30281 6.44296 5.08777 4.08173 3.32108 2.73547 2.27646 1.91025 1.61828 1.37167 1.16439 0.98711 "
        "0.83275 0.6958 0.57167 0.45608 0.34393 0.22558 0",
        "-1.21799 -0.352692 0.512604 1.3779", "-5.49597 -1.75761 1.98074 5.7191",
    ),
    "DPM-Solver++ 3M": (
        DPMSolverScheduler, {**SD, "solver_order": 3}, 10, DPM_TIMES, f"{DPM_SIGMAS} 0",
        "-1.48481 -0.417146 0.65052 1.71819", "-5.55806 -1.74113 2.0758 5.89273",
    ),
    "Euler": (
        EulerScheduler, SD, 10, EULER_TIMES, EULER_SIGMAS,
        "-12.2241 -3.41323 5.39764 14.2085", "-5.95396 -1.80524 2.34348 6.49221",
    ),
    "Euler, leading": (
        EulerScheduler, LEADING, 10, "901 801 701 601 501 401 301 201 101 1",
        "8.39069 5.13443 3.34776 2.29285 1.62369 1.16822 0.83565 0.57405 0.34619 0.04131 0",
        "-7.60441 -2.37318 2.85805 8.08929", "-4.08182 -1.36239 1.35705 4.07648",
    ),
    "Euler, Karras": (
        EulerScheduler, {**SD, "use_karras_sigmas": True}, 10,
        "999 916.284 815.045 687.153 523.199 327.147 145.939 40.8569 6.7324 0", KARRAS_SIGMAS,
        "-12.6698 -3.59429 5.48121 14.5567", "-6.07726 -1.86875 2.33976 6.54826",
    ),
    "Euler ancestral": (
        EulerAncestralScheduler, SD, 10, EULER_TIMES, EULER_SIGMAS,
        "-10.9417 -2.89226 5.1572 13.2067", "-3.47475 -1.07823 1.31829 3.71481",
    ),
    "Heun": (
        HeunScheduler, SD, 10, "999 888 888 777 777 666 666 555 555 444 444 333 333 222 222 111 111 0 0",
        "14.6146 7.83988 7.83988 4.60918 4.60918 2.91831 2.91831 1.95016 1.95016 1.34493 1.34493 0.93236 0.93236 0.62498 "
        "0.62498 0.36866 0.36866 0.02917 0.02917 0",
        "-12.2241 -3.41323 5.39764 14.2085", "-5.34445 -1.72293 1.89859 5.52011",
    ),
    "UniPC": (
        UniPCScheduler, SD, 10, DPM_TIMES, f"{DPM_SIGMAS} 0",
        "-1.48481 -0.417146 0.65052 1.71819", "-5.51187 -1.76297 1.98595 5.73486",
    ),
    "EDM": (
        EDMScheduler, {}, 18, "", "",
        "-57.617075 -17.276676 23.063725 63.404126", "-0.854619 -0.266268 0.322083 0.910434",
    ),
}  # fmt: skip


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=torch.float64)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_walk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, config, steps, timesteps, sigmas, first, last = GOLDEN[name]
    monkeypatch.setattr("diffgraph.nodes.schedulers.discrete.normal", lambda rng, shape: (torch.zeros(1, *shape), rng))
    scheduler = make(cls, **config)
    schedule = scheduler.schedule(steps)
    x = torch.tensor([-1, -0.3, 0.4, 1.1]).reshape(1, 1, 2, 2)
    sample, state = scheduler.start(x.double() if name == "EDM" else x, schedule)
    rng, seen = seeded([0]), []
    for step in schedule:
        scaled = scheduler.scale_input(sample, step)
        angle = float(step.timestep) if name == "EDM" else float(step.timestep) / 100
        sample, state, rng = scheduler.step(Prediction(0.3 * scaled + 0.1 * math.sin(angle)), sample, step, state, rng)
        seen.append(sample.flatten())
    if timesteps:
        torch.testing.assert_close(
            numbers(" ".join(str(s.timestep) for s in schedule)), numbers(timesteps), rtol=2e-5, atol=0
        )
    if sigmas:
        listed = torch.tensor([*(step.sigma for step in schedule), schedule[-1].next_sigma], dtype=torch.float64)
        torch.testing.assert_close(listed, numbers(sigmas), rtol=1e-4, atol=1e-5)
    peer = "the original's published numbers"
    agree(cls.__name__, peer, seen[1 if name == "EDM" else 0], numbers(first), tolerance=1e-5, what=f"{name}, first")
    agree(cls.__name__, peer, seen[-1], numbers(last), tolerance=1e-5, what=f"{name}, last")


def test_edm_grid() -> None:
    grid = numbers(
        "80 57.585985 40.785574 28.374585 19.352453 12.910082 8.400935 5.315195 3.256822 1.92334 1.088171 0.585348 0.296442 "
        "0.139516 0.059947 0.022935 0.007528 0.002 0"
    )
    schedule = make(EDMScheduler).schedule(18)
    assert len(schedule) == 35  # calls of the network, as the paper counts them
    sigmas = [step.sigma for step in schedule[::2]] + [schedule[-1].next_sigma]
    torch.testing.assert_close(torch.tensor(sigmas, dtype=torch.float64), grid, rtol=1e-5, atol=1e-6)
    assert schedule[0].timestep == pytest.approx(math.log(80) / 4)
    assert schedule[-1].next == -math.inf


# --- the rules ------------------------------------------------------------------------------------------------------


def test_multistep_factors_integrate_polynomials_exactly() -> None:
    """Order k is exact for slopes of degree k - 1, in sigma or in log rho; on equal steps it is Adams-Bashforth."""
    nodes, end = [5.0, 7.0, 11.0, 12.5], 3.2
    for count in (1, 2, 3, 4):
        factors = linear_multistep_factors(nodes[:count], end)
        for degree in range(count):
            exact = (end ** (degree + 1) - nodes[0] ** (degree + 1)) / (degree + 1)
            assert sum(f * s**degree for f, s in zip(factors, nodes, strict=False)) == pytest.approx(exact, rel=1e-12)
        equal = linear_multistep_factors([10.0 + i for i in range(count)], 9.0)
        np.testing.assert_allclose(equal, [-f for f in adams_bashforth_factors(count)], rtol=1e-12)
    points, weights = np.polynomial.legendre.leggauss(20)
    rho = (end + nodes[0]) / 2 + (end - nodes[0]) / 2 * points
    for count in (1, 2, 3):
        factors = log_rho_factors(nodes[:count], end)
        for degree in range(count):
            exact = (end - nodes[0]) / 2 * float((weights * np.log(rho) ** degree).sum())
            got = sum(f * math.log(s) ** degree for f, s in zip(factors, nodes, strict=False))
            assert got == pytest.approx(exact, rel=1e-10)


def test_sigmas_and_timesteps_undo_each_other() -> None:
    table = make(EulerScheduler, **SD).sigmas
    assert (table[0], table[-1]) == (pytest.approx(0.02917, abs=1e-5), pytest.approx(14.6146, abs=1e-4))
    places = np.array([-1, -0.75, -0.1, 0, 0.5, 17, 333.3, 998.9, 999])
    np.testing.assert_allclose(timesteps_at(sigmas_at(places, table), table), places, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sigmas_at(np.arange(1000), table), table, rtol=1e-12)


# --- an exact solution ----------------------------------------------------------------------------------------------


def error(scheduler: Any, steps: int, spread: float = 0.5, count: int | None = None) -> float:
    """How far from the truth a run ends, for data N(0, spread^2), whose best denoiser is x s^2 / (s^2 + sigma^2).

    The flow then keeps x / sqrt(s^2 + sigma^2). Runs end at the smallest sigma, so that no last step to 0 hides it.
    """
    schedule = scheduler.schedule(steps)
    sample, state = scheduler.start(torch.ones(1, 1, 1, 1, dtype=torch.float64), schedule)
    first = schedule[0].sigma

    def unscaled(x: Tensor, sigma: float) -> float:
        return float(x) * (1.0 if hasattr(scheduler, "scale_noisy") else math.sqrt(1 + sigma**2))

    begun = unscaled(sample, first)
    for step in schedule:
        if step.next_sigma == 0:
            break
        x, sigma = unscaled(sample, step.sigma), step.sigma
        clean = torch.full_like(sample, x * spread**2 / (spread**2 + sigma**2))
        value = (x - clean) / sigma
        if isinstance(scheduler, EDMScheduler):
            skip, out = scheduler._preconditioning(sigma)
            value = (clean - skip * x) / out
        sample, state, _ = scheduler.step(Prediction(value), sample, step, state, seeded([0]))
        last = step.next_sigma
    exact = begun * math.sqrt((spread**2 + last**2) / (spread**2 + first**2))
    return abs(unscaled(sample, last) / exact - 1)


END = {"final_sigmas_type": "sigma_min", "use_exponential_sigmas": True}


@pytest.mark.parametrize(
    ("scheduler", "ratio"),
    [
        pytest.param(make(EulerScheduler, **SD, use_karras_sigmas=True), 2, id="Euler"),
        pytest.param(make(HeunScheduler, **SD, use_karras_sigmas=True), 4, id="Heun"),
        pytest.param(make(EDMScheduler, sigma_max=20.0), 4, id="EDM"),
        pytest.param(make(EDMScheduler, sigma_max=20.0, solver_order=1), 2, id="EDM, Euler"),
        pytest.param(make(DPMSolverScheduler, **SD, solver_order=1, **END), 2, id="DPM-Solver++ 1"),
        pytest.param(make(DPMSolverScheduler, **SD, **END), 4, id="DPM-Solver++ 2M"),
        pytest.param(make(DPMSolverScheduler, **SD, **END, solver_type="heun"), 4, id="DPM-Solver++ 2M, heun"),
        pytest.param(make(DPMSolverScheduler, **SD, **END, algorithm_type="dpmsolver"), 4, id="DPM-Solver 2M"),
        # its published D_2 term is half of Taylor's, so it is a better method of order 2
        pytest.param(make(DPMSolverScheduler, **SD, **END, solver_order=3), 4, id="DPM-Solver++ 3M"),
        pytest.param(make(DEISScheduler, **SD, use_exponential_sigmas=True), 4, id="DEIS 2"),
        pytest.param(make(DEISScheduler, **SD, use_exponential_sigmas=True, solver_order=3), 8, id="DEIS 3"),
        pytest.param(make(UniPCScheduler, **SD, **END, solver_order=1), 4, id="UniPC 1, corrected"),
        pytest.param(make(UniPCScheduler, **SD, **END), 8, id="UniPC 2, corrected"),
        pytest.param(make(UniPCScheduler, **SD, **END, predict_x0=False), 8, id="UniPC 2 of epsilon"),
    ],
)
def test_order_on_the_exact_denoiser(scheduler: Any, ratio: float) -> None:
    """Doubling the steps divides the error by 2 to the method's order."""
    assert error(scheduler, 60) / error(scheduler, 120) == pytest.approx(ratio, rel=0.25)


def test_methods_that_start_at_lower_orders_on_the_exact_denoiser() -> None:
    """LMS: doubling the steps divides the error by more than 4. PNDM is of order 4 in t, of which sigma is no smooth
    function near data: it leaves less than a fifth of DDIM's error.
    """
    lms = make(LMSScheduler, **SD, use_karras_sigmas=True)
    assert error(lms, 60) / error(lms, 120) > 4
    assert error(make(DPMSolverScheduler, **SD, **END, solver_order=3), 60) < 0.7 * error(
        make(DPMSolverScheduler, **SD, **END), 60
    )
    errors = []
    for cls, config in (
        (DDIMScheduler, {"clip_sample": False}), (PNDMScheduler, {"skip_prk_steps": True}), (PNDMScheduler, {}),
    ):  # fmt: skip
        scheduler = make(cls, **SD, **config, timestep_spacing="leading")
        schedule = scheduler.schedule(50)
        sample, state = torch.ones(1, 1, 1, 1, dtype=torch.float64), None
        for step in schedule[:-1]:
            level = scheduler._at(step.timestep)
            value = math.sqrt(1 - level) / (0.25 * level + 1 - level) * sample
            sample, state, _ = scheduler.step(Prediction(value), sample, step, state, seeded([0]))
        first, last = scheduler._at(schedule[0].timestep), scheduler._at(schedule[-2].next)
        exact = math.sqrt((0.25 * last + 1 - last) / (0.25 * first + 1 - first))
        errors.append(abs(float(sample) / exact - 1))
    assert max(errors[1:]) < errors[0] / 5


def test_churn_keeps_the_distribution() -> None:
    """Alg. 2 on the exact denoiser, 4000 numbers: the data's deviation comes out, with churn as without."""
    for churn in (0.0, 20.0):
        scheduler = make(EDMScheduler, sigma_max=20.0, s_churn=churn, s_tmin=0.01, s_tmax=10.0)
        schedule = scheduler.schedule(160)
        noise, rng = normal(seeded([3]), (4000,))
        sample, state = scheduler.start(noise, schedule)
        for step in schedule:
            skip, out = scheduler._preconditioning(step.sigma)
            clean = sample * 0.25 / (0.25 + step.sigma**2)
            sample, state, rng = scheduler.step(Prediction((clean - skip * sample) / out), sample, step, state, rng)
        assert float(sample.std()) == pytest.approx(0.5, rel=0.03)


def test_edm_is_the_papers_algorithm() -> None:
    """Algorithm 2 written out, with the same draws, over settings of its table 5."""
    noise, begun = normal(seeded([3, 4]), (2, 4, 4))

    def network(x: Tensor, sigma: float) -> Tensor:
        return torch.sin(x / math.sqrt(sigma**2 + 0.25) + math.log(sigma) / 4)

    def denoised(x: Tensor, sigma: float) -> Tensor:
        total = sigma**2 + 0.25
        return 0.25 / total * x + sigma * 0.5 / math.sqrt(total) * network(x, sigma)

    for churn, low, high, scale in ((40, 0.05, 50, 1.003), (30, 0.01, 1, 1.007), (0, 0, math.inf, 1)):
        steps, rng = 18, begun
        grid = [*karras_sigmas(80, 0.002, steps).tolist(), 0.0]
        x = noise.double() * grid[0]
        for now, then in itertools.pairwise(grid):
            gamma = min(churn / steps, math.sqrt(2) - 1) if low <= now <= high else 0
            hat = now * (1 + gamma)
            if hat > now:
                drawn, rng = normal(rng, (2, 4, 4))
                x = x + math.sqrt(hat**2 - now**2) * scale * drawn
            slope = (x - denoised(x, hat)) / hat
            moved = x + (then - hat) * slope
            if then > 0:
                moved = x + (then - hat) * (slope + (moved - denoised(moved, then)) / then) / 2
            x = moved
        scheduler = make(
            EDMScheduler,
            s_churn=float(churn),
            s_tmin=float(low),
            s_tmax=None if high == math.inf else float(high),
            s_noise=float(scale),
        )
        schedule = scheduler.schedule(steps)
        sample, state = scheduler.start(noise.double(), schedule)
        stream = begun
        for step in schedule:
            value = torch.sin(scheduler.scale_input(sample, step) + step.timestep)
            sample, state, stream = scheduler.step(Prediction(value), sample, step, state, stream)
        agree("EDMScheduler", "algorithm 2 of arXiv:2206.00364", sample, x, tolerance=1e-9, what=f"churn {churn}")
        assert torch.equal(stream.states, rng.states)


# --- what a step is made of -----------------------------------------------------------------------------------------

SOLVERS = {
    "PLMS": make(PNDMScheduler, **PLMS, prediction_type="v_prediction"),
    "PNDM": make(PNDMScheduler, **SD),
    "PNDM of x_0": make(PNDMScheduler, **PLMS, prediction_type="sample"),
    "DEIS": make(DEISScheduler, **SD, solver_order=3),
    "LMS": make(LMSScheduler, **SD),
    "Euler": make(EulerScheduler, **SD),
    "Euler with churn": make(EulerScheduler, **SD, s_churn=3.0),
    "Euler of v with churn": make(EulerScheduler, **SD, s_churn=3.0, prediction_type="v_prediction"),
    "Euler, continuous": make(
        EulerScheduler, **SD, prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True
    ),
    "Euler ancestral": make(EulerAncestralScheduler, **SD),
    "Heun": make(HeunScheduler, **SD, clip_sample=True),
    "DPM-Solver++": make(DPMSolverScheduler, **SD, solver_order=3, thresholding=True),
    "DPM-Solver": make(DPMSolverScheduler, **SD, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
    "SDE": make(DPMSolverScheduler, **SD, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True),
    "UniPC": make(UniPCScheduler, **SD, solver_order=3),
    "UniPC of epsilon": make(UniPCScheduler, **SD, predict_x0=False),
    "EDM": make(EDMScheduler, s_churn=5.0),
    "EDM, Euler": make(EDMScheduler, s_churn=5.0, solver_order=1),
}
each = pytest.mark.parametrize("scheduler", SOLVERS.values(), ids=SOLVERS)


def walked(
    scheduler: Any, noise: Tensor, rng: Any, *, steps: int = 8, edit: Any = None
) -> tuple[list[Tensor], Any, Any]:
    """The samples of a run of a toy network, the last state and streams. edit: what is made of each clean estimate."""
    schedule = scheduler.schedule(steps)
    sample, state = scheduler.start(noise, schedule)
    samples = []
    for step in schedule:
        scaled = scheduler.scale_input(sample, step)
        prediction = Prediction(torch.sin(1.3 * scaled.double() + float(step.timestep) / 200).to(sample.dtype))
        original = edit(scheduler.original(prediction, sample, step)) if edit is not None else None
        sample, state, rng = scheduler.step(prediction, sample, step, state, rng, original)
        samples.append(sample)
    return samples, state, rng


@each
def test_handing_the_estimate_back_changes_nothing_but_an_edit_does(scheduler: Any) -> None:
    noise, rng = normal(seeded([1, 2]), (3, 4, 4))
    alone, _, after = walked(scheduler, noise.double(), rng)
    back, _, same = walked(scheduler, noise.double(), rng, edit=lambda x: x)
    edited, _, _ = walked(scheduler, noise.double(), rng, edit=lambda x: 0.5 * x)
    torch.testing.assert_close(back, alone, rtol=1e-7, atol=1e-7)
    assert torch.equal(same.states, after.states)
    assert not torch.allclose(edited[-1], alone[-1], rtol=1e-2)


@each
def test_a_run_that_ends_in_data_ends_in_the_estimate(scheduler: Any) -> None:
    schedule = scheduler.schedule(8)
    churn = getattr(scheduler.config, "s_churn", 0) > 0 and getattr(scheduler.config, "solver_order", 1) == 1
    ends = schedule[-1].next_sigma == 0 and not churn and not isinstance(scheduler, PNDMScheduler | LMSScheduler)
    wanted = torch.full((2, 3, 4, 4), 0.25, dtype=torch.float64)
    noise, rng = normal(seeded([1, 2]), (3, 4, 4))
    samples, _, _ = walked(scheduler, noise.double(), rng, edit=lambda x: wanted)
    assert torch.allclose(samples[-1], wanted, rtol=0, atol=1e-9 if ends else 1.0)


@each
def test_inputs_stay_as_they_are_and_images_apart(scheduler: Any) -> None:
    """No input is changed in place; each image of a batch is what it is alone; the state is tensors and numbers."""
    noise, rng = normal(seeded([1, 2]), (3, 4, 4))
    kept, streams = noise.clone(), rng.states.clone()
    together, state, _ = walked(scheduler, noise, rng)
    versions = [x._version for x in together]
    assert torch.equal(noise, kept)
    assert torch.equal(rng.states, streams)
    assert versions == [0] * len(together)
    for row in (0, 1):
        alone, _, _ = walked(scheduler, noise[row : row + 1], type(rng)(rng.states[row : row + 1]))
        torch.testing.assert_close(together[-1][row : row + 1], alone[-1], rtol=1e-4, atol=1e-5)
    for leaf in leaves(state):
        assert isinstance(leaf, Tensor | int | float | None)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_a_step(scheduler: Any, dtype: torch.dtype) -> None:
    noise, rng = normal(seeded([1, 2]), (3, 4, 4))
    schedule = scheduler.schedule(8)
    sample, state = scheduler.start(noise.to(dtype), schedule)
    for step in schedule:
        value = torch.sin(1.3 * scheduler.scale_input(sample, step) + float(step.timestep) / 200)
        assert value.dtype == sample.dtype == dtype
        wide, _, _ = scheduler.step(Prediction(value.float()), sample.float(), step, state, rng)
        sample, state, rng = scheduler.step(Prediction(value), sample, step, state, rng)
        assert torch.equal(sample, wide.to(dtype))


@each
def test_a_step_ends_where_its_record_says(scheduler: Any) -> None:
    """With the data known, whatever the sample, each call leads to x_0 and noise of next_sigma, which is what add_noise
    makes of `step.next`: what inpainting mixes in is of the same level.
    """
    data, noise = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    unit = not hasattr(scheduler, "scale_noisy")  # keeps x_t of unit variance
    for steps in (5, 8):
        schedule = scheduler.schedule(steps)
        for step in schedule:
            scale = math.sqrt(1 + step.next_sigma**2) if unit else 1
            assert float(scheduler.add_noise(data, noise, step.next)) * scale == pytest.approx(
                step.next_sigma, rel=1e-6
            )
            assert step.count == len(schedule)
        assert scheduler.add_noise(data, noise, schedule[-1].next) is data or schedule[-1].next_sigma > 0
        assert [step.index for step in schedule] == list(range(len(schedule)))
        for before, after in itertools.pairwise(schedule):
            if not isinstance(scheduler, PNDMScheduler):  # whose published strides need not meet the list
                assert before.next_sigma == after.sigma
    if not isinstance(scheduler, EDMScheduler):
        rows = torch.tensor([0, 500])
        noisy = scheduler.add_noise(data.expand(2, 1, 1, 1), noise.expand(2, 1, 1, 1), rows) if unit else None
        assert noisy is None or float(noisy[1]) == pytest.approx(math.sqrt(1 - scheduler.alpha_cumprod[500]), rel=1e-6)


@each
def test_scaled_input_has_unit_variance(scheduler: Any) -> None:
    """For noise alone and any sigma: what the network sees; for EDM, of data with its own deviation."""
    step = scheduler.schedule(6)[2]
    noise, _ = normal(seeded([0]), (20000,))
    data = scheduler.config.sigma_data if isinstance(scheduler, EDMScheduler) else 1.0
    clean, _ = normal(seeded([1]), (20000,))
    started, _ = scheduler.start(noise, [step], data * clean)
    assert float(scheduler.scale_input(started, step).std()) == pytest.approx(1, rel=0.02)


@each
def test_strength(scheduler: Any) -> None:
    whole = scheduler.schedule(10)
    assert scheduler.schedule(10, 0.0) == scheduler.schedule(10, 0.05) == []
    noise, sample = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    assert scheduler.start(noise, [], sample).sample is sample
    part = scheduler.schedule(10, 0.4)
    assert part[0].index > 0
    if scheduler is not SOLVERS["PLMS"] and scheduler is not SOLVERS["PNDM of x_0"]:
        assert part == whole[-len(part) :]
    assert len(part) <= len(whole) * 0.5
    with pytest.raises(PortError, match="strength below 1"):
        scheduler.start(noise, part)
    with pytest.raises(PortError, match="shape"):
        scheduler.start(noise, part, sample[:, :1])
    for strength in (-0.1, 1.1, math.nan, True):
        with pytest.raises(PortError, match="strength"):
            scheduler.schedule(10, strength)


@pytest.mark.parametrize("scheduler", [s for s in SOLVERS.values() if not isinstance(s, EDMScheduler)])
def test_respacing(scheduler: Any) -> None:
    """A respacing's timesteps are the model's, each call once more or not."""
    for steps in ("fast27", "smart100", "100,50"):
        if getattr(scheduler.config, "use_karras_sigmas", False):
            assert len(scheduler.schedule(steps)) > 20
            continue
        listed = {step.timestep for step in scheduler.schedule(steps)}
        wanted = set(respaced_timesteps(steps, 1000))
        if scheduler is SOLVERS["PNDM"]:
            assert wanted <= listed
            assert len(listed - wanted) <= 3  # half-way, where those are not listed themselves
        else:
            assert listed == wanted


def test_runge_kutta_of_a_part() -> None:
    """What is left out is whole steps, so that a run never begins between the calls of one."""
    scheduler = make(PNDMScheduler)
    whole = scheduler.schedule(10)
    for strength, calls in ((1.0, 19), (0.9, 15), (0.8, 11), (0.7, 7), (0.5, 5), (0.1, 1)):
        assert scheduler.schedule(10, strength) == whole[19 - calls :]
    for steps, calls in ((1, 1), (2, 5), (3, 9), (4, 13)):
        schedule = scheduler.schedule(steps)
        assert len(schedule) == calls
        assert len(walked(scheduler, torch.ones(1, 1, 2, 2), seeded([0]), steps=steps)[0]) == calls


# --- training -------------------------------------------------------------------------------------------------------


def test_edm_training() -> None:
    """The target is what `original` undoes; its weight is 1; log sigma is drawn from N(-1.2, 1.2^2)."""
    scheduler = make(EDMScheduler)
    drawn = scheduler.random_timesteps(seeded(range(4000)))
    assert drawn.timestep.shape == (4000,)
    assert float((4 * drawn.timestep).mean()) == pytest.approx(-1.2, abs=0.06)
    assert float((4 * drawn.timestep).std()) == pytest.approx(1.2, abs=0.06)
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    timestep = torch.tensor([-1.5, -0.3, 0.8])
    for kind in ("epsilon", "v_prediction"):
        scheduler = make(EDMScheduler, prediction_type=kind)
        noisy, target = scheduler.add_noise(clean, noise, timestep), scheduler.target(clean, noise, timestep)
        for row, place in enumerate(timestep.tolist()):
            step = Step(0, place, -math.inf, 1, math.exp(4 * place), 0.0)
            rows = slice(row, row + 1)
            back = scheduler.original(Prediction(target[rows]), noisy[rows], step)
            torch.testing.assert_close(back, clean[rows], rtol=1e-4, atol=1e-5)
            one = scheduler.scale_noisy(noisy[rows], place)
            torch.testing.assert_close(one, scheduler.scale_noisy(noisy, timestep)[rows])
            torch.testing.assert_close(one, scheduler.scale_input(noisy[rows], step))
            torch.testing.assert_close(
                target[rows], scheduler.target(clean[rows], noise[rows], place), rtol=1e-4, atol=1e-5
            )
        assert scheduler.loss_weight(timestep).tolist() == [1, 1, 1]
        assert scheduler.loss_weight(0.5).shape == (1,)


def test_continuous_timesteps() -> None:
    """A network of continuous time sees log(sigma) / 4, in training too; -inf is data."""
    scheduler = SOLVERS["Euler, continuous"]
    for step in scheduler.schedule(6):
        assert step.timestep == pytest.approx(math.log(step.sigma) / 4)
    drawn = scheduler.random_timesteps(seeded(range(50)))
    sigmas = (4 * drawn.timestep.double()).exp()
    nearest = (sigmas[:, None] / torch.from_numpy(scheduler.sigmas) - 1).abs().min(dim=1).values
    assert float(nearest.max()) < 1e-5
    clean, noise = torch.zeros(50, 1, 2, 2), torch.ones(50, 1, 2, 2)
    noisy = scheduler.add_noise(clean, noise, drawn.timestep)
    torch.testing.assert_close(noisy[:, 0, 0, 0], (4 * drawn.timestep).exp())
    assert scheduler.add_noise(clean, noise, -math.inf) is clean
    ratio = scheduler.snr(drawn.timestep)
    torch.testing.assert_close(ratio, (-8 * drawn.timestep).exp(), rtol=1e-4, atol=0)
    for wrong in (math.nan, math.inf, True):
        with pytest.raises(PortError, match="timestep"):
            scheduler.add_noise(clean, noise, wrong)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_ports() -> None:
    x, other, rng = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5), seeded([0, 1])
    for scheduler in SOLVERS.values():
        for steps in (0, -3, 1.5, True, "fast28", 10**6):
            with pytest.raises(PortError) as caught:
                scheduler.schedule(steps)
            assert caught.value.port == "steps"
        step = scheduler.schedule(8)[0]
        for call, port in (
            (lambda s=scheduler, t=step: s.step(Prediction(other), x, t, None, rng), "prediction"),
            (lambda s=scheduler, t=step: s.step(Prediction(x), x, t, None, rng, other), "original"),
            (lambda s=scheduler, t=step: s.original(Prediction(other), x, t), "prediction"),
            (lambda s=scheduler: s.add_noise(x, other, 0), "noise"),
            (lambda s=scheduler: s.target(x, other, 0), "noise"),
            (lambda s=scheduler: s.add_noise(x, x, math.nan), "timestep"),
            (lambda s=scheduler: s.add_noise(x, x, 1000), "timestep"),
            (lambda s=scheduler: s.add_noise(x, x, torch.tensor([1, 2, 3])), "timestep"),
        ):
            with pytest.raises(PortError) as caught:
                call()
            assert caught.value.port == port, (scheduler, port)
    for name in ("Heun", "EDM", "PLMS", "PNDM"):
        scheduler = SOLVERS[name]
        with pytest.raises(PortError) as caught:
            scheduler.step(Prediction(x), x, scheduler.schedule(8)[1], None, rng)
        assert caught.value.port == "state"
    for name in ("Euler ancestral", "SDE", "Euler with churn", "EDM, Euler"):
        scheduler = SOLVERS[name]
        with pytest.raises(PortError, match="1 streams for 2 samples"):
            scheduler.step(Prediction(x), x, scheduler.schedule(8)[0], None, seeded([0]))
    for name in ("PLMS", "DPM-Solver++", "Heun"):
        with pytest.raises(PortError, match="timestep"):
            SOLVERS[name].snr(-1)
    with pytest.raises(PortError, match="data"):
        SOLVERS["EDM"].target(x, x, -math.inf)


@pytest.mark.parametrize(
    ("cls", "config", "port"),
    [
        (DPMSolverScheduler, {"algorithm_type": "dpmsolver"}, "final_sigmas_type"),
        (
            DPMSolverScheduler,
            {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
            "solver_order",
        ),
        (DPMSolverScheduler, {"use_karras_sigmas": True, "use_exponential_sigmas": True}, "use_karras_sigmas"),
        (UniPCScheduler, {"predict_x0": False, "thresholding": True}, "thresholding"),
        (EDMScheduler, {"sigma_min": 80.0}, "sigma_min"),
        (EulerScheduler, {"trained_betas": (0.1, 0.2)}, "trained_betas"),
    ],
)
def test_options_that_exclude_each_other(cls: Any, config: dict[str, Any], port: str) -> None:
    with pytest.raises(PortError) as caught:
        make(cls, **config)
    assert caught.value.port == port


@pytest.mark.parametrize(
    ("cls", "steps", "config"),
    [
        (DPMSolverScheduler, 1000, {"timestep_spacing": "leading"}),
        (DPMSolverScheduler, 1000, {}),
        (UniPCScheduler, 8, {"timestep_spacing": "leading", "steps_offset": 500}),
        (EulerScheduler, 1000, {"timestep_spacing": "leading", "steps_offset": 1}),
    ],
)
def test_counts_that_the_spacing_cannot_give(cls: Any, steps: int, config: dict[str, Any]) -> None:
    with pytest.raises(PortError) as caught:
        make(cls, **config).schedule(steps)
    assert caught.value.port == "steps"


def test_lambda_that_leaves_no_timestep() -> None:
    with pytest.raises(PortError, match="leaves no timestep"):
        make(DPMSolverScheduler, lambda_min_clipped=100.0).schedule(5)


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        *((cls, "use_beta_sigmas", True) for cls in (DEISScheduler, EulerScheduler, HeunScheduler, LMSScheduler)),
        *((cls, "use_beta_sigmas", True) for cls in (DPMSolverScheduler, UniPCScheduler)),
        *((cls, "use_flow_sigmas", True) for cls in (DEISScheduler, DPMSolverScheduler, UniPCScheduler)),
        *((cls, "prediction_type", "flow_prediction") for cls in (DEISScheduler, EulerScheduler, PNDMScheduler)),
        (HeunScheduler, "beta_schedule", "exp"),
        (UniPCScheduler, "solver_p", "DDIMScheduler"),
        (UniPCScheduler, "shift_terminal", 0.1),
        (DPMSolverScheduler, "solver_order", 4),
        (DPMSolverScheduler, "algorithm_type", "ddim"),
        (DEISScheduler, "solver_type", "rk4"),
        (EulerScheduler, "timestep_type", "log"),
        (EulerScheduler, "interpolation_type", "cubic"),
        (EDMScheduler, "sigma_schedule", "linear"),
        (PNDMScheduler, "mystery", 1),
    ],
)
def test_values_that_are_not_implemented(cls: Any, key: str, value: Any, tmp_path: Path) -> None:
    """Are refused by name, where the file is read."""
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": cls.published[0], key: value}))
    with pytest.raises(WeightsError, match=key):
        cls.from_pretrained(tmp_path)


def test_other_processes_are_not_read(tmp_path: Path) -> None:
    for name in ("FlowMatchEulerDiscreteScheduler", "UnCLIPScheduler", "EDMEulerScheduler"):
        (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
        for cls in (PNDMScheduler, EulerScheduler, DDIMScheduler):
            with pytest.raises(WeightsError, match=name):
                cls.from_pretrained(tmp_path)


# --- in a graph -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of noise, with the config of an ancestral sampler beside it, as published repositories have it."""
    folder = tmp_path_factory.mktemp("weights")
    config = UNet2DConfig(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    init_module(UNet2D, config, 3).save_pretrained(folder)
    make(DDPMScheduler, **SD, clip_sample=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "cls",
    [
        PNDMScheduler, DEISScheduler, LMSScheduler, EulerScheduler, EulerAncestralScheduler, HeunScheduler,
        DPMSolverScheduler, UniPCScheduler,
    ],
)  # fmt: skip
def test_one_changed_line(cls: Any, weights: Path, tmp_path: Path) -> None:
    """The shared sampler runs every solver as it is, two-call ones too, and gives what a loop in Python gives."""
    sets = {"scheduler.node": cls.__name__}
    image = Lab(tmp_path).run(DDPM, Options(device="cpu"), weights=weights, seed=5, num_images=2, steps=6, sets=sets)[
        "image"
    ]
    network, scheduler = UNet2D.from_pretrained(weights), cls.from_pretrained(weights)
    assert scheduler.config.beta_end == 0.012
    schedule = scheduler.schedule(6)
    noise, rng = normal(seeded([5, 6]), (3, 8, 8))
    sample, state = scheduler.start(noise, schedule)
    with torch.no_grad():
        for step in schedule:
            prediction = network(scheduler.scale_input(sample, step), step.timestep)
            sample, state, rng = scheduler.step(prediction, sample, step, state, rng)
    assert torch.equal(image, sample)
    assert float(image.std()) > 0.1


@each
def test_a_state_in_half_precision(scheduler: Any) -> None:
    """As a run in half precision keeps it: computed with in float32, so that sums of it lose no more than it did."""
    noise, rng = normal(seeded([1, 2]), (3, 4, 4))
    schedule = scheduler.schedule(8)
    sample, state = scheduler.start(noise, schedule)
    for step in schedule:
        prediction = Prediction(torch.sin(1.3 * scheduler.scale_input(sample, step) + float(step.timestep) / 200))
        halved = tree_map(lambda x: x.half() if isinstance(x, Tensor) else x, state)
        rounded = scheduler.step(prediction, sample, step, halved, rng).sample
        sample, state, rng = scheduler.step(prediction, sample, step, state, rng)
        assert rounded.dtype == torch.float32
        assert float((rounded - sample).abs().max() / sample.abs().max()) < 5e-3
