"""Joining, repeating, resizing and rounding tensors, and records of tensors. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from ..authoring import Bound, Fact, node
from ..errors import PortError
from ..values import leaves, tree_map
from .kinds import Image, Mask, Sample

T = TypeVar("T")


def concat_shapes(items: list[Any], dim: int = 0) -> tuple[Any, ...]:
    """The dimensions of a Concat from those of its items: the sum along `dim`."""
    first = list(items[0])
    for other in items[1:]:
        first[dim] = first[dim] + other[dim]
    return tuple(first)


@node("Concat", version=1, shapes=concat_shapes)
def concat(items: list[T], dim: int = 0) -> T:
    """Joins tensors along `dim`, or records, tensor by tensor, along their rows.

    items: of one structure, dtype and device; tensors agree in every other dimension, and what a record holds besides
    tensors is equal in all. dim: 0, the rows; another, for tensors only. Raises PortError where they do not fit each
    other.
    """
    if not items:
        raise PortError("items", "is an empty list; at least one item is needed")
    if dim and not _is_tensor(items[0]):
        raise PortError("dim", f"got {dim}; records are joined by rows only", hint="leave dim out")
    _same_structure(items)
    return tree_map(lambda *parts: _joined(parts, dim), *items)  # type: ignore[no-any-return]


def expand_shapes(value: Any, like: Any) -> tuple[Any, ...]:
    """The dimensions of an Expand: the rows of `like`, and the rest of `value`. Raises PortError for others."""
    rows, wanted = (getattr(dims[0], "constant", None) for dims in (value, like))
    if rows not in (None, 1) and wanted is not None and rows != wanted:
        raise PortError("value", f"has {rows} rows; allowed: 1, or {wanted} like the other")
    return (like[0], *value[1:])


@node("Expand", version=1, shapes=expand_shapes)
def expand(value: T | None, like: Annotated[Any, "B ..."]) -> T:
    """A value with one row, as a value with as many rows as `like`; one that has them already stays as it is.

    value: a tensor, or a record of tensors; none stays none. The rows share their memory. Raises PortError for another
    number of rows.
    """
    wanted = _rows(next(iter(leaves(like))), "like")

    def expanded(part: Any) -> Any:
        if not _is_tensor(part):
            return part
        rows = _rows(part, "value")
        if rows not in (1, wanted):
            raise PortError("value", f"has {rows} rows; allowed: 1, or {wanted} like the other")
        return part if rows == wanted else part.expand(wanted, *part.shape[1:])

    return tree_map(expanded, value)  # type: ignore[no-any-return]


@node("Quantize", version=1)
def quantize(
    image: Annotated[Sample, "B C H W", Fact(space="pixel")],
    levels: Annotated[int, Bound(ge=2)] = 256,
) -> Annotated[Image, "B C H W", Fact(space="pixel")]:
    """Rounds pixels in [-1, 1] to `levels` equally spaced values, of which -1 and 1 are the ends.

    With 256, what an 8-bit file would have kept: how GLIDE hands its small image on (arXiv:2112.10741, section 2.2).
    Values beyond [-1, 1] are rounded to the same grid, not clipped, as there.
    """
    half = (levels - 1) / 2
    return ((image + 1) * half).round() / half - 1


@node("Resize", version=1)
def resize(
    image: Annotated[T, "B C H W"],
    height: Annotated[int, Bound(ge=1)],
    width: Annotated[int, Bound(ge=1)],
    mode: Literal["nearest", "area", "bilinear", "bicubic"] = "bilinear",
    antialias: bool = False,
    align_corners: bool = False,
) -> Annotated[T, "B C height width"]:
    """An image, mask or latent at another height and width. [B, C, H, W] -> [B, C, height, width]

    mode: "nearest" takes the pixel at the centre; "area" averages; "bilinear" and "bicubic" interpolate, and may go
    beyond the range (bicubic). antialias: smooths first where it shrinks. align_corners: the centres of the corner
    pixels stay in place. Raises PortError where antialias or align_corners is set for a mode that has none.
    """
    from torch.nn.functional import interpolate

    smooth = mode in ("bilinear", "bicubic")
    for port, chosen in (("antialias", antialias), ("align_corners", align_corners)):
        if chosen and not smooth:
            raise PortError(port, f"{mode} has none", hint="use mode: bilinear or bicubic")
    picture: Any = image
    if picture.ndim != 4:
        raise PortError("image", f"shape {list(picture.shape)}; expected [B, C, H, W]")
    resized: Any = interpolate(
        picture,
        (height, width),
        mode="nearest-exact" if mode == "nearest" else mode,
        align_corners=align_corners if smooth else None,
        antialias=antialias,
    )
    return resized  # type: ignore[no-any-return]


@node("Blend", version=2)
def blend(
    kept: Annotated[T, "B C H W"],
    painted: Annotated[T, "B C H W"],
    mask: Annotated[Mask, "M 1 H W"],
) -> Annotated[T, "B C H W"]:
    """`painted` where the mask is 1 (white), `kept` where it is 0, both to the bit, and a mixture between.

    kept, painted: [B, C, H, W], pictures or latents. mask: in [0, 1], of their height and width (Resize it for latents
    with mode: nearest); one for all images, or one each. Raises PortError where the shapes do not fit.
    """
    from torch import lerp

    below: Any = kept
    above: Any = painted
    if below.shape != above.shape:
        raise PortError("painted", f"shape {list(above.shape)}; expected {list(below.shape)}, like what is kept")
    if tuple(mask.shape) not in {(rows, 1, *below.shape[2:]) for rows in (1, below.shape[0])}:
        raise PortError("mask", f"shape {list(mask.shape)}; expected [1 or B, 1, H, W] of {list(below.shape)}")
    blended: Any = lerp(below, above, mask.to(below.dtype))
    return blended  # type: ignore[no-any-return]


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "ndim") and hasattr(value, "shape")


def _rows(value: Any, port: str) -> int:
    if not _is_tensor(value) or value.ndim == 0:
        raise PortError(port, f"{'a single number' if _is_tensor(value) else type(value).__name__} has no rows")
    return int(value.shape[0])


def _same_structure(items: list[Any]) -> None:
    """Raises PortError where items differ in what they are made of."""

    def outline(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value).__name__, [outline(part) for part in value]
        return "tensor" if _is_tensor(value) else type(value).__name__

    first = outline(items[0])
    for index, other in enumerate(items[1:], start=1):
        if outline(other) != first:
            raise PortError(
                "items", f"item {index} is made of other parts than item 0", hint="join values of one origin"
            )


def _joined(parts: tuple[Any, ...], dim: int) -> Any:
    import torch

    first = parts[0]
    if not _is_tensor(first):
        if any(part != first for part in parts):
            raise PortError("items", f"differ in a part that is no tensor: {first!r} and others")
        return first
    if first.ndim == 0 or not -first.ndim <= dim < first.ndim:
        raise PortError("dim", f"got {dim}; a tensor of shape {list(first.shape)} has no such dimension")
    for index, part in enumerate(parts):
        same = [size for at, size in enumerate(part.shape) if at != dim % first.ndim]
        if part.ndim != first.ndim or same != [size for at, size in enumerate(first.shape) if at != dim % first.ndim]:
            raise PortError("items", f"item {index} has shape {list(part.shape)}, item 0 has {list(first.shape)}")
        if (part.dtype, part.device) != (first.dtype, first.device):
            have, want = f"{part.dtype} on {part.device}", f"{first.dtype} on {first.device}"
            raise PortError("items", f"item {index} is {have}, item 0 is {want}")
    return torch.cat(parts, dim)
