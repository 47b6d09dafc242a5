"""The networks of latent diffusion as CompVis published them: from a text, from noise alone, and super-resolution.

Rombach et al. 2022, arXiv:2112.10752; github.com/CompVis/latent-diffusion. A file holds a U-Net below
model.diffusion_model, moving averages of it below model_ema, and an autoencoder below first_stage_model.
"""

from __future__ import annotations

import re
from typing import Any

from ...originals import Checkpoint, Conversion, Original, Part
from .first_stage import autoencoder
from .unet_names import Layout, layout, library_tensors, replaced

UNET, CODER, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
BUFFERS = (  # tables of the noise schedule, and counters of the moving averages
    r"^((sqrt_(one_minus_|recip_|recipm1_)?|log_one_minus_)?alphas_cumprod(_prev)?|betas|lvlb_weights|logvar|scale_factor)$",
    r"^posterior_(variance|log_variance_clipped|mean_coef[12])$",
    r"^model_ema\.(decay|num_updates)$",
)


def unet_of(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[str, ...], str]:
    """The U-Net, averaged where that is wanted and there; patterns of what is not used then; and what was chosen."""
    trained = checkpoint.below(UNET)
    averages = {name: f"model_ema.diffusion_model{name.replace('.', '')}" for name in trained}
    if checkpoint.averaged and averages and all(name in checkpoint for name in averages.values()):
        return checkpoint.under(averages), (*BUFFERS, f"^{UNET}"), "the moving averages of the U-Net's weights"
    return trained, (*BUFFERS, r"^model_ema\."), ""


