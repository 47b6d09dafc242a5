"""EDM: Karras' preconditioning of a network, his sampler with churn, and the training side in terms of sigma."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log, sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..draw import normal
from ..kinds import (
    CLEAN,
    NOISY,
    SCALED,
    SPACE,
    UNDERWAY,
    UNSCALED,
    AnyTimestep,
    DrawnTimesteps,
    Noise,
    Output,
    Prediction,
    Rng,
    Sample,
    Started,
    State,
    Step,
    Stepped,
    Steps,
    Timestep,
    Weight,
)
from .discrete import kept_of, noise_like, same_shape
from .noise_schedule import wide
from .sigma_schedule import churned, exponential_sigmas, karras_sigmas
from .sigma_space import HalfStep, heun_corrected

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULE = "edm,$sigma_data"
PREDICTED = Fact(prediction="$prediction_type", schedule=SCHEDULE)


@dataclass(frozen=True)
class EDMConfig:
    """The fields of a published EDM scheduler_config.json, and the solver.

    sigma_min, sigma_max, rho, sigma_schedule: the grid. sigma_data: the standard deviation of the data. prediction_type:
    whether the network gives F or -F. final_sigmas_type: a run ends in data, or at sigma_min. solver_order: 2, Heun's
    method with churn before the call (Karras et al. 2022, arXiv:2206.00364, alg. 2); or 1, Euler's, with churn after the
    call, as published. s_churn, s_tmin, s_tmax, s_noise: noise is put back at sigmas within
    [s_tmin, s_tmax], null for no limit.
    """

    sigma_min: Annotated[float, Bound(gt=0)] = 0.002
    sigma_max: Annotated[float, Bound(gt=0)] = 80.0
    sigma_data: Annotated[float, Bound(gt=0)] = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rho: Annotated[float, Bound(gt=0)] = 7.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    solver_order: Literal[1, 2] = 2
    s_churn: Annotated[float, Bound(ge=0)] = 0.0
    s_tmin: Annotated[float, Bound(ge=0)] = 0.0
    s_tmax: Annotated[float, Bound(ge=0)] | None = None
    s_noise: Annotated[float, Bound(ge=0)] = 1.0


class EDMScheduler(Component, version=1):
    """The design space of diffusion models (Karras et al. 2022, arXiv:2206.00364, table 1, column "EDM").

    The sample is x_0 + sigma n. The network sees c_in x and, as its timestep, c_noise = log(sigma) / 4; what it gives
    makes D = c_skip x + c_out F. So a timestep here is log(sigma) / 4, any number, and -inf stands for data.
    """

    Config = EDMConfig
    published = ("EDMEulerScheduler",)
    config_file: ClassVar[str] = "scheduler_config.json"
    facts: ClassVar[Mapping[str, str]] = {"prediction": "$prediction_type", "schedule": SCHEDULE}
    ignored: ClassVar[frozenset[str]] = frozenset({"num_train_timesteps"})
    config: EDMConfig

    def __init__(self, config: EDMConfig) -> None:
        """Raises PortError where sigma_min is not below sigma_max."""
        if config.sigma_min >= config.sigma_max:
            raise PortError("sigma_min", f"{config.sigma_min} is not below sigma_max {config.sigma_max}")
        self.config = config

    # sampling

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The calls of a run: 2 N - 1 for N steps of Heun's method, N for Euler's. strength in [0, 1]: the share of the
        steps, from the end, that is done.

        With churn, a first call is at the raised sigma, to which the call before has led; the very first noise is
        scaled to it. Raises PortError where steps is no whole number of at least 1.
        """
        config = self.config
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 100_000:
            raise PortError("steps", f"got {steps!r}; expected a whole number from 1 to 100000")
        kept = kept_of(steps, strength)
        if config.sigma_schedule == "karras":
            grid = karras_sigmas(config.sigma_max, config.sigma_min, steps, config.rho)
        else:
            grid = exponential_sigmas(config.sigma_max, config.sigma_min, steps)
        sigmas = [*map(float, grid), 0.0 if config.final_sigmas_type == "zero" else float(grid[-1])]
        if config.solver_order == 1:
            return _records(list(pairwise(sigmas)))[steps - kept :]
        raised = [churned(sigma, config.s_churn, config.s_tmin, config.s_tmax, steps) for sigma in sigmas[:-1]]
        calls = []
        for i, (hat, then) in enumerate(zip(raised, sigmas[1:], strict=True)):
            calls.append((hat, then))
            if i < steps - 1:
                calls.append((then, raised[i + 1]))
        return _records(calls)[2 * (steps - kept) :] if kept else []

    def start(
        self,
        noise: Annotated[Noise, "B ..."],
        schedule: Annotated[list[Step], Fact(scheduler="@self")],
        sample: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Started, "B ...", SPACE, Fact(scheduler="@self")]:
        """What the solver starts from: the noise times the first sigma, on a given sample or on none (alg. 2, line 2).

        Raises PortError where the schedule starts part-way (strength below 1) and no sample is given.
        """
        if sample is not None:
            same_shape("sample", sample, noise)
        elif not schedule or schedule[0].index > 0:
            raise PortError(
                "sample", "a schedule with strength below 1 starts from one", hint="wire it, or set strength: 1"
            )
        if sample is None:
            return Started((schedule[0].sigma * wide(noise)).to(noise.dtype), None)
        return Started(self.add_noise(sample, noise, schedule[0].timestep) if schedule else sample, None)

    def scale_input(
        self, sample: Annotated[Sample, "B ...", SPACE, UNDERWAY], step: Annotated[Step, Fact(scheduler="@self")]
    ) -> Annotated[Sample, "B ...", SPACE, SCALED]:
        """The sample as the network sees it: c_in x = x / sqrt(sigma^2 + sigma_data^2)."""
        return (wide(sample) / sqrt(step.sigma**2 + self.config.sigma_data**2)).to(sample.dtype)

    def original(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
    ) -> Annotated[Sample, "B ...", SPACE, CLEAN]:
        """The clean estimate D = c_skip x + c_out F (eq. 7). Raises PortError where the shapes differ."""
        return self._original(prediction, wide(sample), step.sigma).to(sample.dtype)

    def _original(self, prediction: Prediction, sample: Tensor, sigma: float) -> Tensor:
        same_shape("prediction", prediction.value, sample)
        skip, out = self._preconditioning(sigma)
        clean: Tensor = skip * sample + out * wide(prediction.value)
        return clean

    def _preconditioning(self, sigma: Any) -> tuple[Any, Any]:
        """c_skip and c_out (table 1)."""
        data = self.config.sigma_data
        total = sigma**2 + data**2
        sign = -1 if self.config.prediction_type == "v_prediction" else 1
        return data**2 / total, sign * sigma * data / total**0.5

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x at sigma -> x at sigma' by the slope (x - D) / sigma, then again by the mean of the slopes at both ends, and
        up to the raised sigma of the next interval (alg. 2, lines 4 to 11).

        original: an edited clean estimate, in place of that of the prediction. state: the half step between the two
        calls, else None. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape
        differs, or where a second call has no first.
        """
        config, x = self.config, wide(sample)
        if original is not None:
            same_shape("original", original, sample)
        clean = self._original(prediction, x, step.sigma) if original is None else wide(original)
        if config.solver_order == 1:
            return self._euler(x, clean, sample, step, rng)
        slope = (x - clean) / step.sigma
        if step.index % 2 == 0:
            half = HalfStep(x, slope, step.sigma) if step.index < step.count - 1 else None
            return Stepped((x + (step.next_sigma - step.sigma) * slope).to(sample.dtype), half, rng)
        x = heun_corrected(state, slope, step)
        if step.next_sigma > step.sigma:
            noise, rng = noise_like(sample, rng)
            x = x + config.s_noise * sqrt(step.next_sigma**2 - step.sigma**2) * noise
        return Stepped(x.to(sample.dtype), None, rng)

    def _euler(self, x: Tensor, clean: Tensor, sample: Tensor, step: Step, rng: Any) -> Stepped:
        """Euler's step; churn moves the sample after the call, and D with it."""
        config, sigma = self.config, step.sigma
        raised = churned(sigma, config.s_churn, config.s_tmin, config.s_tmax, step.count)
        if raised > sigma:
            noise, rng = noise_like(sample, rng)
            (skip, out), (skip_hat, out_hat) = self._preconditioning(sigma), self._preconditioning(raised)
            given = (clean - skip * x) / out
            x = x + config.s_noise * sqrt(raised**2 - sigma**2) * noise
            clean = skip_hat * x + out_hat * given
        x = x + (step.next_sigma - raised) * (x - clean) / raised
        return Stepped(x.to(sample.dtype), None, rng)

    # training

    def random_timesteps(
        self, rng: Annotated[Rng, "B"], mean: float = -1.2, deviation: Annotated[float, Bound(gt=0)] = 1.2
    ) -> DrawnTimesteps:
        """Draws log(sigma) ~ N(mean, deviation^2) for each image, and gives log(sigma) / 4, float32 (table 1)."""
        drawn, after = normal(rng, ())
        return DrawnTimesteps((mean + deviation * drawn) / 4, after)

    def add_noise(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: AnyTimestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY, UNSCALED]:
        """x_0 + sigma n. timestep: log(sigma) / 4, a number or [B]; -inf for data, where it is the identity."""
        same_shape("noise", noise, sample)
        sigma = self._sigma(timestep, sample)
        if isinstance(sigma, float) and sigma == 0:
            return sample
        noisy: Tensor = wide(sample) + sigma * wide(noise)
        return noisy.to(sample.dtype)

    def scale_noisy(
        self, sample: Annotated[Sample, "B ...", SPACE, NOISY, UNSCALED], timestep: Timestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY, SCALED]:
        """What `add_noise` gave as the network sees it in training: c_in x. timestep: a number, or [B]."""
        sigma = self._sigma(timestep, sample)
        scaled: Tensor = wide(sample) / (sigma**2 + self.config.sigma_data**2) ** 0.5
        return scaled.to(sample.dtype)

    def target(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: Timestep
    ) -> Annotated[Output, "B ...", PREDICTED, SPACE]:
        """What the network is trained to give: F = (x_0 - c_skip x) / c_out (eq. 8). Raises PortError at sigma 0."""
        same_shape("noise", noise, sample)
        sigma = self._sigma(timestep, sample)
        skip, out = self._preconditioning(sigma)
        if isinstance(out, float) and out == 0:
            raise PortError("timestep", "is that of data, where the network has nothing to say")
        noisy = wide(sample) + sigma * wide(noise)
        target: Tensor = (wide(sample) - skip * noisy) / out
        return target.to(sample.dtype)

    def loss_weight(self, timestep: Timestep) -> Annotated[Weight, "B"]:
        """The factor on the squared error of F, float32 [B], or [1] for a number: 1, since the loss's own
        (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 is 1 / c_out^2 (table 1).
        """
        import torch

        rows = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1)
        return torch.ones_like(rows)

    @staticmethod
    def _sigma(timestep: Any, like: Tensor) -> Any:
        """exp(4 timestep): a number, or for [B] a tensor that broadcasts over `like`."""
        if not hasattr(timestep, "ndim") or timestep.ndim == 0:
            number = timestep.item() if hasattr(timestep, "item") else timestep
            if isinstance(number, bool) or not isinstance(number, int | float) or not number < 20:
                raise PortError("timestep", f"got {number!r}; expected log(sigma) / 4")
            return exp(4 * number)
        if timestep.shape[0] not in (1, like.shape[0]) or timestep.ndim != 1:
            raise PortError("timestep", f"shape {list(timestep.shape)} for {like.shape[0]} samples")
        return (4 * timestep.to(like.device).float()).exp().reshape(-1, *(1,) * (like.ndim - 1))


def _records(calls: list[tuple[float, float]]) -> list[Step]:
    return [
        Step(index, log(now) / 4, log(then) / 4 if then else -inf, len(calls), now, then)
        for index, (now, then) in enumerate(calls)
    ]
