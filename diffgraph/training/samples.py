"""What a training shows of itself: a plot of the loss, and a sheet of samples at each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..builder import Graph
from ..components import GivenAddress
from ..errors import DiffgraphError, InputError, Interrupted
from ..language.sources import Loader
from ..results import make_files, writer_of
from ..running.run import Event
from ..session import Options
from ..sheet import rows_of, sheet
from .checkpoints import CHECKPOINT
from .trainer import Trainer


class Sampler:
    """Listens to a training; after each checkpoint writes `loss.png` and, where the graph has `sample`,
    `samples-STEP.png`.

    `sample` holds the `graph` to run, as its address, its `inputs`, and under `weights` the name of the input that
    takes the training's folder, `weights` unless given.
    """

    def __init__(self, trainer: Trainer, options: Options | None) -> None:
        """Raises InputError where `sample` is not what it must be, and what reading its graph raises."""
        self.trainer, self.options = trainer, options or Options()
        self.inputs: dict[str, Any] = {}
        self.graph: Graph | None = None
        sample = trainer.train.settings.get("sample")
        if sample is None:
            return
        place = trainer.train.place
        if not isinstance(sample, dict) or not isinstance(sample.get("graph"), str):
            hint = "such as `sample: {graph: pkg://diffgraph/ddpm.yaml, inputs: {steps: 50}}`"
            raise InputError("train.sample: expected a mapping with `graph`", hint=hint, place=place)
        for key in sample:
            if key not in ("graph", "inputs", "weights"):
                raise InputError(f"train.sample has no {key!r}", hint="it has: graph, inputs, weights", place=place)
        self.graph = Graph.from_source(trainer.source.include(sample["graph"]), Loader())
        self.inputs = dict(sample.get("inputs") or {})
        self.inputs[sample.get("weights", "weights")] = GivenAddress(trainer.out.absolute())
        for name in self.inputs:
            if name not in self.graph.document.inputs:
                hint = "it has: " + ", ".join(self.graph.document.inputs)
                raise InputError(f"train.sample: {sample['graph']} has no input {name!r}", hint=hint, place=place)

    def __call__(self, event: Event) -> None:
        if event.path != CHECKPOINT:
            return
        try:
            plot(self.trainer.losses(), self.trainer.out / "loss.png")
            if self.graph is not None and not self.trainer.stopping:
                self._sample(self.graph)
        except Interrupted:
            raise
        except DiffgraphError as error:
            self.trainer.emit(Event("warning", text=f"no samples: {error}"))
        except OSError as error:
            self.trainer.emit(
                Event("warning", text=f"no samples: {error.filename} cannot be written: {error.strerror}")
            )

    def _sample(self, graph: Graph) -> None:
        prepared = graph.plan(options=Options(device=self.options.device, cache=False), **self.inputs)
        outputs = prepared.run()
        for name, value in outputs.items():
            writer = writer_of(prepared, name)
            if writer is not None and writer.suffix == ".png":
                picture = sheet(rows_of(make_files(writer, value, {})))
                (self.trainer.out / f"samples-{self.trainer.step:06d}.png").write_bytes(picture)
                return


def plot(losses: list[dict[str, Any]], path: Path) -> None:
    """The loss by step, its running mean, and the loss of rows held out; needs matplotlib (the `train` extra), and is left
    out without it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    steps = [entry["step"] for entry in losses if "loss" in entry]
    values = [entry["loss"] for entry in losses if "loss" in entry]
    held = [(entry["step"], entry["validation_loss"]) for entry in losses if "validation_loss" in entry]
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9bb7d4", linewidth=0.6, label="each step")
    axes.plot(steps, running_mean(values), color="#1f4e79", linewidth=1.6, label="running mean")
    if held:
        axes.plot(*zip(*held, strict=True), "o-", color="#c2571a", linewidth=1.2, markersize=3, label="held out")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def running_mean(values: list[float]) -> list[float]:
    """Up to each value, mostly of the last tenth of them; of fifty, once there are many."""
    mean, means = 0.0, []
    for number, value in enumerate(values):
        mean += (value - mean) * max(10 / (10 + number), 0.02)
        means.append(mean)
    return means


__all__ = ["Sampler", "plot", "running_mean"]
