"""GLIDE's four networks as OpenAI published them: a flat file each, whose names of tensors stay as they are.

Nichol et al. 2021, arXiv:2112.10741; github.com/openai/glide-text2im.
"""

from __future__ import annotations

from ...originals import Checkpoint, Conversion, Original, Part
from .unet_names import layout

SMALLEST = 8  # pixels a side of the lowest level of both published networks
ENLARGES = 4  # times, by the upsampler


def glide(checkpoint: Checkpoint) -> Conversion:
    """The base network or the upsampler, of text to image or of inpainting, by its channels."""
    plan = layout(checkpoint)
    channels = checkpoint.shape("input_blocks.0.0.weight")[1]
    image = checkpoint.shape("out.2.weight")[0] // 2  # of the prediction and its variance
    extra = channels - image
    inpaint, enlarges = extra in (image + 1, 2 * image + 1), extra in (image, 2 * image + 1)
    size = SMALLEST * 2 ** (len(plan.widths) - 1)
    width = checkpoint.shape("time_embed.0.weight")[1]
    context, text_width = checkpoint.shape("positional_embedding")
    config = {
        "image_size": size,
        "low_res_size": size // ENLARGES if enlarges else None,
        "inpaint": inpaint,
        "in_channels": image,
        "model_channels": width,
        "channel_mult": [level // width for level in plan.widths],
        "num_res_blocks": plan.blocks[0],
        "attention_sizes": [size // 2**level for level, attends in enumerate(plan.attends) if attends],
        "num_head_channels": checkpoint.setting("num_head_channels", 64),
        "text_context": context,
        "text_width": text_width,
        "text_layers": checkpoint.count("transformer.resblocks.{}.ln_1.weight"),
        "text_heads": checkpoint.setting("text_heads", 8),
        "vocab_size": checkpoint.shape("token_embedding.weight")[0],
    }
    folder = "upsampler" if enlarges else "base"
    if enlarges:  # DDIM, whose direction is of the clipped estimate; inpainting samples it as it does the base
        process = {"variance_type": "learned_range", "use_clipped_model_output": True}
        scheduler = Part("upsampling", "DDIMScheduler", process, folder=folder)
    else:
        process = {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"}
        scheduler = Part("scheduler", "DDPMScheduler", process, folder=folder)
    parts = [Part(folder, "UNetGLIDE", config, checkpoint.names), scheduler]
    if not enlarges:
        length = {"model_max_length": context}
        parts.append(Part("tokenizer", "Tokenizer", length, source="hf://openai-community/gpt2", folder=folder))
    graph, given = ("glide_inpaint", " --image FILE --mask FILE") if inpaint else ("glide", "")
    return Conversion(
        title="OpenAI's GLIDE, made for inpainting" if inpaint else "OpenAI's GLIDE",
        parts=parts,
        run=f'{graph} --variant openai --weights FOLDER{given} --prompt "a corgi in a field"',
        licence="mit",
    )


GLIDE = Original(
    "GLIDE (OpenAI)",
    (r"^transformer\.resblocks\.0\.attn\.c_qkv\.weight$", r"^padding_embedding$", r"^input_blocks\.0\.0\.weight$"),
    glide,
    settings={"num_head_channels": "width of a head of image attention", "text_heads": "heads of the text transformer"},
)
