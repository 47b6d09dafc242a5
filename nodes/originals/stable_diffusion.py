"""Stable Diffusion 1.x and 2.x, and their forms made for inpainting: one file with U-Net, autoencoder and text encoder.

Rombach et al. 2022, arXiv:2112.10752; github.com/CompVis/stable-diffusion, github.com/Stability-AI/stablediffusion.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import InputError
from ...originals import Checkpoint, Conversion, Original, Part, Rows
from .first_stage import autoencoder
from .latent_diffusion import CODER, TEXT, latent_process, text_unet, unet_of
from .unet_names import Tensors, layout, replaced

HEAD_WIDTH = 64  # of CLIP's text encoders, and of the U-Nets of version 2
LATENTS = {"epsilon": 64, "v_prediction": 96}  # a side, that networks of version 2 were trained with
SIZE = {"sample_size": "latents a side that the network was trained with"}


def system(version: str, checkpoint: Checkpoint, unet: Part, text: Part, scheduler: Part, pad: str) -> Conversion:
    """Both versions' folder. pad: the token that fills texts."""
    _, unused, note = unet_of(checkpoint)
    inpaints = unet.config["in_channels"] > unet.config["out_channels"]
    length = {"model_max_length": text.config["max_position_embeddings"], "pad_token": pad}
    vocabulary = "hf://openai/clip-vit-large-patch14"  # OpenCLIP's is the same but for the padding
    last = text.config["num_hidden_layers"]
    spare = rf"(transformer\.resblocks\.{last}\..*|text_projection|logit_scale)"  # what version 2 does not read
    absent = {key: [None, None] for key in ("safety_checker", "feature_extractor")}
    return Conversion(
        title=f"Stable Diffusion {version}{', made for inpainting' if inpaints else ''}",
        parts=[
            autoencoder(checkpoint.below(CODER), "vae"),
            text,
            Part("tokenizer", "CLIPTokenizer", length, source=vocabulary, library="transformers"),
            unet,
            scheduler,
        ],
        run='FOLDER --prompt "a cat"' + (" --image FILE --mask FILE" if inpaints else ""),
        index={"_class_name": f"StableDiffusion{'Inpaint' * inpaints}Pipeline", "requires_safety_checker": False}
        | absent,
        unused=(*unused, rf"^{TEXT}model\.{spare}$"),
        licence="creativeml-openrail-m" if version == "1.x" else "openrail++",
        note=note,
    )


def clip_config(hidden: int, vocabulary: int, places: int, layers: int, inner: int, activation: str) -> dict[str, Any]:
    """The config of a CLIP text encoder; texts end with the last token of the vocabulary."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "projection_dim": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // HEAD_WIDTH),
        "max_position_embeddings": places,
        "hidden_act": activation,
        "eos_token_id": vocabulary - 1,
    }


def version_1(checkpoint: Checkpoint) -> Conversion:
    """Versions 1.x: CLIP's text encoder, eight heads everywhere, epsilon."""
    unet, _, _ = unet_of(checkpoint)
    clip = checkpoint.below(f"{TEXT}transformer.")
    clip = clip.under({name.removeprefix("text_model."): name for name in clip})  # which a few leave out
    vocabulary, hidden = clip.shape("embeddings.token_embedding.weight")
    config = clip_config(
        hidden,
        vocabulary,
        clip.shape("embeddings.position_embedding.weight")[0],
        clip.count("encoder.layers.{}.layer_norm1.weight"),
        clip.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "quick_gelu",
    )
    return system(
        "1.x",
        checkpoint,
        text_unet(unet, layout(unet), checkpoint.setting("sample_size", 64), 8),
        Part("text_encoder", "CLIPText", config, clip.names, library="transformers"),
        Part("scheduler", "PNDMScheduler", latent_process(0.00085, 0.012, skip_prk_steps=True)),
        "<|endoftext|>",
    )


_OPENCLIP = (
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.in_proj_", ".self_attn.in_proj."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def openclip_tensors(clip: Checkpoint, layers: int) -> Tensors:
    """OpenCLIP's text encoder by the library's names, its first layers alone. q, k and v are thirds of one tensor."""
    found = Tensors()
    for name, original in clip.names.items():
        new = replaced(name, _OPENCLIP)
        layer = re.match(r"encoder\.layers\.(\d+)\.", new)
        if name in ("text_projection", "logit_scale") or (layer is not None and int(layer[1]) >= layers):
            continue
        if ".in_proj." not in new:
            found[f"text_model.{new}"] = original
            continue
        for number, one in enumerate(("q_proj", "k_proj", "v_proj")):
            found[f"text_model.{new.replace('in_proj', one)}"] = Rows(original, number, 3)
    return found


def version_2(checkpoint: Checkpoint) -> Conversion:
    """Versions 2.x: OpenCLIP's text encoder without its last layer, heads of one width, epsilon or v.

    Raises InputError where it is not told which the network predicts: no tensor does. Inpainting predicts epsilon.
    """
    unet, _, _ = unet_of(checkpoint)
    plan = layout(unet)
    inpaints = unet.shape("input_blocks.0.0.weight")[1] > unet.shape("out.2.weight")[0]
    predicted = checkpoint.setting("prediction_type", "epsilon" if inpaints else None)
    if predicted not in LATENTS:
        raise InputError(
            "no tensor of a Stable Diffusion 2 tells what its network predicts",
            hint="add --set prediction_type=epsilon (2-base, 2-1-base: 512 pixels) or prediction_type=v_prediction "
            "(2, 2-1: 768 pixels)",
        )
    clip = checkpoint.below(f"{TEXT}model.")
    vocabulary, hidden = clip.shape("token_embedding.weight")
    layers = clip.count("transformer.resblocks.{}.ln_1.weight") - 1
    inner = clip.shape("transformer.resblocks.0.mlp.c_fc.weight")[0]
    config = clip_config(hidden, vocabulary, clip.shape("positional_embedding")[0], layers, inner, "gelu")
    heads = [max(1, width // HEAD_WIDTH) for width in plan.widths]
    process = latent_process(0.00085, 0.012, prediction_type=predicted)
    return system(
        "2.x",
        checkpoint,
        text_unet(unet, plan, checkpoint.setting("sample_size", LATENTS[predicted]), heads),
        Part("text_encoder", "CLIPText", config, openclip_tensors(clip, layers), library="transformers"),
        Part("scheduler", "DDIMScheduler", process),
        "!",
    )


UNET = r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$"
STABLE_DIFFUSION_1 = Original(
    "Stable Diffusion 1.x",
    (UNET, r"^cond_stage_model\.transformer\.(text_model\.)?embeddings\.token_embedding\.weight$"),
    version_1,
    settings=SIZE,
)
STABLE_DIFFUSION_2 = Original(
    "Stable Diffusion 2.x",
    (UNET, r"^cond_stage_model\.model\.transformer\.resblocks\.0\.attn\.in_proj_weight$"),
    version_2,
    settings=SIZE | {"prediction_type": "what the network predicts, epsilon or v_prediction"},
)
