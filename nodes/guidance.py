"""Classifier-free guidance."""

from __future__ import annotations

from typing import Annotated

from ..authoring import Bound, Fact, node
from ..errors import PortError
from .kinds import Prediction

FACTS = Fact(prediction="?prediction", schedule="?schedule", model="?model", space="?space")
CONDITIONED = Fact(conditioned="yes")  # by a model that takes a condition, so that two of them differ


@node("Guidance", version=1)
def guidance(
    prediction: Annotated[Prediction, "2*B ...", FACTS, CONDITIONED],
    scale: Annotated[float, Bound(ge=1)],
) -> Annotated[Prediction, "B ...", FACTS]:
    """uncond + scale * (cond - uncond) (Ho and Salimans 2022, arXiv:2207.12598; GLIDE, arXiv:2112.10741, section 2.2).

    prediction: of 2B rows, first the unconditioned (or negative) half, then the conditioned one, of the same samples in
    the same order. scale: 1 is off, and gives the conditioned half to the bit. A learned variance is the conditioned
    half's. Raises PortError where the rows are not even in number.
    """
    rows = prediction.value.shape[0]
    if rows % 2:
        raise PortError(
            "prediction", f"has {rows} rows", hint="Concat the negative and the positive condition, in this order"
        )
    negative, positive = prediction.value.chunk(2)
    variance = prediction.variance
    return Prediction(negative.lerp(positive, scale), None if variance is None else variance.chunk(2)[1])
