"""A published pipeline, and the graph that does what it does."""

from __future__ import annotations

from typing import Any

from diffgraph import Published, pipeline


@pipeline("LinePipeline", graph="pkg://arith/line.yaml", libraries=("lines",))
def line(repository: Published) -> dict[str, Any]:
    """The scale is said in the index; what it is measured in, by the part's own config."""
    config = repository.configs["linear"]
    return {"scale": repository.index.get("scale", 1.0), "linear.unit": config.get("unit", "foot")}
