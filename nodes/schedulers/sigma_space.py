"""What the solvers share that walk a grid of noise levels sigma: its records, the start, and x_0 by sigma.

A step record holds the sigmas where it begins and ends, so a solver needs no table of the run. Sigmas may lie between
those of training timesteps; then `step.next` is the fractional timestep that has this sigma. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np

from ...authoring import Fact
from ...errors import PortError
from ..kinds import (
    CLEAN,
    NOISY,
    SCALED,
    SPACE,
    UNDERWAY,
    UNSCALED,
    AnyTimestep,
    Noise,
    Output,
    Sample,
    Started,
    Step,
    Steps,
    Timestep,
)
from .discrete import DiscreteDiffusion, ProcessConfig, kept_of, same_shape
from .noise_schedule import ZERO_SNR, Spacing, counted, wide
from .sigma_schedule import exponential_sigmas, karras_sigmas, sigmas_at, timesteps_at

if TYPE_CHECKING:
    from torch import Tensor

    from ..kinds import Prediction
    from .noise_schedule import Table


@dataclass(frozen=True)
class SigmaConfig(ProcessConfig):
    """The fields of ProcessConfig; a count is spaced from T-1 to 0 where the config does not say otherwise."""

    timestep_spacing: Spacing = "linspace"


@dataclass(frozen=True)
class SigmaGridConfig(SigmaConfig):
    """use_karras_sigmas, use_exponential_sigmas: between the same ends, sigmas are spaced evenly in sigma^(1/7) or in
    log sigma, and timesteps are those that have them. use_beta_sigmas: not implemented.
    """

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: Literal[False] | None = False


class History(NamedTuple):
    """What a multistep solver remembers, newest first: `values`, what the network said, each as the solver uses it, and
    `sigmas`, where.
    """

    values: list[Output]
    sigmas: list[float]


def remembered(state: History | None, value: Tensor, sigma: float, length: int) -> History:
    """The history with one more value, of which the newest `length` are kept. A run in half precision keeps it in that;
    it is computed with in float32.
    """
    values, sigmas = (state.values, state.sigmas) if state is not None else ([], [])
    return History([value, *map(wide, values)][:length], [sigma, *sigmas][:length])


def final_order(step: Step, known: int) -> int:
    """How many values a step uses where the last steps of a short run, under 15, use fewer: one, and two before it."""
    return min(known, step.count - step.index) if step.count < 15 else known


class HalfStep(NamedTuple):
    """What is kept between the two calls of Heun's interval: the sample where it begins, and the slope and sigma there."""

    sample: Sample
    slope: Output
    sigma: float


def heun_corrected(half: HalfStep | None, slope: Tensor, step: Step) -> Tensor:
    """x at the sigma where an interval ends, by the mean of the slopes at both ends (Karras et al. 2022,
    arXiv:2206.00364, alg. 1, line 8). Raises PortError where the first call is missing.
    """
    if half is None:
        raise PortError("state", f"none at call {step.index}, the second of an interval", hint="carry it in the loop")
    return wide(half.sample) + (step.sigma - half.sigma) * (wide(half.slope) + slope) / 2


