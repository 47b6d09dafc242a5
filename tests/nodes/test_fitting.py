"""Pictures and masks brought to the size of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffgraph.errors import CheckFailed, PortError
from diffgraph.nodes.fitting import binary, erase, fit, fit_mask
from diffgraph.nodes.tensors import blend

from ..engine.lab import Lab, document, problems

FITTED = document(
    """
    unet:  {node: UNet2D, sample_size: 8, block_out_channels: [32], down_block_types: [DownBlock2D], up_block_types: [UpBlock2D]}
    first: {node: Fit, image: $image, height: $unet.sample_size, width: $unet.sample_size}
    other: {node: Fit, image: $image, height: 4, width: 4, factor: FACTOR}
    mixed: {node: Blend, kept: $first, painted: $other, mask: $mask}
    """,
    inputs="image: {type: Image}\nmask: {type: Mask}", outputs="{mixed: $mixed}",
)  # fmt: skip


def test_a_picture_of_that_size_stays_as_it_is() -> None:
    image = torch.rand(2, 3, 16, 8)
    assert fit(image, 4, 2, factor=4) is image


@pytest.mark.parametrize("mode", ["smooth", "nearest"])
@pytest.mark.parametrize("size", [(20, 50), (50, 20), (3, 5), (64, 64), (1, 1), (8, 300)])
def test_any_picture_gets_the_size_of_the_model(size: tuple[int, int], mode: str) -> None:
    image = torch.rand(2, 3, *size)
    out = fit(image, 6, 4, factor=2, mode=mode)  # type: ignore[arg-type]
    assert out.shape == (2, 3, 12, 8)
    assert out.dtype == image.dtype
    assert image.min() <= out.min() <= out.max() <= image.max()


def test_what_stands_out_is_cut_off_on_both_sides() -> None:
    image = torch.zeros(1, 1, 4, 12)
    image[..., 4:8] = 1  # the middle square
    torch.testing.assert_close(fit(image, 2, 2), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(fit(image.transpose(2, 3), 2, 2), torch.ones(1, 1, 2, 2))


def test_smooth_averages_and_nearest_takes_the_centre() -> None:
    image = torch.tensor([[0.0, 1, 0, 1, 0, 1]]).expand(1, 1, 6, 6)
    assert set(fit(image, 2, 2, mode="nearest").unique().tolist()) <= {0.0, 1.0}
    assert 0.2 < fit(image, 2, 2).mean() < 0.8


def test_half_precision_is_fitted_too() -> None:
    assert fit(torch.rand(1, 3, 9, 9).half(), 4, 4).dtype == torch.float16


def test_fit_refuses_what_is_no_picture() -> None:
    with pytest.raises(PortError, match="expected .B, C, H, W."):
        fit(torch.zeros(3, 4, 4), 4, 4)


def test_a_mask_lies_on_its_picture() -> None:
    """Of the same height and width, or the same ratio to a pixel."""
    picture = torch.zeros(1, 3, 37, 20)
    for size in ((37, 20), (74, 40), (18, 10), (19, 10)):
        assert fit_mask(torch.ones(1, 1, *size), picture, 4, 4).tolist() == torch.ones(1, 1, 4, 4).tolist()
    for size in ((20, 37), (37, 37), (37, 18), (100, 90)):
        with pytest.raises(PortError, match=rf"is {size[1]} x {size[0]}, the picture that it lies on 20 x 37"):
            fit_mask(torch.ones(1, 1, *size), picture, 4, 4)


def test_a_mask_covers_what_its_picture_was_cut_to() -> None:
    """Each pixel of the picture that is kept lies under its own pixel of the mask."""
    mask = (torch.rand(1, 1, 12, 20, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    picture = mask.expand(1, 3, 12, 20)
    assert torch.equal(fit_mask(mask, picture, 12, 12), fit(picture, 12, 12)[:, :1])
    assert set(fit_mask(mask, picture, 5, 5).unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(fit_mask(mask, picture, 5, 5, factor=2), fit_mask(mask, picture, 10, 10))


def test_the_check_tells_what_was_fitted_from_what_was_given() -> None:
    inputs = "image: {type: Image}\nmask: {type: Mask}"
    nodes = """
    small: {node: Fit, image: $image, height: 4, width: 4}
    large: {node: Fit, image: $image, height: 8, width: 8}
    value: {node: FitMask, mask: $mask, image: %s, height: 4, width: 4}
    both:  {node: Concat, items: [$small, $small]}
    """
    outputs = "{value: $value, both: $both, large: $large}"
    assert problems(document(nodes % "$image", inputs=inputs, outputs=outputs)) == []
    assert problems(document(nodes % "$large", inputs=inputs, outputs=outputs))


def test_erase_greys_what_the_mask_covers() -> None:
    image = torch.full((2, 3, 1, 4), -1.0)
    mask = torch.tensor([0, 0.4, 0.5, 1]).reshape(1, 1, 1, 4)
    assert erase(image, mask)[1, 2, 0].tolist() == [-1, -1, 0, 0]
    with pytest.raises(PortError, match="mask"):
        erase(image, torch.zeros(1, 1, 2, 4))
    with pytest.raises(PortError, match="mask"):
        erase(image, torch.zeros(3, 1, 1, 4))


def test_what_is_painted_says_nothing_of_what_lies_below() -> None:
    """Blend gives each of the two to the bit, so that hidden pixels cannot be told by a rounding error."""
    below, above = torch.rand(1, 3, 4, 4) * 7, torch.rand(1, 3, 4, 4)
    mask = torch.tensor([0.0, 1, 0, 1]).expand(1, 1, 4, 4)
    assert torch.equal(blend(below, above, mask), torch.where(mask == 1, above, below))
    half = torch.full((1, 1, 4, 4), 0.5)
    torch.testing.assert_close(blend(below, above, half), (below + above) / 2)


def test_a_mask_without_white_is_noted(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    fitted = "value: {node: FitMask, mask: $mask, image: $image, height: 2, width: 2}"
    graph = document(fitted, inputs="mask: {type: Mask}\nimage: {type: Image}")
    image = torch.zeros(1, 3, 2, 2)
    lab.run(graph, image=image, mask=torch.zeros(1, 1, 2, 2))
    assert lab.said == ["the mask has no white, so nothing is repainted"]
    lab.run(graph, image=image, mask=torch.ones(1, 1, 2, 2))
    assert lab.said == []


def test_binary() -> None:
    mask = torch.tensor([0, 0.49, 0.5, 1]).reshape(1, 1, 1, 4)
    assert binary(mask)[0, 0, 0].tolist() == [0, 0, 1, 1]


def test_the_check_knows_the_size(tmp_path: Path) -> None:
    """Of a shape that a component says, and of one that is written."""
    Image.new("L", (8, 8)).save(tmp_path / "mask.png")
    Image.new("RGB", (20, 30)).save(tmp_path / "image.png")
    given = {name: tmp_path / f"{name}.png" for name in ("image", "mask")}
    lab = Lab(tmp_path)
    assert lab.run(FITTED.replace("FACTOR", "2"), **given)["mixed"].shape == (1, 3, 8, 8)
    with pytest.raises(CheckFailed, match=r"mixed.painted: expected shape .*, 8, 8., got .*, 12, 12."):
        lab.prepare(FITTED.replace("FACTOR", "3"), **given)
