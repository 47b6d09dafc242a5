"""Published pipelines, as diffusers saves them, and the graphs that do what they do.

Each function tells what one repository has to have different from its graph: what the pipeline's own code does beside
what the configs say, and the defaults of its call. Imports no torch.
"""

from __future__ import annotations

import re
from typing import Any

from ..authoring import Published, pipeline
from ..errors import WeightsError

Changes = dict[str, Any]

FIXED_SIZE = (0, 9, 0)  # networks saved before this version may say half of the size that they were trained at


def scheduler(repository: Published) -> tuple[str, Any]:
    """The class of the scheduler, by the index, and its config."""
    return repository.index["scheduler"][1], repository.configs["scheduler"]


# --- pixels, without a text -----------------------------------------------------------------------------------------


@pipeline("DDPMPipeline", graph="pkg://diffgraph/ddpm.yaml")
def ddpm(repository: Published) -> Changes:
    """A thousand steps of whatever scheduler it has."""
    return {}


@pipeline("DDIMPipeline", graph="pkg://diffgraph/ddpm.yaml")
def ddim(repository: Published) -> Changes:
    """Whatever the scheduler, it is made DDIM with the same config."""
    return {"scheduler.node": "DDIMScheduler", "steps": 50}


@pipeline("PNDMPipeline", graph="pkg://diffgraph/ddpm.yaml")
def pndm(repository: Published) -> Changes:
    """Whatever the scheduler, it is made PNDM with the same config."""
    return {"scheduler.node": "PNDMScheduler", "steps": 50}


# --- latents ----------------------------------------------------------------------------------------------------------


@pipeline("LDMPipeline", "LatentDiffusionUncondPipeline", graph="pkg://diffgraph/ldm_unconditional.yaml")
def ldm_unconditional(repository: Published) -> Changes:
    """As the configs say."""
    return {}


@pipeline(
    "LDMTextToImagePipeline",
    "LatentDiffusionPipeline",
    graph="pkg://diffgraph/ldm.yaml",
    libraries=("latent_diffusion",),
)
def ldm(repository: Published) -> Changes:
    """Texts have 77 tokens whatever the tokenizer's config says; without guidance unless it is asked for."""
    return {"tokenizer.model_max_length": 77, "guidance_scale": 1.0}


@pipeline("LDMSuperResolutionPipeline", graph="pkg://diffgraph/ldm_super_resolution.yaml")
def ldm_super_resolution(repository: Published) -> Changes:
    """The small picture is brought to the size that the network was trained with.

    Raises WeightsError where the autoencoder has a scale: the pipeline decodes latents as they are, and the network was
    trained on such.
    """
    scale = repository.configs["vqvae"].get("scaling_factor", 1.0)
    if scale != 1.0:
        raise WeightsError(
            f"vqvae/config.json: scaling_factor is {scale}, which this pipeline does not use; its latents have the scale 1",
            hint="leave the key out of a copy of the repository, or say 1.0",
        )
    size = repository.configs["unet"].get("sample_size")
    return {"size": size} if isinstance(size, int) else {}


@pipeline("DiTPipeline", graph="pkg://diffgraph/dit.yaml")
def dit(repository: Published) -> Changes:
    """As the configs say; the names of the classes stay in the repository's index."""
    return {}


# --- Stable Diffusion -------------------------------------------------------------------------------------------------


def mended(repository: Published) -> Changes:
    """What these pipelines mend in configs of 2022: the place of the timesteps, clipped latents, half of the size."""
    cls, config = scheduler(repository)
    changes: Changes = {}
    if config.get("steps_offset", 0) != 1:
        changes["scheduler.steps_offset"] = 1
    if cls in ("DDIMScheduler", "DDPMScheduler") and config.get("clip_sample", True):
        changes["scheduler.clip_sample"] = False
    unet = repository.configs["unet"]
    size, version = unet.get("sample_size"), re.match(r"(\d+)\.(\d+)\.(\d+)", str(unet.get("_diffusers_version")))
    if isinstance(size, int) and size < 64 and version and tuple(map(int, version.groups())) < FIXED_SIZE:
        changes["unet.sample_size"] = 64
    return changes


@pipeline("StableDiffusionPipeline", graph="pkg://diffgraph/stable_diffusion.yaml", libraries=("stable_diffusion",))
def stable_diffusion(repository: Published) -> Changes:
    """Versions 1 and 2."""
    return mended(repository)


@pipeline(
    "StableDiffusionImg2ImgPipeline",
    graph="pkg://diffgraph/stable_diffusion_img2img.yaml",
    libraries=("stable_diffusion",),
)
def stable_diffusion_img2img(repository: Published) -> Changes:
    """Versions 1 and 2."""
    return mended(repository)


@pipeline(
    "StableDiffusionInpaintPipeline",
    graph="pkg://diffgraph/stable_diffusion_inpaint.yaml",
    libraries=("stable_diffusion",),
)
def stable_diffusion_inpaint(repository: Published) -> Changes:
    """Versions 1 and 2: networks that are shown the mask, of nine channels, and others."""
    changes = mended(repository)
    cls, config = scheduler(repository)
    if cls == "PNDMScheduler" and not config.get("skip_prk_steps", False):
        changes["scheduler.skip_prk_steps"] = True
    if repository.configs["unet"].get("in_channels", 4) != 9:
        changes["told"] = False
    return changes


# --- DeepFloyd IF -----------------------------------------------------------------------------------------------------


@pipeline("IFPipeline", graph="pkg://diffgraph/imagen_if_base.yaml", libraries=("deepfloyd_if",))
def imagen_if_base(repository: Published) -> Changes:
    """The first stage, IF-I: a hundred steps, spaced as the scheduler's config says."""
    return {"steps": 100}


@pipeline("IFSuperResolutionPipeline", graph="pkg://diffgraph/imagen_if_upsampler.yaml", libraries=("deepfloyd_if",))
def imagen_if_upsampler(repository: Published) -> Changes:
    """The second stage, IF-II: fifty steps, spaced as the scheduler's config says."""
    return {"steps": 50}
