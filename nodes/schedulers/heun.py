"""Heun's method on the probability flow: two calls of the model an interval, the slope averaged over both ends."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from ...authoring import Bound, Component, Fact, static
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, Clipping, kept_of, published_as
from .noise_schedule import wide
from .sigma_space import ExplodingDiffusion, HalfStep, SigmaGridConfig, heun_corrected


@dataclass(frozen=True)
class HeunConfig(SigmaGridConfig, Clipping):
    """The fields of SigmaGridConfig and of Clipping, with the published defaults of this solver."""

    beta_start: Annotated[float, Bound(gt=0, lt=1)] = 0.00085
    beta_end: Annotated[float, Bound(gt=0, lt=1)] = 0.012
    clip_sample: bool = False


class HeunScheduler(ExplodingDiffusion, Component, version=1):
    """Heun's second-order method in sigma (Karras et al. 2022, arXiv:2206.00364, alg. 1).

    The sample is x_0 + sigma epsilon. N steps make 2 N - 1 calls: to the sigma where an interval ends by Euler's method,
    and from there once more with the mean of both slopes; the interval that ends in data is done by the first alone.
    """

    Config = HeunConfig
    published = published_as("HeunDiscreteScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The calls of a run, two a step but for the last. steps: a count, spaced as the config says, or a respacing
        ("fast27", "10,10,3,2,2"). strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        timesteps, sigmas = self._fractional_grid(steps)
        whole = self._walk(timesteps, [*map(float, sigmas), 0.0], 1.0)
        calls = whole[:1]
        for step, following in pairwise(whole):
            ending = following._replace(next=step.next, next_sigma=step.next_sigma)
            calls += [ending, following]
        listed = [call._replace(index=index, count=len(calls)) for index, call in enumerate(calls)]
        kept = kept_of(len(whole), strength)
        return listed[2 * (len(whole) - kept) :] if kept else []

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x at sigma -> x at sigma': by the slope where the interval begins, then by the mean of that and the slope
        where it ends (arXiv:2206.00364, alg. 1, lines 4 to 8).

        original: an edited clean estimate, in place of that of the prediction. state: the half step between the two
        calls, else None. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape
        differs, or where a second call has no first.
        """
        x = wide(sample)
        slope = (x - self._clean(prediction, x, step, original)) / step.sigma
        if step.index % 2:
            return Stepped(heun_corrected(state, slope, step).to(sample.dtype), None, rng)
        half = HalfStep(x, slope, step.sigma) if step.next_sigma > 0 else None
        return Stepped((x + (step.next_sigma - step.sigma) * slope).to(sample.dtype), half, rng)
