"""Grids of noise levels sigma = sqrt((1 - alpha_cumprod) / alpha_cumprod), and the multistep rules over them.

Pure functions of numbers; float64, no torch. In terms of sigma, x_t / sqrt(alpha_cumprod_t) = x_0 + sigma epsilon, and
the probability flow is dx/dsigma = epsilon (Karras et al. 2022, arXiv:2206.00364, eq. 1). The logarithmic signal-to-noise
ratio is lambda = log(alpha / sigma_vp) = -log sigma (Lu et al. 2022, arXiv:2206.00927).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial import Polynomial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .noise_schedule import Table

# --- grids ----------------------------------------------------------------------------------------------------------


def karras_sigmas(first: float, last: float, count: int, rho: float = 7.0) -> Table:
    """`count` sigmas from first to last, evenly spaced in sigma^(1/rho) (arXiv:2206.00364, eq. 5)."""
    high, low = first ** (1 / rho), last ** (1 / rho)
    grid: Table = (high + np.linspace(0, 1, count) * (low - high)) ** rho
    return grid


def exponential_sigmas(first: float, last: float, count: int) -> Table:
    """`count` sigmas from first to last, evenly spaced in log sigma, that is in lambda."""
    grid: Table = np.exp(np.linspace(np.log(first), np.log(last), count))
    return grid


def sigmas_at(timesteps: Any, table: Table) -> Table:
    """The sigma of timesteps in -1 .. T-1, whole or between: log sigma is linear between neighbours, and sigma falls
    linearly to 0 from timestep 0 to -1, the data. table: sigma of the T training timesteps.
    """
    inside = np.exp(np.interp(timesteps, np.arange(len(table)), np.log(table)))
    grid: Table = np.where(timesteps < 0, table[0] * (1 + np.minimum(timesteps, 0)), inside)
    return grid


def timesteps_at(sigmas: Any, table: Table) -> Table:
    """`sigmas_at` the other way round. Beyond the largest sigma of the table, T-1."""
    inside = np.interp(np.log(np.maximum(sigmas, table[0])), np.log(table), np.arange(len(table)))
    grid: Table = np.where(sigmas < table[0], sigmas / table[0] - 1, inside)
    return grid


def churned(sigma: float, churn: float, low: float, high: float | None, steps: int) -> float:
    """sigma raised by Karras' churn, where it is within [low, high] (arXiv:2206.00364, alg. 2, lines 4 and 5)."""
    gamma = min(churn / steps, 2**0.5 - 1) if low <= sigma and (high is None or sigma <= high) else 0.0
    return sigma * (1 + gamma)


# --- multistep rules: integrals of the polynomial through the values at earlier sigmas --------------------------------


def linear_multistep_factors(sigmas: Sequence[float], end: float) -> list[float]:
    """The factors of slopes at `sigmas`, newest first, in the step from sigmas[0] to `end`: the integrals of their
    Lagrange polynomials in sigma, exact to degree 3 by two Gauss-Legendre points.
    """
    middle, half = (end + sigmas[0]) / 2, (end - sigmas[0]) / 2
    points = middle + half * np.array([-1, 1]) / np.sqrt(3)
    factors = []
    for j, node in enumerate(sigmas):
        basis = np.ones_like(points)
        for k, other in enumerate(sigmas):
            if k != j:
                basis = basis * (points - other) / (node - other)
        factors.append(float(half * basis.sum()))
    return factors


def log_rho_factors(sigmas: Sequence[float], end: float) -> list[float]:
    """The factors of epsilon at `sigmas`, newest first, in the step from sigmas[0] to `end`: integrals over rho = sigma
    of their Lagrange polynomials in log rho (Zhang and Chen 2022, arXiv:2204.13902, eq. 15, on the grid of log rho).

    With u = log(rho / rho_0), the integral of P(u) rho_0 e^u du is rho_0 e^u (P - P' + P'' - ...).
    """
    places, last = np.log(np.array(sigmas) / sigmas[0]), float(np.log(end / sigmas[0]))
    factors = []
    for j, place in enumerate(places):
        basis = Polynomial([1.0])
        for k, other in enumerate(places):
            if k != j:
                basis = basis * Polynomial([-other, 1.0]) / (place - other)
        whole = sum((-1) ** k * basis.deriv(k) for k in range(len(sigmas)))
        factors.append(float(sigmas[0] * (np.exp(last) * whole(last) - whole(0.0))))
    return factors


def adams_bashforth_factors(count: int) -> tuple[float, ...]:
    """The weights of the newest `count` values, newest first, on a grid of equal steps (Liu et al. 2022,
    arXiv:2202.09778, eq. 12 for four).
    """
    return {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[count]
