"""DeepFloyd IF's U-Nets as published beside their configs: a flat file for each stage.

After Imagen, Saharia et al. 2022, arXiv:2205.11487; github.com/deep-floyd/IF. The text encoder, T5 v1.1 XXL, is a
repository of its own.
"""

from __future__ import annotations

from typing import Any

from ...originals import Checkpoint, Conversion, Original, Part
from .unet_names import layout, library_tensors, replaced

HEAD_WIDTH, POOLING_HEADS = 64, 64
T5 = "hf://DeepFloyd/t5-v1_1-xxl"

_TEXT = (
    (r"^encoder_proj\.", "encoder_hid_proj."),
    (r"^encoder_pooling\.0\.", "add_embedding.norm1."),
    (r"^encoder_pooling\.1\.", "add_embedding.pool."),
    (r"^encoder_pooling\.2\.", "add_embedding.proj."),
    (r"^encoder_pooling\.3\.", "add_embedding.norm2."),
    (r"^aug_proj\.0\.", "class_embedding.linear_1."),
    (r"^aug_proj\.2\.", "class_embedding.linear_2."),
)


def deepfloyd_if(checkpoint: Checkpoint) -> Conversion:
    """IF-I makes small images; IF-II enlarges them, and is told how noisy they are."""
    plan = layout(checkpoint)
    enlarges = "aug_proj.0.weight" in checkpoint
    head_width = checkpoint.setting("head_width", HEAD_WIDTH)
    smallest = 16 if enlarges else 8  # pixels a side of the lowest level: 256 and 64 over four and three halvings
    lowest, widest = "middle_block.1", plan.widths[-1]
    text_width, encoder_width = checkpoint.shape("encoder_proj.weight")
    config: dict[str, Any] = {
        "sample_size": checkpoint.setting("sample_size", smallest * 2 ** (len(plan.widths) - 1)),
        "in_channels": checkpoint.shape("input_blocks.0.0.weight")[1],
        "out_channels": checkpoint.shape("out.2.weight")[0],
        "block_out_channels": list(plan.widths),
        "layers_per_block": plan.uniform,
        "down_block_types": plan.down("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": plan.up("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "act_fn": "gelu",
        "attention_head_dim": head_width,
        "cross_attention_dim": text_width,
        "cross_attention_norm": "group_norm",
        "encoder_hid_dim": encoder_width,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": checkpoint.setting("pooling_heads", POOLING_HEADS),
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_dim": checkpoint.shape("time_embed.2.weight")[0],
        "only_cross_attention": checkpoint.shape(f"{lowest}.qkv.weight")[0] == widest,
    }
    process = {"beta_schedule": "squaredcos_cap_v2"}
    thresholds = {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.95,
        "sample_max_value": 1.0 if enlarges else 1.5,
    }
    noising = []
    if enlarges:
        config |= {
            "class_embed_type": "timestep",
            "resnet_skip_time_act": True,
            "time_embedding_act_fn": "gelu",
            "resnet_out_scale_factor": 1.4142271,
            "mid_block_scale_factor": 1.4142271,
        }
        noising = [Part("image_noising_scheduler", "DDPMScheduler", process)]
    tensors = library_tensors(checkpoint, plan, head_width)
    tensors |= {new: name for name in checkpoint if (new := replaced(name, _TEXT)) != name}
    absent = {key: [None, None] for key in ("safety_checker", "feature_extractor", "watermarker")}
    return Conversion(
        title=f"DeepFloyd IF, stage {'II' if enlarges else 'I'}",
        parts=[
            Part("tokenizer", "T5Tokenizer", source=T5, library="transformers"),
            Part("text_encoder", "T5Encoder", source=T5, library="transformers"),
            Part("unet", "UNetIF", config, tensors),
            Part("scheduler", "DDPMScheduler", process | thresholds | {"variance_type": "learned_range"}),
            *noising,
        ],
        run='FOLDER --prompt "a corgi"' + (" --image FILE" if enlarges else ""),
        index={"_class_name": f"IF{'SuperResolution' * enlarges}Pipeline", "requires_safety_checker": False} | absent,
        licence="deepfloyd-if-license",
    )


IF = Original(
    "DeepFloyd IF",
    (r"^encoder_pooling\.1\.positional_embedding$", r"^encoder_proj\.weight$", r"^input_blocks\.0\.0\.weight$"),
    deepfloyd_if,
    settings={
        "sample_size": "pixels a side",
        "head_width": "of attention, for other networks than the published",
        "pooling_heads": "of the pooled text, likewise",
    },
)
