"""One forward pass of each model beside its peer's: time, and peak memory.

    python benchmarks/models.py [--only NAME] [--quick] [--list]

Each model has its published config where its weights fit in memory, and both sides hold the same weights, random ones.
Time: both sides by turns in one process, 20 pairs of passes (3 where a pass takes longer than 8 s), with one thread
(processor time) and with all (wall time); the ratio is the peer's time to ours, the median over pairs, with the
quartiles behind it. A pass of ours includes `condition`, which a denoising loop calls once for all its steps. Memory:
the peak of a pass above what its process, one for each side, held before it; the allocator gives back what is freed at
once, or the figure would tell how the heap broke up.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = 0.95
PAIRS, PAIRS_LARGE, PAIRS_QUICK = 20, 3, 2
LARGE = 4.0  # seconds of a pass, from which on a few pairs do
NODES = "diffgraph.nodes.models."


@dataclass(frozen=True)
class Case:
    """A model at its published shape.

    node, peer: `module:class` of both sides; config: as published, for ours; peer_config: what makes the peer's
    module of its class and that config. inputs: tensors for both, made once. ours, theirs: one pass, to compare.
    """

    title: str
    node: str
    peer: str
    config: dict[str, Any]
    inputs: Callable[[], tuple[Any, ...]]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    build: Callable[[Any, dict[str, Any]], Any] = lambda cls, config: cls(**config)


# --- inputs and calls -----------------------------------------------------------------------------------------------


def noise(*shape: int, seed: int = 0) -> Any:
    """Unit normal numbers."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(*shape: int) -> Callable[[], tuple[Any, ...]]:
    """One tensor."""
    return lambda: (noise(*shape),)


def sample_and_text(shape: Sequence[int], tokens: int, width: int) -> Callable[[], tuple[Any, ...]]:
    """A noisy sample, and the hidden states of a text."""
    return lambda: (noise(*shape), noise(shape[0], tokens, width, seed=1))


def ids(tokens: int, vocabulary: int, end: int) -> Callable[[], tuple[Any, ...]]:
    """The ids of a text as long as there can be."""
    import torch

    def make() -> tuple[Any, ...]:
        drawn = torch.randint(3, vocabulary - 3, (1, tokens), generator=torch.Generator().manual_seed(0))
        drawn[0, -1] = end
        return (drawn,)

    return make


def text_embeds(hidden: Any) -> Any:
    """Hidden states as a text encoder of ours gives them."""
    import torch

    from diffgraph.nodes.kinds import TextEmbeds

    return TextEmbeds(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))


def denoise(model: Any, x: Any) -> Any:
    return model(x, 500).value


def denoise_text(model: Any, x: Any, text: Any) -> Any:
    prediction = model(x, 500, model.condition(text_embeds(text)))
    return whole(prediction)


def denoise_class(model: Any, x: Any) -> Any:
    return whole(model(x, 500, model.condition([207] * len(x))))


def whole(prediction: Any) -> Any:
    """Value and variance, as peers give them."""
    import torch

    return prediction.value if prediction.variance is None else torch.cat(tuple(prediction), dim=1)


def encode_text(model: Any, numbers: Any) -> Any:
    from diffgraph.nodes.kinds import Tokens

    return model(Tokens(numbers, numbers > 0)).hidden


def peer_text(peer: Any, x: Any, text: Any) -> Any:
    return peer(x, 500, encoder_hidden_states=text).sample


def peer_class(peer: Any, x: Any) -> Any:
    import torch

    rows = len(x)
    return peer(x, torch.full((rows,), 500), class_labels=torch.full((rows,), 207)).sample


def of_transformers(config_class: str) -> Callable[[Any, dict[str, Any]], Any]:
    """Builds a class of transformers, whose config is an object."""

    def build(cls: Any, config: dict[str, Any]) -> Any:
        return cls(getattr(importlib.import_module("transformers"), config_class)(**config))

    return build


def of_ldm_bert(cls: Any, config: dict[str, Any]) -> Any:
    """Builds the library's LDMBertModel, whose config stands beside it."""
    return cls(sys.modules[cls.__module__].LDMBertConfig(**config))


# --- the models -----------------------------------------------------------------------------------------------------

