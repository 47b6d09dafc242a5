"""The maths that diffusion schedulers share: betas, timestep lists, respacing, variances and the variational bound.

Pure functions; tables are float64 (numpy), tensors are moved by operators alone, so this module imports no torch.
Symbols: beta_t, alpha_t = 1 - beta_t, alpha_cumprod_t = alpha_0 * ... * alpha_t; T training steps, s < t the next
index.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import PortError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Table = NDArray[np.floating[Any]]

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
Spacing = Literal["leading", "linspace", "trailing"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]

# Counts of equal sections of the T indices, lowest first, by the names that GLIDE and DeepFloyd IF gave them.
SECTIONS: dict[str, tuple[int, ...]] = {
    "fast27": (10, 10, 3, 2, 2),
    "smart27": (7, 4, 2, 1, 2, 4, 7),
    "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
    "smart100": (1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13),
    "smart185": (1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20),
    "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
    "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
    "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}
MIN_VARIANCE = 1e-20  # stands for 0 where a logarithm is taken
ZERO_SNR = 2.0**-24  # stands for an alpha_cumprod of 0 where sigma is taken, which is then 4096


# --- betas ----------------------------------------------------------------------------------------------------------


def beta_table(schedule: str, start: float, end: float, count: int) -> Table:
    """beta_t for t = 0 .. count-1.

    "linear" (Ho et al. 2020, arXiv:2006.11239); "scaled_linear", linear in sqrt(beta) (Rombach et al. 2021,
    arXiv:2112.10752); "squaredcos_cap_v2", alpha_cumprod = cos^2((t/T + 0.008) / 1.008 * pi/2) with beta at most 0.999
    (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17), which does not use start and end; "sigmoid", a logistic curve
    from -6 to 6 between start and end (Xu et al. 2022, arXiv:2203.02923). Raises PortError for another name.
    """
    if schedule == "linear":
        return np.linspace(start, end, count, dtype=np.float64)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), count, dtype=np.float64) ** 2
    if schedule == "squaredcos_cap_v2":
        level: Table = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.fmin(1 - level[1:] / level[:-1], 0.999)
    if schedule == "sigmoid":
        return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, count)))
    raise PortError(
        "beta_schedule", f"{schedule!r} is unknown; allowed: linear, scaled_linear, squaredcos_cap_v2, sigmoid"
    )


def zero_terminal_snr(betas: Table) -> Table:
    """Shifts and scales sqrt(alpha_cumprod) so that the last is 0 and the first stays (Lin et al. 2023,
    arXiv:2305.08891, alg. 1).
    """
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    level = root**2
    return 1 - np.concatenate([level[:1], level[1:] / level[:-1]])


# --- which timesteps ------------------------------------------------------------------------------------------------


def counted(steps: object, num_train_timesteps: int) -> int:
    """`steps` as a count of 1 .. T. Raises PortError where it is none."""
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise PortError("steps", f"got {steps!r}; expected a whole number, or a respacing such as 'fast27'")
    if not 1 <= steps <= num_train_timesteps:
        raise PortError("steps", f"got {steps}; allowed: 1 to {num_train_timesteps}, the steps trained with")
    return steps


def spaced_timesteps(steps: int, spacing: str, num_train_timesteps: int, steps_offset: int) -> list[int]:
    """`steps` timesteps in descending order, as published configs space them (arXiv:2305.08891, table 2).

    "leading": 0, T//N, 2*(T//N) ..., plus steps_offset; "linspace": from T-1 to 0; "trailing": from T-1 down by T/N.
    Raises PortError where steps is not in 1..T, or where the offset leads beyond T-1.
    """
    steps = counted(steps, num_train_timesteps)
    listed: Any
    if spacing == "leading":
        listed = np.arange(steps)[::-1] * (num_train_timesteps // steps) + steps_offset
    elif spacing == "linspace":
        listed = np.linspace(0, num_train_timesteps - 1, steps).round()[::-1]
    elif spacing == "trailing":
        listed = np.arange(num_train_timesteps, 0, -num_train_timesteps / steps)[:steps].round() - 1
    else:
        raise PortError("timestep_spacing", f"{spacing!r} is unknown; allowed: leading, linspace, trailing")
    if listed[0] >= num_train_timesteps:
        raise PortError(
            "steps",
            f"{steps} with steps_offset {steps_offset} start at {int(listed[0])}, beyond {num_train_timesteps - 1}",
            hint="take fewer steps, or set steps_offset: 0",
        )
    return [int(t) for t in listed]


def respaced_timesteps(respacing: str, num_train_timesteps: int) -> list[int]:
    """The retained indices of a respaced process, in descending order (arXiv:2102.09672, section 4).

    respacing: a count "25"; counts of equal sections, lowest first, "10,10,3,2,2"; a name of SECTIONS, of which
    "fast27" has T-3 for its last index; or "ddim50", the smallest stride that gives exactly 50. Sections of one count
    take their first index. Raises PortError where it cannot be read or asks for more than there are.
    """
    name, total = respacing.strip().lower(), num_train_timesteps
    shown = repr(respacing if len(respacing) <= 60 else respacing[:57] + "...")
    if name.startswith("ddim") and _is_count(name[4:]):
        strides = (range(0, total, stride) for stride in range(1, total + 1))
        kept = next((set(listed) for listed in strides if len(listed) == int(name[4:])), set())
        if not kept:
            raise PortError("steps", f"no whole stride takes exactly {name[4:]} of {total} timesteps")
        return sorted(kept, reverse=True)
    counts = SECTIONS.get(name)
    if counts is None:
        words = [word.strip() for word in name.split(",")]
        if not all(map(_is_count, words)):
            raise PortError(
                "steps",
                f"cannot read the respacing {shown}",
                hint=f"a count, counts of sections such as 10,10,3,2,2, ddim50, or one of {', '.join(SECTIONS)}",
            )
        counts = tuple(int(word) for word in words)
    if len(counts) > total:
        raise PortError("steps", f"{shown} makes {len(counts)} sections of {total} timesteps")
    size, larger = divmod(total, len(counts))
    kept, first = set(), 0
    for section, count in enumerate(counts):
        length = size + (section < larger)
        if not 1 <= count <= length:
            raise PortError(
                "steps", f"{shown} takes {count} of a section of {length} timesteps; allowed: 1 to {length}"
            )
        stride, position = (length - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):  # added up rather than multiplied, as the original does: it decides ties
            kept.add(first + round(position))
            position += stride
        first += length
    if name == "fast27" and total > 3:
        kept = kept - {total - 1} | {total - 3}
    return sorted(kept, reverse=True)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10


# --- the Gaussian process -------------------------------------------------------------------------------------------


def posterior(alpha_cumprod: float, alpha_cumprod_next: float) -> tuple[float, float]:
    """beta of the step t -> s, and the variance of q(x_s | x_t, x_0) (arXiv:2006.11239, eq. 7), for any s < t."""
    beta = 1 - alpha_cumprod / alpha_cumprod_next
    return beta, beta * (1 - alpha_cumprod_next) / (1 - alpha_cumprod)


def posterior_mean_factors(alpha_cumprod: float, alpha_cumprod_next: float) -> tuple[float, float]:
    """The factors of x_0 and of x_t in the mean of q(x_s | x_t, x_0) (arXiv:2006.11239, eq. 7)."""
    beta, _ = posterior(alpha_cumprod, alpha_cumprod_next)
    of_original = math.sqrt(alpha_cumprod_next) * beta / (1 - alpha_cumprod)
    of_sample = math.sqrt(1 - beta) * (1 - alpha_cumprod_next) / (1 - alpha_cumprod)
    return of_original, of_sample


def log_variance_range(alpha_cumprod: float, alpha_cumprod_next: float) -> tuple[float, float]:
    """Logarithms of the posterior variance and of beta, between which a network learns (arXiv:2102.09672, eq. 15)."""
    beta, variance = posterior(alpha_cumprod, alpha_cumprod_next)
    return math.log(max(variance, MIN_VARIANCE)), math.log(max(beta, MIN_VARIANCE))


def log_variance_tables(alpha_cumprod: Table) -> tuple[Table, Table]:
    """`log_variance_range` of every training step t -> t-1. At index 0, where the first is -inf, index 1 stands in."""
    pairs = [log_variance_range(now, before) for before, now in zip([1.0, *alpha_cumprod], alpha_cumprod, strict=False)]
    small, large = np.array(pairs).T
    small[0] = small[min(1, len(small) - 1)]
    return small, large


def wide(tensor: Tensor) -> Tensor:
    """At least float32: half precision is computed in it and rounded once, at the end."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def weighted(factors: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """The sum of factors times values."""
    total = factors[0] * values[0]
    for factor, value in zip(factors[1:], values[1:], strict=True):
        total = total + factor * value
    return total


def dynamic_threshold(original: Tensor, ratio: float, maximum: float) -> Tensor:
    """Clips each image at s, the `ratio` quantile of |x_0| within [1, maximum], and divides by s (Saharia et al. 2022,
    arXiv:2205.11487, section 2.3). [B, ...] -> [B, ...]
    """
    ordered = original.abs().flatten(1).sort(dim=1).values  # B D
    place = ratio * (ordered.shape[1] - 1)
    low = ordered[:, math.floor(place)]
    limit = low.lerp(ordered[:, math.ceil(place)], place - math.floor(place)).clamp(1, maximum)
    limit = limit.reshape(-1, *(1,) * (original.ndim - 1))
    return original.clamp(-limit, limit) / limit


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp log_variance) || N(other_mean, exp other_log_variance)), elementwise, in nats."""
    spread = other_log_variance - log_variance
    return 0.5 * (spread - 1 + (-spread).exp() + (mean - other_mean) ** 2 * (-other_log_variance).exp())


def discretized_log_likelihood(image: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p(x_0 | x_1) of an 8-bit image in [-1, 1]: the Gaussian's mass within half a level of it, elementwise, in
    nats.

    arXiv:2006.11239, eq. 13; the normal distribution's integral in the tanh form that the published training code uses.
    """
    scale = (-0.5 * log_variance).exp()
    above = _normal_cdf((image - mean + 1 / 255) * scale)
    below = _normal_cdf((image - mean - 1 / 255) * scale)
    mass = (above - below).where((image > -0.999) & (image < 0.999), above.where(image < 0, 1 - below))
    return mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def variational_term(
    original: Tensor, true_mean: Tensor, true_log_variance: Tensor, mean: Tensor, log_variance: Tensor, first: Tensor
) -> Tensor:
    """One term L_t of the variational bound an image, in bits a dimension [B] (arXiv:2102.09672, eqs. 4 to 7).

    -log p(x_0 | x_1) where `first`, a bool that broadcasts over the images, says that t is 0; else
    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)).
    """
    divergence = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    likelihood = discretized_log_likelihood(original, mean, log_variance)
    return (-likelihood).where(first, divergence).flatten(1).mean(dim=1) / math.log(2)
