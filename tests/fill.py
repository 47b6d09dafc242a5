"""Deterministic weights and inputs of the parity fixtures: the same numbers in any implementation of a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def _hash(count: int, number: int) -> Tensor:
    """count numbers in [-0.5, 0.5), of the tensor with this number."""
    v = np.sin(np.arange(count, dtype=np.float64) * 12.9898 + number * 78.233) * 43758.5453
    return torch.from_numpy(v - np.floor(v) - 0.5)


def filled(name: str, number: int, shape: tuple[int, ...]) -> Tensor:
    """The values of one tensor: its name, the place of that name among all the sorted ones, and its shape."""
    size = int(np.prod(shape))
    r = _hash(size, number).reshape(shape)
    if len(shape) >= 2:
        r = 3 * r / (size / shape[0]) ** 0.5
    else:
        r = 1 + 0.2 * r if name.endswith(("weight", ".g", "gamma")) else 0.2 * r
    return r


def fill(module: torch.nn.Module, names: dict[str, str] | None = None) -> None:
    """Gives each tensor of a module its values by the sorted place of its name.

    names: the name that counts for the order, where the fixture knows a tensor by another than the module does.
    """
    state = module.state_dict()
    original = {key: key if names is None else names[key] for key in state}
    for number, key in enumerate(sorted(state, key=original.__getitem__)):
        if state[key].is_floating_point():
            state[key].copy_(filled(original[key], number, tuple(state[key].shape)))


def wave(*shape: int, phase: float = 0.5) -> Tensor:
    """The input of a fixture: sin(0.1 i + phase) over the flat index i."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.sin(0.1 * np.arange(count, dtype=np.float64) + phase)).float().reshape(shape)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Unit normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Gives every tensor of a module random values of the scale of trained ones, so that every one matters."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        draw = torch.randn(value.shape, generator=generator)
        value.copy_(draw / (value.numel() / value.shape[0]) ** 0.5 if value.ndim >= 2 else 1 + 0.2 * draw)