class SigmaDiffusion(DiscreteDiffusion):
    """A process that is solved over a grid of sigmas, with x_t of unit variance as in training."""

    def __init__(self, config: SigmaConfig) -> None:
        """Works out the tables of alpha_cumprod and sigma. Raises PortError for a config that has none."""
        super().__init__(config)
        level = np.where(self.alpha_cumprod == 0, ZERO_SNR, self.alpha_cumprod)
        self.sigmas: Table = np.sqrt((1 - level) / level)  # T, rising
        if isinstance(config, SigmaGridConfig) and config.use_karras_sigmas and config.use_exponential_sigmas:
            raise PortError("use_karras_sigmas", "and use_exponential_sigmas exclude each other")

    # the grid

    def _by_list(self, steps: Steps) -> bool:
        """Whether the steps are a respacing, whose timesteps `_listed` gives, rather than a count to be spaced."""
        return isinstance(steps, str) or bool(self.config.respaced)

    def _interpolated(self, timesteps: Any) -> Table:
        """The sigmas of timesteps, linear in sigma between neighbours, as published solvers take them."""
        grid: Table = np.interp(timesteps, np.arange(len(self.sigmas)), self.sigmas)
        return grid

    def _spread(self, first: float, last: float, count: int) -> Table | None:
        """The grid that the config asks for between two sigmas, if it asks for one."""
        if not isinstance(self.config, SigmaGridConfig):
            return None
        if self.config.use_karras_sigmas:
            return karras_sigmas(first, last, count)
        return exponential_sigmas(first, last, count) if self.config.use_exponential_sigmas else None

    def _walk(self, timesteps: Any, sigmas: Sequence[float], strength: float) -> list[Step]:
        """Records of N timesteps and N + 1 sigmas."""
        records = [
            Step(index, _tidy(timestep), self._next(then), len(timesteps), float(now), float(then))
            for index, (timestep, now, then) in enumerate(zip(timesteps, sigmas[:-1], sigmas[1:], strict=True))
        ]
        return records[len(records) - kept_of(len(records), strength) :]

    def _next(self, sigma: float) -> int | float:
        """The timestep that has this sigma; -1 for 0."""
        return _tidy(float(timesteps_at(np.asarray(sigma), self.sigmas)))

    def _levels(self, timesteps: Any) -> Table:
        inside = timesteps.dtype.kind in "iuf" and ((timesteps >= -1) & (timesteps <= len(self.sigmas) - 1)).all()
        if not inside:
            raise PortError("timestep", f"got {timesteps.tolist()!r}; allowed: 0 to {len(self.sigmas) - 1}")
        if (timesteps == np.floor(timesteps)).all():
            return super()._levels(timesteps)
        level: Table = 1 / (1 + sigmas_at(timesteps, self.sigmas) ** 2)
        return level

    def _mixture(self, step: Step) -> tuple[float, float]:
        """What x_t of unit variance has of x_0 and of epsilon where a step begins."""
        of_sample = 1 / sqrt(step.sigma**2 + 1)
        return of_sample, step.sigma * of_sample


