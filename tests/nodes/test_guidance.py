"""Classifier-free guidance."""

from __future__ import annotations

import pytest
import torch

from diffgraph.errors import PortError
from diffgraph.nodes.guidance import guidance
from diffgraph.nodes.kinds import Prediction


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0, 7.5])
def test_the_formula(scale: float) -> None:
    """u + scale * (c - u), of the halves [u, c]; the variance is c's."""
    value, variance = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    guided = guidance(Prediction(value, variance), scale)
    u, c = value[:3], value[3:]
    torch.testing.assert_close(guided.value, u + scale * (c - u))
    assert guided.variance is not None
    assert torch.equal(guided.variance, variance[3:])
    assert guidance(Prediction(value), scale).variance is None


def test_scale_one_is_off() -> None:
    value = torch.randn(4, 3, 8, 8) * 100
    assert torch.equal(guidance(Prediction(value), 1.0).value, value[2:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    value = torch.randn(4, 3, 8, 8).to(dtype)
    guided = guidance(Prediction(value), 7.5).value
    u, c = value.float().chunk(2)
    assert guided.dtype == dtype
    torch.testing.assert_close(guided, (u + 7.5 * (c - u)).to(dtype))


def test_the_order_of_the_halves_matters() -> None:
    value = torch.randn(2, 3, 4, 4)
    assert not torch.allclose(guidance(Prediction(value), 3.0).value, guidance(Prediction(value.flip(0)), 3.0).value)


def test_odd_rows() -> None:
    with pytest.raises(PortError, match="3 rows"):
        guidance(Prediction(torch.zeros(3, 3, 4, 4)), 2.0)
