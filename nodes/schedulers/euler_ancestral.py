"""Euler's method on the probability flow to below the next noise level, and fresh noise up to it."""

from __future__ import annotations

from math import sqrt
from typing import Annotated

from ...authoring import Bound, Component, Fact, static
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, noise_like, published_as
from .noise_schedule import wide
from .sigma_space import ExplodingDiffusion, SigmaConfig


class EulerAncestralScheduler(ExplodingDiffusion, Component, version=1):
    """Ancestral sampling in sigma (k-diffusion's sample_euler_ancestral; DDPM's posterior, Song et al. 2020,
    arXiv:2010.02502, eq. 16 at eta 1, for x_0 + sigma epsilon).

    The sample is x_0 + sigma epsilon. The step that ends in data adds no noise.
    """

    Config = SigmaConfig
    published = published_as("EulerAncestralDiscreteScheduler")

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
        """x at sigma -> x at sigma': along the slope to sigma_down, then noise sigma_up, of which sigma'^2 is made.

        original: an edited clean estimate, in place of that of the prediction. state: passed through. Computed in at
        least float32, given in the dtype of the sample. Raises PortError where a shape differs.
        """
        x, now, then = wide(sample), step.sigma, step.next_sigma
        up = then * sqrt(now**2 - then**2) / now
        down = sqrt(max(then**2 - up**2, 0.0))
        x = x + (down - now) * (x - self._clean(prediction, x, step, original)) / now
        if up > 0:
            noise, rng = noise_like(sample, rng)
            x = x + up * noise
        return Stepped(x.to(sample.dtype), state, rng)
