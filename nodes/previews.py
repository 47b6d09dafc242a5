"""What a picture has come to while it is sampled, small and cheap: the clean estimate of a solver's step.

Latents are not decoded: their channels are mixed into colours. Imports no torch at module level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..authoring import previewer
from ..errors import PortError
from .kinds import Stepped

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 256  # height or width of a preview
# Red, green and blue of each channel of Stable Diffusion's latents (K. Turner 2022, found by regression:
# https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204).
LATENT_COLOURS = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))


@previewer("Stepped")
def preview_step(stepped: Stepped, call: Mapping[str, Any]) -> Any:
    """The clean estimate x_0 from which a step was taken, edited where the sampler edits it; else the sample itself.

    Gives uint8 [B, H, W, 3] in at most 256 x 256, or None for what is no picture.
    """
    import torch

    with torch.no_grad():
        clean = call.get("original")
        if clean is None and {"prediction", "sample", "step"} <= call.keys() and hasattr(call["self"], "original"):
            try:
                clean = call["self"].original(call["prediction"], call["sample"], call["step"])
            except PortError:  # at pure noise a prediction of epsilon says nothing of x_0
                return None
        return picture_of(stepped.sample if clean is None else clean)


def picture_of(sample: Tensor) -> Any:
    """A sample as pictures, uint8 [B, H, W, 3] in at most 256 x 256; None where it is no picture.

    sample: [B, C, H, W], or film [B, C, F, H, W], of which the middle frame is shown. One channel is grey and three are
    colours, in [-1, 1]. Four are taken for latents of Stable Diffusion: of another autoencoder the forms are right and
    the colours are not. Of any other number the first three are spread over the range of colours.
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    if sample.ndim == 5:
        sample = sample[:, :, sample.shape[2] // 2]
    if sample.ndim != 4 or 0 in sample.shape:
        return None
    image = torch.nan_to_num(sample.detach().float())  # B C H W
    height, width = image.shape[2:]
    larger = max(height, width) / LARGEST
    if larger > 1:
        image = adaptive_avg_pool2d(image, (max(1, round(height / larger)), max(1, round(width / larger))))
    channels = image.shape[1]
    if channels == 4:
        image = torch.einsum("bchw,cd->bdhw", image, image.new_tensor(LATENT_COLOURS))
    elif channels not in (1, 3):
        image = image[:, :3]
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        image = (image - low) / (high - low).clamp(min=1e-6) * 2 - 1
    if image.shape[1] < 3:
        image = image.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    whole = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return whole.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # B H W C
