"""The linear multistep method on the probability flow."""

from __future__ import annotations

from typing import Annotated

from ...authoring import Bound, Component, Fact, static
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, published_as
from .noise_schedule import weighted, wide
from .sigma_schedule import linear_multistep_factors
from .sigma_space import ExplodingDiffusion, SigmaGridConfig, remembered


class LMSScheduler(ExplodingDiffusion, Component, version=1):
    """Adams-Bashforth steps of order 4 in sigma, on a grid of any spacing (k-diffusion's sample_lms).

    The sample is x_0 + sigma epsilon. The order rises from 1 with the slopes that are known, so image to image starts
    with a step of order 1; the published library takes factors of order 4 there, for slopes that it does not have.
    """

    Config = SigmaGridConfig
    published = published_as("LMSDiscreteScheduler")
    order = 4

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        timesteps, sigmas = self._fractional_grid(steps)
        return self._walk(timesteps, [*map(float, sigmas), 0.0], strength)

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x at sigma -> x at sigma': the integral of the polynomial through the last four slopes dx/dsigma.

        original: an edited clean estimate, in place of that of the prediction. state: the History of slopes, None before
        the first. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape
        differs.
        """
        x = wide(sample)
        slope = (x - self._clean(prediction, x, step, original)) / step.sigma
        history = remembered(state, slope, step.sigma, self.order)
        factors = linear_multistep_factors(history.sigmas, step.next_sigma)
        return Stepped((x + weighted(factors, history.values)).to(sample.dtype), history, rng)
