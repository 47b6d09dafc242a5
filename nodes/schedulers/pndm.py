"""PNDM: pseudo numerical methods, linear multistep (PLMS) with or without Runge-Kutta steps to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Annotated, NamedTuple

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..kinds import CLEAN, SPACE, UNDERWAY, Output, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, DiscreteDiffusion, ProcessConfig, kept_of, published_as, same_shape
from .noise_schedule import ZERO_SNR, weighted, wide
from .sigma_schedule import adams_bashforth_factors

if TYPE_CHECKING:
    from torch import Tensor

ORDER = 4  # values that the multistep rule combines
RUNGE_KUTTA = 3  # steps of four calls that begin a run
RK_WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@dataclass(frozen=True)
class PNDMConfig(ProcessConfig):
    """The fields of ProcessConfig, and how a run begins and ends.

    skip_prk_steps: begins with PLMS rather than with Runge-Kutta steps. set_alpha_to_one: the last step ends at
    alpha_cumprod 1; else at that of index 0.
    """

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


class PNDMState(NamedTuple):
    """values: what the network said, newest first, up to ORDER. Of the step whose first call was made last: `begun`, the
    sample where it begins; `start`, the timestep there; `stride`, how far that call led; `total`, the weighted sum of
    the values in the step, for Runge-Kutta.
    """

    values: list[Output]
    begun: Sample
    start: int
    stride: int
    total: Output


def transfer(sample: Tensor, epsilon: Tensor, now: float, then: float) -> Tensor:
    """x_t moved to the alpha_cumprod `then` with one epsilon: DDIM's step, in the form of Liu et al. 2022
    (arXiv:2202.09778, section 3.3, the transfer part).
    """
    below = now * sqrt(1 - then) + sqrt(now * (1 - now) * then)
    return sqrt(then / now) * sample - (then - now) / below * epsilon


class PNDMScheduler(DiscreteDiffusion, Component, version=1):
    """Pseudo numerical methods on manifolds (Liu et al. 2022, arXiv:2202.09778): F-PNDM, and PLMS.

    F-PNDM: each of the first three steps makes four calls, as Runge-Kutta does; N + 9 in all. PLMS, as Stable Diffusion
    samples: the second call of a run does the first step again, with the mean of both values; N + 1 in all. Then each
    step combines the last four values. The clean estimate takes no part, unless an edited one is handed back.
    """

    Config = PNDMConfig
    published = published_as("PNDMScheduler")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The calls of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of the steps, from the end, that is done.

        With strength below 1, PLMS leaves out calls from the front of its list, as published: the second call that is
        left does the first step again although no timestep is repeated there, so those after it are of the timestep
        below their sample's. Raises PortError where steps cannot be read, or ask for more than there are.
        """
        listed = self._listed(steps)
        kept = kept_of(len(listed), strength)
        if isinstance(steps, str) or self.config.respaced:
            strides = [now - then for now, then in pairwise([*listed, -1])]
            halves = [stride // 2 for stride in strides]
        else:
            strides = [self.config.num_train_timesteps // steps] * len(listed)
            halves = [strides[0] // 2] * len(listed)
        skipped = len(listed) - kept
        calls: list[tuple[int, int]] = []  # where each begins and ends
        if self.config.skip_prk_steps:
            repeated = [*range(min(2, len(listed))), *range(1, len(listed))]
            for place, i in enumerate(repeated):
                calls.append((listed[i], listed[i] - (0 if place == skipped + 1 else strides[i])))
        else:
            first = min(RUNGE_KUTTA, len(listed) - 1)
            for now, then, half in zip(listed[:first], listed[1:], halves, strict=False):
                calls += [(now, now - half), (then + half, then + half), (then + half, then), (then, then)]
            calls += [(now, now - stride) for now, stride in zip(listed[first:], strides[first:], strict=True)]
            skipped += 3 * min(skipped, first)
        records = self._records([(now, max(then, -1)) for now, then in calls], 1.0)
        return records[skipped:] if kept else []

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x_t -> x_s by the transfer part, with a combination of epsilons: of Runge-Kutta's four, or of the last four
        (arXiv:2202.09778, section 3.3).

        original: an edited clean estimate, in place of that of the prediction. state: a PNDMState, None before the
        first. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape differs, or
        where a later call of a step has no first.
        """
        x = wide(sample)
        value, (runge_kutta, call) = self._value(prediction, x, step, original), self._call(step)
        if call == 0:
            values = [value, *(state.values if state is not None else [])][:ORDER]
            begun, start, total = x, int(step.timestep), 0 * value
        elif state is None:
            raise PortError(
                "state", f"none at call {step.index}, which goes on with a step", hint="carry it in the loop"
            )
        else:
            values, begun, total = state.values, wide(state.begun), wide(state.total)
            start = state.start if runge_kutta else int(step.timestep) + state.stride
        if runge_kutta:
            total = total + RK_WEIGHTS[call] * value
            combined = total if call == 3 else value
        elif call:
            combined = (value + wide(values[0])) / 2
        else:
            combined = weighted(adams_bashforth_factors(len(values)), [wide(each) for each in values])
        now = self._at(start) or ZERO_SNR
        ends_in_data = step.next == -1 and self.config.set_alpha_to_one
        then = 1.0 if ends_in_data else self._at(max(step.next, 0))
        if self.config.prediction_type == "v_prediction":
            combined = sqrt(now) * combined + sqrt(1 - now) * begun
        moved = transfer(begun, combined, now, then)
        state = PNDMState(values, begun, start, start - int(step.next), total)
        return Stepped(moved.to(sample.dtype), state, rng)

    def _call(self, step: Step) -> tuple[bool, int]:
        """Whether a call is one of a Runge-Kutta step, and its place in its step."""
        if self.config.skip_prk_steps:
            return False, int(step.timestep == step.next)
        steps = min(RUNGE_KUTTA, (step.count - 1) // 4)  # of N steps, three calls more each
        return (True, step.index % 4) if step.index < 4 * steps else (False, 0)

    def _value(self, prediction: Prediction, sample: Tensor, step: Step, original: Tensor | None) -> Tensor:
        """What is combined over calls: v for a network of v, else epsilon."""
        of_sample, of_noise = self._mixture(step)
        if original is not None:
            clean = self._clean(prediction, sample, step, original)
            if self.config.prediction_type == "v_prediction":
                return (of_sample * sample - clean) / of_noise
            return (sample - of_sample * clean) / of_noise
        if self.config.prediction_type == "v_prediction":
            same_shape("prediction", prediction.value, sample)
            return wide(prediction.value)
        return self._epsilon(prediction, sample, of_sample, of_noise)
