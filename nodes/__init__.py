"""The built-in nodes. `from diffgraph.nodes import UNet2D` takes one by its node type, and imports its module alone."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name[:1].isupper():  # node types are; modules are not
        from ..registry import registry

        found = registry().nodes.get(name)
        if found is not None:
            return found.load()
    raise AttributeError(f"diffgraph.nodes has no node {name!r}; `diffgraph nodes` lists them")
