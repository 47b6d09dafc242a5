"""A graph's drawing, from its document to shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DiffgraphError
from ..language.graph import GraphDocument
from ..language.sources import Loader, Source
from ..registry import Registry
from .palette import THEMES
from .scene import Scene
from .shapes import Drawing, draw


def drawing(
    graph: GraphDocument, source: Source, loader: Loader, registry: Registry, *,
    values: Mapping[str, Any] | None = None, depth: int = 1, theme: str = "light",
) -> tuple[Drawing, list[DiffgraphError]]:  # fmt: skip
    """The drawing, and the mistakes that the check finds: where it finds one, kinds may be unknown.

    values: of inputs, as far as they are known. depth: how many graphs in graphs are opened; 0 leaves each a box.
    theme: "light" or "dark".
    """
    scene = Scene(registry, loader)
    if values is None:
        values = {item.name: item.default for item in graph.inputs.values() if not item.required}
    return draw(scene.make(graph, source, values, depth), THEMES[theme]), scene.checker.problems


__all__ = ["drawing"]
