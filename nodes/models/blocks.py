"""What the U-Nets share: normalisation, the embedding of time, and the checks of their inputs.

Letters: B batch, C channels, H W height and width, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import PortError

M = TypeVar("M", bound=torch.nn.Module)


class GroupNorm(torch.nn.GroupNorm):
    """Group normalisation [B, C, ...] -> the same, computed in fp32 at least, whatever the precision of the input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that torch gave it)
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.group_norm(input.to(wide), self.num_groups, weight, bias, self.eps).to(input.dtype)


class LayerNorm(torch.nn.LayerNorm):
    """Layer normalisation [..., D] -> the same, computed in fp32 at least, whatever the precision of the input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that torch gave it)
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(input.to(wide), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


def zeroed(module: M) -> M:
    """The module with zero weights, so that a residual branch begins as nothing (Ho et al. 2020, appendix B)."""
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module


def sinusoid(timestep: Tensor, width: int, *, cosine_first: bool, frequency_shift: float) -> Tensor:
    """Sinusoidal embedding of time (Vaswani et al. 2017, section 3.5, as Ho et al. 2020 use it).

    timestep: [B]. Frequencies exp(-ln(10000) i / (width/2 - frequency_shift)), i = 0 .. width/2 - 1.
    cosine_first: cosines before sines. Returns fp32 [B, width]; an odd width ends in a zero.
    """
    half = width // 2
    exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[:, None] * torch.exp(exponent / (half - frequency_shift))  # [B, width/2]
    waves = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    return F.pad(torch.cat(waves, dim=1), (0, width % 2))


def timestep_rows(port: str, timestep: int | float | Tensor, rows: int, device: torch.device) -> Tensor:
    """A timestep as fp32 [rows]: one number for all rows, or a tensor with one for each.

    Raises PortError where it is negative, not finite, or not one a row. What a tensor on an accelerator holds is not
    looked at, since that would wait for it.
    """
    if isinstance(timestep, Tensor):
        if timestep.shape not in ((), (rows,)) or timestep.is_complex() or timestep.dtype == torch.bool:
            shape = list(timestep.shape)
            raise PortError(port, f"is {timestep.dtype} of shape {shape}; expected a number, or one a row, [{rows}]")
        if timestep.device.type == "cpu" and not bool(((timestep >= 0) & (timestep < math.inf)).all()):
            raise PortError(port, f"must hold indices of the training schedule, 0 or more, not {timestep.tolist()}")
        return timestep.to(device, torch.float32).expand(rows)
    if isinstance(timestep, bool) or not isinstance(timestep, Real):
        raise PortError(port, f"must be a number or a tensor [{rows}], not {type(timestep).__name__}")
    if not 0 <= timestep < math.inf:
        raise PortError(port, f"must be an index of the training schedule, 0 or more, not {timestep}")
    return torch.full((rows,), float(timestep), dtype=torch.float32, device=device)


def check_tensor(port: str, value: Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    """Raises PortError unless `value` is a floating-point tensor of this shape (None is any size from 1) on this device."""
    sizes = [("B" if place == 0 else "any") if size is None else str(size) for place, size in enumerate(shape)]
    wanted = "[" + ", ".join(sizes) + "]"
    if not isinstance(value, Tensor):
        raise PortError(port, f"must be a tensor {wanted}, not {type(value).__name__}")
    if value.ndim != len(shape) or any(size not in (None, got) for size, got in zip(shape, value.shape, strict=True)):
        raise PortError(port, f"has shape {list(value.shape)}; this model takes {wanted}")
    if not value.numel():
        raise PortError(port, f"has shape {list(value.shape)}, in which nothing is")
    if not value.is_floating_point():
        raise PortError(port, f"has dtype {value.dtype}; expected a floating-point tensor", hint="use .float()")
    if value.device != device:
        raise PortError(port, f"is on {value.device}, the model on {device}", hint=f"move one: .to({str(device)!r})")


def check_condition(parts: Iterable[Tensor | None], weight: Tensor) -> None:
    """Raises PortError where a part of a condition is not of the dtype and on the device of the network's weights."""
    for part in parts:
        if part is None or (part.device == weight.device and torch.is_autocast_enabled(weight.device.type)):
            continue  # autocast sees to dtypes
        if (part.dtype, part.device) != (weight.dtype, weight.device):
            said = f"is {part.dtype} on {part.device}, the network {weight.dtype} on {weight.device}"
            raise PortError("condition", said, hint="call `condition` again after the network was moved or changed")
