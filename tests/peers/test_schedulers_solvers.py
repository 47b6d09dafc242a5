"""The solvers beside the published library's, call by call, over their configs.

The library keeps its tables and sigmas in float32, this project in float64. So that what is compared is the arithmetic,
the library is given its own tables and grid in float64, after both were found equal to float32 digits; and each call of
both starts where the library is, so that errors do not add up. `test_whole_runs` compares the library as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from diffgraph.nodes.draw import normal, seeded
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.schedulers.ddim import DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMScheduler
from diffgraph.nodes.schedulers.deis import DEISScheduler
from diffgraph.nodes.schedulers.dpm_solver import DPMSolverScheduler
from diffgraph.nodes.schedulers.edm import EDMScheduler
from diffgraph.nodes.schedulers.euler import EulerScheduler
from diffgraph.nodes.schedulers.euler_ancestral import EulerAncestralScheduler
from diffgraph.nodes.schedulers.heun import HeunScheduler
from diffgraph.nodes.schedulers.lms import LMSScheduler
from diffgraph.nodes.schedulers.noise_schedule import ZERO_SNR
from diffgraph.nodes.schedulers.pndm import PNDMScheduler
from diffgraph.nodes.schedulers.unipc import UniPCScheduler
from tests.parity import agree

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the library's own, of NumPy

SHAPE = (2, 3, 8, 8)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SPACINGS = ("linspace", "leading", "trailing")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
GRIDS: tuple[dict[str, Any], ...] = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})
PEERS: dict[Any, Any] = {
    PNDMScheduler: diffusers.PNDMScheduler,
    DEISScheduler: diffusers.DEISMultistepScheduler,
    LMSScheduler: diffusers.LMSDiscreteScheduler,
    EulerScheduler: diffusers.EulerDiscreteScheduler,
    EulerAncestralScheduler: diffusers.EulerAncestralDiscreteScheduler,
    HeunScheduler: diffusers.HeunDiscreteScheduler,
    DPMSolverScheduler: diffusers.DPMSolverMultistepScheduler,
    UniPCScheduler: diffusers.UniPCMultistepScheduler,
    EDMScheduler: diffusers.EDMEulerScheduler,
}
DRAWS = (EulerScheduler, EulerAncestralScheduler, DPMSolverScheduler, EDMScheduler)  # whose peers take a generator
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")  # arguments of the library's `step`


def toy(scaled: Tensor, timestep: float) -> Tensor:
    """What stands for a network: bounded, nowhere linear, different in every channel."""
    shift = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1)
    return torch.sin(1.3 * scaled + timestep / 200 + shift)


def both(cls: Any, config: dict[str, Any], *, exact: bool = True) -> tuple[Any, Any]:
    """Our scheduler and the library's; with `exact`, the library has float64 tables."""
    ours = cls(cls.Config(**config))
    own = (*CHURN, "solver_order") if cls is EDMScheduler else CHURN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the library would rather drop DPM-Solver without ++
        theirs = PEERS[cls](**{key: value for key, value in config.items() if key not in own})
    if exact and hasattr(theirs, "alphas_cumprod"):
        table = torch.from_numpy(np.where(ours.alpha_cumprod == 0, ZERO_SNR, ours.alpha_cumprod))
        torch.testing.assert_close(theirs.alphas_cumprod.double(), table, rtol=2e-3, atol=1e-6)
        theirs.alphas_cumprod = table
        if isinstance(theirs, diffusers.PNDMScheduler):
            theirs.final_alpha_cumprod = torch.tensor(1.0) if config.get("set_alpha_to_one") else table[0]
    return ours, theirs


def same_grid(schedule: Any, theirs: Any) -> None:
    """Asserts that the timesteps and sigmas are the library's, and gives it the sigmas in float64."""
    wanted = theirs.timesteps.double()
    got = torch.tensor([step.timestep for step in schedule], dtype=torch.float64)
    # 2e-3: a fractional timestep of a float32 sigma, among those of 1000 whose sigmas differ in the sixth digit
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-3 if wanted.dtype.is_floating_point else 0)
    if hasattr(theirs, "sigmas"):
        sigmas = [schedule[0].sigma, *(step.next_sigma for step in schedule)]
        if isinstance(theirs, diffusers.HeunDiscreteScheduler):
            sigmas = [*(step.sigma for step in schedule), schedule[-1].next_sigma]
        grid = torch.tensor(sigmas, dtype=torch.float64)
        torch.testing.assert_close(theirs.sigmas.double()[: len(grid)], grid, rtol=1e-6, atol=1e-9)
        theirs.sigmas = grid


