"""DDIM: the implicit sampler, deterministic at eta 0."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Annotated

from ...authoring import Bound, Component, Fact, static
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, DiffusionConfig, DiscreteDiffusion, noise_like, published_as
from .noise_schedule import posterior, wide


@dataclass(frozen=True)
class DDIMConfig(DiffusionConfig):
    """The fields of DiffusionConfig, and how a step ends.

    set_alpha_to_one: the last step ends at alpha_cumprod 1; else at that of index 0. eta: 0 deterministic, 1 DDPM's
    variance. use_clipped_model_output: epsilon is worked out again from the clipped or edited x_0, as OpenAI's samplers
    do.
    """

    set_alpha_to_one: bool = True
    eta: Annotated[float, Bound(ge=0, le=1)] = 0.0
    use_clipped_model_output: bool = False


class DDIMScheduler(DiscreteDiffusion, Component, version=1):
    """Denoising diffusion implicit models (Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16).

    With a respacing, a step leads to the next timestep of the list. With a count, it leads T // N below, which is what
    the published configs are sampled with: the same place for "leading", not always for "linspace" and "trailing".
    """

    Config = DDIMConfig
    published = published_as("DDIMScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says; or a text, always OpenAI's respacing
        ("fast27", "100", "10,10,3,2,2", "ddim50"). strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        listed = self._listed(steps)
        if isinstance(steps, str) or self.config.respaced:
            ends = [*listed[1:], -1]
        else:
            stride = self.config.num_train_timesteps // steps
            ends = [max(timestep - stride, -1) for timestep in listed]
        pairs = zip(listed, ends, strict=True)
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
        """x_t -> x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - sigma^2) epsilon + sigma z, where a is alpha_cumprod (eq. 12).

        original: an edited clean estimate x_0, in place of that of the prediction; epsilon stays the prediction's
        unless use_clipped_model_output. state: passed through. A learned variance is not used. Computed in at least
        float32, given in the dtype of the sample. Raises PortError where a shape differs.
        """
        config, x = self.config, wide(sample)
        clean = self._clean(prediction, x, step, original)
        now, then = self._at(step.timestep), self._at(step.next)
        if step.next == -1 and not config.set_alpha_to_one:
            then = float(self.alpha_cumprod[0])
        if config.use_clipped_model_output:
            epsilon = (x - sqrt(now) * clean) / sqrt(1 - now)
        else:
            epsilon = self._epsilon(prediction, x, sqrt(now), sqrt(1 - now))
        variance = config.eta**2 * max(posterior(now, then)[1], 0.0)  # eq. 16
        x = sqrt(then) * clean + sqrt(max(1 - then - variance, 0.0)) * epsilon
        if variance > 0:
            noise, rng = noise_like(sample, rng)
            x = x + sqrt(variance) * noise
        return Stepped(x.to(sample.dtype), state, rng)
