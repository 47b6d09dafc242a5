"""Checkpoints that are known by their names, and not converted: what they are is told in place of a list of tensors."""

from __future__ import annotations

from ...originals import Original

_UNET = r"^model\.diffusion_model\.input_blocks\.0\.0\.weight$"
_OPENCLIP = r"^cond_stage_model\.model\.transformer\.resblocks\.0\.attn\.in_proj_weight$"
_NO_GRAPH = "there is no graph of parts for it here"

SDXL = Original(
    "Stable Diffusion XL", (_UNET, r"^conditioner\.embedders\.0\.transformer\.text_model\."), instead=_NO_GRAPH
)
SDXL_REFINER = Original(
    "the refiner of Stable Diffusion XL",
    (_UNET, r"^conditioner\.embedders\.0\.model\.transformer\."),
    instead=_NO_GRAPH,
)
VIDEO_DIFFUSION = Original(
    "Stable Video Diffusion",
    (_UNET, r"^conditioner\.", r"^model\.diffusion_model\..*\.time_stack\."),
    instead=_NO_GRAPH,
)
STABLE_DIFFUSION_3 = Original("Stable Diffusion 3", (r"^model\.diffusion_model\.joint_blocks\.0\.",), instead=_NO_GRAPH)
FLUX = Original("Flux", (r"^(model\.diffusion_model\.)?double_blocks\.0\.img_attn\.",), instead=_NO_GRAPH)
X4_UPSCALER = Original(
    "the x4 upscaler of Stable Diffusion 2",
    (_UNET, _OPENCLIP, r"^model\.diffusion_model\.label_emb\."),
    instead=_NO_GRAPH,
)
DEPTH = Original("Stable Diffusion 2 with depth", (_UNET, _OPENCLIP, r"^depth_model\."), instead=_NO_GRAPH)
CONTROL_NET = Original(
    "a ControlNet",
    (
        r"^(control_model\.)?input_hint_block\.0\.weight$",
        r"^(control_model\.)?zero_convs\.",
        r"^(control_model\.)?input_blocks\.0\.0\.",
    ),
    instead=_NO_GRAPH,
)
LORA = Original(
    "low-rank changes (LoRA) for another checkpoint",
    (r"[._]lora(_down|_A|\.down)[._]",),
    instead="adapters are not read here",
)

LDM_CLASSES = Original(
    "latent diffusion of ImageNet's classes (cin256)",
    (_UNET, r"^first_stage_model\.quantize\.embedding\.weight$", r"^cond_stage_model\.embedding\.weight$"),
    instead="no part here embeds its classes; `diffgraph run dit` makes pictures of classes",
)  # fmt: skip
LDM_RESIZING = Original(
    "latent diffusion whose residual blocks change sizes (LSUN's churches, inpainting_big)",
    (
        _UNET,
        r"^first_stage_model\.quant_conv\.weight$",
        r"^model\.diffusion_model\.output_blocks\.\d+\.[12]\.in_layers\.",
    ),
    instead="no part here has such blocks over latents",
)
GUIDED_DIFFUSION = Original(
    "a network of OpenAI's guided-diffusion or improved-diffusion",
    (r"^input_blocks\.0\.0\.weight$", r"^out\.2\.weight$"),
    instead=_NO_GRAPH,
)
GLIDE_CLIP = Original(
    "the noised CLIP of GLIDE", (r"^blocks\.block_0\.f_attn\.",), instead="guidance by CLIP is not done here"
)
DIT = Original(
    "DiT", (r"^x_embedder\.proj\.weight$", r"^blocks\.0\.adaLN_modulation\.1\.weight$"),
    instead="take facebook/DiT-XL-2-256 or -512 in the library's layout: diffgraph run hf://facebook/DiT-XL-2-256",
)  # fmt: skip
LIBRARY = Original(
    "a part in the library's layout",
    (
        r"^(down_blocks\.0\.resnets\.0\.norm1|text_model\.embeddings\.token_embedding|encoder\.down_blocks\.0\.resnets\.0\.norm1)\.weight$",
    ),
    instead="it needs no converting: put it beside its config.json, and give that folder as weights",
)
