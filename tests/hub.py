"""What tests of commands against a Hub share: the loopback server as the user's Hub, small weights, small graphs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from diffgraph.weights import digests, hub
from diffgraph.weights.hub import Hub

from . import hub_uploads  # noqa: F401  adds its routes
from .hub_server import TOKEN, HubServer

CONFIG = json.dumps({"in_features": 2, "out_features": 2}).encode()


def weights(value: float) -> bytes:
    """The tensors of an arith.Linear of 2 by 2, all `value`: its norm is twice that."""
    return save({"weight": torch.full((2, 2), float(value)), "bias": torch.zeros(2)}, metadata={"format": "pt"})


def linear(value: float) -> dict[str, bytes]:
    """The files of a repository that holds an arith.Linear, and others that it does not need."""
    return {
        "config.json": CONFIG,
        "model.safetensors": weights(value),
        "pytorch_model.bin": b"not wanted",
        "model.fp16.safetensors": b"not wanted",
        "flax_model.msgpack": b"not wanted",
        "onnx/model.onnx": b"not wanted",
        "README.md": b"# linear",
    }


def graph(address: str = "hf://org/linear", name: str = "line") -> str:
    """A document that gives the norm of the weights at an address."""
    return f"""diffgraph: 1
name: {name}
summary: The norm of a line
inputs:
  scale: {{type: float, default: 1.0, help: a factor}}
nodes:
  linear: {{node: arith.Linear, weights: {address}}}
  norm: {{call: $linear.norm}}
  scaled: {{node: arith.Multiply, a: $norm, b: $scale}}
outputs: {{norm: $scaled}}
"""


@contextmanager
def users_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The loopback server as the Hub that commands ask, with an empty cache below `place`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.close_session", lambda: None)  # by threads that earlier tests left
    monkeypatch.setattr(digests, "_known", {})
    level = logging.getLogger("huggingface_hub").level
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with HubServer() as server:
        made = cache(lambda: Hub(endpoint=server.endpoint, cache_dir=place / "hf", token=TOKEN))
        monkeypatch.setattr(hub, "default_hub", made)
        yield server
    logging.getLogger("huggingface_hub").setLevel(level)
