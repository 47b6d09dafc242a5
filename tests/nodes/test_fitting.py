"""Pictures and masks brought to the size of a model."""

from __future__ import annotations

import pytest
import torch

from diffgraph.errors import PortError
from diffgraph.nodes.fitting import binary, erase, fit


def test_a_picture_of_that_size_stays_as_it_is() -> None:
    image = torch.rand(2, 3, 16, 8)
    assert fit(image, [4, 4, 2], factor=4) is image


@pytest.mark.parametrize("mode", ["smooth", "nearest"])
@pytest.mark.parametrize("size", [(20, 50), (50, 20), (3, 5), (64, 64), (1, 1), (8, 300)])
def test_any_picture_gets_the_size_of_the_model(size: tuple[int, int], mode: str) -> None:
    image = torch.rand(2, 3, *size)
    out = fit(image, [4, 6, 4], factor=2, mode=mode)  # type: ignore[arg-type]
    assert out.shape == (2, 3, 12, 8)
    assert out.dtype == image.dtype
    assert image.min() <= out.min() <= out.max() <= image.max()


def test_what_stands_out_is_cut_off_on_both_sides() -> None:
    image = torch.zeros(1, 1, 4, 12)
    image[..., 4:8] = 1  # the middle square
    torch.testing.assert_close(fit(image, [2, 2]), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(fit(image.transpose(2, 3), [2, 2]), torch.ones(1, 1, 2, 2))


def test_smooth_averages_and_nearest_takes_the_centre() -> None:
    image = torch.tensor([[0.0, 1, 0, 1, 0, 1]]).expand(1, 1, 6, 6)
    assert set(fit(image, [2, 2], mode="nearest").unique().tolist()) <= {0.0, 1.0}
    assert 0.2 < fit(image, [2, 2]).mean() < 0.8


def test_half_precision_is_fitted_too() -> None:
    assert fit(torch.rand(1, 3, 9, 9).half(), [4, 4]).dtype == torch.float16


def test_fit_refuses_what_is_no_picture_or_no_size() -> None:
    with pytest.raises(PortError, match="expected .B, C, H, W."):
        fit(torch.zeros(3, 4, 4), [4, 4])
    with pytest.raises(PortError, match="a height and a width"):
        fit(torch.zeros(1, 3, 4, 4), [4])


def test_erase_greys_what_the_mask_covers() -> None:
    image = torch.full((2, 3, 1, 4), -1.0)
    mask = torch.tensor([0, 0.4, 0.5, 1]).reshape(1, 1, 1, 4)
    assert erase(image, mask)[1, 2, 0].tolist() == [-1, -1, 0, 0]
    with pytest.raises(PortError, match="mask"):
        erase(image, torch.zeros(1, 1, 2, 4))
    with pytest.raises(PortError, match="mask"):
        erase(image, torch.zeros(3, 1, 1, 4))


def test_binary() -> None:
    mask = torch.tensor([0, 0.49, 0.5, 1]).reshape(1, 1, 1, 4)
    assert binary(mask)[0, 0, 0].tolist() == [0, 0, 1, 1]
