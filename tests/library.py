"""The library's own pipeline of a repository, run from the same seed as a graph and compared with it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffgraph.registry import registry

from .parity import agree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

Library: Any = diffusers
SEED = 5


def pictures(folder: Path, size: int | None, *, masked: bool = False) -> dict[str, Path]:
    """A picture of this height and width in a folder, and a mask for it; nothing where there is no size."""
    if size is None:
        return {}
    draw = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    Image.fromarray(draw.numpy()).resize((size, size), Image.Resampling.BICUBIC).save(folder / "picture.png")
    mask = Image.new("L", (size, size))
    mask.paste(255, (size // 4, size // 8, size // 2, size // 2))
    mask.save(folder / "mask.png")
    return {"image": folder / "picture.png"} | ({"mask": folder / "mask.png"} if masked else {})


def theirs(folder: Path, given: dict[str, Any], **parts: Any) -> torch.Tensor:
    """The library's picture in [-1, 1], with its own names for what the graph is given.

    parts: what the pipeline gets in place of what the folder holds.
    """
    called = {("num_inference_steps" if key == "steps" else key): value for key, value in given.items()}
    called.pop("size", None)  # is that of the picture
    if "image" in called:
        called["image"] = Image.open(called["image"])
    if "mask" in called:
        width, height = called["image"].size
        called |= {"mask_image": Image.open(called.pop("mask")), "height": height, "width": width}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of its own
        pipeline = Library.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **parts)
        pipeline.set_progress_bar_config(disable=True)
        if "label" in called:
            called["class_labels"] = pipeline.get_label_ids([called.pop("label")])
        if type(pipeline).__name__.startswith("IF"):
            called["clean_caption"] = False
        first = (called.pop("prompt"),) if "LDMText" in type(pipeline).__name__ else ()
        generator = torch.Generator().manual_seed(SEED)
        images = pipeline(*first, generator=generator, output_type="np", **called).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def compare(folder: Path, images: torch.Tensor, expected: torch.Tensor, what: str, *, tolerance: float = 1e-4) -> None:
    """Pictures that are equal, with some contrast. what: which repository this is."""
    pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    graph = Path(registry().pipelines[pipeline].graph).stem
    assert expected.std() > 0.1
    agree(graph, f"diffusers {pipeline}", images.clamp(-1, 1), expected, tolerance=tolerance, what=what)
