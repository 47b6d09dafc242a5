"""Random streams and what is drawn from them. A stream is a value, used once: each draw gives the next one."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from ..authoring import Bound, node, target
from ..errors import PortError
from .draw import fork, normal, seeded
from .kinds import FACTOR, Noise, Rng, Sample


class Drawn(NamedTuple):
    """Noise, and the stream after it."""

    sample: Annotated[Noise, "B ..."]
    rng: Annotated[Rng, "B"]


class Forked(NamedTuple):
    """Two streams that share nothing."""

    first: Annotated[Rng, "B"]
    second: Annotated[Rng, "B"]


@node("Rng", version=1)
def rng(
    seed: Annotated[int, Bound(ge=0, lt=2**64)],
    batch: Annotated[int, Bound(ge=1)] = 1,
) -> Annotated[Rng, "batch"]:
    """One random stream an image; image i has that of seed + i, as torch.Generator().manual_seed(seed + i) starts it.

    So its draws are bitwise those of the image made alone. torch takes 32 bits of a seed: seeds that differ by 2**32
    are the same stream. seed + i counts modulo 2**64.
    """
    return seeded(range(seed, seed + batch))


@node("Fork", version=1)
def fork_rng(rng: Annotated[Rng, "B"]) -> Annotated[Forked, "B"]:
    """Two independent streams from one, which is used up. Each image's depend on its own stream alone.

    Both are derived from the whole state by SHAKE-256, so they meet neither each other, nor the first stream, nor that
    of any seed. Fork again for more.
    """
    first, second = fork(rng, ("first", "second"))
    return Forked(first, second)


@node("GaussianNoise", version=1)
def gaussian_noise(
    shape: list[Annotated[int, Bound(ge=1)]],
    rng: Annotated[Rng, "B"],
    scale: Annotated[float, Bound(ge=0), FACTOR] = 1.0,
) -> Annotated[Drawn, "B *shape"]:
    """Unit normal noise times `scale`: sample [B, *shape], and the stream after it.

    shape: of one image, without the batch. Drawn in float32 on the CPU, image by image, then moved to the device and
    dtype of the run: for one image, torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)).
    """
    import torch

    noise, rng = normal(rng, shape)
    where = target()
    return Drawn((noise * scale if scale != 1 else noise).to(where.device, getattr(torch, where.dtype)), rng)


@node("NoiseLike", version=1)
def noise_like(sample: Annotated[Sample, "B ..."], rng: Annotated[Rng, "B"]) -> Annotated[Drawn, "B ..."]:
    """Unit normal noise of the shape, dtype and device of a sample, and the streams after it: one stream an image.

    Drawn as GaussianNoise draws. Raises PortError where there are more samples than streams, or fewer.
    """
    if len(rng.states) != sample.shape[0]:
        raise PortError("rng", f"{len(rng.states)} streams for {sample.shape[0]} samples; one each is needed")
    noise, rng = normal(rng, sample.shape[1:])
    return Drawn(noise.to(sample.device, sample.dtype), rng)
