"""Sweeps: one graph run for every combination of some values, as one plan, in which equal work is done once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from .errors import InputError
from .language.graph import GraphDocument
from .planning.plan import Planner
from .results import make_result
from .running.guards import has_nan
from .running.run import Event, Listener
from .session import Prepared
from .sheet import Row, rows_of, sheet

MOST = 10_000  # runs of one sweep
WHOLE = ""  # the path of the steps that are runs: the graph itself


@dataclass(frozen=True)
class Axis:
    """What varies: an input, or a key of a node as `NODE.KEY`, and its values in order."""

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"the sweep over {self.name} has no value")
        if len({repr(value) for value in self.values}) < len(self.values):
            raise InputError(f"the sweep over {self.name} names a value twice")


Point = Mapping[str, Any]  # a value for each axis, by its name


def points(axes: Sequence[Axis]) -> list[Point]:
    """Every combination, the last axis the fastest. Raises InputError where there are too many."""
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST:
        raise InputError(f"the sweep has {count:,} runs, and may have {MOST:,}")
    return [
        dict(zip([axis.name for axis in axes], values, strict=True))
        for values in product(*[axis.values for axis in axes])
    ]


def refuse_secrets(axes: Sequence[Axis], graph: GraphDocument) -> None:
    """Raises InputError where a sweep would write a secret into names of files and onto a sheet."""
    for axis in axes:
        if axis.name in graph.inputs and graph.inputs[axis.name].secret:
            raise InputError(f"{axis.name} is secret, and a sweep shows its values", hint="give one value")


def joined(runs: Sequence[Prepared], without: Sequence[Mapping[str, Any]] = ()) -> Prepared:
    """One that makes the outputs of several, which share a planner: each by `NUMBER/NAME`.

    without: for each, the outputs by name that are there already.
    """
    outputs = {
        f"{number}/{name}": bound
        for number, run in enumerate(runs)
        for name, bound in run.outputs.items()
        if not without or name not in without[number]
    }
    return replace(runs[0], outputs=outputs)


def run_all(
    runs: Sequence[Prepared], take: Callable[[int, str, Any], None], listeners: Sequence[Listener] = (),
    without: Sequence[Mapping[str, Any]] = (),
) -> None:  # fmt: skip
    """Makes the outputs of several runs that share a planner; `take(number, name, value)` gets each when it is there.

    Listeners hear of every run that ends as a step of the path WHOLE. Raises RunError, StoreError, Interrupted,
    WeightsError.
    """
    whole = joined(runs, without)
    open_: dict[int, set[str]] = {}
    for label in whole.outputs:
        number, _, name = label.partition("/")
        open_.setdefault(int(number), set()).add(name)
    todo = len(open_)

    def tell() -> None:
        for listener in listeners if len(runs) > 1 and open_ else ():
            listener(Event("step", WHOLE, len(runs) - len(open_) + 1, len(runs)))

    def deliver(label: str, value: Any) -> None:
        number, _, name = label.partition("/")
        if has_nan(value):
            runs[int(number)].run(listeners)  # which names the node that made it
        take(int(number), name, value)
        left = open_.get(int(number), set())
        left.discard(name)
        if not left and open_.pop(int(number), None) is not None:
            tell()

    if todo:
        tell()
        whole.run(listeners, deliver)


def grid(axes: Sequence[Axis], pictures: Sequence[bytes | None]) -> bytes:
    """The pictures of a sweep, one a point, as a labelled sheet: the last axis across, the others down."""
    *down, across = axes
    if not down:
        names = [caption({across.name: value}) for value in across.values]
        return sheet(rows_of(pictures, names))
    width = len(across.values)
    top = [caption({across.name: value}) for value in across.values]
    rows = [
        Row(pictures[at * width : (at + 1) * width], top if at == 0 else (), caption(point))
        for at, point in enumerate(points(down))
    ]
    return sheet(rows)


def cell(files: Sequence[bytes]) -> bytes | None:
    """What one point of a sweep gave, as one picture; None where it gave none."""
    return sheet(rows_of(files)) if len(files) > 1 else files[0] if files else None


def pictures_of(result: Any, output: str | None = None) -> list[bytes]:
    """The PNG files of an output of a result, or of the first output that has some."""
    for name in dir(result) if output is None else [output]:
        value = result[name]
        if getattr(value, "_suffix", None) == ".png":
            return list(value.files())
    return []


def caption(point: Point) -> str:
    """What a sheet says of a point: texts as they are, other values after their names."""
    told = [f"{name} {value}" if "." in name or not _speaks(value) else value for name, value in point.items()]
    return ", ".join(told)


def _speaks(value: Any) -> bool:
    """Whether a value needs no name beside it: a text that is no number."""
    return isinstance(value, str) and not value.replace(".", "", 1).lstrip("+-").isdigit()


def split(point: Point) -> tuple[Point, Point]:
    """The values of inputs, and those of keys of nodes."""
    values = {name: value for name, value in point.items() if "." not in name}
    return values, {name: value for name, value in point.items() if "." in name}


def sweep(
    axes: Mapping[str, Iterable[Any]], prepare: Callable[[Point, Point, Planner | None], Prepared],
    listeners: Sequence[Listener] = (),
) -> Sweep:  # fmt: skip
    """Runs every combination. prepare: of the inputs' values and the keys of nodes of a point, with a planner to use."""
    given = [Axis(name, tuple(values)) for name, values in axes.items()]
    runs: list[Prepared] = []
    for point in points(given):
        runs.append(prepare(*split(point), runs[0].planner if runs else None))
    refuse_secrets(given, runs[0].graph)
    found: list[dict[str, Any]] = [{} for _ in runs]
    run_all(runs, lambda number, name, value: found[number].update({name: value}), listeners)
    made = zip(runs, found, strict=True)
    return Sweep(given, [make_result(run, {name: values[name] for name in run.outputs}) for run, values in made])


class Sweep:
    """The results of a sweep: iterates over the values of each point and its result; `.grid()` is a sheet of them."""

    def __init__(self, axes: Sequence[Axis], results: Sequence[Any]) -> None:
        self.axes, self.points, self.results = tuple(axes), points(axes), tuple(results)

    def __iter__(self) -> Iterator[tuple[Point, Any]]:
        return iter(zip(self.points, self.results, strict=True))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, number: int) -> Any:
        return self.results[number]

    def __repr__(self) -> str:
        return f"<Sweep of {' x '.join(f'{len(axis.values)} {axis.name}' for axis in self.axes)}>"

    def grid(self, output: str | None = None) -> Any:
        """The pictures of an output, the first that has some unless named, as a labelled Pillow image."""
        from io import BytesIO

        from PIL import Image

        data = self._grid(output)
        if data is None:
            raise InputError(f"the sweep has no pictures{f' named {output}' if output else ''}")
        return Image.open(BytesIO(data))

    def _grid(self, output: str | None = None) -> bytes | None:
        found = [pictures_of(result, output) for result in self.results]
        return grid(self.axes, [cell(files) for files in found]) if any(found) else None

    def _repr_png_(self) -> bytes | None:
        return self._grid()


__all__ = [
    "MOST", "WHOLE", "Axis", "Point", "Sweep", "caption", "cell", "grid", "joined", "points", "refuse_secrets",
    "run_all", "split", "sweep",
]  # fmt: skip
