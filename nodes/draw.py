"""Drawing random numbers from the streams of an Rng. Shared by the nodes that do so; holds no stream of its own.

Every draw is made on the CPU, by one torch.Generator a row, so that row i depends on stream i alone and is bitwise what
torch.Generator().manual_seed(seed + i) gives, whatever the device, the dtype and the rest of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PortError
from .kinds import RngState

if TYPE_CHECKING:
    from torch import Generator, Tensor

# A CPU generator's state: seed, left, seeded, next (8 4 4 8 bytes), the 624 words of MT19937 in 8 bytes each, then what
# is cached of normal draws, with padding. A test holds it against the words that NumPy's MT19937 has for the same seed.
STATE_BYTES = 5056
WORDS = slice(24, 24 + 624 * 8)
MEANING = (slice(8, 5044), slice(5048, 5053))  # all but the seed, of which torch uses 32 bits only, and the padding


def seeded(seeds: Sequence[int]) -> RngState:
    """Streams as torch.Generator().manual_seed(seed) starts them, one a seed. A seed counts modulo 2**64."""
    import torch

    generator = torch.Generator()
    return RngState(torch.stack([generator.manual_seed(seed % 2**64).get_state() for seed in seeds]))  # B S


def normal(rng: RngState, shape: Sequence[int]) -> tuple[Tensor, RngState]:
    """Unit normal numbers [B, *shape] in float32, and the streams after them. Row i is torch.randn of (1, *shape)."""
    import torch

    out = torch.empty((len(rng.states), *shape), dtype=torch.float32)
    return out, _draw(rng, lambda row, generator: out[row : row + 1].normal_(generator=generator))


def whole(rng: RngState, count: int) -> tuple[Tensor, RngState]:
    """Whole numbers [B] in 0..count-1, each equally likely, int64, and the streams after them."""
    import torch

    out = torch.empty(len(rng.states), dtype=torch.int64)
    return out, _draw(rng, lambda row, generator: out[row : row + 1].random_(count, generator=generator))


def uniform(rng: RngState) -> tuple[Tensor, RngState]:
    """Numbers [B] in [0, 1), float32, and the streams after them."""
    import torch

    out = torch.empty(len(rng.states), dtype=torch.float32)
    return out, _draw(rng, lambda row, generator: out[row : row + 1].uniform_(generator=generator))


def fork(rng: RngState, names: Sequence[str]) -> list[RngState]:
    """Independent streams for each row, one a name: MT19937 states that SHAKE-256 derives from the row's own state and
    the name.

    The whole state is replaced, because torch's seeding reads 32 bits of a seed only. Row i depends on row i alone.
    """
    import torch

    states = _states(rng).numpy()
    fresh = seeded([0]).states[0].numpy()
    forks = []
    for name in names:
        derived = np.empty_like(states)
        for row, state in enumerate(states):
            told = b"\0".join([name.encode(), *(state[part].tobytes() for part in MEANING)])
            digest = hashlib.shake_256(told).digest(624 * 4)
            derived[row] = fresh
            derived[row, WORDS] = np.frombuffer(digest, "<u4").astype("=u8").view(np.uint8)
        forks.append(RngState(torch.from_numpy(derived)))
    return forks


def _draw(rng: RngState, fill: Callable[[int, Generator], Any]) -> RngState:
    """Lets `fill(row, generator)` draw from each stream in turn; the streams after that."""
    import torch

    states = _states(rng)
    after = torch.empty_like(states)
    generator = torch.Generator()
    for row, state in enumerate(states):
        generator.set_state(state.clone())  # torch reads the start of the storage, not that of the view
        fill(row, generator)
        after[row] = generator.get_state()
    return RngState(after)


def _states(rng: RngState) -> Tensor:
    states = rng.states
    if states.ndim != 2 or states.shape[1] != STATE_BYTES:
        raise PortError("rng", f"states of shape {list(states.shape)}; expected [B, {STATE_BYTES}]", hint="wire an Rng")
    return states.cpu()
