"""DEIS: an exponential integrator whose polynomial is in log rho."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal

from ...authoring import Bound, Component, Fact, static
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, Thresholding, published_as
from .noise_schedule import weighted, wide
from .sigma_schedule import log_rho_factors
from .sigma_space import MultistepDiffusion, SigmaGridConfig, final_order, remembered


@dataclass(frozen=True)
class DEISConfig(SigmaGridConfig, Thresholding):
    """The fields of SigmaGridConfig and of Thresholding, and the multistep rule.

    solver_order: how many values a step uses. lower_order_final: under 15 steps, the last uses one and the one before
    it two at most. algorithm_type, solver_type: this solver's words, for which those of others are read.
    """

    solver_order: Annotated[int, Bound(ge=1, le=3)] = 2
    lower_order_final: bool = True
    algorithm_type: Literal["deis", "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"] = "deis"
    solver_type: Literal["logrho", "midpoint", "heun", "bh1", "bh2"] = "logrho"
    use_flow_sigmas: Literal[False] = False


class DEISScheduler(MultistepDiffusion, Component, version=1):
    """Diffusion exponential integrator sampler, multistep in log rho (Zhang and Chen 2022, arXiv:2204.13902, eq. 15).

    In v = x / alpha and rho = sigma / alpha the flow is dv/drho = epsilon. A run ends at the noise of timestep 0, or, with
    use_karras_sigmas or use_exponential_sigmas, has a last step of no length, as published.
    """

    Config = DEISConfig
    published = published_as("DEISMultistepScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        rounded = not self.config.use_exponential_sigmas
        return self._walk(*self._multistep_grid(steps, zero=False, rounded=rounded), strength)

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x_t -> x_s = alpha_s (x_t / alpha_t + the integral of epsilon over rho) (arXiv:2204.13902, eq. 15).

        original: an edited clean estimate, in place of that of the prediction. state: the History of epsilon, None
        before the first. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape
        differs.
        """
        x, (alpha, deviation) = wide(sample), self._mixture(step)
        epsilon = (x - alpha * self._clean(prediction, x, step, original)) / deviation
        history = remembered(state, epsilon, step.sigma, self.config.solver_order)
        order = final_order(step, len(history.values)) if self.config.lower_order_final else len(history.values)
        factors = log_rho_factors(history.sigmas[:order], step.next_sigma)
        x = (x / alpha + weighted(factors, history.values[:order])) / sqrt(step.next_sigma**2 + 1)
        return Stepped(x.to(sample.dtype), history, rng)
