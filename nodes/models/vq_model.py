"""The autoencoder of latent diffusion whose latents come from a codebook: that of ldm-celebahq-256.

Letters: B batch, D width of an entry of the codebook, H W height and width of the latents; factor: how many pixels a
side of a latent stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...authoring import Bound, Fact, Kind
from ...errors import InputError, PortError
from ..kinds import CLEAN, LATENTS, Image, Loss, Sample
from .autoencoder import Autoencoder, AutoencoderConfig, Count

Codes = Annotated[Tensor, Kind("Codes")]  # int64 [B, H, W], numbers of entries of a codebook
IN_LATENTS, IN_PIXELS = Fact(space=LATENTS), Fact(space="pixel")
ROWS = 4096  # latents compared with the codebook at a time, so that memory stays small


@dataclass(frozen=True)
class VQModelConfig(AutoencoderConfig):
    """The published config; what AutoencoderConfig does not name is here.

    num_vq_embeddings: entries of the codebook. vq_embed_dim: D, as many as latent_channels. scaling_factor: where it is
    left out it is 1, with which the networks published without it were trained (the library reads 0.18215 there, and
    ruins their images).
    """

    latent_channels: Count = 3
    scaling_factor: Annotated[float, Bound(gt=0)] = 1.0
    force_upcast: bool = False
    num_vq_embeddings: Count = 256
    vq_embed_dim: Count | None = None
    norm_type: Literal["group"] = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vq_embed_dim not in (None, self.latent_channels):
            raise InputError(
                f"vq_embed_dim: {self.vq_embed_dim}, but latents have {self.latent_channels} channels; expected as many"
            )


class Quantised(NamedTuple):
    """Latents moved to the nearest entries of the codebook.

    sample: scaled; its gradient is handed to the latents unchanged. codes: the numbers of those entries. loss [B],
    fp32: how far the latents were from them.
    """

    sample: Annotated[Sample, "B C H W", IN_LATENTS, CLEAN]
    codes: Annotated[Codes, "B H W"]
    loss: Annotated[Loss, "B"]


class Codebook(nn.Module):
    """Vectors [num_vq_embeddings, D] that latents are rounded to."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, width)
        nn.init.uniform_(self.embedding.weight, -1 / entries, 1 / entries)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The numbers [B, H, W] of the entries nearest to z [B, D, H, W] by squared distance, of equal ones the first.

        |z - e|^2 = |z|^2 - 2 z.e + |e|^2, of which the first term is the same for all e.
        """
        entries = self.embedding.weight.to(z.dtype)
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)  # BHW D
        squares = entries.square().sum(dim=1)
        found = [torch.addmm(squares, rows, entries.T, alpha=-2).argmin(dim=1) for rows in torch.split(flat, ROWS)]
        return torch.cat(found).view(z.shape[0], *z.shape[2:])

    def forward(self, codes: Tensor) -> Tensor:
        out: Tensor = self.embedding(codes).permute(0, 3, 1, 2)  # B D H W
        return out


class VQModel(Autoencoder, version=1):
    """Images to latents and back, through a codebook (Rombach et al. 2022, arXiv:2112.10752, section 3.1; van den Oord
    et al. 2017, arXiv:1711.00937).

    Reads the `vqvae/` of CompVis/ldm-celebahq-256 and ldm-super-resolution-4x-openimages, whichever names their
    attention has, and the vq-* of latent-diffusion and taming-transformers under the originals' names. Diffusion runs
    on the latents before they are rounded to the codebook; decoding rounds them first.
    """

    Config = VQModelConfig
    published = ("VQModel",)
    ignored = Autoencoder.ignored | {"lookup_from_codebook"}  # says which of its methods the library would call
    config: VQModelConfig

    def __init__(self, config: VQModelConfig) -> None:
        channels = config.latent_channels
        super().__init__(config, encoded_channels=channels)
        self.quant_conv = nn.Conv2d(channels, channels, 1)
        self.quantize = Codebook(config.num_vq_embeddings, channels)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(
        self, image: Annotated[Image, "B in_channels factor*H factor*W", IN_PIXELS]
    ) -> Annotated[Sample, "B latent_channels H W", IN_LATENTS, CLEAN]:
        """The latents of images in [-1, 1], scaled, before they are rounded. Their dtype is the images'.

        Raises PortError where the images have another shape, dtype or device, or a size that is no multiple of factor.
        """
        self._check_image(image)
        z = self._run(self.quant_conv, self._run(self.encoder, image))
        return (z * self.config.scaling_factor).to(image.dtype)

    def nearest(
        self,
        latents: Annotated[Sample, "B latent_channels H W", IN_LATENTS],
        commitment: Annotated[float, Bound(ge=0)] = 0.25,
        legacy: bool = False,
    ) -> Annotated[Quantised, "B latent_channels H W"]:
        """The nearest entries of the codebook, and the loss that trains it (van den Oord et al. 2017, eq. 3).

        loss = |sg(z) - e|^2 + commitment |z - sg(e)|^2, means over an image's latents, sg being a stopped gradient.
        legacy: the factor is at the other term, as it was when the published networks were trained.
        Raises PortError where the latents have another shape, dtype or device.
        """
        z, codes, entries = self._rounded(latents)
        book = (z.detach() - entries).square().flatten(1).mean(dim=1)  # B
        kept = (z - entries.detach()).square().flatten(1).mean(dim=1)
        loss = commitment * book + kept if legacy else book + commitment * kept
        sample = (z + (entries - z).detach()) * self.config.scaling_factor
        return Quantised(sample.to(latents.dtype), codes, loss)

    def lookup(self, codes: Annotated[Codes, "B H W"]) -> Annotated[Sample, "B latent_channels H W", IN_LATENTS]:
        """The latents, scaled, of entries of the codebook. Raises PortError where the codebook has no such entry."""
        if codes.ndim != 3 or codes.dtype != torch.int64 or codes.device != self.device:
            raise PortError(
                "codes", f"is {codes.dtype} {list(codes.shape)} on {codes.device}; expected int64 [B, H, W]"
            )
        last = self.config.num_vq_embeddings - 1
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= last:
            raise PortError("codes", f"run from {int(codes.min())} to {int(codes.max())}; there are 0 to {last}")
        out: Tensor = self.quantize(codes) * self.config.scaling_factor
        return out

    def decode(
        self, latents: Annotated[Sample, "B latent_channels H W", IN_LATENTS]
    ) -> Annotated[Image, "B out_channels factor*H factor*W", IN_PIXELS]:
        """The images of scaled latents, which are rounded to the codebook first: about [-1, 1], not clipped.

        Gradients pass the rounding unchanged. Raises PortError where the latents have another shape, dtype or device.
        """
        z, _, entries = self._rounded(latents)
        straight = z + (entries - z).detach()
        return self._run(self.decoder, self._run(self.post_quant_conv, straight)).to(latents.dtype)

    def _rounded(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents without their scale in fp32 at least, the numbers of the nearest entries, and the entries."""
        self._check_latents(latents)
        z = (latents / self.config.scaling_factor).to(torch.promote_types(latents.dtype, torch.float32))
        codes = self.quantize.nearest(z)
        return z, codes, self.quantize(codes).to(z.dtype)  # B D H W, B H W, B D H W
