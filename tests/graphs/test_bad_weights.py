"""Weights that are missing, damaged or another model's, through a whole system: one clear error before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.builder import Graph
from diffgraph.errors import DiffgraphError
from diffgraph.nodes.models.unet2d import UNet2D
from diffgraph.running.run import Event
from diffgraph.session import Options

from .conftest import GRAPHS

FILE = "diffusion_pytorch_model.safetensors"
GIVEN: dict[str, Any] = {"prompt": "a cat", "steps": "2", "upsampler_steps": "2"}
Break = Callable[[Path], Any]


def edit(part: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    """Changes the tensors of one network."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / part / FILE)
        change(tensors)
        save_file(tensors, folder / part / FILE)

    return apply


def config(part: str, **values: Any) -> Break:
    """Changes the config of one network."""

    def apply(folder: Path) -> None:
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


def cut(path: str, size: int) -> Break:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:size])


def move(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


BROKEN: dict[str, tuple[Break, str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "there is no such folder"),
    "no base": (lambda folder: shutil.rmtree(folder / "base"), "base"),
    "no config": (lambda folder: (folder / "base/config.json").unlink(), r"config\.json"),
    "no weights": (lambda folder: (folder / "base" / FILE).unlink(), "diffusion_pytorch_model"),
    "no tokenizer": (lambda folder: (folder / "base/tokenizer.json").unlink(), "tokenizer.json"),
    "empty": (cut(f"base/{FILE}", 0), FILE),
    "header cut": (cut(f"base/{FILE}", 100), FILE),
    "tensors cut": (cut(f"upsampler/{FILE}", 50_000), FILE),
    "no JSON": (cut("base/config.json", 30), r"config\.json"),
    "tokenizer cut": (cut("base/tokenizer.json", 30), "vocabulary cannot be read"),
    "another class": (config("base", _class_name="AutoencoderKL"), "this is an? AutoencoderKL; UNetGLIDE wants"),
    "another width": (config("base", model_channels=64), "these are the weights of another model"),
    "an unknown key": (config("base", beam_width=3), "beam_width"),
    "a value of another type": (config("base", num_res_blocks="two"), "num_res_blocks"),
    "a tensor left out": (edit("base", lambda t: t.pop("out.2.bias")), "1 missing: out.2.bias"),
    "a tensor too many": (edit("base", lambda t: t.update(extra=torch.zeros(3))), r"1 left over: extra \[3\]"),
    "another shape": (
        edit("base", lambda t: t.update({"out.2.bias": torch.zeros(7)})),
        r"out.2.bias is F32 \[7\], the model's is \[6\]",
    ),
    "a name that leaves": (
        edit("base", lambda t: move(t, "out.2.bias", "../../../tmp/x")),
        r"1 missing: out.2.bias \[6\]\n.*1 left over: \.\./\.\./\.\./tmp/x",
    ),
    "whole numbers": (edit("base", lambda t: t.update({"out.2.bias": torch.zeros(6).int()})), "out.2.bias is I32"),
    "NaN": (edit("base", lambda t: t["out.2.bias"].fill_(torch.nan)), "out.2.bias holds NaN"),
    "networks exchanged": (
        lambda folder: [(folder / a).rename(folder / b) for a, b in (("base", "x"), ("upsampler", "base"), ("x", "upsampler"))],
        r"text.tokens: expected shape \[N, 8\], got \[1, 128\]",  # the tokenizer's config lies beside the other one
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_one_clear_error_and_no_step(name: str, glide_parts: Path, damaged: Callable[[Path], Path]) -> None:
    change, message = BROKEN[name]
    folder = damaged(glide_parts)
    change(folder)
    heard: list[Event] = []
    with pytest.raises(DiffgraphError, match=message) as caught:
        Graph.load("glide")(weights=folder, options=Options("cpu", cache=False), listeners=[heard.append], **GIVEN)
    assert not [
        event for event in heard if event.kind == "finished" and "denoise" in event.path and name != "tensors cut"
    ]
    assert len(str(caught.value)) < 1500


def test_all_that_is_wrong_is_said_together(glide_parts: Path, damaged: Callable[[Path], Path]) -> None:
    folder = damaged(glide_parts)
    config("base", beam_width=3)(folder)
    config("upsampler", in_channels=0)(folder)
    with pytest.raises(DiffgraphError) as caught:
        Graph.load("glide")(weights=folder, options=Options("cpu", cache=False), **GIVEN)
    assert "beam_width" in str(caught.value)
    assert "in_channels" in str(caught.value)


def test_a_misspelt_folder_has_a_near_one(glide_parts: Path, damaged: Callable[[Path], Path]) -> None:
    folder = damaged(glide_parts)
    with pytest.raises(DiffgraphError, match="there is no such folder") as caught:
        Graph.load("glide")(weights=f"{folder}s", options=Options("cpu", cache=False), **GIVEN)
    assert "did you mean" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_document_may_not_name_weights_outside_its_folder(glide_parts: Path, tmp_path: Path) -> None:
    """A graph that someone sent opens nothing of the user's; the user may."""
    text = (GRAPHS / "glide.yaml").read_text()
    for address in ("../weights", "/etc", str(glide_parts), "~/weights"):
        path = tmp_path / "glide.yaml"
        shutil.copytree(GRAPHS / "samplers", tmp_path / "samplers", dirs_exist_ok=True)
        path.write_text(text.replace("{weights: pkg://diffgraph/weights/glide-demo,", f"{{weights: {address},"))
        with pytest.raises(
            DiffgraphError, match=r"cannot be part of a path|names no absolute path|names nothing of the user"
        ):
            Graph.load(path)(options=Options("cpu", cache=False), prompt="x")
    Graph.load(path)(options=Options("cpu", cache=False), weights=glide_parts, **GIVEN)


def test_by_itself(ddpm_parts: Path, damaged: Callable[[Path], Path]) -> None:
    """`from_pretrained` says the same."""
    folder = damaged(ddpm_parts)
    tensors = load_file(folder / FILE)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :1].contiguous()
    save_file(tensors, folder / FILE)
    with pytest.raises(DiffgraphError, match=r"conv_in.weight is F32 \[32, 1, 3, 3\], the model's is \[32, 3, 3, 3\]"):
        UNet2D.from_pretrained(folder)


def test_a_graph_says_which_part_reads_what_is_there(tmp_path: Path) -> None:
    """A pipeline with one part that another type reads, and one that none does."""
    index = {
        "_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "g.yaml").write_text(
        "diffgraph: 1\nname: g\nnodes:\n  unet: {node: UNet2D, weights: flux}\n"
        "  latents: {node: Rng, seed: 1}\noutputs: {shape: $unet.sample_shape, rng: $latents}\n"
    )
    with pytest.raises(DiffgraphError) as refused:
        Graph.load(tmp_path / "g.yaml").check()
    message = str(refused.value)
    assert "this is a FluxPipeline with transformer (FluxTransformer2DModel), vae (AutoencoderKL)" in message
    assert "AutoencoderKL reads AutoencoderKL; there is no part for FluxTransformer2DModel" in message
