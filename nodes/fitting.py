"""Pictures and masks as a model takes them: brought to its size, and with what is repainted taken out. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from ..authoring import Bound, Fact, node, note
from ..errors import PortError
from .kinds import Image, Mask

T = TypeVar("T")


@node("Fit", version=1)
def fit(
    image: Annotated[T, "B C H W"],
    height: Annotated[int, Bound(ge=1)],
    width: Annotated[int, Bound(ge=1)],
    factor: Annotated[int, Bound(ge=1)] = 1,
    mode: Literal["smooth", "nearest"] = "smooth",
) -> Annotated[T, "B C factor*height factor*width", Fact(fitted="yes")]:
    """The middle of a picture or mask, as large as a model takes it. [B, C, H, W] -> [B, C, factor*height, factor*width]

    height, width: of the model's samples, such as `$unet.sample_size`. factor: how many pixels a side of a latent stands
    for, such as `$autoencoder.factor`; 1 for pixels. What stands out over the wanted ratio of height and width is cut off,
    as much on both sides; the rest is resized. mode: "smooth" averages where it shrinks, interpolates bicubically where
    it grows, and stays within the range of the picture; "nearest" takes the pixel at the centre. A picture of that size
    stays as it is. Raises PortError where it is not [B, C, H, W].
    """
    from torch.nn.functional import interpolate

    picture: Any = image
    if picture.ndim != 4 or 0 in picture.shape:
        raise PortError("image", f"shape {list(picture.shape)}; expected [B, C, H, W]")
    wanted = (factor * height, factor * width)
    rows, columns = picture.shape[2:]
    if (rows, columns) == wanted:
        return image
    kept_rows = max(1, min(rows, round(columns * height / width)))
    kept_columns = max(1, min(columns, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    part = picture[:, :, top : top + kept_rows, left : left + kept_columns]
    if mode == "nearest":
        picture = interpolate(part, wanted, mode="nearest-exact")
    else:
        smooth = interpolate(part.float(), wanted, mode="bicubic", antialias=True).to(part.dtype)
        picture = smooth.clamp(part.min(), part.max())
    return picture  # type: ignore[no-any-return]


@node("FitMask", version=1)
def fit_mask(
    mask: Annotated[Mask, "M 1 K L", Fact(fitted="no")],
    image: Annotated[Image, "B C H W", Fact(fitted="no")],
    height: Annotated[int, Bound(ge=1)],
    width: Annotated[int, Bound(ge=1)],
    factor: Annotated[int, Bound(ge=1)] = 1,
) -> Annotated[Mask, "M 1 factor*height factor*width", Fact(fitted="yes")]:
    """The mask of a picture, as large as a model takes both: 1 where more of it is white than black, 0 elsewhere.

    image: the picture that the mask lies on, before it was fitted; the mask has its size, or its ratio of height and
    width, to a pixel. height, width, factor: as Fit has them, which does the same to the picture. Notes where nothing is
    white. Raises PortError where the mask is not [B, 1, H, W], or does not lie on the picture.
    """
    rows, columns = mask.shape[2:]
    tall, wide = image.shape[2:]
    if abs(rows * wide - columns * tall) > max(tall, wide):
        what = f"is {columns} x {rows}, the picture that it lies on {wide} x {tall}"
        raise PortError("mask", what, hint="make them equally large")
    fitted = binary(fit(mask, height, width, factor))
    if not fitted.any():
        note("the mask has no white, so nothing is repainted")
    return fitted


@node("Erase", version=1)
def erase(
    image: Annotated[Image, "B C H W", Fact(space="pixel")],
    mask: Annotated[Mask, "M 1 H W"],
) -> Annotated[Image, "B C H W", Fact(space="pixel")]:
    """A picture that is grey, 0 in [-1, 1], where the mask is 0.5 or more: what an inpainting model is shown of it.

    mask: of the picture's height and width; one for all pictures, or one each. Raises PortError where it is not.
    """
    if tuple(mask.shape) not in {(rows, 1, *image.shape[2:]) for rows in (1, image.shape[0])}:
        raise PortError("mask", f"shape {list(mask.shape)}; expected [1 or B, 1, H, W] of {list(image.shape)}")
    kept: Image = image * (mask < 0.5).to(image.dtype)
    return kept


@node("Binary", version=1)
def binary(mask: Annotated[Mask, "B 1 H W"]) -> Annotated[Mask, "B 1 H W"]:
    """A mask that is 1 where it was 0.5 or more, and 0 elsewhere."""
    return (mask >= 0.5).to(mask.dtype)