def latent_process(start: float, end: float, **more: Any) -> dict[str, Any]:
    """The config of the noise schedule, and of the steps of the authors' sampler: each stands one later than the
    library's, and the last goes to alpha_cumprod[0].
    """
    process = {"beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end, "clip_sample": False}
    return process | {"set_alpha_to_one": False, "steps_offset": 1} | more


def text_unet(unet: Checkpoint, plan: Layout, size: int, heads: int | list[int]) -> Part:
    """The part for a U-Net whose transformers attend to a text."""
    reader = next((name for name in unet if name.endswith(".transformer_blocks.0.attn2.to_k.weight")), "attn2.to_k")
    transformer = reader.partition(".transformer_blocks.")[0]
    config = {
        "sample_size": size,
        "in_channels": unet.shape("input_blocks.0.0.weight")[1],
        "out_channels": unet.shape("out.2.weight")[0],
        "block_out_channels": list(plan.widths),
        "layers_per_block": plan.blocks[0],
        "down_block_types": plan.down("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": plan.up("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": unet.shape(reader)[1],
        "attention_head_dim": heads,
        "use_linear_projection": len(unet.shape(f"{transformer}.proj_in.weight")) == 2,
    }
    return Part("unet", "UNet2DCondition", config, library_tensors(unet, plan))


# --- text to image ----------------------------------------------------------------------------------------------------

_BERT = (
    (r"^token_emb\.", "model.embed_tokens."),
    (r"^pos_emb\.emb\.", "model.embed_positions."),
    (r"^norm\.", "model.layer_norm."),
)
_BERT_LAYER = re.compile(r"attn_layers\.layers\.(\d+)\.(.+)")
_ATTENDING = (  # of the even layers
    (r"^0\.", "self_attn_layer_norm."),
    (r"^1\.to_([qkv])\.", r"self_attn.\1_proj."),
    (r"^1\.to_out\.", "self_attn.out_proj."),
)
_FORWARD = ((r"^0\.", "final_layer_norm."), (r"^1\.net\.0\.0\.", "fc1."), (r"^1\.net\.2\.", "fc2."))


def bert_name(name: str) -> str:
    """What the library calls a tensor of the text encoder, whose layers attend and feed forward by turns."""
    found = _BERT_LAYER.fullmatch(name)
    if found is None:
        return replaced(name, _BERT)
    number, inner = int(found[1]), found[2]
    return f"model.layers.{number // 2}." + replaced(inner, _FORWARD if number % 2 else _ATTENDING)


def text_to_image(checkpoint: Checkpoint) -> Conversion:
    """txt2img-f8-large, whose text encoder was trained with it."""
    unet, unused, note = unet_of(checkpoint)
    bert = checkpoint.below(f"{TEXT}transformer.")
    first, heads = "attn_layers.layers.{}.1", 8
    inner, width = bert.shape(first.format(0) + ".to_q.weight")
    config = {
        "vocab_size": bert.shape("token_emb.weight")[0],
        "max_position_embeddings": bert.shape("pos_emb.emb.weight")[0],
        "d_model": width,
        "encoder_layers": bert.count("attn_layers.layers.{}.0.weight") // 2,
        "encoder_attention_heads": heads,
        "head_dim": inner // heads,
        "encoder_ffn_dim": bert.shape(first.format(1) + ".net.2.weight")[1],
    }
    length = {"model_max_length": config["max_position_embeddings"]}
    return Conversion(
        title="latent diffusion from text to image (CompVis)",
        parts=[
            autoencoder(checkpoint.below(CODER), "vqvae"),
            Part(
                "bert", "LDMBert", config, {bert_name(name): old for name, old in bert.names.items()},
                library="latent_diffusion",
            ),
            Part("tokenizer", "BertTokenizer", length, source="hf://google-bert/bert-base-uncased", library="transformers"),
            text_unet(unet, layout(unet), checkpoint.setting("sample_size", 32), 8),
            Part("scheduler", "DDIMScheduler", latent_process(0.00085, 0.012)),
        ],
        run='FOLDER --prompt "a painting of a virus monster playing guitar" --guidance-scale 5',
        index={"_class_name": "LDMTextToImagePipeline"},
        unused=unused,
        licence="mit",
        note=note,
    )  # fmt: skip


# --- noise to image, and super-resolution -----------------------------------------------------------------------------


def without_text(checkpoint: Checkpoint) -> Conversion:
    """celebahq-256, ffhq-256 and lsun-bedroom-256; or bsr_sr, whose U-Net sees a small picture beside the latents."""
    unet, unused, note = unet_of(checkpoint)
    plan, head_width = layout(unet), checkpoint.setting("head_width", 32)
    channels, out = unet.shape("input_blocks.0.0.weight")[1], unet.shape("out.2.weight")[0]
    enlarges = channels > out
    config = {
        "sample_size": checkpoint.setting("sample_size", 64),
        "in_channels": channels,
        "out_channels": out,
        "block_out_channels": list(plan.widths),
        "layers_per_block": plan.blocks[0],
        "down_block_types": plan.down("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": plan.up("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": head_width,
    }
    process = latent_process(0.0015, 0.0155 if enlarges else 0.0195)
    return Conversion(
        title=f"latent diffusion {'for super-resolution' if enlarges else 'without a text'} (CompVis)",
        parts=[
            autoencoder(checkpoint.below(CODER), "vqvae"),
            Part("unet", "UNet2D", config, library_tensors(unet, plan, head_width)),
            Part("scheduler", "DDIMScheduler", process),
        ],
        run=f"FOLDER{' --image FILE' if enlarges else ''}",
        index={"_class_name": "LDMSuperResolutionPipeline" if enlarges else "LDMPipeline"},
        unused=unused,
        licence="mit",
        note=note,
    )


LDM_TEXT2IM = Original(
    "latent diffusion, text to image (CompVis)",
    (r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$", r"^cond_stage_model\.transformer\.token_emb\.weight$"),
    text_to_image,
    settings={"sample_size": "latents a side"},
)
LDM = Original(
    "latent diffusion without a text, or super-resolution (CompVis)",
    (r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$", r"^first_stage_model\.quantize\.embedding\.weight$"),
    without_text,
    settings={"sample_size": "latents a side", "head_width": "of attention, for other networks than the published"},
)