DDPM: dict[str, Any] = {
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "attention_head_dim": None,
}  # fmt: skip
KL_F8: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
}  # fmt: skip
VQ_F4: dict[str, Any] = {
    "block_out_channels": [128, 256, 512], "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3, "layers_per_block": 2, "latent_channels": 3, "sample_size": 256,
    "num_vq_embeddings": 8192, "vq_embed_dim": 3, "scaling_factor": 1.0,
}  # fmt: skip
IF: dict[str, Any] = {
    "sample_size": 64, "in_channels": 3, "out_channels": 6, "act_fn": "gelu", "attention_head_dim": 64,
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "layers_per_block": 3, "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text", "addition_embed_type_num_heads": 64,
    "cross_attention_norm": "group_norm", "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip

CASES = [
    Case(
        "DDPM, CIFAR-10, 32 x 32", "unet2d:UNet2D", "diffusers:UNet2DModel",
        {
            **DDPM, "sample_size": 32, "block_out_channels": [128, 256, 256, 256],
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        },
        sample(1, 3, 32, 32), denoise, lambda peer, x: peer(x, 500).sample,
    ),
    Case(
        "DDPM, church, 256 x 256", "unet2d:UNet2D", "diffusers:UNet2DModel",
        {
            **DDPM, "sample_size": 256, "block_out_channels": [128, 128, 256, 256, 512, 512],
            "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
        },
        sample(1, 3, 256, 256), denoise, lambda peer, x: peer(x, 500).sample,
    ),
    Case(
        "LDM, CelebA-HQ, 64 x 64", "unet2d:UNet2D", "diffusers:UNet2DModel",
        {"sample_size": 64, "attention_head_dim": 32},
        sample(1, 3, 64, 64), denoise, lambda peer, x: peer(x, 500).sample,
    ),
    Case(
        "LDM text2im-large, 32 x 32", "unet2d_condition:UNet2DCondition", "diffusers:UNet2DConditionModel",
        {"sample_size": 32, "cross_attention_dim": 1280},
        sample_and_text((1, 4, 32, 32), 77, 1280), denoise_text, peer_text,
    ),
    Case(
        "Stable Diffusion 1.5, 64 x 64", "unet2d_condition:UNet2DCondition", "diffusers:UNet2DConditionModel",
        {"sample_size": 64, "cross_attention_dim": 768},
        sample_and_text((1, 4, 64, 64), 77, 768), denoise_text, peer_text,
    ),
    Case(
        "Stable Diffusion 2.1, 96 x 96", "unet2d_condition:UNet2DCondition", "diffusers:UNet2DConditionModel",
        {
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        sample_and_text((1, 4, 96, 96), 77, 1024), denoise_text, peer_text,
    ),
    Case(
        "IF-I-M, 64 x 64", "unet_if:UNetIF", "diffusers:UNet2DConditionModel",
        {**IF, "block_out_channels": [192, 384, 576, 768], "cross_attention_dim": 768},
        sample_and_text((1, 3, 64, 64), 77, 4096), denoise_text, peer_text,
    ),
    Case(
        "IF-I-L, 64 x 64", "unet_if:UNetIF", "diffusers:UNet2DConditionModel",
        {**IF, "block_out_channels": [320, 640, 960, 1280], "cross_attention_dim": 1280},
        sample_and_text((1, 3, 64, 64), 77, 4096), denoise_text, peer_text,
    ),
    Case(
        "DiT-XL/2, 256 x 256", "dit:DiT", "diffusers:DiTTransformer2DModel", {"out_channels": 8},
        sample(1, 4, 32, 32), denoise_class, peer_class,
    ),
    Case(
        "DiT-XL/2, 512 x 512", "dit:DiT", "diffusers:DiTTransformer2DModel", {"out_channels": 8, "sample_size": 64},
        sample(1, 4, 64, 64), denoise_class, peer_class,
    ),
    Case(
        "Text to video, 16 x 32 x 32", "unet3d:UNet3D", "diffusers:UNet3DConditionModel", {"sample_size": 32},
        sample_and_text((1, 4, 16, 32, 32), 77, 1024), denoise_text, peer_text,
    ),
    Case(
        "Autoencoder KL-f8, encode 512 x 512", "autoencoder_kl:AutoencoderKL", "diffusers:AutoencoderKL", KL_F8,
        sample(1, 3, 512, 512), lambda model, x: model.posterior(x).mean, lambda peer, x: peer.encode(x).latent_dist.mean,
    ),
    Case(
        "Autoencoder KL-f8, decode 512 x 512", "autoencoder_kl:AutoencoderKL", "diffusers:AutoencoderKL", KL_F8,
        sample(1, 4, 64, 64), lambda model, z: model.decode(z), lambda peer, z: peer.decode(z / 0.18215).sample,
    ),
    Case(
        "Autoencoder VQ-f4, encode 256 x 256", "vq_model:VQModel", "diffusers:VQModel", VQ_F4,
        sample(1, 3, 256, 256), lambda model, x: model.encode(x), lambda peer, x: peer.encode(x).latents,
    ),
    Case(
        "Autoencoder VQ-f4, decode 256 x 256", "vq_model:VQModel", "diffusers:VQModel", VQ_F4,
        sample(1, 3, 64, 64), lambda model, z: model.decode(z), lambda peer, z: peer.decode(z).sample,
    ),
    Case(
        "CLIP text, ViT-L/14, 77 tokens", "clip_text:CLIPText", "transformers:CLIPTextModel",
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 49407},
        ids(77, 49408, 49407), encode_text, lambda peer, numbers: peer(numbers).last_hidden_state,
        of_transformers("CLIPTextConfig"),
    ),
    Case(
        "OpenCLIP text, ViT-H/14, 77 tokens", "clip_text:CLIPText", "transformers:CLIPTextModel",
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
            "hidden_act": "gelu", "eos_token_id": 49407,
        },
        ids(77, 49408, 49407), encode_text, lambda peer, numbers: peer(numbers).last_hidden_state,
        of_transformers("CLIPTextConfig"),
    ),
    Case(
        "T5 v1.1 XL, 77 tokens", "t5_encoder:T5Encoder", "transformers:T5EncoderModel",
        {
            "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
            "feed_forward_proj": "gated-gelu",
        },
        ids(77, 32128, 1), encode_text, lambda peer, numbers: peer(numbers).last_hidden_state,
        of_transformers("T5Config"),
    ),
    Case(
        "LDM BERT, 77 tokens", "ldm_bert:LDMBert",
        "diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion:LDMBertModel",
        {
            "d_model": 1280, "encoder_layers": 32, "encoder_ffn_dim": 5120, "encoder_attention_heads": 8,
            "head_dim": 64, "max_position_embeddings": 77, "vocab_size": 30522,
        },
        ids(77, 30522, 102), encode_text, lambda peer, numbers: peer(numbers).last_hidden_state, of_ldm_bert,
    ),
]  # fmt: skip


