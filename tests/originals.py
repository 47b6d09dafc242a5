"""The tensors of original checkpoints, names and shapes, as the authors' code lays them out: for files made in tests.

Written from what is known of each system, and held against the published numbers of tensors and parameters; nothing of
the converter is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def count(shapes: Shapes) -> int:
    """How many numbers the tensors hold."""
    return sum(prod(shape) for shape in shapes.values())


def below(prefix: str, shapes: Shapes) -> Shapes:
    """The same tensors with a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Values of the scale of trained ones."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        draw = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and name.endswith("weight")
        state[name] = 1 + 0.2 * draw if norm else 0.2 * draw if len(shape) < 2 else draw / prod(shape[1:]) ** 0.5
    return state


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A convolution or a linear layer."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def norm(name: str, width: int) -> Shapes:
    """A normalisation's scale and shift."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


# --- the U-Nets of OpenAI's code ----------------------------------------------------------------------------------------


def residual(name: str, width: int, out: int, time: int, scale_shift: bool) -> Shapes:
    found = norm(f"{name}.in_layers.0", width) | layer(f"{name}.in_layers.2", out, width, 3, 3)
    found |= layer(f"{name}.emb_layers.1", out * (1 + scale_shift), time)
    found |= norm(f"{name}.out_layers.0", out) | layer(f"{name}.out_layers.3", out, out, 3, 3)
    return found | (layer(f"{name}.skip_connection", out, width, 1, 1) if out != width else {})


def joined_attention(name: str, width: int, text: int = 0, *, normed: bool = False, alone: bool = False) -> Shapes:
    """Queries, keys and values in one tensor. text: its width. normed: the text is. alone: nothing but the text is seen."""
    found = norm(f"{name}.norm", width) | layer(f"{name}.qkv", width * (1 if alone else 3), width, 1)
    if text:
        found |= layer(f"{name}.encoder_kv", 2 * width, text, 1)
    if normed:
        found |= norm(f"{name}.norm_encoder", text)
    return found | layer(f"{name}.proj_out", width, width, 1)


def transformer(name: str, width: int, text: int, linear: bool) -> Shapes:
    square = (width, width) if linear else (width, width, 1, 1)
    found, block = norm(f"{name}.norm", width) | layer(f"{name}.proj_in", *square), f"{name}.transformer_blocks.0"
    for attention, seen in (("attn1", width), ("attn2", text)):
        found |= layer(f"{block}.{attention}.to_q", width, width, bias=False)
        found |= layer(f"{block}.{attention}.to_k", width, seen, bias=False)
        found |= layer(f"{block}.{attention}.to_v", width, seen, bias=False)
        found |= layer(f"{block}.{attention}.to_out.0", width, width)
    found |= layer(f"{block}.ff.net.0.proj", 8 * width, width) | layer(f"{block}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        found |= norm(f"{block}.norm{number}", width)
    return found | layer(f"{name}.proj_out", *square)


def unet(
    width: int, mult: Sequence[int], blocks: int | Sequence[int], attends: Sequence[int], channels: tuple[int, int],
    attention: Callable[[str, int], Shapes], *, resizing: bool = False, scale_shift: bool = False, time: int = 4,
) -> Shapes:  # fmt: skip
    """A U-Net. attends: the factors by which sizes that attend are smaller. resizing: its residual blocks change sizes.
    time: the width of its embedding, as a multiple.
    """
    each = [blocks] * len(mult) if isinstance(blocks, int) else list(blocks)
    time, last = width * time, len(mult) - 1
    found = layer("time_embed.0", time, width) | layer("time_embed.2", time, time)
    found |= layer("input_blocks.0.0", width, channels[0], 3, 3)
    number, current, skips = 1, width, [width]
    for level, factor in enumerate(mult):
        for _ in range(each[level]):
            found |= residual(f"input_blocks.{number}.0", current, width * factor, time, scale_shift)
            current = width * factor
            found |= attention(f"input_blocks.{number}.1", current) if 2**level in attends else {}
            skips.append(current)
            number += 1
        if level < last:
            down = f"input_blocks.{number}.0"
            found |= (
                residual(down, current, current, time, scale_shift)
                if resizing
                else layer(f"{down}.op", current, current, 3, 3)
            )
            skips.append(current)
            number += 1
    found |= residual("middle_block.0", current, current, time, scale_shift) | attention("middle_block.1", current)
    found |= residual("middle_block.2", current, current, time, scale_shift)
    number = 0
    for level in range(last, -1, -1):
        for block in range(each[level] + 1):
            found |= residual(
                f"output_blocks.{number}.0", current + skips.pop(), width * mult[level], time, scale_shift
            )
            current, entry = width * mult[level], 1
            if 2**level in attends:
                found |= attention(f"output_blocks.{number}.1", current)
                entry = 2
            if level and block == each[level]:
                up = f"output_blocks.{number}.{entry}"
                found |= (
                    residual(up, current, current, time, scale_shift)
                    if resizing
                    else layer(f"{up}.conv", current, current, 3, 3)
                )
            number += 1
    return found | norm("out.0", current) | layer("out.2", channels[1], current, 3, 3)


# --- pixels -------------------------------------------------------------------------------------------------------------


def glide(
    width: int, mult: Sequence[int], blocks: int, attends: Sequence[int], channels: int, *, text: int, layers: int,
    vocabulary: int, length: int,
) -> Shapes:  # fmt: skip
    """GLIDE: a U-Net with its text transformer. channels: that it sees."""
    found = unet(
        width, mult, blocks, attends, (channels, 6), lambda name, size: joined_attention(name, size, text),
        resizing=True, scale_shift=True,
    )  # fmt: skip
    found |= {"token_embedding.weight": (vocabulary, text)}
    found |= dict.fromkeys(("positional_embedding", "padding_embedding"), (length, text))
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        found |= layer(f"{block}.attn.c_qkv", 3 * text, text) | layer(f"{block}.attn.c_proj", text, text)
        found |= norm(f"{block}.ln_1", text) | norm(f"{block}.ln_2", text)
        found |= layer(f"{block}.mlp.c_fc", 4 * text, text) | layer(f"{block}.mlp.c_proj", text, 4 * text)
    return found | norm("final_ln", text) | layer("transformer_proj", 4 * width, text)


def plain_attention(name: str, size: int) -> Shapes:
    """As DDPM's networks and the autoencoders that follow them have it: projections are convolutions."""
    made = norm(f"{name}.norm", size)
    for one in ("q", "k", "v", "proj_out"):
        made |= layer(f"{name}.{one}", size, size, 1, 1)
    return made


