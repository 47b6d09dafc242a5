"""UniPC: a multistep predictor, and a corrector that uses the next call of the model, which is made anyway."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log, sqrt
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..kinds import CLEAN, SPACE, UNDERWAY, Output, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, Thresholding, published_as
from .noise_schedule import wide
from .sigma_space import History, MultistepDiffusion, SigmaGridConfig, remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class UniPCConfig(SigmaGridConfig, Thresholding):
    """The fields of SigmaGridConfig and of Thresholding, and the predictor and corrector.

    solver_order: how many values a step uses. predict_x0: solves in terms of x_0, else of epsilon. solver_type: the
    function B(h) (the words of other solvers stand for bh2). lower_order_final: the last step uses one value, the one
    before it two, and so on. disable_corrector: indices of steps whose result is not corrected. sigma_min, sigma_max:
    the ends of a grid that is spread, else those of training. final_sigmas_type: a run ends in data, or at the smallest
    sigma. solver_p: no other predictor is implemented.
    """

    solver_order: Annotated[int, Bound(ge=1, le=6)] = 2
    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: None = None
    use_flow_sigmas: Literal[False] = False
    shift_terminal: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    sigma_min: Annotated[float, Bound(gt=0)] | None = None
    sigma_max: Annotated[float, Bound(gt=0)] | None = None


class UniPCState(NamedTuple):
    """What a step leaves for the next: the values and sigmas so far, newest first, the sample that it started from, and
    how many values it used.
    """

    values: list[Output]
    sigmas: list[float]
    sample: Sample
    order: int


def unipc_weights(places: Sequence[float], length: float, bh1: bool) -> list[float]:
    """rho_1 .. rho_p that solve R rho = b (Zhao et al. 2023, arXiv:2302.04867, theorem 3.1).

    places: r_1 .. r_p, where each value was, in units of the step. length: h, negative in terms of x_0. Row n of R has
    r^(n-1), b_n = n! phi_{n+1}(h) h / B(h), with B(h) = h (bh1) or e^h - 1 (bh2).
    """
    b, factorial, phi = [], 1, expm1(length) / length - 1
    for n in range(1, len(places) + 1):
        b.append(phi * factorial / (length if bh1 else expm1(length)))
        factorial *= n + 1
        phi = phi / length - 1 / factorial
    rows = np.vander(np.array(places), len(places), increasing=True).T
    return [float(weight) for weight in np.linalg.solve(rows, b)]


class UniPCScheduler(MultistepDiffusion, Component, version=1):
    """The unified predictor-corrector (Zhao et al. 2023, arXiv:2302.04867, algs. 1 and 2), multistep.

    Each call of the model first corrects the sample that the step before it predicted, then predicts the next.
    """

    Config = UniPCConfig
    published = published_as("UniPCMultistepScheduler")

    def __init__(self, config: UniPCConfig) -> None:
        """Works out the tables. Raises PortError for options that exclude each other."""
        super().__init__(config)
        if config.thresholding and not config.predict_x0:
            raise PortError("thresholding", "acts on x_0, so it needs predict_x0: true")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        config = self.config
        ends = (
            float(self.sigmas[-1]) if config.sigma_max is None else config.sigma_max,
            float(self.sigmas[0]) if config.sigma_min is None else config.sigma_min,
        )
        zero = config.final_sigmas_type == "zero"
        rounded = not config.use_exponential_sigmas
        return self._walk(*self._multistep_grid(steps, zero=zero, rounded=rounded, ends=ends), strength)

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """Corrects x_t by what the model says there (UniC, alg. 1), then x_t -> x_s (UniP, alg. 2).

        original: an edited clean estimate, in place of that of the prediction. state: a UniPCState, None before the
        first. Computed in at least float32, given in the dtype of the sample. Raises PortError where a shape differs.
        """
        config, x = self.config, wide(sample)
        value = self._value(prediction, x, step, original)
        if state is not None and step.index - 1 not in config.disable_corrector:
            before = History([wide(each) for each in state.values], state.sigmas)
            x = self._moved(wide(state.sample), before, step.sigma, state.order, value)
        history = remembered(
            None if state is None else History(state.values, state.sigmas), value, step.sigma, config.solver_order
        )
        order = len(history.values)
        if config.lower_order_final:
            order = min(order, step.count - step.index)
        if step.next_sigma in (0, step.sigma):
            order = 1
        moved = self._moved(x, history, step.next_sigma, order)
        return Stepped(moved.to(sample.dtype), UniPCState(*history, x, order), rng)

    def _value(self, prediction: Prediction, sample: Tensor, step: Step, original: Tensor | None) -> Tensor:
        """x_0 or epsilon, whichever is solved for."""
        if self.config.predict_x0:
            return self._clean(prediction, sample, step, original)
        alpha, deviation = self._mixture(step)
        if original is None:
            return self._epsilon(prediction, sample, alpha, deviation)
        return (sample - alpha * self._clean(prediction, sample, step, original)) / deviation

    def _moved(
        self, sample: Tensor, history: History, end: float, order: int, corrected_by: Tensor | None = None
    ) -> Tensor:
        """x where the history's newest value is, moved to `end` by `order` values of it (arXiv:2302.04867, alg. 2);
        with the value at `end` too, `corrected_by`, it is the corrector.
        """
        now, newest, bh1 = history.sigmas[0], history.values[0], self.config.solver_type == "bh1"
        alpha, deviation = 1 / sqrt(end**2 + 1), end / sqrt(end**2 + 1)
        alpha_now, deviation_now = 1 / sqrt(now**2 + 1), now / sqrt(now**2 + 1)
        if self.config.predict_x0:
            moved = deviation / deviation_now * sample + alpha * (1 - end / now) * newest
        else:
            moved = alpha / alpha_now * sample - alpha * (now - end) * newest
        if order == 1 and corrected_by is None:
            return moved
        h = log(now / end)
        length, scale = (-h, alpha) if self.config.predict_x0 else (h, deviation)
        places = [log(now / sigma) / h for sigma in history.sigmas[1:order]]
        slopes = [(value - newest) / place for value, place in zip(history.values[1:order], places, strict=True)]
        if corrected_by is not None:
            places, slopes = [*places, 1.0], [*slopes, corrected_by - newest]
        # both rules of one difference take 1/2 for its weight, which is right to the same order
        weights = [0.5] if len(slopes) == 1 else unipc_weights(places, length, bh1)
        gain = scale * (length if bh1 else expm1(length))
        for weight, slope in zip(weights, slopes, strict=True):
            moved = moved - gain * weight * slope
        return moved
