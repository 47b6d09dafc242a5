"""diffgraph: diffusion systems as graphs of typed nodes.

    from diffgraph import Graph
    Graph.load("glide")(prompt="red apple").image.pil()

Everything here is imported at its first use, so that `import diffgraph` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .authoring import (
        Bound,
        Component,
        Fact,
        File,
        Kind,
        Published,
        carrier,
        node,
        note,
        pipeline,
        previewer,
        reader,
        static,
        target,
        writer,
    )
    from .builder import Graph
    from .errors import (
        CheckError,
        CheckFailed,
        DiffgraphError,
        DocumentError,
        HubError,
        InputError,
        Interrupted,
        PortError,
        RunError,
        StoreError,
        WeightsError,
    )
    from .originals import Checkpoint, Conversion, Original, Part, Rows
    from .results import Result
    from .running.run import Event
    from .session import Options

__version__ = "0.1.0"

_PLACES = {
    "authoring": (
        "Bound", "Component", "Fact", "File", "Kind", "Published", "carrier", "node", "note", "pipeline", "previewer",
        "reader", "static", "target", "writer",
    ),
    "builder": ("Graph",),
    "errors": (
        "CheckError", "CheckFailed", "DiffgraphError", "DocumentError", "HubError", "InputError", "Interrupted", "PortError",
        "RunError", "StoreError", "WeightsError",
    ),
    "originals": ("Checkpoint", "Conversion", "Original", "Part", "Rows"),
    "results": ("Result",),
    "run": ("Event",),
    "session": ("Options",),
}  # fmt: skip
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Bound",
    "CheckError",
    "CheckFailed",
    "Checkpoint",
    "Component",
    "Conversion",
    "DiffgraphError",
    "DocumentError",
    "Event",
    "Fact",
    "File",
    "Graph",
    "HubError",
    "InputError",
    "Interrupted",
    "Kind",
    "Options",
    "Original",
    "Part",
    "PortError",
    "Published",
    "Result",
    "Rows",
    "RunError",
    "StoreError",
    "WeightsError",
    "carrier",
    "node",
    "note",
    "pipeline",
    "previewer",
    "reader",
    "static",
    "target",
    "writer",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'diffgraph' has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