def ddpm(width: int, mult: Sequence[int], blocks: int, attends: int) -> Shapes:
    """DDPM as the ports to torch have it. attends: the level that does."""
    time, last = 4 * width, len(mult) - 1
    found = layer("temb.dense.0", time, width) | layer("temb.dense.1", time, time) | layer("conv_in", width, 3, 3, 3)

    def block(name: str, size: int, out: int) -> Shapes:
        made = norm(f"{name}.norm1", size) | layer(f"{name}.conv1", out, size, 3, 3)
        made |= layer(f"{name}.temb_proj", out, time)
        made |= norm(f"{name}.norm2", out) | layer(f"{name}.conv2", out, out, 3, 3)
        return made | (layer(f"{name}.nin_shortcut", out, size, 1, 1) if out != size else {})

    current, skips = width, [width]
    for level, factor in enumerate(mult):
        for number in range(blocks):
            found |= block(f"down.{level}.block.{number}", current, width * factor)
            current = width * factor
            found |= plain_attention(f"down.{level}.attn.{number}", current) if level == attends else {}
            skips.append(current)
        if level < last:
            found |= layer(f"down.{level}.downsample.conv", current, current, 3, 3)
            skips.append(current)
    found |= block("mid.block_1", current, current) | plain_attention("mid.attn_1", current)
    found |= block("mid.block_2", current, current)
    for level in range(last, -1, -1):
        for number in range(blocks + 1):
            found |= block(f"up.{level}.block.{number}", current + skips.pop(), width * mult[level])
            current = width * mult[level]
            found |= plain_attention(f"up.{level}.attn.{number}", current) if level == attends else {}
        if level:
            found |= layer(f"up.{level}.upsample.conv", current, current, 3, 3)
    return found | norm("norm_out", current) | layer("conv_out", 3, current, 3, 3)