# --- both sides -----------------------------------------------------------------------------------------------------


def load(name: str) -> Any:
    """The class that `module:class` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def peer_of(case: Case) -> Any:
    """The peer's module, with random weights: drawn once, so that building it costs little."""
    import torch

    for module in ("diffusers", "transformers"):
        importlib.import_module(module).logging.set_verbosity_error()
    from torch.nn import init

    keep = {name: getattr(init, name) for name in ("kaiming_uniform_", "normal_", "uniform_", "xavier_uniform_")}
    try:
        for name in keep:
            setattr(init, name, lambda tensor, *_, **__: tensor)
        peer = case.build(load(case.peer), case.config).eval()
    finally:
        for name, function in keep.items():
            setattr(init, name, function)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.ndim >= 2:
                bound = (0.75 * parameter.shape[0] / parameter.numel()) ** 0.5  # so that no attention is sharp
                parameter.uniform_(-bound, bound)
            else:
                parameter.uniform_(0.9, 1.1)
    return peer


def ours_of(case: Case, state: dict[str, Any]) -> Any:
    """Our module, which holds the very tensors of a state."""
    from diffgraph.weights.config import fields_of, parse_config
    from diffgraph.weights.tensors import built_without_memory

    cls = load(NODES + case.node)
    config = cls.Config(**parse_config(fields_of(cls.Config), case.config, ignored=cls.ignored, where="benchmark"))
    model = built_without_memory(lambda: cls.from_config(config)).eval()
    model.load_state_dict(under_our_names(cls, state), assign=True)
    return model


