"""The autoencoder of latent diffusion whose latents are kept near a unit normal: that of Stable Diffusion.

Letters: B batch, H W height and width of the latents; factor: how many pixels a side of a latent stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ...authoring import Fact, Kind
from ...errors import PortError
from ..draw import normal
from ..kinds import CLEAN, LATENTS, Image, Loss, Rng, Sample
from .autoencoder import Autoencoder, AutoencoderConfig

Moments = Annotated[Tensor, Kind("Moments")]  # of a distribution of latents that are not scaled
IN_LATENTS, IN_PIXELS = Fact(space=LATENTS), Fact(space="pixel")


@dataclass(frozen=True)
class AutoencoderKLConfig(AutoencoderConfig):
    """The published config; what AutoencoderConfig does not name is here.

    shift_factor: taken from latents before they are scaled; None is nothing. use_quant_conv, use_post_quant_conv: a
    1x1 convolution after the encoder, and before the decoder.
    """

    shift_factor: float | None = None
    latents_mean: None = None
    latents_std: None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True


class Posterior(NamedTuple):
    """What an image's latents may be, before they are scaled: normal, each number by itself.

    mean, logvar [B, latent_channels, H, W], fp32; logvar is the logarithm of the variance, within [-30, 20].
    """

    mean: Annotated[Moments, "B C H W"]
    logvar: Annotated[Moments, "B C H W"]


class Encoded(NamedTuple):
    """Latents drawn for images, and what training needs of them.

    sample: scaled latents. kl [B], fp32: how far the posterior is from a unit normal, in nats, summed over an image's
    latents (Kingma and Welling 2013, arXiv:1312.6114, appendix B). rng: the streams after the draw.
    """

    sample: Annotated[Sample, "B C H W", IN_LATENTS, CLEAN]
    kl: Annotated[Loss, "B"]
    rng: Annotated[Rng, "B"]


class AutoencoderKL(Autoencoder, version=1):
    """Images to latents and back (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G).

    Reads the `vae/` of Stable Diffusion 1 and 2, stabilityai/sd-vae-ft-*, the `vqvae/` of CompVis/ldm-text2im-large-256,
    whichever names their attention has, and the kl-* of latent-diffusion under the original's names. Latents come and
    go as the denoiser sees them: (z - shift_factor) * scaling_factor.
    """

    Config = AutoencoderKLConfig
    published = ("AutoencoderKL",)
    config: AutoencoderKLConfig

    def __init__(self, config: AutoencoderKLConfig) -> None:
        channels = config.latent_channels
        super().__init__(config, encoded_channels=2 * channels)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else nn.Identity()

    def encode(
        self, image: Annotated[Image, "B in_channels factor*H factor*W", IN_PIXELS]
    ) -> Annotated[Sample, "B latent_channels H W", IN_LATENTS, CLEAN]:
        """The latents of images in [-1, 1]: the mean of the posterior, scaled. Their dtype is the images'.

        Raises PortError where the images have another shape, dtype or device, or a size that is no multiple of factor.
        """
        return self._scaled(self.posterior(image).mean).to(image.dtype)

    def encode_sample(
        self, image: Annotated[Image, "N in_channels factor*H factor*W", IN_PIXELS], rng: Annotated[Rng, "B"]
    ) -> Annotated[Encoded, "B latent_channels H W"]:
        """Latents drawn from the posterior, z = mean + exp(logvar / 2) * epsilon, scaled; and its distance from normal.

        image: one for all streams, or one each. Draws epsilon in fp32. Raises PortError as `encode` does, and for
        another number of images.
        """
        rows = len(rng.states)
        if image.shape[0] not in (1, rows):
            raise PortError("rng", f"{rows} streams for {image.shape[0]} images; one each is needed, or one image")
        mean, logvar = (part.expand(rows, -1, -1, -1) for part in self.posterior(image))
        noise, rng = normal(rng, mean.shape[1:])
        latents = mean + (logvar / 2).exp() * noise.to(mean)
        kl = (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1) / 2  # B
        return Encoded(self._scaled(latents).to(image.dtype), kl, rng)

    def posterior(
        self, image: Annotated[Image, "B in_channels factor*H factor*W", IN_PIXELS]
    ) -> Annotated[Posterior, "B latent_channels H W"]:
        """The distribution of the latents of images in [-1, 1], not scaled. Raises PortError as `encode` does."""
        self._check_image(image)
        moments = self._run(self.quant_conv, self._run(self.encoder, image))  # B 2*latent_channels H W
        mean, logvar = moments.to(torch.promote_types(moments.dtype, torch.float32)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode(
        self, latents: Annotated[Sample, "B latent_channels H W", IN_LATENTS]
    ) -> Annotated[Image, "B out_channels factor*H factor*W", IN_PIXELS]:
        """The images of scaled latents, about [-1, 1], not clipped. Their dtype is the latents'.

        Raises PortError where the latents have another shape, dtype or device.
        """
        self._check_latents(latents)
        z = latents / self.config.scaling_factor + (self.config.shift_factor or 0)
        return self._run(self.decoder, self._run(self.post_quant_conv, z)).to(latents.dtype)

    def _scaled(self, z: Tensor) -> Tensor:
        return (z - (self.config.shift_factor or 0)) * self.config.scaling_factor
