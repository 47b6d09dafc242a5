"""Training pieces: losses, and noise on what an upsampler starts from.

With a scheduler's random_timesteps, add_noise, target, loss_weight and variational_bound they make the losses of a
diffusion model:
noisy = add_noise(image, noise, t); prediction = model(noisy, t, condition); loss = weight(t) |prediction - target|^2.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from ..authoring import Bound, Fact, node
from ..errors import PortError
from .draw import normal, uniform, whole
from .kinds import SPACE, DrawnTimesteps, Image, Loss, Output, Prediction, Rng, Weight

OF_KIND = Fact(prediction="?prediction", schedule="?schedule")


class Augmented(NamedTuple):
    """`image` [B, C, H, W] with noise, and the streams after it."""

    image: Annotated[Image, "B C H W", SPACE]
    rng: Annotated[Rng, "B"]


@node("SquaredError", version=1)
def squared_error(
    prediction: Annotated[Prediction, "B ...", OF_KIND],
    target: Annotated[Output, "B ...", OF_KIND],
    weight: Annotated[Weight, "B"] | None = None,
) -> Annotated[Loss, "B"]:
    """L_simple, an image at a time: weight * mean over pixels of (prediction - target)^2 (arXiv:2006.11239, eq. 14).

    prediction: its `value` [B, C, H, W]. target: what it should be, from `scheduler.target`. weight: [B], or [1] for
    all, from `scheduler.loss_weight`; 1 unless wired. Returns fp32 [B]. Raises PortError where shapes differ.
    """
    value = prediction.value
    if value.shape != target.shape:
        raise PortError("target", f"has shape {list(target.shape)}, the prediction {list(value.shape)}")
    error = (value.float() - target.float()).square().flatten(1).mean(dim=1)  # B
    if weight is None:
        return error
    if weight.ndim != 1 or weight.shape[0] not in (1, error.shape[0]):
        raise PortError("weight", f"has shape {list(weight.shape)}; expected [{error.shape[0]}] or [1]")
    return error * weight.to(error.device)


@node("HybridLoss", version=1)
def hybrid_loss(
    simple: Annotated[Loss, "B"],
    bound: Annotated[Loss, "B"],
    count: Annotated[int, Bound(ge=1)],
    scale: Annotated[float, Bound(ge=0)] = 0.001,
) -> Annotated[Loss, "B"]:
    """L_hybrid = L_simple + scale * L_vlb, for models that learn their variance (Nichol and Dhariwal 2021,
    arXiv:2102.09672, eq. 16).

    simple: [B], from SquaredError. bound: [B], one term L_t of the variational bound each, from
    `scheduler.variational_bound`. count: T; L_vlb is the sum over T timesteps, which count * L_t estimates. Raises
    PortError where the rows differ.
    """
    if simple.shape != bound.shape:
        raise PortError("bound", f"has shape {list(bound.shape)}, simple {list(simple.shape)}")
    return simple + scale * count * bound


@node("ReconstructionError", version=1)
def reconstruction_error(
    image: Annotated[Image, "B C H W", SPACE],
    target: Annotated[Image, "B C H W", SPACE],
    metric: Literal["absolute", "squared"] = "absolute",
) -> Annotated[Loss, "B"]:
    """How far images are from what they should be: the mean over pixels of |image - target|, or of its square.

    image, target: [B, C, H, W], such as what an autoencoder made of an image, and the image (Rombach et al. 2022,
    arXiv:2112.10752, appendix G: L_rec). Returns fp32 [B]. Raises PortError where shapes differ.
    """
    if image.shape != target.shape:
        raise PortError("target", f"has shape {list(target.shape)}, the image {list(image.shape)}")
    difference = image.float() - target.float()
    return (difference.abs() if metric == "absolute" else difference.square()).flatten(1).mean(dim=1)  # B


@node("AddLoss", version=1)
def add_loss(
    loss: Annotated[Loss, "B"],
    other: Annotated[Loss, "B"],
    scale: Annotated[float, Bound(ge=0)] = 1.0,
) -> Annotated[Loss, "B"]:
    """loss + scale * other, an image at a time.

    loss, other: [B], such as the error of an autoencoder's images and the distance `kl` of its latents from a unit
    normal. Raises PortError where the rows differ.
    """
    if loss.shape != other.shape:
        raise PortError("other", f"has shape {list(other.shape)}, loss {list(loss.shape)}")
    return loss + scale * other


@node("NoiseAugment", version=1)
def noise_augment(
    image: Annotated[Image, "B C H W", SPACE],
    rng: Annotated[Rng, "B"],
    max_sigma: Annotated[float, Bound(ge=0)] = 0.3,
) -> Augmented:
    """Adds noise of a random strength to a low-resolution image: image + sigma * epsilon, sigma ~ U(0, max_sigma) an
    image.

    An upsampler trained so tolerates the errors of the model before it (Ho et al. 2022, arXiv:2106.15282, section
    4.2; blind: it is not told the strength, so nothing need be added when sampling). Draws sigma, then epsilon, of
    each stream. The result is not clipped. Raises PortError where there is not one stream an image.
    """
    if len(rng.states) != image.shape[0]:
        raise PortError("rng", f"{len(rng.states)} streams for {image.shape[0]} images; one each is needed")
    sigma, rng = uniform(rng)
    noise, rng = normal(rng, image.shape[1:])
    added = (max_sigma * sigma)[:, None, None, None] * noise
    return Augmented(image + added.to(image), rng)


@node("RandomTimesteps", version=1)
def random_timesteps(rng: Annotated[Rng, "B"], count: Annotated[int, Bound(ge=1)]) -> DrawnTimesteps:
    """Draws t ~ Uniform{0 .. count-1} for each image, one draw of each stream: how noisy a low-resolution image is,
    where the network is told (Saharia et al. 2022, arXiv:2205.11487, section 2.4).

    count: the T of the schedule for all of its noise levels, as the paper has it; less leaves out the noisiest, which no
    sampling asks for. For the timesteps of a denoiser there is `scheduler.random_timesteps`, which knows T.
    """
    timestep, after = whole(rng, count)
    return DrawnTimesteps(timestep, after)
