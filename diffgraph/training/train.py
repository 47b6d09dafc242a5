"""Training: what a graph's `train` section says, with what a training shows of itself.

train(Graph.load("train/glide"), {"data": "emoji"}, out=Path("runs/glide"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..builder import Graph
from ..running.run import Listener
from ..session import Options
from .samples import Sampler
from .trainer import Trainer


def train(
    graph: Graph, given: Mapping[str, Any], *, out: Path, options: Options | None = None, variant: str | None = None,
    sets: Mapping[str, Any] | None = None, steps: int | None = None, resume: bool = True,
    listeners: Sequence[Listener] = (),
) -> Path:  # fmt: skip
    """Trains what the graph's `train` section says; writes weights, checkpoints, the log, a loss plot and samples to
    `out`, and returns it.

    steps: in place of what the document says. resume: goes on from the checkpoint in `out`, if there is one of the same
    training. Raises CheckFailed, InputError, RunError where the loss is not finite, StoreError, Interrupted.
    """
    trainer = Trainer(
        graph, given, out=out, options=options, variant=variant, sets=sets, steps=steps, listeners=listeners
    )
    sampler = Sampler(trainer, options)
    trainer.listeners = (*trainer.listeners, sampler)
    return trainer.run(resume=resume)
