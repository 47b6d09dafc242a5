"""DPM-Solver and DPM-Solver++, multistep, as solvers of the probability flow or of the diffusion SDE."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, inf, log, sqrt
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from ...authoring import Bound, Component, Fact, static
from ...errors import PortError
from ..kinds import CLEAN, SPACE, UNDERWAY, Prediction, Rng, Sample, State, Step, Stepped, Steps
from .discrete import PREDICTED, Thresholding, noise_like, published_as
from .noise_schedule import weighted, wide
from .sigma_schedule import exponential_sigmas
from .sigma_space import MultistepDiffusion, SigmaGridConfig, final_order, remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .noise_schedule import Table

Algorithm = Literal["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"]


@dataclass(frozen=True)
class DPMSolverConfig(SigmaGridConfig, Thresholding):
    """The fields of SigmaGridConfig and of Thresholding, and the multistep rule.

    algorithm_type: "++" solves in terms of x_0, else of epsilon; "sde-" draws noise ("deis", another solver's word,
    stands for dpmsolver++). solver_order: how many values a step uses. solver_type: the second-order term (the words
    of other solvers stand for midpoint). lower_order_final: under 15 steps, the last uses one value and the one before it
    two at most. euler_at_final: the last always uses one, as it does where it ends in data. use_lu_lambdas: sigmas even
    in log sigma. final_sigmas_type: a run ends in data, or at the sigma of timestep 0. lambda_min_clipped: training
    timesteps below this log(alpha / sigma) are not used by a count of steps.
    """

    solver_order: Annotated[int, Bound(ge=1, le=3)] = 2
    algorithm_type: Algorithm = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    use_flow_sigmas: Literal[False] = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -inf


def differences(values: Sequence[Tensor], sigmas: Sequence[float], end: float) -> list[Tensor]:
    """D_0, D_1 and D_2: the newest value, and the scaled differences of two or of three, over lambda = -log sigma in
    units of the step's own length (Lu et al. 2022, arXiv:2206.00927, appendix B; arXiv:2211.01095, alg. 2).
    """
    if len(values) == 1:
        return [values[0]]
    h = log(sigmas[0] / end)
    first = log(sigmas[1] / sigmas[0]) / h  # r_0
    slope = (values[0] - values[1]) / first
    if len(values) == 2:
        return [values[0], slope]
    second = log(sigmas[2] / sigmas[1]) / h  # r_1
    bend = slope - (values[1] - values[2]) / second
    return [values[0], slope + first / (first + second) * bend, bend / (first + second)]


def dpm_solver_factors(
    algorithm: str, solver: str, order: int, sigma: float, end: float
) -> tuple[float, list[float], float]:
    """The factors of x, of D_0, D_1, D_2, and of unit noise, in a step from sigma to end (DPM-Solver: arXiv:2206.00927,
    eq. 3.4 and appendix B; DPM-Solver++ and its SDE form: arXiv:2211.01095, eq. 8 and alg. 2).

    h = log(sigma / end), so e^-h = end / sigma. All four algorithms are phi_1(k) = 1 - e^-k, phi_2(k) = 1 - phi_1(k) / k
    and phi_3(k) = 1/2 - phi_2(k) / k, of k = h, of 2 h (SDE of x_0) or of -h (in terms of epsilon).
    """
    alpha, deviation = 1 / sqrt(end**2 + 1), end / sqrt(end**2 + 1)  # where the step ends
    alpha_now, deviation_now = 1 / sqrt(sigma**2 + 1), sigma / sqrt(sigma**2 + 1)
    h, stochastic = log(sigma / end) if end else inf, algorithm.startswith("sde-")
    if algorithm.endswith("++"):
        k = 2 * h if stochastic else h
        of_x, scale = deviation / deviation_now * (exp(-h) if stochastic else 1), alpha
        of_noise = deviation * sqrt(-expm1(-2 * h)) if stochastic else 0.0
    else:
        k = -h
        of_x, scale = alpha / alpha_now, deviation * (2 if stochastic else 1)
        of_noise = deviation * sqrt(expm1(2 * h)) if stochastic else 0.0
    phi_1 = -expm1(-k)
    factors = [scale * phi_1]
    if order == 2 and solver == "midpoint":
        factors.append(scale * phi_1 / 2)
    elif order > 1:
        factors.append(scale * (1 - phi_1 / k))
    if order > 2:
        phi_3 = 1 / 2 - (1 - phi_1 / k) / k
        # the published library's SDE takes -1/2 for 1/2 here, against the derivation; kept, so that images agree
        factors.append(scale * (phi_3 - 1 if stochastic else phi_3))
    return of_x, factors, of_noise


class DPMSolverScheduler(MultistepDiffusion, Component, version=1):
    """DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), multistep of order 1 to 3, its SDE form, and DPM-Solver (Lu et al.
    2022, arXiv:2206.00927).

    The order rises from 1 with the values that are known.
    """

    Config = DPMSolverConfig
    published = published_as("DPMSolverMultistepScheduler")

    def __init__(self, config: DPMSolverConfig) -> None:
        """Works out the tables. Raises PortError for options that exclude each other."""
        super().__init__(config)
        self.algorithm = "dpmsolver++" if config.algorithm_type == "deis" else config.algorithm_type
        self.solver = "heun" if config.solver_type == "heun" else "midpoint"
        if not self.algorithm.endswith("++") and config.final_sigmas_type == "zero":
            raise PortError("final_sigmas_type", f"zero has no step in terms of epsilon, which {self.algorithm} takes",
                            hint="set final_sigmas_type: sigma_min, or algorithm_type: dpmsolver++")  # fmt: skip
        if self.algorithm == "sde-dpmsolver" and config.solver_order > 2:
            raise PortError("solver_order", f"{config.solver_order} is not defined for sde-dpmsolver; allowed: 1, 2")

    @static
    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]:
        """The steps of a run. steps: a count, spaced as the config says, or a respacing ("fast27", "10,10,3,2,2").
        strength in [0, 1]: the share of them, from the end, that is done.

        Raises PortError where they cannot be read, or ask for more than the process has.
        """
        config = self.config
        top = int((-np.log(self.sigmas) >= config.lambda_min_clipped).sum())
        if top == 0:
            raise PortError("lambda_min_clipped", f"{config.lambda_min_clipped} leaves no timestep")
        even = config.use_exponential_sigmas and not config.use_lu_lambdas
        rounded = config.beta_schedule != "squaredcos_cap_v2" and not even
        zero = config.final_sigmas_type == "zero"
        return self._walk(*self._multistep_grid(steps, zero=zero, rounded=rounded, top=top), strength)

    def _spread(self, first: float, last: float, count: int) -> Table | None:
        spread = super()._spread(first, last, count)
        return exponential_sigmas(first, last, count) if spread is None and self.config.use_lu_lambdas else spread

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]:
        """x_t -> x_s, from x_t and the differences of the newest values (arXiv:2211.01095, alg. 2).

        original: an edited clean estimate, in place of that of the prediction. state: the History of x_0, or of epsilon,
        None before the first. Computed in at least float32, given in the dtype of the sample. Raises PortError where a
        shape differs.
        """
        config, x = self.config, wide(sample)
        alpha, deviation = self._mixture(step)
        if self.algorithm.endswith("++"):
            value = self._clean(prediction, x, step, original)
        elif original is None and not config.thresholding:
            value = self._epsilon(prediction, x, alpha, deviation)
        else:
            value = (x - alpha * self._clean(prediction, x, step, original)) / deviation
        history = remembered(state, value, step.sigma, config.solver_order)
        order = final_order(step, len(history.values)) if config.lower_order_final else len(history.values)
        if step.next_sigma in (0, step.sigma) or (config.euler_at_final and step.index == step.count - 1):
            order = 1
        of_x, factors, of_noise = dpm_solver_factors(self.algorithm, self.solver, order, step.sigma, step.next_sigma)
        x = of_x * x + weighted(factors, differences(history.values[:order], history.sigmas, step.next_sigma))
        if of_noise > 0:
            noise, rng = noise_like(sample, rng)
            x = x + of_noise * noise
        return Stepped(x.to(sample.dtype), history, rng)
