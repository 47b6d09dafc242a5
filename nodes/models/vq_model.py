"""The autoencoder of latent diffusion whose latents come from a codebook: that of ldm-celebahq-256.

Letters: B batch, D width of an entry of the codebook, H W height and width of the latents; factor: how many pixels a
side of a latent stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ...authoring import Bound, Fact, Kind
from ...errors import PortError
from ..kinds import LATENTS, Image, Loss, Sample
from .autoencoder import Autoencoder, AutoencoderConfig, Count
