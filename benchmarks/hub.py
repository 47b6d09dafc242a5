"""What the Hub costs: requests, time to the first step of a cached repository beside diffusers, and verifying a lock.

    python benchmarks/hub.py [--rounds 5] [--gigabytes 1]

The Hub is a real HTTP server on loopback (tests/hub_server.py), which counts. Once a day huggingface_hub makes one
request of its own; the first command makes it here. The repository is google/ddpm-cifar10-32
in its published size, 36 million parameters, with random weights. Both sides start a process and run two steps of DDPM
at batch 1: ours the whole command, `diffgraph run`, from an address that is cached and pinned, with a lock that it
verifies, nothing from the store; theirs `DDPMPipeline.from_pretrained` on the same folder. The time is from the start of
the process to the end of the first step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CONFIG = {
    "sample_size": 32, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, "norm_num_groups": 32,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "norm_eps": 1e-6,
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
}  # fmt: skip
VERIFY = 0.05  # seconds; the target for a second look at 1 GB

OURS = """
import sys, time
from diffgraph.running.run import Runner
emit = Runner.emit
def told(self, event):
    if event.kind == "step" and event.number == 2:
        print(time.time(), file=sys.stderr)
    emit(self, event)
Runner.emit = told
from diffgraph.cli import main
main(["run", "graph.yaml", "--offline", "--no-cache", "--device", "cpu", "-o", "ours.png", "--quiet", "--locked"])
"""
THEIRS = """
import sys, time
from diffusers import DDPMPipeline, UNet2DModel
pipeline = DDPMPipeline.from_pretrained(sys.argv[1], local_files_only=True, low_cpu_mem_usage=True)
pipeline.set_progress_bar_config(disable=True)
step, count = pipeline.scheduler.step, []
def told(*args, **options):
    made = step(*args, **options)
    if not count:
        print(time.time(), file=sys.stderr)
    count.append(1)
    return made
pipeline.scheduler.step = told
pipeline(num_inference_steps=2)
"""
GRAPH = """diffgraph: 1
name: cifar
inputs: {weights: {type: weights, default: ADDRESS}}
nodes:
  unet: {node: UNet2D, weights: $weights}
  scheduler: {node: DDPMScheduler, weights: $weights}
  rng: {node: Rng, seed: 0, batch: 1}
  sampled: {graph: pkg://diffgraph/samplers/plain.yaml, model: $unet, scheduler: $scheduler, steps: 2, rng: $rng}
outputs: {image: $sampled.sample}
"""


def first_step(script: str, place: Path, argument: str) -> float:
    """Seconds from the start of a process to the end of its first step."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", script, argument], cwd=place, capture_output=True, text=True, check=False
    )
    times = [line for line in done.stderr.splitlines() if line.replace(".", "").isdigit()]
    if done.returncode or not times:
        raise SystemExit(done.stderr)
    return float(times[0]) - started


def command(place: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "diffgraph", *arguments], cwd=place, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ |= {
            "DIFFGRAPH_CACHE_DIR": str(place / "cache"), "HF_HOME": str(place / "home"), "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DIFFUSERS_VERBOSITY": "error",
        }  # fmt: skip
        os.environ.pop("HF_HUB_OFFLINE", None)
        _hub(place, asked.rounds)
        _verify(place, asked.gigabytes)


def _hub(place: Path, rounds: int) -> None:
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from tests.hub_server import HubServer

    torch.manual_seed(0)
    DDPMPipeline(UNet2DModel(**CONFIG), DDPMScheduler()).save_pretrained(place / "published")
    files = {
        path.relative_to(place / "published").as_posix(): path.read_bytes()
        for path in (place / "published").rglob("*")
        if path.is_file()
    }
    with HubServer() as server:
        os.environ["HF_ENDPOINT"] = server.endpoint
        commit = server.commit("org/cifar", files)
        (place / "branch.yaml").write_text(GRAPH.replace("ADDRESS", "hf://org/cifar"))
        (place / "pinned.yaml").write_text(GRAPH.replace("ADDRESS", f"hf://org/cifar@{commit}"))
        (place / "graph.yaml").write_text(GRAPH.replace("ADDRESS", "hf://org/cifar"))
        for name in ("branch", "pinned", "graph"):
            command(place, "pull", f"{name}.yaml")
        command(place, "lock", "graph.yaml")
        print("| requests of a run, cached | count | target |\n| --- | ---: | ---: |")
        for name, what, target in (
            ("pinned", "pinned by commit", 0), ("graph", "a branch, with a lock", 0), ("branch", "a branch, no lock", 1),
        ):  # fmt: skip
            server.requests.clear()
            command(place, "run", f"{name}.yaml", "--no-cache", "--device", "cpu", "-o", f"{name}.png")
            print(f"| {what} | {server.count()} | {target} |")
        ours, theirs = [], []
        for number in range(rounds + 1):  # the first fills the file cache
            pair = first_step(OURS, place, ""), first_step(THEIRS, place, str(place / "published"))
            if number:
                ours.append(pair[0])
                theirs.append(pair[1])
        mine, other = statistics.median(ours), statistics.median(theirs)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            "\n| from the start to the end of the first step | seconds | diffusers | ratio |\n| --- | ---: | ---: | ---: |"
        )
        print(f"| 36 M parameters, cached, verified by a lock | {mine:.2f} | {other:.2f} | {ratio:.2f} |")


def _verify(place: Path, gigabytes: float) -> None:
    from diffgraph.locking import Book, Lock
    from diffgraph.weights import digests
    from diffgraph.weights.addresses import parse_address

    weights = place / "large" / "weights"
    weights.mkdir(parents=True)
    parts, size = 4, int(gigabytes * 1e9 / 4)
    for number in range(parts):
        with (weights / f"part-{number}.safetensors").open("wb") as file:
            for _ in range(0, size, 1 << 24):
                file.write(os.urandom(1 << 24))
    names = [path.name for path in sorted(weights.iterdir())]
    time.sleep(0.1)

    def verify(lock: Lock | None) -> tuple[float, Book]:
        digests._known.clear()  # what the process remembers; as a new one, it reads the notes on disk
        book = Book(weights.parent, lock)
        folder = book.open(parse_address("weights", base=weights.parent, confined=True), free=False)
        started = time.perf_counter()
        folder.paths(names)
        return time.perf_counter() - started, book

    first, book = verify(None)
    lock = Lock("graph.yaml.lock", "graph.yaml", book.entries)
    again = statistics.median(verify(lock)[0] for _ in range(9))
    total = sum(file.size for file in book.entries["."].files.values()) / 1e9
    print("\n| verifying locked weights | seconds | target | met |\n| --- | ---: | ---: | --- |")
    print(f"| {total:.2f} GB, the first time | {first:.2f} |  |  |")
    print(
        f"| the same again, digests remembered on disk | {again:.4f} | {VERIFY} | {'yes' if again < VERIFY else 'NO'} |"
    )
    print(json.dumps({"first": first, "again": again}), file=sys.stderr)


if __name__ == "__main__":
    main()