class MultistepDiffusion(SigmaDiffusion):
    """A process whose solver keeps x_t of unit variance, and whose timesteps are whole: N of a grid of N + 1."""

    def _multistep_grid(
        self,
        steps: Steps,
        *,
        zero: bool,
        rounded: bool = True,
        top: int | None = None,
        ends: tuple[float, float] | None = None,
    ) -> tuple[list[int], list[float]]:
        """The timesteps that the model sees, and the sigmas, of which there is one more.

        zero: the last sigma is 0, rather than the smallest of the grid. rounded: timesteps of a spread grid are rounded,
        rather than cut. top: the count of training timesteps that are used, from 0. ends: the sigmas between which a
        grid is spread.
        """
        config, trained = self.config, self.config.num_train_timesteps
        top = trained if top is None else top
        listed: Any
        if self._by_list(steps):
            listed = np.array(self._listed(steps))
        else:
            count = counted(steps, trained)
            if config.timestep_spacing == "linspace":
                listed = np.linspace(0, top - 1, count + 1).round()[:0:-1]
            elif config.timestep_spacing == "leading":
                listed = np.arange(count, 0, -1) * (top // (count + 1)) + config.steps_offset
            else:
                listed = np.arange(top, 0, -trained / count)[:count].round() - 1
        if listed[0] >= trained or (np.diff(listed) >= 0).any():
            raise PortError("steps", f"{steps} lead to timesteps beyond {trained - 1}, or twice to the same")
        first, last = ends or (float(self.sigmas[-1]), float(self.sigmas[0]))
        sigmas = self._spread(first, last, len(listed))
        if sigmas is None:
            sigmas = self.sigmas[listed.astype(np.int64)]
            last = float(self.sigmas[0])
        else:
            listed = timesteps_at(sigmas, self.sigmas).clip(0)
            listed = listed.round() if rounded else listed
        return [int(timestep) for timestep in listed], [*map(float, sigmas), 0.0 if zero else last]


class ExplodingDiffusion(SigmaDiffusion):
    """A process that is solved over a grid of sigmas, with x = x_0 + sigma epsilon, whose variance grows with sigma."""

    def _fractional_grid(self, steps: Steps) -> tuple[Table, Table]:
        """The N timesteps of a run and their sigmas; the timesteps of "linspace" are not rounded, nor those of a grid
        that is spread evenly in another measure, between the first and the last sigma of the spacing.
        """
        trained = self.config.num_train_timesteps
        timesteps: Table
        if not self._by_list(steps) and self.config.timestep_spacing == "linspace":
            timesteps = np.linspace(0, trained - 1, counted(steps, trained))[::-1]
        else:
            timesteps = np.array(self._listed(steps), dtype=np.float64)
        sigmas = self._interpolated(timesteps)
        spread = self._spread(float(sigmas[0]), float(sigmas[-1]), len(sigmas))
        return (timesteps, sigmas) if spread is None else (timesteps_at(spread, self.sigmas).clip(0), spread)

    def start(
        self,
        noise: Annotated[Noise, "B ..."],
        schedule: Annotated[list[Step], Fact(scheduler="@self")],
        sample: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Started, "B ...", SPACE, Fact(scheduler="@self")]:
        """What the solver starts from: the noise times the first sigma (for "leading" spacing times sqrt(sigma^2 + 1)),
        or a given sample with that noise.

        Raises PortError where the schedule starts part-way (strength below 1) and no sample is given.
        """
        if sample is not None:
            same_shape("sample", sample, noise)
            if not schedule:
                return Started(sample, None)
            return Started((wide(sample) + schedule[0].sigma * wide(noise)).to(sample.dtype), None)
        started = super().start(noise, schedule)
        sigma = schedule[0].sigma
        scale = sqrt(sigma**2 + 1) if self.config.timestep_spacing == "leading" else sigma
        return Started((scale * wide(started.sample)).to(noise.dtype), None)

    def scale_input(
        self, sample: Annotated[Sample, "B ...", SPACE, UNDERWAY], step: Annotated[Step, Fact(scheduler="@self")]
    ) -> Annotated[Sample, "B ...", SPACE, SCALED]:
        """The sample as the model sees it, of unit variance: x / sqrt(sigma^2 + 1)."""
        return (wide(sample) * self._mixture(step)[0]).to(sample.dtype)

    def scale_noisy(
        self, sample: Annotated[Sample, "B ...", SPACE, NOISY, UNSCALED], timestep: Timestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY, SCALED]:
        """What `add_noise` gave as the model sees it in training: `scale_input` for timesteps, a number or [B]."""
        scaled: Tensor = wide(sample) * self._floored(timestep, sample)[0]
        return scaled.to(sample.dtype)

    def _original(self, prediction: Prediction, sample: Any, step: Step) -> Any:
        return super()._original(prediction, sample * self._mixture(step)[0], step)

    def add_noise(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: AnyTimestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY, UNSCALED]:
        """x_0 + sigma epsilon. timestep: 0 .. T-1, or -1 for data, where it is the identity; a number, or [B]."""
        same_shape("noise", noise, sample)
        of_sample, of_noise = self._floored(timestep, sample)
        if isinstance(of_noise, float) and of_noise == 0:
            return sample
        noisy: Tensor = wide(sample) + of_noise / of_sample * wide(noise)
        return noisy.to(sample.dtype)

    def _floored(self, timestep: Any, like: Any) -> tuple[Any, Any]:
        """`_factors`, the first of them not 0."""
        of_sample, of_noise = self._factors(timestep, like)
        floor = sqrt(ZERO_SNR)
        return max(of_sample, floor) if isinstance(of_sample, float) else of_sample.clamp(min=floor), of_noise


def _tidy(timestep: float) -> int | float:
    """A timestep, as a whole number where it is one."""
    nearest = round(timestep)
    return nearest if abs(timestep - nearest) < 1e-6 else float(timestep)
