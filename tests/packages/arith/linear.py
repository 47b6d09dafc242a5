"""A torch component with small weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffgraph.authoring import Bound, Component, Fact

from .kinds import Vector


@dataclass(frozen=True)
class LinearConfig:
    """in_features, out_features: the lengths of the vectors. unit: what it measures."""

    in_features: Annotated[int, Bound(ge=1, le=4096)]
    out_features: Annotated[int, Bound(ge=1, le=4096)]
    unit: str = "metre"


class Linear(torch.nn.Module, Component, version=1):
    """y = W x + b."""

    Config = LinearConfig
    files = ("model",)
    attributes: ClassVar[Mapping[str, str]] = {"shape": "out_features in_features", "size": "in_features"}
    siblings: ClassVar[Mapping[str, str]] = {"maker": "maker.json:$name"}

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.randn(config.out_features, config.in_features))
        self.bias = torch.nn.Parameter(torch.zeros(config.out_features))

    def forward(
        self, vector: Annotated[Vector, "in_features", Fact(unit="$unit")]
    ) -> Annotated[Vector, "out_features", Fact(unit="$unit")]:
        """[in_features] -> [out_features]"""
        return self.weight @ vector + self.bias

    def norm(self) -> float:
        """The norm of W."""
        return float(self.weight.norm())


def make(size_in: int, size_out: int) -> Tensor:
    """Weights as a plain tensor, for tests."""
    return torch.arange(size_in * size_out, dtype=torch.float32).reshape(size_out, size_in)