def under_our_names(cls: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The peer's tensors by the names that our module has for them."""
    import re

    out = {}
    for name, tensor in state.items():
        for pattern, replacement in cls.keys:
            name = re.sub(pattern, replacement, name)
        if name:
            out[name] = tensor
    return out


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference, as a share of the largest magnitude."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- time -----------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """How long it takes, once."""
    started = clock()
    work()
    return clock() - started


def pairs(
    ours: Callable[[], Any], theirs: Callable[[], Any], count: int, threads: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides by turns, each first in half of the pairs.

    One thread is timed by this process's own clock, which waits for no other process; several by the clock on the wall.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    mine: list[float] = []
    other: list[float] = []
    for number in range(count):
        for work, times in ((ours, mine), (theirs, other)) if number % 2 else ((theirs, other), (ours, mine)):
            times.append(seconds(work, clock))
    return mine, other


def timed(case: Case, quick: bool) -> dict[str, Any]:
    """Both sides in this process: figures for one thread and for all, and how far the outputs are apart."""
    import torch

    peer = peer_of(case)
    model, inputs = ours_of(case, peer.state_dict()), case.inputs()

    def ours() -> Any:
        return case.ours(model, *inputs)

    def theirs() -> Any:
        return case.theirs(peer, *inputs)

    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "times": {}}
    with torch.no_grad():
        torch.set_num_threads(1)
        found["difference"] = difference(ours(), theirs())  # what is done but once in a process is done here
        large = seconds(ours) > LARGE
        for threads in [1] if quick else sorted({1, cores()}):
            torch.set_num_threads(threads)
            if threads > 1:
                pairs(ours, theirs, 1, threads)
            count = PAIRS_QUICK if quick else PAIRS_LARGE if large else PAIRS
            found["times"][str(threads)] = pairs(ours, theirs, count, threads)
    return found


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- memory ---------------------------------------------------------------------------------------------------------


def status(key: str) -> int:
    """Bytes that /proc says this process holds."""
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(key))) * 1024


def peak(case: Case, side: str) -> dict[str, Any]:
    """The peak of one pass of one side above what this process held before it, and how much that was."""
    import torch

    torch.set_num_threads(1)
    peer = peer_of(case)
    inputs = case.inputs()
    if side == "ours":
        module, call = ours_of(case, peer.state_dict()), case.ours
        del peer
    else:
        module, call = peer, case.theirs
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    with torch.no_grad():
        call(module, *inputs)
    return {"peak": status("VmHWM") - before, "held": before}


# --- the table ------------------------------------------------------------------------------------------------------


def child(case: Case, work: str, quick: bool) -> dict[str, Any]:
    """What this script, run in a process of its own, found for one case."""
    command = [sys.executable, __file__, "--only", case.title, "--work", work] + ["--quick"] * quick
    environment = os.environ if work == "time" else {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{case.title}: {work} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def rows(case: Case, quick: bool) -> list[str]:
    """The missed targets of a case, whose lines it prints."""
    found = child(case, "time", quick)
    if found["difference"] > 1e-4:
        sys.exit(f"{case.title}: the outputs differ by {found['difference']:.1e} of their scale")
    ours, theirs = (child(case, side, quick)["peak"] / 1e6 for side in ("ours", "theirs"))
    missed = []
    for number, (threads, (mine, other)) in enumerate(found["times"].items()):
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        ratio = statistics.median(ratios)
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        first = f"{case.title} ({found['parameters'] / 1e6:,.0f} M)" if not number else ""
        memory = f"{ours:,.0f} | {theirs:,.0f} | {theirs / ours:.2f}" if not number else " | | "
        print(
            f"| {first} | {threads} | {shown(mine)} | {shown(other)} | {ratio:.3f} | {low:.3f} to {high:.3f} | "
            f"{'yes' if ratio >= TARGET else 'NO'} | {memory} |",
            flush=True,
        )
        missed += [f"{case.title}, {threads} threads: {ratio:.3f}"] * (ratio < TARGET)
    return missed


def shown(times: list[float]) -> str:
    """The median, in seconds or thousandths."""
    middle = statistics.median(times)
    return f"{middle:.2f} s" if middle >= 1 else f"{middle * 1e3:.1f} ms"


def main() -> None:
    """Prints the table, and what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose title or node has this in it")
    parser.add_argument("--quick", action="store_true", help=f"{PAIRS_QUICK} pairs, one thread: to see that it works")
    parser.add_argument("--list", action="store_true", help="the titles, and no more")
    parser.add_argument("--work", choices=("time", "ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    wanted = given.only.lower()
    chosen = [case for case in CASES if wanted in case.title.lower() or wanted in case.node.lower()]
    if not chosen:
        sys.exit(f"no case is called {given.only!r}; there are:\n  " + "\n  ".join(case.title for case in CASES))
    if given.list:
        print("\n".join(f"{case.title}: {case.node} beside {case.peer}" for case in chosen))
        return
    if given.work:
        print(json.dumps(timed(chosen[0], given.quick) if given.work == "time" else peak(chosen[0], given.work)))
        return
    import torch

    load_now = os.getloadavg()[0]
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {cores()} cores, load {load_now:.1f}", end="")
    print(": other work runs here, so read the ratios\n" if load_now > cores() / 4 else "\n")
    print("| model | threads | ours | peer | ratio | quartiles | at least 0.95 | peak, MB | peer, MB | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    missed = [line for case in chosen for line in rows(case, given.quick)]
    print("\nmissed: " + "; ".join(missed) if missed else "\nno ratio is below the target")


if __name__ == "__main__":
    main()