def deepfloyd(
    width: int, mult: Sequence[int], blocks: int | Sequence[int], attends: Sequence[int], *, text: int, states: int,
    enlarges: bool = False,
) -> Shapes:  # fmt: skip
    """IF: a U-Net, and how it reads a text. states: width of the text encoder's. enlarges: the second stage."""
    time = max(mult)
    found = unet(
        width, mult, blocks, attends, (6 if enlarges else 3, 6),
        lambda name, size: joined_attention(name, size, text, normed=True, alone=enlarges),
        resizing=True, scale_shift=True, time=time,
    )  # fmt: skip
    found |= layer("encoder_proj", text, states) | norm("encoder_pooling.0", states)
    found |= {"encoder_pooling.1.positional_embedding": (1, states)}
    for one in ("k_proj", "q_proj", "v_proj"):
        found |= layer(f"encoder_pooling.1.{one}", states, states)
    found |= layer("encoder_pooling.2", width * time, states) | norm("encoder_pooling.3", width * time)
    if enlarges:
        found |= layer("aug_proj.0", width * time, width) | layer("aug_proj.2", width * time, width * time)
    return found


# --- latents ------------------------------------------------------------------------------------------------------------


def coder(
    width: int, mult: Sequence[int], latent: int, *, blocks: int = 2, attends: Sequence[int] = (), codebook: int = 0
) -> Shapes:
    """An autoencoder; with a codebook of so many entries, or else with moments. attends: levels that do."""
    encoded, last, found = latent if codebook else 2 * latent, len(mult) - 1, Shapes()

    def block(name: str, size: int, out: int) -> Shapes:
        made = norm(f"{name}.norm1", size) | layer(f"{name}.conv1", out, size, 3, 3)
        made |= norm(f"{name}.norm2", out) | layer(f"{name}.conv2", out, out, 3, 3)
        return made | (layer(f"{name}.nin_shortcut", out, size, 1, 1) if out != size else {})

    def middle(name: str, size: int) -> Shapes:
        return (
            block(f"{name}.block_1", size, size)
            | plain_attention(f"{name}.attn_1", size)
            | block(f"{name}.block_2", size, size)
        )

    found |= layer("encoder.conv_in", width, 3, 3, 3)
    current = width
    for level, factor in enumerate(mult):
        for number in range(blocks):
            found |= block(f"encoder.down.{level}.block.{number}", current, width * factor)
            current = width * factor
            found |= plain_attention(f"encoder.down.{level}.attn.{number}", current) if level in attends else {}
        if level < last:
            found |= layer(f"encoder.down.{level}.downsample.conv", current, current, 3, 3)
    found |= middle("encoder.mid", current) | norm("encoder.norm_out", current)
    found |= layer("encoder.conv_out", encoded, current, 3, 3)
    found |= layer("decoder.conv_in", current, latent, 3, 3) | middle("decoder.mid", current)
    for level in range(last, -1, -1):
        for number in range(blocks + 1):
            found |= block(f"decoder.up.{level}.block.{number}", current, width * mult[level])
            current = width * mult[level]
            found |= plain_attention(f"decoder.up.{level}.attn.{number}", current) if level in attends else {}
        if level:
            found |= layer(f"decoder.up.{level}.upsample.conv", current, current, 3, 3)
    found |= norm("decoder.norm_out", current) | layer("decoder.conv_out", 3, current, 3, 3)
    found |= layer("quant_conv", encoded, encoded, 1, 1) | layer("post_quant_conv", latent, latent, 1, 1)
    return found | ({"quantize.embedding.weight": (codebook, latent)} if codebook else {})


def bert(width: int, depth: int, vocabulary: int, length: int) -> Shapes:
    """The text encoder of latent diffusion: eight heads of 64."""
    found: Shapes = {"token_emb.weight": (vocabulary, width), "pos_emb.emb.weight": (length, width)}
    for number in range(depth):
        attends, forward = (f"attn_layers.layers.{2 * number + place}" for place in (0, 1))
        found |= norm(f"{attends}.0", width)
        for one in ("to_q", "to_k", "to_v"):
            found |= layer(f"{attends}.1.{one}", 512, width, bias=False)
        found |= layer(f"{attends}.1.to_out", width, 512) | norm(f"{forward}.0", width)
        found |= layer(f"{forward}.1.net.0.0", 4 * width, width) | layer(f"{forward}.1.net.2", width, 4 * width)
    return found | norm("norm", width) | layer("to_logits", vocabulary, width)


