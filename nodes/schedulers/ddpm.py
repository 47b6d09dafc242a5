"""DDPM's ancestral sampler, over any list of timesteps, with fixed or learned variances."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..kinds import CLEAN, NOISY, SPACE, UNDERWAY, Loss, Prediction, Rng, Sample, State, Step, Stepped, Steps, Timestep
from .discrete import PREDICTED, DiffusionConfig, DiscreteDiffusion, noise_like, published_as, same_shape
from .noise_schedule import (
    MIN_VARIANCE,
    log_variance_range,
    log_variance_tables,
    posterior_mean_factors,
    variational_term,
    wide,
)

if TYPE_CHECKING:
    from torch import Tensor

VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]


@dataclass(frozen=True)
class DDPMConfig(DiffusionConfig):
    """The fields of DiffusionConfig, and variance_type, the variance of a step t -> s:

    fixed_small, the posterior's; fixed_large, beta; learned_range, the network says where between their logarithms (-1
    small, 1 large); learned, the network gives the variance itself. The "_log" forms are the same numbers, and null,
    which configs of DPM-Solver say, is fixed_small.
    """

    variance_type: VarianceType | None = "fixed_small"


class DDPMScheduler(DiscreteDiffusion, Component, version=1):
    """Ancestral sampling of a diffusion process (Ho et al. 2020, arXiv:2006.11239, alg. 2).

    A step leads to the next timestep of the list, with the betas of the process respaced to that list:
    beta = 1 - alpha_cumprod_t / alpha_cumprod_s (Nichol and Dhariwal 2021, arXiv:2102.09672, section 4). The step that
    ends in data adds no noise.
    """

    Config = DDPMConfig
    published = published_as("DDPMScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says; or a text, always OpenAI's respacing
        ("fast27", "100", "10,10,3,2,2", "ddim50"). strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        listed = self._listed(steps)
        pairs = zip(listed, [*listed[1:], -1], strict=True)
        return self._records(pairs, strength)

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x_t -> x_s, drawn from N(mean of q(x_s | x_t, x_0), variance) (arXiv:2006.11239, eqs. 6 and 7).

        original: an edited clean estimate, in place of that of the prediction. state: passed through. Computed in at
        least float32, given in the dtype of the sample. Raises PortError where a shape differs or a learned variance is
        missing.
        """
        x = wide(sample)
        clean = self._clean(prediction, x, step, original)
        now, then = self._at(step.timestep), self._at(step.next)
        of_original, of_sample = posterior_mean_factors(now, then)
        x = of_original * clean + of_sample * x
        if step.next != -1:
            noise, rng = noise_like(sample, rng)
            x = x + self._deviation(prediction, sample, now, then) * noise
        return Stepped(x.to(sample.dtype), state, rng)

    def _deviation(self, prediction: Prediction, sample: Tensor, now: float, then: float) -> float | Tensor:
        """The standard deviation of a step between two alpha_cumprod: a number, or [B, C, H, W] where it is learned."""
        kind = self.config.variance_type or "fixed_small"
        small, large = log_variance_range(now, then)
        if kind == "learned":
            return self._learned(prediction, sample).clamp(min=MIN_VARIANCE) ** 0.5
        if kind == "learned_range":
            place = (self._learned(prediction, sample) + 1) / 2
            return (0.5 * (place * large + (1 - place) * small)).exp()
        return exp(0.5 * (small if kind.startswith("fixed_small") else large))

    def _learned(self, prediction: Prediction, sample: Tensor) -> Tensor:
        """The raw variance that the network gave."""
        if prediction.variance is None:
            raise PortError(
                "prediction",
                f"has no variance, which variance_type {self.config.variance_type} needs",
                hint="use a network that learns it, or set variance_type: fixed_small",
            )
        same_shape("prediction", prediction.variance, sample)
        return wide(prediction.variance)

    def variational_bound(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, CLEAN],
        noisy: Annotated[Sample, "B ...", SPACE, NOISY],
        timestep: Timestep,
    ) -> Annotated[Loss, "B"]:
        """The term L_t of the variational bound, in bits a dimension, that trains the variance alone (arXiv:2102.09672,
        eq. 4).

        sample: x_0, 8-bit images in [-1, 1]. noisy: x_t. timestep: [B], or a number. The mean counts as given, so no
        gradient reaches `prediction.value` from here (section 4). T times its average estimates the whole bound; the
        hybrid loss (eq. 16) adds 0.001 of that to the simple loss.
        """
        same_shape("noisy", noisy, sample)
        shape = (-1, *(1,) * (sample.ndim - 1))
        before = np.concatenate([[1.0], self.alpha_cumprod[:-1]])
        pairs = [posterior_mean_factors(now, then) for now, then in zip(self.alpha_cumprod, before, strict=True)]
        small, large = log_variance_tables(self.alpha_cumprod)

        def rows(table: Any) -> Tensor:
            return self._rows(table, timestep).to(sample.device).reshape(shape)

        of_original, of_sample = (rows(table) for table in np.array(pairs).T)
        low, high = rows(small), rows(large)
        kind = self.config.variance_type or "fixed_small"
        if kind == "learned":
            log_variance = self._learned(prediction, sample).clamp(min=MIN_VARIANCE).log()
        elif kind == "learned_range":
            place = (self._learned(prediction, sample) + 1) / 2
            log_variance = place * high + (1 - place) * low
        else:
            log_variance = low if kind.startswith("fixed_small") else high
        x, x_0 = wide(noisy), wide(sample)
        clean = self._estimate(wide(prediction.value).detach(), x, *self._factors(timestep, sample))
        true_mean, mean = of_original * x_0 + of_sample * x, of_original * clean + of_sample * x
        return variational_term(x_0, true_mean, low, mean, log_variance, rows(np.arange(len(small))) == 0)