def generators(rng: Any) -> list[torch.Generator]:
    made = [torch.Generator() for _ in rng.states]
    for generator, state in zip(made, rng.states, strict=True):
        generator.set_state(state.clone())
    return made


def compare(cls: Any, config: dict[str, Any], steps: int, *, tolerance: float = 1e-5, free: bool = False) -> None:
    """Walks both from the same noise. free: each goes its own way, and the last samples are compared."""
    ours, theirs = both(cls, config, exact=not free)
    schedule = ours.schedule(steps)
    theirs.set_timesteps(steps)
    if free:
        assert len(schedule) == len(theirs.timesteps)
    else:
        same_grid(schedule, theirs)
    noise, rng = normal(seeded([11, 12]), SHAPE[1:])
    mine, state = ours.start(noise, schedule)
    if cls is EDMScheduler:
        x = noise * ours.config.sigma_max  # as the paper has it; the library has sqrt(sigma_max^2 + 1)
    else:
        x = noise * theirs.init_noise_sigma
    agree(cls.__name__, _name(cls), mine, x, tolerance=1e-6, what="start")
    options = {key: config[key] for key in CHURN if key in config}
    found, wanted = [], []
    for step, timestep in zip(schedule, theirs.timesteps, strict=True):
        if not free:
            mine = x
        scaled = theirs.scale_model_input(x, timestep)
        if not free:
            torch.testing.assert_close(ours.scale_input(x, step), scaled.float(), rtol=1e-5, atol=1e-6)
        drawn = {"generator": generators(rng), **options} if cls in DRAWS else {}
        x = theirs.step(toy(scaled, float(timestep)), timestep, x, **drawn).prev_sample.float()
        prediction = Prediction(
            toy(ours.scale_input(mine, step), float(step.timestep)) if free else toy(scaled, float(timestep))
        )
        mine, state, rng = ours.step(prediction, mine, step, state, rng)
        found.append(mine / x.abs().max())  # each on the scale of its own sample
        wanted.append(x / x.abs().max())
    assert torch.isfinite(x).all()
    what = json.dumps({**config, "steps": steps})
    if free:
        agree(cls.__name__, _name(cls), mine, x, tolerance=tolerance, what=f"whole run {what}")
    else:
        agree(cls.__name__, _name(cls), torch.stack(found), torch.stack(wanted), tolerance=tolerance, what=what)


def _name(cls: Any) -> str:
    return f"diffusers {PEERS[cls].__name__}"


def grid_of(*parts: Any) -> list[dict[str, Any]]:
    """Every combination of configs."""
    merged = []
    for combination in itertools.product(*parts):
        config: dict[str, Any] = {}
        for part in combination:
            config.update(part)
        merged.append(config)
    return merged


def of(key: str, values: Any) -> list[dict[str, Any]]:
    return [{key: value} for value in values]


