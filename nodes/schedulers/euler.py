"""Euler's method on the probability flow, with Karras' churn where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..kinds import CLEAN, SPACE, UNDERWAY, DrawnTimesteps, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, noise_like, published_as
from .noise_schedule import wide
from .sigma_schedule import churned
from .sigma_space import ExplodingDiffusion, SigmaGridConfig

if TYPE_CHECKING:
    from .noise_schedule import Table


@dataclass(frozen=True)
class EulerConfig(SigmaGridConfig):
    """The fields of SigmaGridConfig, and which sigmas are walked.

    interpolation_type: sigmas of the spaced timesteps, or ("log_linear") N + 1 even in log sigma over the whole training
    range, whatever the timesteps. sigma_min, sigma_max: the ends of a grid that is spread, else those of the spacing.
    final_sigmas_type: the last step ends in data, or at the sigma of timestep 0. timestep_type: the model sees the
    training index, or ("continuous", for v_prediction only) log(sigma) / 4, -inf for data. s_churn, s_tmin, s_tmax,
    s_noise: noise is put back at sigmas within [s_tmin, s_tmax], null for no limit (Karras et al. 2022,
    arXiv:2206.00364, alg. 2).
    """

    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: Annotated[float, Bound(gt=0)] | None = None
    sigma_max: Annotated[float, Bound(gt=0)] | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    s_churn: Annotated[float, Bound(ge=0)] = 0.0
    s_tmin: Annotated[float, Bound(ge=0)] = 0.0
    s_tmax: Annotated[float, Bound(ge=0)] | None = None
    s_noise: Annotated[float, Bound(ge=0)] = 1.0


class EulerScheduler(ExplodingDiffusion, Component, version=1):
    """Euler's method in sigma, x + (sigma' - sigma) dx/dsigma (Karras et al. 2022, arXiv:2206.00364, section 3).

    The sample is x_0 + sigma epsilon. Churn follows the published library, which puts the noise in after the model's
    call, so that its prediction is of the sample before.
    """

    Config = EulerConfig
    published = published_as("EulerDiscreteScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        config = self.config
        timesteps, sigmas = self._fractional_grid(steps)
        last = 0.0 if config.final_sigmas_type == "zero" else float(self.sigmas[0])
        ends = [*map(float, sigmas), last]
        if config.interpolation_type == "log_linear" and not (
            config.use_karras_sigmas or config.use_exponential_sigmas
        ):
            ends = list(map(float, np.exp(np.linspace(log(self.sigmas[-1]), log(self.sigmas[0]), len(sigmas) + 1))))
        if self._continuous:
            timesteps = np.log(ends[:-1]) / 4
        return self._walk(timesteps, ends, strength)

    def _spread(self, first: float, last: float, count: int) -> Table | None:
        low, high = self.config.sigma_min, self.config.sigma_max
        return super()._spread(first if high is None else high, last if low is None else low, count)

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x at sigma -> x at sigma', along dx/dsigma = (x - x_0) / sigma (arXiv:2206.00364, eq. 3).

        original: an edited clean estimate, in place of that of the prediction. state: passed through. Computed in at
        least float32, given in the dtype of the sample. Raises PortError where a shape differs.
        """
        config, x, sigma = self.config, wide(sample), step.sigma
        clean = self._clean(prediction, x, step, original)
        slope = (x - clean) / sigma
        raised = churned(sigma, config.s_churn, config.s_tmin, config.s_tmax, step.count)
        if raised > sigma:
            noise, rng = noise_like(sample, rng)
            added = config.s_noise * sqrt(raised**2 - sigma**2) * noise
            if config.prediction_type != "epsilon":  # which is the slope itself, wherever the sample is moved to
                of_added = 1 / (sigma**2 + 1) if config.prediction_type == "v_prediction" else 0.0
                slope = (x + added - (clean + of_added * added)) / raised
            x = x + added
        x = x + (step.next_sigma - raised) * slope
        return Stepped(x.to(sample.dtype), state, rng)

    # the timestep that a model of continuous time sees

    @property
    def _continuous(self) -> bool:
        return bool(self.config.timestep_type == "continuous" and self.config.prediction_type == "v_prediction")

    def random_timesteps(self, rng: Annotated[Rng, "B"]) -> DrawnTimesteps:
        """Draws one of the T training timesteps for each image, each equally likely, as the model sees it."""
        drawn = super().random_timesteps(rng)
        if not self._continuous:
            return drawn
        return DrawnTimesteps(self._rows(np.log(self.sigmas) / 4, drawn.timestep), drawn.rng)

    def _next(self, sigma: float) -> int | float:
        if not self._continuous:
            return super()._next(sigma)
        return log(sigma) / 4 if sigma else -inf

    def _levels(self, timesteps: Any) -> Table:
        if not self._continuous:
            return super()._levels(timesteps)
        if timesteps.dtype.kind not in "iuf" or not (timesteps < 100).all():
            raise PortError("timestep", f"got {timesteps.tolist()!r}; expected log(sigma) / 4")
        level: Table = 1 / (1 + np.exp(8 * timesteps))
        return level
