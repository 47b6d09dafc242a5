"""Loading 1 GB of random weights: time and peak memory beside diffusers, and beside the least that there is to do.

    python benchmarks/loading.py [--folder FOLDER] [--rounds 25]

The least: building the module on the meta device as torch does, and mapping the file. Times: the sides take turns in
one process, ratios are medians over rounds. The first load of a file, in a process of its own, also looks for NaN.
Memory: the peak of that process above what it held after imports, once each weight has been read, as a share of the
weights' size.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = {
    "sample_size": 256,
    "block_out_channels": [192, 192, 384, 384, 768, 768],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
FILE = "diffusion_pytorch_model.safetensors"
TIME, MEMORY = 1.1, 1.05  # targets: to the least, and peak memory to the weights


def status(key: str) -> int:
    """Bytes that /proc says this process holds."""
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(key))) * 1024


def least(folder: str) -> Callable[[], Any]:
    """Builds and maps, without a check or an assignment."""
    import torch
    from safetensors import safe_open

    from diffgraph.nodes.models.unet2d import UNet2D
    from diffgraph.weights.config import fields_of, parse_config

    config = UNet2D.Config(**parse_config(fields_of(UNet2D.Config), CONFIG, where="benchmark"))

    def load() -> Any:
        with torch.device("meta"):
            module = UNet2D.from_config(config)
        with safe_open(Path(folder) / FILE, framework="pt") as file:
            return module, [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118

    return load


def ours(folder: str) -> Callable[[], Any]:
    """UNet2D.from_pretrained."""
    from diffgraph.nodes.models.unet2d import UNet2D

    return lambda: UNet2D.from_pretrained(folder)


def theirs(folder: str) -> Callable[[], Any]:
    """UNet2DModel.from_pretrained."""
    import diffusers

    model: Any = diffusers.UNet2DModel
    return lambda: model.from_pretrained(folder, use_safetensors=True)


SIDES = {"least": least, "ours": ours, "diffusers": theirs}


def alone(name: str, folder: str) -> dict[str, float]:
    """First load and peak memory of one side, measured in this process."""
    import torch

    torch.set_num_threads(1)
    load = SIDES[name](folder)
    before = status("VmRSS")
    started = time.perf_counter()
    loaded = load()
    first = time.perf_counter() - started
    tensors = loaded[1] if isinstance(loaded, tuple) else list(loaded.parameters())
    for tensor in tensors:
        tensor.detach().sum()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"first": first, "memory": (status("VmHWM") - before) / size, "size": size}


def together(folder: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every load of every side, in turns."""
    import torch

    torch.set_num_threads(1)
    loads = {name: make_load(folder) for name, make_load in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(rounds + 2):
        for name, load in loads.items():
            started = time.perf_counter()
            load()
            if number >= 2:
                times[name].append(time.perf_counter() - started)
    return times


def main() -> None:
    """Makes the weights, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the weights are made and kept")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(alone(arguments.side, str(arguments.folder))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        if not (folder / FILE).exists():
            make(folder)
        rows = {}
        for name in SIDES:
            command = [sys.executable, __file__, "--side", name, "--folder", str(folder)]
            environment = {**os.environ, "DIFFGRAPH_CACHE_DIR": scratch}  # nothing is known of the file
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
        times = together(str(folder), arguments.rounds)
    print(f"{rows['ours']['size'] / 1e9:.2f} GB of weights, one thread, {arguments.rounds} rounds\n")
    print("| | first load, s | again, s | fastest, s | to the least | target | peak memory | target | met |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    met = True
    for name, row in rows.items():
        ratio = statistics.median(mine / best for mine, best in zip(times[name], times["least"], strict=True))
        shown = row["first"], statistics.median(times[name]), min(times[name])
        columns = " | ".join(f"{value:.3f}" for value in shown)
        targets = [""] * 3
        if name == "ours":
            met = ratio <= TIME and row["memory"] <= MEMORY
            targets = [f"{TIME}", f"{MEMORY}", "yes" if met else "NO"]
        print(
            f"| {name} | {columns} | {ratio:.2f} | {targets[0]} | {row['memory']:.3f} | {targets[1]} | {targets[2]} |"
        )
    print("\nevery target was met" if met else "\na target was missed")


def make(folder: Path) -> None:
    """Random weights of the model, in its published layout."""
    from diffgraph.nodes.models.unet2d import UNet2D
    from diffgraph.weights.config import fields_of, parse_config
    from diffgraph.weights.loading import init_module

    config = UNet2D.Config(**parse_config(fields_of(UNet2D.Config), CONFIG, where="benchmark"))
    init_module(UNet2D, config, 0).save_pretrained(folder)


if __name__ == "__main__":
    main()