SPACED = of("timestep_spacing", SPACINGS)
ORDERS = of("solver_order", (1, 2, 3))
PREDICTED = of("prediction_type", PREDICTIONS)
MIXED: list[dict[str, Any]] = [  # every prediction type, every grid
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "epsilon", "use_karras_sigmas": True},
    {"prediction_type": "sample", "use_exponential_sigmas": True},
]
ODE_AND_SDE = of("algorithm_type", ("dpmsolver++", "sde-dpmsolver++"))
# bh1 of the published library is not a number where a run ends in data
BH = [{"solver_type": "bh2"}, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}]
PLMS: list[dict[str, Any]] = [{"skip_prk_steps": True}, {"skip_prk_steps": True, "set_alpha_to_one": True}, {}]
OFFSET = [{**SD, "steps_offset": 1}]
CASES: list[tuple[Any, dict[str, Any], int]] = [
    *((PNDMScheduler, config, 10) for config in grid_of(OFFSET, SPACED, PREDICTED[:2], PLMS)),
    *((PNDMScheduler, {"skip_prk_steps": skip}, steps) for skip in (True, False) for steps in (4, 23)),
    *((PNDMScheduler, {"skip_prk_steps": True}, steps) for steps in (1, 2, 3)),
    *((DEISScheduler, config, 10) for config in grid_of([SD], SPACED, ORDERS, MIXED)),
    *((LMSScheduler, config, 10) for config in grid_of([SD], SPACED, PREDICTED, GRIDS)),
    *((EulerScheduler, config, 10) for config in grid_of([SD], SPACED, PREDICTED, GRIDS)),
    *((EulerAncestralScheduler, config, 10) for config in grid_of([SD], SPACED, PREDICTED[:2])),
    *((HeunScheduler, config, 10) for config in grid_of([SD], SPACED, PREDICTED, GRIDS)),
    *((DPMSolverScheduler, config, 10) for config in grid_of([SD], SPACED, ORDERS, ODE_AND_SDE, MIXED)),
    *((UniPCScheduler, config, 10) for config in grid_of([SD], SPACED, ORDERS, BH, MIXED)),
]
ZERO_SNR_V = {**SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
TRAINED = {"trained_betas": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5], "num_train_timesteps": 8}
CHURNED = {"s_churn": 3.0, "s_tmin": 0.1, "s_tmax": 5.0, "s_noise": 1.003}
OPTIONS: list[tuple[Any, dict[str, Any], int]] = [
    *((cls, ZERO_SNR_V, 12) for cls in (EulerScheduler, EulerAncestralScheduler, DPMSolverScheduler, UniPCScheduler)),
    *((cls, {**COSINE, "prediction_type": "v_prediction"}, 12) for cls in (LMSScheduler, DPMSolverScheduler, UniPCScheduler)),
    *((cls, {**COSINE, "prediction_type": "sample"}, 12) for cls in (HeunScheduler, DPMSolverScheduler, UniPCScheduler)),
    *((cls, TRAINED, 6) for cls in PEERS if cls is not EDMScheduler),
    *((cls, {**SD, **THRESHOLD, "solver_order": 3}, 25) for cls in (DEISScheduler, DPMSolverScheduler, UniPCScheduler)),
    *((cls, {**SD, "solver_order": 3, "lower_order_final": final}, steps)
      for cls in (DEISScheduler, DPMSolverScheduler) for final in (True, False) for steps in (1, 2, 3, 14, 15)),
    *((UniPCScheduler, {**SD, "solver_order": order, "predict_x0": x0, "final_sigmas_type": "sigma_min", "solver_type": bh}, 12)
      for order in (1, 2, 3, 4) for x0 in (True, False) for bh in ("bh1", "bh2")),
    (UniPCScheduler, {**SD, "solver_order": 3, "disable_corrector": [0, 1, 5]}, 12),
    (UniPCScheduler, {**SD, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}, 12),
    (UniPCScheduler, {**SD, "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}, 12),
    (UniPCScheduler, {**SD, "use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"}, 12),
    *((DPMSolverScheduler, {**SD, "algorithm_type": algorithm, "solver_order": order, "solver_type": solver, "final_sigmas_type": "sigma_min"}, 12)
      for algorithm in ("dpmsolver", "sde-dpmsolver", "dpmsolver++", "sde-dpmsolver++") for order in (1, 2, 3)
      for solver in ("midpoint", "heun") if (algorithm, order) != ("sde-dpmsolver", 3)),
    (DPMSolverScheduler, {**SD, **THRESHOLD, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 12),
    (DPMSolverScheduler, {**SD, "euler_at_final": True, "final_sigmas_type": "sigma_min"}, 20),
    (DPMSolverScheduler, {**SD, "use_lu_lambdas": True}, 12),
    (DPMSolverScheduler, {**COSINE, "use_karras_sigmas": True, "prediction_type": "v_prediction"}, 12),
    *((DPMSolverScheduler, {**COSINE, "lambda_min_clipped": -5.1, "timestep_spacing": spacing}, 12) for spacing in SPACINGS),
    (EulerScheduler, {**SD, "interpolation_type": "log_linear"}, 12),
    (EulerScheduler, {**SD, "interpolation_type": "log_linear", "use_karras_sigmas": True}, 12),
    (EulerScheduler, {**SD, "final_sigmas_type": "sigma_min"}, 12),
    *((EulerScheduler, {**SD, "use_karras_sigmas": karras, "timestep_type": "continuous", "prediction_type": "v_prediction",
                        "sigma_min": 0.002, "sigma_max": 700.0}, 12) for karras in (True, False)),
    *((EulerScheduler, {**SD, **CHURNED, "prediction_type": prediction}, 12) for prediction in PREDICTIONS),
    (HeunScheduler, {**SD, "clip_sample": True, "clip_sample_range": 0.8}, 12),
    *((cls, {**SD, "timestep_spacing": "leading"}, 1) for cls in (EulerScheduler, HeunScheduler, LMSScheduler, DPMSolverScheduler)),
    *((EDMScheduler, {"solver_order": 1, "prediction_type": prediction, **config}, 18)
      for prediction in ("epsilon", "v_prediction")
      for config in ({}, CHURNED, {"s_churn": 10.0}, {"sigma_schedule": "exponential", "sigma_max": 20.0, "sigma_data": 1.0},
                     {"final_sigmas_type": "sigma_min", "rho": 5.0})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "config", "steps"),
    CASES + OPTIONS,
    ids=[f"{c.__name__}-{json.dumps(k)}-{n}" for c, k, n in CASES + OPTIONS],
)
def test_call_by_call(cls: Any, config: dict[str, Any], steps: int) -> None:
    compare(cls, config, steps)


@pytest.mark.parametrize("cls", [EulerScheduler, EulerAncestralScheduler, DEISScheduler, PNDMScheduler])
def test_cosine_call_by_call(cls: Any) -> None:
    """5e-4: from the first sigma, 20291, a step leads to one a thousand times smaller, of which float32 keeps no more."""
    compare(cls, {**COSINE, "prediction_type": "v_prediction"}, 12, tolerance=5e-4)


# --- the library as it is -------------------------------------------------------------------------------------------

PUBLISHED: list[tuple[Any, dict[str, Any], int]] = [
    (PNDMScheduler, {**SD, "skip_prk_steps": True, "steps_offset": 1}, 50),
    (PNDMScheduler, {}, 50),
    (DEISScheduler, {**SD, "solver_order": 2}, 25),
    (LMSScheduler, SD, 50),
    (EulerScheduler, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, 50),
    (EulerScheduler, {**SD, "use_karras_sigmas": True}, 30),
    (EulerAncestralScheduler, {**SD, "timestep_spacing": "leading", "steps_offset": 1}, 30),
    (HeunScheduler, SD, 25),
    (DPMSolverScheduler, {**SD, "use_karras_sigmas": True}, 25),
    (DPMSolverScheduler, {**SD, "algorithm_type": "sde-dpmsolver++"}, 25),
    (DPMSolverScheduler, {**SD, "solver_order": 3}, 25),
    (UniPCScheduler, {**SD, "solver_order": 3}, 20),
    (EDMScheduler, {"solver_order": 1}, 30),
]


@pytest.mark.parametrize(("cls", "config", "steps"), PUBLISHED)
def test_whole_runs(cls: Any, config: dict[str, Any], steps: int) -> None:
    """With its float32 tables and sigmas, each going its own way, from the same noise and the same streams."""
    compare(cls, config, steps, free=True)


# --- image to image -------------------------------------------------------------------------------------------------

PARTS = [
    (PNDMScheduler, {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    (PNDMScheduler, {**SD, "skip_prk_steps": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    (DEISScheduler, {**SD, "solver_order": 3}),
    (EulerScheduler, {**SD, "timestep_spacing": "leading", "steps_offset": 1}),
    (EulerScheduler, {**SD, "use_karras_sigmas": True}),
    (EulerAncestralScheduler, SD),
    (HeunScheduler, SD),
    (DPMSolverScheduler, {**SD, "solver_order": 3}),
    (DPMSolverScheduler, {**SD, "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}),
    (UniPCScheduler, {**SD, "solver_order": 3}),
    (EDMScheduler, {"solver_order": 1}),
    (LMSScheduler, SD),
]


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.75, 0.9, 0.95, 1.0])
@pytest.mark.parametrize(("cls", "config"), PARTS)
def test_image_to_image(cls: Any, config: dict[str, Any], strength: float) -> None:
    """What the library's pipelines do: the timesteps from t_start on, two a step for Heun, and the image noised to the
    first of them. LMS: the start alone, since the library's first factors there are of slopes that it does not have.
    """
    ours, theirs = both(cls, config)
    schedule = ours.schedule(20, strength)
    theirs.set_timesteps(20)
    same_grid(ours.schedule(20), theirs)
    skipped = (20 - int(20 * strength)) * theirs.order
    left = theirs.timesteps[skipped:]
    assert [step.timestep for step in schedule] == pytest.approx(left.tolist(), abs=2e-3)
    assert (schedule[0].index, schedule[-1].index) == (skipped, len(theirs.timesteps) - 1)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(skipped)
    (noise, rng), (image, _) = normal(seeded([11, 12]), SHAPE[1:]), normal(seeded([21, 22]), SHAPE[1:])
    x = theirs.add_noise(image, noise, left[:1].repeat(2)).float()
    mine, state = ours.start(noise, schedule, image)
    agree(cls.__name__, _name(cls), mine, x, tolerance=2e-6, what=f"image to image, start at {strength}")
    if cls is LMSScheduler:
        return
    for step, timestep in zip(schedule, left, strict=True):
        value = toy(theirs.scale_model_input(x, timestep), float(timestep))
        drawn = {"generator": generators(rng)} if cls in DRAWS else {}
        x = theirs.step(value, timestep, x, **drawn).prev_sample.float()
        mine, state, rng = ours.step(Prediction(value), mine, step, state, rng)
    agree(cls.__name__, _name(cls), mine, x, what=f"image to image, strength {strength}")


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PNDMScheduler, DPMSolverScheduler, EulerScheduler, HeunScheduler, LMSScheduler])
@pytest.mark.parametrize("config", [{}, SD], ids=["linear", "SD"])
def test_noise_of_every_timestep(cls: Any, config: dict[str, Any]) -> None:
    """The library's solvers noise to a timestep of their run, so a run of all thousand is made."""
    ours, theirs = both(
        cls, {**config, "timestep_spacing": "trailing", **({"skip_prk_steps": True} if cls is PNDMScheduler else {})}
    )
    theirs.set_timesteps(1000)
    timestep = torch.tensor([0, 1, 250, 999])
    sample, noise = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    wanted = theirs.add_noise(sample, noise, timestep if cls is PNDMScheduler else timestep.to(theirs.timesteps.dtype))
    agree(cls.__name__, _name(cls), ours.add_noise(sample, noise, timestep), wanted.float(), what="add_noise")
    for row, t in enumerate(timestep.tolist()):
        one = ours.add_noise(sample[row : row + 1], noise[row : row + 1], t)
        torch.testing.assert_close(one, ours.add_noise(sample, noise, timestep)[row : row + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", [cls for cls in PEERS if cls is not EDMScheduler])
def test_training_side_is_the_process_own(cls: Any) -> None:
    """Targets, ratios and weights depend on the process, not on the solver."""
    ours, process = cls(cls.Config(**SD, prediction_type="v_prediction")), diffusers.DDPMScheduler(**SD)
    process.alphas_cumprod = torch.from_numpy(ours.alpha_cumprod)
    timestep = torch.tensor([0, 1, 250, 999])
    sample, noise = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    velocity = process.get_velocity(sample, noise, timestep)
    agree(cls.__name__, "diffusers DDPMScheduler", ours.target(sample, noise, timestep), velocity, what="velocity")
    noisy = ours.add_noise(sample, noise, timestep)
    seen = ours.scale_noisy(noisy, timestep) if hasattr(ours, "scale_noisy") else noisy
    wanted = process.add_noise(sample, noise, timestep)
    agree(cls.__name__, "diffusers DDPMScheduler", seen, wanted, what="what a network is trained on")
    from diffusers.training_utils import compute_snr

    ratio = compute_snr(process, timestep)
    agree(cls.__name__, "diffusers compute_snr", ours.snr(timestep), ratio, what="signal to noise")
    weight = torch.minimum(ratio, torch.tensor(5.0)) / (ratio + 1)
    agree(cls.__name__, "diffusers compute_snr", ours.loss_weight(timestep, "min_snr"), weight, what="min-SNR weight")


# --- configs --------------------------------------------------------------------------------------------------------

EVERY = {**PEERS, DDPMScheduler: diffusers.DDPMScheduler, DDIMScheduler: diffusers.DDIMScheduler}
DISCRETE = {ours: theirs for ours, theirs in EVERY.items() if ours is not EDMScheduler}


@pytest.mark.parametrize("cls", EVERY)
def test_defaults_are_the_published_ones(cls: Any) -> None:
    """Every key that the library writes is a field, with its default, or changes nothing."""
    published = {key: value for key, value in EVERY[cls]().config.items() if not key.startswith("_")}
    own = {field.name: field.default for field in dataclasses.fields(cls.Config)}
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in published.items() if key in own}
    assert known == {key: own[key] for key in known}
    assert set(published) - set(known) <= {
        "variance_type", "flow_shift", "use_dynamic_shifting", "time_shift_type", "num_train_timesteps",
    }  # fmt: skip


@pytest.mark.parametrize("theirs", DISCRETE.values(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("cls", DISCRETE)
def test_every_scheduler_reads_every_config(cls: Any, theirs: Any, tmp_path: Path) -> None:
    """The process is kept, keys of the other solver are passed over, and written back."""
    theirs(beta_end=0.013, beta_schedule="scaled_linear", prediction_type="v_prediction", steps_offset=1).save_config(
        tmp_path
    )
    ours = cls.from_pretrained(tmp_path)
    config = ours.config
    assert (config.beta_end, config.beta_schedule, config.prediction_type) == (0.013, "scaled_linear", "v_prediction")
    assert config.steps_offset == 1
    assert ours.schedule(5)
    ours.save_pretrained(tmp_path / "saved")
    published = json.loads((tmp_path / "scheduler_config.json").read_text())
    saved = json.loads((tmp_path / "saved" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == DISCRETE[cls].__name__
    assert {key: saved[key] for key in published if not key.startswith("_")} == {
        key: value for key, value in published.items() if not key.startswith("_")
    }
    if (cls, theirs) == (DPMSolverScheduler, diffusers.DEISMultistepScheduler):
        return  # whose algorithm, "deis", the library's DPM-Solver replaces, but refuses together with final sigma 0
    again = DISCRETE[cls].from_pretrained(tmp_path / "saved")
    assert (again.config.beta_end, again.config.prediction_type) == (0.013, "v_prediction")


def test_the_words_of_other_solvers(tmp_path: Path) -> None:
    """They stand for what the library puts in their place."""
    diffusers.UniPCMultistepScheduler(**SD, solver_order=3, solver_type="bh1").save_config(tmp_path)
    solver = DPMSolverScheduler.from_pretrained(tmp_path)
    assert (solver.solver, solver.config.solver_order) == ("midpoint", 3)
    diffusers.DEISMultistepScheduler(**SD).save_config(tmp_path)
    assert DPMSolverScheduler.from_pretrained(tmp_path).algorithm == "dpmsolver++"
    assert UniPCScheduler.from_pretrained(tmp_path).config.solver_type == "logrho"
    compare(UniPCScheduler, {**SD, "solver_type": "logrho"}, 10)
    compare(DPMSolverScheduler, {**SD, "solver_type": "logrho"}, 10)
    compare(DEISScheduler, {**SD, "algorithm_type": "dpmsolver++", "solver_type": "heun"}, 10)


def test_edm_reads_and_writes_its_published_config(tmp_path: Path) -> None:
    diffusers.EDMEulerScheduler(sigma_data=1.0, sigma_max=20.0, prediction_type="v_prediction").save_config(tmp_path)
    ours = EDMScheduler.from_pretrained(tmp_path, s_churn=3.0)
    assert (ours.config.sigma_data, ours.config.sigma_max, ours.config.prediction_type) == (1.0, 20.0, "v_prediction")
    ours.save_pretrained(tmp_path / "saved")
    assert diffusers.EDMEulerScheduler.from_pretrained(tmp_path / "saved").config.sigma_max == 20.0
