"""The first stages of latent diffusion: autoencoders in the layout of taming-transformers and latent-diffusion.

The parts that read them know the original names; here is what the shapes tell of their configs.
"""

from __future__ import annotations

from typing import Any

from ...originals import Checkpoint, Part

KL_SCALE = 0.18215  # of the latents of kl-f8, with which all published networks over it were trained


def autoencoder(coder: Checkpoint, name: str, scale: float | None = None, folder: str | None = None) -> Part:
    """The part for an autoencoder: with a codebook, or with latents near a unit normal.

    name, folder: of the part. scale: of its latents; as published where None.
    """
    codebook = "quantize.embedding.weight" in coder
    levels = coder.count("encoder.down.{}.block.0.conv1.weight")
    attends = [f"encoder.down.{level}.attn.0.norm.weight" in coder for level in range(levels)]
    latent = coder.shape("decoder.conv_in.weight")[1]
    config: dict[str, Any] = {
        "in_channels": coder.shape("encoder.conv_in.weight")[1],
        "out_channels": coder.shape("decoder.conv_out.weight")[0],
        "block_out_channels": [coder.shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)],
        "layers_per_block": coder.count("encoder.down.0.block.{}.conv1.weight"),
        "down_block_types": ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends],
        "up_block_types": ["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)],
        "latent_channels": latent,
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in coder,
    }
    if codebook:
        entries, width = coder.shape("quantize.embedding.weight")
        config |= {"num_vq_embeddings": entries, "vq_embed_dim": width}
        config["scaling_factor"] = 1.0 if scale is None else scale
    else:
        config["scaling_factor"] = KL_SCALE if scale is None else scale
    return Part(name, "VQModel" if codebook else "AutoencoderKL", config, coder.names, folder=folder)
