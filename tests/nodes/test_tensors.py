"""Concat, Expand, Quantize, Resize: on tensors, on records, and the dimensions that they announce."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diffgraph.checking.dims import Dim
from diffgraph.errors import PortError
from diffgraph.nodes.kinds import Prediction, Tokens
from diffgraph.nodes.tensors import concat, concat_shapes, expand, expand_shapes, quantize, resize


class Told(NamedTuple):
    """A condition such as a model makes."""

    layers: list[Tensor]
    embedding: Tensor
    hint: Tensor | None
    name: str


def told(rows: int, start: float = 0, hint: bool = True) -> Told:
    base = torch.arange(rows * 4, dtype=torch.float32).reshape(rows, 4) + start
    return Told([base, base * 2], base[:, :2], base[:, None] if hint else None, "glide")


def test_concat_tensors() -> None:
    a, b = torch.randn(2, 3), torch.randn(1, 3)
    assert torch.equal(concat([a, b]), torch.cat([a, b]))
    assert torch.equal(concat([a, a], dim=1), torch.cat([a, a], 1))
    assert torch.equal(concat([a, a], dim=-1), torch.cat([a, a], 1))
    assert torch.equal(concat([a]), a)


def test_concat_records() -> None:
    joined = concat([told(1), told(2, 100)])
    assert isinstance(joined, Told)
    assert joined.embedding[:, 0].tolist() == [0, 100, 104]
    assert torch.equal(joined.layers[1], torch.cat([told(1).layers[1], told(2, 100).layers[1]]))
    assert joined.name == "glide"
    assert concat([told(1, hint=False), told(1, hint=False)]).hint is None


@pytest.mark.parametrize(
    ("items", "dim", "message"),
    [
        ([], 0, "empty list"),
        ([torch.zeros(1, 3), torch.zeros(1, 4)], 0, "item 1 has shape"),
        ([torch.zeros(1, 3), torch.zeros(2, 3)], 1, "item 1 has shape"),
        ([torch.zeros(1, 3), torch.zeros(3)], 0, "item 1 has shape"),
        ([torch.zeros(1, 3), torch.zeros(1, 3).half()], 0, "item 1 is torch.float16"),
        ([torch.zeros(1, 3), torch.zeros(1, 3)], 2, "no such dimension"),
        ([torch.tensor(1.0), torch.tensor(1.0)], 0, "no such dimension"),
        ([told(1), told(1, hint=False)], 0, "other parts"),
        ([told(1), torch.zeros(1, 3)], 0, "other parts"),
        ([told(1), told(1)._replace(name="other")], 0, "no tensor"),
        ([told(1), told(1)], 1, "by rows only"),
        ([Prediction(torch.zeros(1, 3)), Prediction(torch.zeros(1, 3), torch.zeros(1, 3))], 0, "other parts"),
    ],
)
def test_concat_refuses(items: list[Any], dim: int, message: str) -> None:
    with pytest.raises(PortError, match=message):
        concat(items, dim)


def test_expand() -> None:
    like = torch.zeros(3, 5)
    row = torch.randn(1, 2, 4)
    wide = expand(row, like)
    assert wide.shape == (3, 2, 4)
    assert torch.equal(wide, row.repeat(3, 1, 1))
    assert wide.data_ptr() == row.data_ptr()  # no copy
    full = torch.randn(3, 2)
    assert expand(full, like) is full
    record = expand(told(1), like)
    assert isinstance(record, Told)
    assert record.embedding.shape == (3, 2)
    assert record.layers[0].shape == (3, 4)
    assert record.name == "glide"
    assert expand(told(1, hint=False), like).hint is None
    assert expand(None, like) is None
    assert expand(row, Tokens(torch.zeros(2, 4), torch.zeros(2, 4))).shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("value", "like", "port"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 1), "value"),
        (told(2), torch.zeros(3, 1), "value"),
        (torch.tensor(1.0), torch.zeros(3, 1), "value"),
        (torch.zeros(1, 3), torch.tensor(1.0), "like"),
        (torch.zeros(1, 3), 3, "like"),
    ],
)
def test_expand_refuses(value: Any, like: Any, port: str) -> None:
    with pytest.raises(PortError) as caught:
        expand(value, like)
    assert caught.value.port == port


def test_announced_dimensions() -> None:
    """On numbers, and on the symbols of a check."""
    assert concat_shapes([(2, 3), (1, 3)]) == (3, 3)
    assert concat_shapes([(2, 3), (2, 4)], 1) == (2, 7)
    assert expand_shapes((1, 2, 4), (3, 5)) == (3, 2, 4)
    batch = Dim.of("B")
    assert concat_shapes([(batch, 3), (batch, 3)]) == (batch * 2, 3)
    assert expand_shapes((1, 7), (batch, 3, 8, 8)) == (batch, 7)


def test_quantize() -> None:
    """GLIDE's hand-over: round((x + 1) * 127.5) / 127.5 - 1, which leaves values beyond the range on the same grid."""
    x = torch.tensor([-1, -0.999, -0.5, 0, 0.003, 0.5, 1, 1.3]).reshape(1, 1, 2, 4)
    assert torch.equal(quantize(x), ((x + 1) * 127.5).round() / 127.5 - 1)
    assert set(quantize(torch.rand(1, 3, 8, 8) * 2 - 1, 2).unique().tolist()) == {-1.0, 1.0}
    once = quantize(torch.rand(1, 3, 8, 8) * 2 - 1)
    torch.testing.assert_close(quantize(once), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_smoothly(mode: Any, antialias: bool, align_corners: bool) -> None:
    x = torch.rand(2, 3, 8, 10)
    wanted = interpolate(x, (5, 24), mode=mode, antialias=antialias, align_corners=align_corners)
    assert torch.equal(resize(x, 5, 24, mode, antialias, align_corners), wanted)


def test_resize_by_whole_factors() -> None:
    x = torch.rand(1, 3, 4, 6)
    assert torch.equal(resize(x, 8, 12, "nearest"), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(resize(x, 2, 3, "area"), x.reshape(1, 3, 2, 2, 3, 2).mean((3, 5)))
    mask = (torch.rand(1, 1, 8, 8) > 0.5).float()
    assert set(resize(mask, 3, 3, "nearest").unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("port", ["antialias", "align_corners"])
@pytest.mark.parametrize("mode", ["nearest", "area"])
def test_resize_refuses_what_a_mode_has_not(mode: Any, port: str) -> None:
    with pytest.raises(PortError) as caught:
        resize(torch.zeros(1, 1, 4, 4), 2, 2, mode, **{port: True})  # type: ignore[arg-type]
    assert caught.value.port == port


def test_resize_refuses_another_shape() -> None:
    with pytest.raises(PortError, match="expected"):
        resize(torch.zeros(1, 4, 4), 2, 2)
