"""What a training shows of itself: a plot of the loss, and a sheet of samples at each checkpoint."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .builder import Graph
from .components import GivenAddress
from .errors import DiffgraphError
from .results import kind_writer
from .registry import import_name
from .run import Event
from .session import Options
from .sources import Loader

if TYPE_CHECKING:
    from .train import Trainer


class Sampler:
    """Listens to a training; after each checkpoint writes `loss.png` and, where the graph has `sample`, `samples-STEP.png`.

    `sample` holds the `graph` to run, as its address, its `inputs`, and under `weights` the name of the input that takes the
    training's folder.
    """

    def __init__(self, trainer: Trainer, options: Options | None) -> None:
        self.trainer, self.options = trainer, options or Options()

    def __call__(self, event: Event) -> None:
        if event.kind != "note" or not event.text.startswith("checkpoint"):
            return
        plot(self.trainer.losses(), self.trainer.out / "loss.png")
        sample = self.trainer.train.settings.get("sample")
        if not sample:
            return
        try:
            self._sample(sample)
        except DiffgraphError as error:
            self.trainer._emit(Event("warning", text=f"no samples: {error}"))

    def _sample(self, sample: dict[str, Any]) -> None:
        trainer = self.trainer
        source = trainer.source.include(sample["graph"])
        graph = Graph.from_source(source, Loader())
        options = Options(device=self.options.device, cache=False)
        given = {**sample.get("inputs", {}), sample.get("weights", "weights"): GivenAddress(trainer.out.absolute())}
        prepared = graph.plan(options=options, **given)
        outputs = prepared.run()
        for name, value in outputs.items():
            entry = kind_writer(prepared, prepared.kinds[name])
            if entry is not None and entry[0] == ".png":
                files = import_name(entry[1])(value, {})
                (trainer.out / f"samples-{trainer.step:06d}.png").write_bytes(sheet(files))
                return


def sheet(files: list[bytes], columns: int = 8) -> bytes:
    """Pictures side by side as one PNG."""
    from PIL import Image

    pictures = [Image.open(BytesIO(data)).convert("RGB") for data in files]
    width, height = max(p.width for p in pictures) + 2, max(p.height for p in pictures) + 2
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * width, rows * height), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width + 1, number // columns * height + 1))
    out = BytesIO()
    whole.save(out, "PNG")
    return out.getvalue()


def plot(losses: list[dict[str, Any]], path: Path) -> None:
    """The loss by step, and its running mean; needs matplotlib (the `train` extra), and is left out without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    steps = [entry["step"] for entry in losses]
    values = [entry["loss"] for entry in losses]
    smooth, mean = [], values[0] if values else 0.0
    for value in values:
        mean += (value - mean) * 0.02
        smooth.append(mean)
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9bb7d4", linewidth=0.6, label="each step")
    axes.plot(steps, smooth, color="#1f4e79", linewidth=1.6, label="running mean")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


__all__ = ["Sampler", "plot", "sheet"]