def clip(width: int, depth: int, vocabulary: int, length: int) -> Shapes:
    """CLIP's text encoder under the library's names, as version 1 of Stable Diffusion has it."""
    found: Shapes = {"embeddings.token_embedding.weight": (vocabulary, width)}
    found |= {"embeddings.position_embedding.weight": (length, width)}
    for number in range(depth):
        block = f"encoder.layers.{number}"
        for one in ("k_proj", "v_proj", "q_proj", "out_proj"):
            found |= layer(f"{block}.self_attn.{one}", width, width)
        found |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
        found |= layer(f"{block}.mlp.fc1", 4 * width, width) | layer(f"{block}.mlp.fc2", width, 4 * width)
    return below("text_model.", found | norm("final_layer_norm", width))


def openclip(width: int, depth: int, vocabulary: int, length: int) -> Shapes:
    """OpenCLIP's, as version 2 has it: all layers, and the projection."""
    found: Shapes = {"positional_embedding": (length, width), "text_projection": (width, width), "logit_scale": ()}
    found |= {"token_embedding.weight": (vocabulary, width)}
    for number in range(depth):
        block = f"transformer.resblocks.{number}"
        found |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        found |= (
            layer(f"{block}.attn.out_proj", width, width) | norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
        )
        found |= layer(f"{block}.mlp.c_fc", 4 * width, width) | layer(f"{block}.mlp.c_proj", width, 4 * width)
    return found | norm("ln_final", width)


BUFFERS: Shapes = {  # of the noise schedule, beside the networks
    **dict.fromkeys(
        ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
         "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
         "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar"),
        (1000,),
    ),
}  # fmt: skip


def text2im(
    width: int, mult: Sequence[int], blocks: int, attends: Sequence[int], *, text: int, depth: int, vocabulary: int, length: int,
    coder_width: int,
) -> Shapes:  # fmt: skip
    """CompVis' latent diffusion from text to image."""
    found = below(
        "model.diffusion_model.",
        unet(width, mult, blocks, attends, (4, 4), lambda n, c: transformer(n, c, text, False)),
    )
    found |= below("first_stage_model.", coder(coder_width, (1, 2, 4, 4), 4))
    return found | below("cond_stage_model.transformer.", bert(text, depth, vocabulary, length)) | BUFFERS


def without_text(
    width: int,
    mult: Sequence[int],
    blocks: int,
    attends: Sequence[int],
    *,
    channels: int = 3,
    coder_width: int,
    codebook: int,
) -> Shapes:
    """CompVis' latent diffusion from noise, or with three channels more for super-resolution."""
    found = below("model.diffusion_model.", unet(width, mult, blocks, attends, (channels, 3), joined_attention))
    return found | below("first_stage_model.", coder(coder_width, (1, 2, 4), 3, codebook=codebook)) | BUFFERS


def stable_diffusion(
    version: int, width: int, mult: Sequence[int], blocks: int, attends: Sequence[int], *, text: int, depth: int,
    vocabulary: int, length: int, coder_width: int, channels: int = 4,
) -> Shapes:  # fmt: skip
    """Stable Diffusion: U-Net, autoencoder and text encoder in one file."""
    found = unet(width, mult, blocks, attends, (channels, 4), lambda n, c: transformer(n, c, text, version == 2))
    found = below("model.diffusion_model.", found) | below("first_stage_model.", coder(coder_width, (1, 2, 4, 4), 4))
    if version == 2:
        return found | below("cond_stage_model.model.", openclip(text, depth, vocabulary, length)) | BUFFERS
    found |= {"cond_stage_model.transformer.text_model.embeddings.position_ids": (1, length)}
    return found | below("cond_stage_model.transformer.", clip(text, depth, vocabulary, length)) | BUFFERS
