"""First stages by themselves: kl-f8, vq-f4 and their like of latent-diffusion, and the VQGANs of taming-transformers.

Rombach et al. 2022, arXiv:2112.10752, appendix G; Esser et al. 2021, arXiv:2012.09841.
"""

from __future__ import annotations

from ...originals import Checkpoint, Conversion, Original
from .first_stage import KL_SCALE, autoencoder


def first_stage(checkpoint: Checkpoint) -> Conversion:
    """An autoencoder, of which the discriminator that trained it is left out."""
    part = autoencoder(checkpoint, "autoencoder", checkpoint.setting("scaling_factor", None), folder="")
    return Conversion(
        title="an autoencoder of latent diffusion",
        parts=[part],
        run="ldm --weights OTHER --set autoencoder.weights=FOLDER",
        unused=[r"^loss\.", r"^model_ema\."],
        licence="mit",
        note=f"latents of the scale {part.config['scaling_factor']}",
    )


AUTOENCODER = Original(
    "autoencoder of latent diffusion or taming-transformers",
    (r"^encoder\.down\.0\.block\.0\.norm1\.weight$", r"^decoder\.up\.0\.block\.0\.norm1\.weight$", r"^quant_conv\."),
    first_stage,
    settings={"scaling_factor": f"what latents are multiplied by; {KL_SCALE} without a codebook, 1 with one"},
)
