"""What the engine costs: microseconds a node, a loop's bookkeeping, and the time until something happens.

    python benchmarks/engine.py

Every figure is a median of several runs and stands beside its peer, measured in the same process run: a bare Python
loop and Hamilton (`pip install sf-hamilton`) for nodes, the same loop written by hand for a denoising loop,
`python -c "import torch"` for processes. Run it on a machine that does nothing else; it says so where it is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

CACHE = tempfile.TemporaryDirectory(prefix="diffgraph-benchmark-")
os.environ["DIFFGRAPH_CACHE_DIR"] = CACHE.name
os.environ.setdefault("OMP_NUM_THREADS", "1")

from diffgraph import Graph, Options, node  # noqa: E402  # after the cache folder was set
from diffgraph.running.store import Memory  # noqa: E402
from diffgraph.session import Prepared, Session  # noqa: E402

SIZES = (100, 1000, 5000)
STEPS = 50
NO_CACHE = Options(cache=False)
missed: list[str] = []


@node("Plus", version=1)
def plus(x: int, by: int) -> int:
    """A node that costs nothing."""
    return x + by


# --- measuring ------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long it takes, once."""
    began = clock()
    work()
    return clock() - began


def alternating(
    works: Sequence[Callable[[], object]], times: int = 7, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """The median time of each, run in turn so that all meet the same noise; one round goes before.

    clock: of this process, which waits for no other; time.perf_counter for work that other processes do.
    """
    rounds = [[seconds(work, clock) for work in works] for _ in range(times + 1)][1:]
    return [median(column) for column in zip(*rounds, strict=True)]


def row(what: str, ours: str, peer: str, ratio: str, target: str = "", met: bool | None = None) -> None:
    """Prints a line of the table."""
    verdict = "" if met is None else "yes" if met else "NO"
    if met is False:
        missed.append(what)
    print(f"| {what:<44} | {ours:>10} | {peer:>24} | {ratio:>8} | {target:>24} | {verdict:>3} |", flush=True)


def heading(ours: str, peer: str) -> None:
    """Begins a table."""
    print()
    row("", ours, peer, "ratio", "target", None)
    print(f"|{'-' * 46}|{'-' * 11}:|{'-' * 25}:|{'-' * 9}:|{'-' * 25}:|{'-' * 4}:|")


# --- trivial nodes --------------------------------------------------------------------------------------------------


def graph_of(shape: str, count: int) -> Graph:
    """So many trivial nodes in a chain, or side by side with an output each."""
    graph = Graph(shape)
    start = wire = graph.input("start", "int")
    for number in range(count):
        wire = graph.add(plus, x=wire if shape == "chain" else start, by=number)
        if shape == "wide":
            graph.output(f"n{number}", wire)
    if shape == "chain":
        graph.output(f"n{count - 1}", wire)
    return graph


def python_loop(shape: str, count: int) -> Callable[[], object]:
    """The same work as a bare loop."""

    def run() -> list[int]:
        value, values = 1, []
        for number in range(count):
            if shape == "chain":
                value = plus(value, number)
            else:
                values.append(plus(1, number))
        return values or [value]

    return run


def hamilton_run(shape: str, count: int) -> Callable[[], object] | None:
    """The same graph in Hamilton, built; None where Hamilton is not installed."""
    try:
        from hamilton import ad_hoc_utils, driver
        from hamilton.function_modifiers import parameterize, source, value
    except ImportError:
        return None

    def hamilton_plus(x: int, by: int) -> int:
        return x + by

    before = ["start", *(f"n{number}" for number in range(count - 1))]
    nodes = {
        f"n{number}": {"x": source(before[number] if shape == "chain" else "start"), "by": value(number)}
        for number in range(count)
    }
    module = ad_hoc_utils.create_temporary_module(parameterize(**nodes)(hamilton_plus), module_name=f"{shape}_{count}")
    built = driver.Builder().with_modules(module).build()
    wanted = list(nodes) if shape == "wide" else [f"n{count - 1}"]
    return lambda: built.execute(wanted, inputs={"start": 1})


def trivial_nodes() -> None:
    """Microseconds a node: run, planned with keys and kept, answered from the cache."""
    sys.setrecursionlimit(100_000)  # for Hamilton, which recurses along a chain; diffgraph does not
    heading("us a node", "peer, us a node")
    for shape in ("chain", "wide"):
        for count in SIZES:
            _trivial(shape, count)


def _trivial(shape: str, count: int) -> None:
    """One shape and size. What keys cost is the whole of a call with a new input, less its check."""
    graph = graph_of(shape, count)
    planned = graph.plan(start=1, options=NO_CACHE)
    session, starts = Session(results=Memory()), iter(range(10**6))

    def with_keys() -> None:
        prepared = session.prepare(graph.document, graph.source, graph.loader, {"start": next(starts)})
        prepared.run()

    graph(start=-1)  # so that the next calls find everything
    times = 7 if count <= 1000 else 5
    hamilton = hamilton_run(shape, count)

    def check() -> None:
        session.check(graph.document, graph.source, graph.loader, {"start": 1})

    works = [planned.run, python_loop(shape, count), with_keys, check, lambda: graph(start=-1)]
    found = [t / count * 1e6 for t in alternating([*works, hamilton] if hamilton else works, times)]
    run, loop, whole, check_alone, cached = found[:5]
    keys = whole - check_alone
    label = f"{shape} of {count:,}"
    row(f"{label}: run, no cache", f"{run:.2f}", f"Python loop {loop:.2f}", f"{run / loop:.1f}", "5 us", run <= 5)
    peer, name = (found[5], "Hamilton") if hamilton else (loop, "Python loop")
    row("", f"{run:.2f}", f"{name} {peer:.1f}", f"{run / peer:.2f}")
    row(
        f"{label}: keys, plan, run, keep", f"{keys:.1f}", f"{name} {peer:.1f}", f"{keys / peer:.2f}",
        "25 us", keys <= 25,
    )  # fmt: skip
    row(f"{label}: check, before that", f"{check_alone:.1f}", f"{name} {peer:.1f}", f"{check_alone / peer:.2f}")
    row(
        f"{label}: called again, cached", f"{cached:.2f}", f"{name} {peer:.1f}", f"{cached / peer:.2f}",
        "10 us", cached <= 10,
    )  # fmt: skip


# --- a denoising loop -----------------------------------------------------------------------------------------------


def a_unet() -> Any:
    """A U-Net of about a million parameters, for 32x32."""
    import torch

    from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = UNet2DConfig(
        sample_size=32, block_out_channels=(32, 64, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return UNet2D(config).eval()


def loop_of(unet: Any) -> Prepared:
    """The graph of a denoising loop with this model."""
    graph = Graph("loop")
    model, scheduler = graph.add(unet), graph.add("DDIMScheduler")
    rng = graph.add("Rng", seed=0, batch=1)
    address = "pkg://diffgraph/samplers/plain.yaml"
    sampled = graph.include(address, model=model, scheduler=scheduler, steps=STEPS, rng=rng)
    graph.output("sample", sampled.sample)
    return graph.plan(options=NO_CACHE)


def loop_by_hand(unet: Any) -> Callable[[], object]:
    """The same loop in plain Python, on the same nodes."""
    import torch

    from diffgraph.nodes.random import gaussian_noise, rng
    from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler

    scheduler = DDIMScheduler(DDIMConfig())

    def run() -> Any:
        with torch.no_grad():
            schedule = scheduler.schedule(STEPS)
            noise = gaussian_noise([3, 32, 32], rng(0))
            sample, state = scheduler.start(noise.sample, schedule)
            stream = noise.rng
            for step in schedule:
                prediction = unet(scheduler.scale_input(sample, step), step.timestep)
                sample, state, stream = scheduler.step(prediction, sample, step, state, stream)
        return sample

    return run


def denoising_loop() -> None:
    """What the engine adds to a loop: told by a model that answers at once, whose own noise hides nothing."""
    import torch

    from diffgraph.nodes.kinds import Prediction

    unet, instant = a_unet(), a_unet()
    instant.forward = lambda sample, timestep, condition=None: Prediction(sample)
    by_hand, planned = loop_by_hand(unet), loop_of(unet)
    if not torch.equal(by_hand(), planned.run()["sample"]):  # type: ignore[arg-type]
        sys.exit("the loop by hand and the graph's differ")
    hand, graph = alternating([by_hand, planned.run], 5)
    bare, engine = alternating([loop_by_hand(instant), loop_of(instant).run], 15)
    share = (engine - bare) / hand
    size = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    heading("ms", "peer, ms")
    row(
        f"{STEPS} steps, U-Net of {size:.1f} M: the loop",
        f"{graph * 1e3:.0f}",
        f"by hand {hand * 1e3:.0f}",
        f"{graph / hand:.3f}",
    )
    row(
        "its bookkeeping", f"{(engine - bare) * 1e3:.2f}", f"the loop {hand * 1e3:.0f}", f"{share:.4f}",
        "1% of the loop", share <= 0.01,
    )  # fmt: skip


# --- processes ------------------------------------------------------------------------------------------------------

FIRST_STEP = """
import os
from diffgraph import Graph, Options

def listen(event):
    if event.kind == "step" and event.number == 2:  # the first is done
        os._exit(0)

Graph.load("glide")(prompt="red apple", options=Options(cache=False), listeners=[listen])
raise SystemExit("no step was made")
"""


def process(*arguments: str) -> Callable[[], object]:
    """A process of this Python, from its start to its end."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def processes() -> None:
    """Seconds from the start of a process, beside `import torch`."""
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "picture.png")
        again = process(
            "-m", "diffgraph", "run", "glide", "--prompt", "red apple", "--steps", "2", "--quiet", "-o", picture
        )
        works = [process("-c", "import torch"), process("-c", FIRST_STEP), process("-m", "diffgraph", "--help"), again]
        torch, step, usage, cached = alternating(works, clock=time.perf_counter)
    heading("s", "peer, s")
    beside = f"import torch {torch:.2f}"
    row(
        "to the end of the first denoising step",
        f"{step:.2f}",
        beside,
        f"{step / torch:.2f}",
        "import torch + 0.4 s",
        step <= torch + 0.4,
    )
    row("diffgraph --help", f"{usage:.3f}", beside, f"{usage / torch:.2f}", "1/4 of import torch", usage <= torch / 4)
    row(
        "an unchanged graph, answered",
        f"{cached:.3f}",
        beside,
        f"{cached / torch:.2f}",
        "1/3 of import torch",
        cached <= torch / 3,
    )


def main() -> None:
    """Prints every table, and what was missed."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {cores} cores, load {load:.1f}", end="")
    print(": other work runs here, so read the ratios" if load > cores / 4 else "")
    trivial_nodes()
    denoising_loop()
    processes()
    print("\nmissed: " + "; ".join(missed) if missed else "\nevery target was met")


if __name__ == "__main__":
    main()
