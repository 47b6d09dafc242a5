"""An autoencoder, text encoders, a latent denoiser, masks and ranges. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from diffgraph.authoring import Bound, Component, Fact, Kind, node
from diffgraph.nodes.kinds import SCALED, Condition, Image, Mask, Prediction, Sample, Timestep, Tokens

if TYPE_CHECKING:
    from torch import Tensor
else:
    from diffgraph.nodes.kinds import Tensor

Embeddings = Annotated[Tensor, Kind("Embeddings")]
PIXELS = Fact(space="pixel", range="[-1, 1]")
T = TypeVar("T")
REPAINTED, KEPT = Fact(white="repainted"), Fact(white="kept")


@dataclass(frozen=True)
class AutoencoderConfig:
    """latent_channels. factor: how much smaller latents are. space, scaling_factor: which latents, and their scale."""

    space: str = "latent"
    latent_channels: Annotated[int, Bound(ge=1)] = 4
    factor: Annotated[int, Bound(ge=1)] = 8
    scaling_factor: Annotated[float, Bound(gt=0)] = 0.18215


class Autoencoder(Component, version=1):
    """Pixels to latents and back, as that of Rombach et al. 2022 (arXiv:2112.10752) has its ports."""

    Config = AutoencoderConfig

    def __init__(self, config: AutoencoderConfig) -> None:
        self.config = config

    def encode(
        self, image: Annotated[Image, "B 3 factor*H factor*W", PIXELS]
    ) -> Annotated[Sample, "B latent_channels H W", Fact(space="$space $scaling_factor")]:
        """The means of blocks, repeated to the channels of latents and scaled."""
        from torch.nn.functional import avg_pool2d

        config = self.config
        small = avg_pool2d(image.mean(1, keepdim=True), config.factor) * config.scaling_factor
        return small.repeat(1, config.latent_channels, 1, 1)

    def decode(
        self, latents: Annotated[Sample, "B latent_channels H W", Fact(space="$space $scaling_factor")]
    ) -> Annotated[Image, "B 3 factor*H factor*W", PIXELS]:
        """The first channel as grey blocks."""
        grey = (latents[:, :1] / self.config.scaling_factor).repeat(1, 3, 1, 1)
        return grey.repeat_interleave(self.config.factor, 2).repeat_interleave(self.config.factor, 3)


@dataclass(frozen=True)
class TokenizerConfig:
    """vocabulary: whose ids. length: of a row."""

    vocabulary: str = "clip"
    length: Annotated[int, Bound(ge=1)] = 77


class WordTokenizer(Component, version=1):
    """Ids of words, by their lengths."""

    Config = TokenizerConfig

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def __call__(self, text: str) -> Annotated[Tokens, "1 length", Fact(vocabulary="$vocabulary")]:
        """One row of ids, padded with 0."""
        import torch

        ids = [len(word) for word in text.split()][: self.config.length]
        row = torch.tensor([ids + [0] * (self.config.length - len(ids))])
        return Tokens(row, row > 0)


@dataclass(frozen=True)
class TextEncoderConfig:
    """vocabulary: the ids that it was trained with. length: of a row. width: of an embedding."""

    vocabulary: str
    length: Annotated[int, Bound(ge=1)] = 77
    width: Annotated[int, Bound(ge=1)] = 768


class TextEncoder(Component, version=1):
    """Embeddings of tokens."""

    Config = TextEncoderConfig

    def __init__(self, config: TextEncoderConfig) -> None:
        self.config = config

    def __call__(
        self, tokens: Annotated[Tokens, "N length", Fact(vocabulary="$vocabulary")]
    ) -> Annotated[Embeddings, "N length width"]:
        """Each id repeated."""
        return tokens.ids.float()[..., None].repeat(1, 1, self.config.width)


@dataclass(frozen=True)
class LatentDenoiserConfig:
    """channels, size: of latents. context_width: of embeddings. space, scale: the latents that it was trained with."""

    space: str = "latent"
    channels: Annotated[int, Bound(ge=1)] = 4
    size: Annotated[int, Bound(ge=1)] = 8
    context_width: Annotated[int, Bound(ge=1)] = 768
    scale: Annotated[float, Bound(gt=0)] = 0.18215
    prediction_type: str = "epsilon"
    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000


class LatentDenoiser(Component, version=1):
    """A denoiser of latents, conditioned on embeddings."""

    Config = LatentDenoiserConfig
    attributes: ClassVar[Mapping[str, str]] = {"sample_shape": "channels size size"}
    facts: ClassVar[Mapping[str, str]] = {
        "prediction": "$prediction_type",
        "schedule": "$beta_schedule $beta_start $beta_end $num_train_timesteps",
        "conditioned": "yes",
    }

    def __init__(self, config: LatentDenoiserConfig) -> None:
        self.config = config

    def condition(
        self, embeddings: Annotated[Embeddings, "N L context_width"]
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """The embeddings as they are."""
        return embeddings

    def __call__(
        self,
        sample: Annotated[Sample, "B channels size size", Fact(space="$space $scale"), SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B channels size size", Fact(space="$space $scale")]:
        """Nothing but the sample."""
        return Prediction(sample * 1.0)


@node("HalveOnce", version=1)
def halve_once(
    image: Annotated[Image, "B 3 2*H 2*W", Fact(space="pixel", range="?range")],
) -> Annotated[Image, "B 3 H W", Fact(space="pixel", range="?range")]:
    """A picture of half the size, whose sides must be even."""
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(image, 2)


@node("UnitRange", version=1)
def unit_range(
    image: Annotated[Image, "B 3 H W", PIXELS],
) -> Annotated[Image, "B 3 H W", Fact(space="pixel", range="[0, 1]")]:
    """Pixels in [0, 1], as image encoders take them."""
    return (image + 1) / 2


@node("Photo", version=1)
def photo(height: int, width: int) -> Annotated[Image, "1 3 height width", PIXELS]:
    """A grey picture."""
    import torch

    return torch.zeros(1, 3, height, width)


@node("Subject", version=1)
def subject(image: Annotated[Image, "B 3 H W", PIXELS]) -> Annotated[Mask, "B 1 H W", KEPT]:
    """A mask in which white is the subject, which is kept."""
    return (image[:, :1] > 0).float()


@node("Inverted", version=1)
def inverted(mask: Annotated[Mask, "B 1 H W", KEPT]) -> Annotated[Mask, "B 1 H W", REPAINTED]:
    """A mask in which white is repainted, from one in which it is kept."""
    return 1 - mask


@node("Erase", version=1)
def erase(
    image: Annotated[Image, "B 3 H W", PIXELS], mask: Annotated[Mask, "B 1 H W", REPAINTED]
) -> Annotated[Image, "B 3 H W", PIXELS]:
    """A picture without what is to be repainted."""
    return image * (1 - mask)


@node("Height", version=1)
def height(value: Annotated[Any, "B C H W"]) -> int:
    """The height of a picture or of latents."""
    return int(value.shape[2])


@node("HalveRows", version=1)
def halve_rows(value: Annotated[T, "2*B C H W"]) -> Annotated[T, "B C H W"]:
    """The mean of the first and the second half of the rows."""
    pair: Any = value
    first, second = pair.chunk(2)
    mean: T = (first + second) / 2
    return mean


@node("Brightness", version=1)
def brightness(image: Annotated[Image, "B 3 H W", Fact(range="[0, 1]")]) -> float:
    """The mean of pixels in [0, 1]."""
    return float(image.mean())
