"""Guidance: towards a condition, without a classifier or by the gradient of a score. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from ..authoring import Bound, Fact, node
from ..errors import PortError
from .kinds import CLEAN, FACTOR, SPACE, UNSCALED, Prediction, Sample, Score, Step

FACTS = Fact(prediction="?prediction", schedule="?schedule", model="?model", space="?space")
CONDITIONED = Fact(conditioned="yes")  # by a model that takes a condition, so that two of them differ
SLOPE = Fact(derivative="yes")  # what `grad` gives, beside the score
Ramp = Literal["constant", "linear", "cosine"]


@node("Guidance", version=2)
def guidance(
    prediction: Annotated[Prediction, "2*B ...", FACTS, CONDITIONED],
    scale: Annotated[float, Bound(ge=1), FACTOR],
    rescale: Annotated[float, Bound(ge=0, le=1), FACTOR] = 0.0,
) -> Annotated[Prediction, "B ...", FACTS]:
    """uncond + scale * (cond - uncond) (Ho and Salimans 2022, arXiv:2207.12598; GLIDE, arXiv:2112.10741, section 2.2).

    prediction: of 2B rows, first the unconditioned (or negative) half, then the conditioned one, of the same samples in
    the same order. scale: 1 is off, and gives the conditioned half to the bit. rescale: how far each sample's standard
    deviation is brought back to that of its conditioned half, which keeps large scales from overexposing (Lin et al.
    2023, arXiv:2305.08891, eqs. 14 to 16; 0.7 there); 0 is off. A learned variance is the conditioned half's. Raises
    PortError where the rows are not even in number.
    """
    rows = prediction.value.shape[0]
    if rows % 2:
        raise PortError(
            "prediction", f"has {rows} rows", hint="Concat the negative and the positive condition, in this order"
        )
    negative, positive = prediction.value.chunk(2)
    variance = prediction.variance
    guided = negative.lerp(positive, scale)
    if rescale:
        over = tuple(range(1, guided.ndim))
        spread = positive.std(dim=over, keepdim=True) / guided.std(dim=over, keepdim=True)  # B 1 ...
        guided = guided * (1 + rescale * (spread - 1))
    return Prediction(guided, None if variance is None else variance.chunk(2)[1])


@node("GuidanceScale", version=1, static=True)
def guidance_scale(
    step: Step,
    scale: Annotated[float, Bound(ge=1), FACTOR],
    low: Annotated[float, Bound(ge=0)] = 0.0,
    high: Annotated[float, Bound(ge=0)] | None = None,
    ramp: Ramp = "constant",
) -> Annotated[float, Bound(ge=1)]:
    """The guidance scale of one step: 1, which is off, outside an interval of noise levels; inside, ramped up to it.

    low, high: the interval of `step.sigma`, low excluded and high included; None has no end (Kynkäänniemi et al. 2024,
    arXiv:2404.07724, eq. 5). ramp: over the steps of the schedule, "constant"; "linear" from 1 at the first to `scale`
    at the last (Chang et al. 2023, arXiv:2301.00704, section 2.7); "cosine" likewise along half a wave. Raises
    PortError for another word, and where low is not below high.
    """
    if high is not None and not low < high:
        raise PortError("low", f"{low:g} is not below high, {high:g}", hint="noise levels fall while denoising")
    if not low < step.sigma <= (math.inf if high is None else high):
        return 1.0
    done = step.index / max(step.count - 1, 1)
    if ramp == "constant":
        return scale
    if ramp == "linear":
        return 1 + (scale - 1) * done
    if ramp == "cosine":
        return 1 + (scale - 1) * (1 - math.cos(math.pi * done)) / 2
    raise PortError("ramp", f"{ramp!r} is unknown; allowed: constant, linear, cosine")


@node("Likeness", version=1)
def likeness(
    image: Annotated[Sample, "B ...", SPACE, CLEAN], target: Annotated[Sample, "B ...", SPACE, CLEAN]
) -> Annotated[Score, "B"]:
    """How like a picture is to a target: minus the length of their difference, one number an image, 0 at most.

    Its gradient by x_t is the guidance of diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687, alg. 1,
    where the step size is divided by that length). image, target: of one shape. Raises PortError where they differ.
    """
    if image.shape != target.shape:
        raise PortError("target", f"shape {list(target.shape)}; expected {list(image.shape)}, like the image")
    lengths: Score = (image - target).square().flatten(1).sum(dim=1).sqrt()
    return -lengths


@node("Ascend", version=1)
def ascend(
    sample: Annotated[Sample, "B ...", SPACE, UNSCALED],
    gradient: Annotated[Sample, "B ...", SPACE, SLOPE],
    scale: Annotated[float, Bound(ge=0), FACTOR] = 1.0,
) -> Annotated[Sample, "B ...", SPACE, UNSCALED]:
    """A sample moved along the gradient of a score: sample + scale * gradient (arXiv:2209.14687, alg. 1, line 7).

    gradient: of the sample's shape. scale: 0 is off. Raises PortError where the shapes differ.
    """
    if sample.shape != gradient.shape:
        raise PortError("gradient", f"shape {list(gradient.shape)}; expected {list(sample.shape)}, like the sample")
    return sample + scale * gradient
