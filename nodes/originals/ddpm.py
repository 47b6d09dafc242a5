"""DDPM's networks as the ports to torch have them: pesser/pytorch_diffusion, and the authors of DDIM.

Ho et al. 2020, arXiv:2006.11239. A file is a flat dictionary, or what the authors' training wrote: a list of the
network's state, the optimizer's, two numbers, and the moving averages of the weights.
"""

from __future__ import annotations

import re

from ...originals import Checkpoint, Conversion, Original, Part
from .unet_names import replaced

ATTENDS_AT = 16  # pixels a side, in every published network
TRAINED, AVERAGES = re.compile(r"^(0/)?(module\.)?"), "4/"  # by their place in the list

_NAMES = (
    (r"^temb\.dense\.0\.", "time_embedding.linear_1."),
    (r"^temb\.dense\.1\.", "time_embedding.linear_2."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^mid\.block_1\.", "mid_block.resnets.0."),
    (r"^mid\.block_2\.", "mid_block.resnets.1."),
    (r"^mid\.attn_1\.", "mid_block.attentions.0."),
    (r"^(down|up)\.", r"\1_blocks."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.", r".attentions.\1."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.temb_proj\.", ".time_emb_proj."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)


def library_name(name: str, levels: int) -> str:
    """What the library calls a tensor; it counts the levels on the way up from the smallest, the original from the
    largest.
    """
    return re.sub(r"^up_blocks\.(\d+)", lambda up: f"up_blocks.{levels - 1 - int(up[1])}", replaced(name, _NAMES))


def ddpm(checkpoint: Checkpoint) -> Conversion:
    """An unconditional network of pixels; its size is told by which level attends."""
    averages = checkpoint.below(AVERAGES)
    trained = checkpoint.under({TRAINED.sub("", name): name for name in checkpoint if not name.startswith(AVERAGES)})
    averaged = checkpoint.averaged and "conv_in.weight" in averages
    unet = averages if averaged else trained
    levels = unet.count("down.{}.block.0.conv1.weight")
    attends = [f"down.{level}.attn.0.q.weight" in unet for level in range(levels)]
    size = ATTENDS_AT * 2 ** attends.index(True) if True in attends else 0
    size = checkpoint.setting("sample_size", size)
    config = {
        "sample_size": size,
        "in_channels": unet.shape("conv_in.weight")[1],
        "out_channels": unet.shape("conv_out.weight")[0],
        "block_out_channels": [unet.shape(f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)],
        "layers_per_block": unet.count("down.0.block.{}.conv1.weight"),
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    }
    variance = "fixed_large" if size <= 64 else "fixed_small"  # as the authors of DDIM sample each
    return Conversion(
        title="DDPM",
        parts=[
            Part("unet", "UNet2D", config, {library_name(name, levels): old for name, old in unet.names.items()}),
            Part("scheduler", "DDPMScheduler", {"variance_type": variance, "clip_sample": True}),
        ],
        run="FOLDER",
        index={"_class_name": "DDPMPipeline"},
        unused=[r"^0/"] if averaged else [f"^{AVERAGES}"],
        note="the moving averages of the weights" if averaged else "",
    )


DDPM = Original(
    "DDPM (pesser/pytorch_diffusion)",
    (r"^(0/)?(module\.)?temb\.dense\.0\.weight$", r"^(0/)?(module\.)?mid\.attn_1\.q\.weight$"),
    ddpm,
    settings={"sample_size": "pixels a side"},
)
