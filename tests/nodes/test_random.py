"""Random streams: bitwise what torch gives for each seed alone, and independent where they are forked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from diffgraph.authoring import Target, running_target
from diffgraph.errors import PortError
from diffgraph.nodes import draw
from diffgraph.nodes.kinds import RngState
from diffgraph.nodes.random import fork_rng, gaussian_noise, rng

SHAPES = [[3, 64, 64], [3, 5, 7], [1, 1, 1], [15], [16], [17], [4, 33]]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 42, 6694729458485568, 2**64 - 1])
def test_one_image_is_torch_randn(shape: list[int], seed: int) -> None:
    theirs = generator(seed)
    stream = rng(seed, 1)
    for _ in range(3):  # draws follow each other as they do in torch
        drawn = gaussian_noise(shape, stream)
        assert torch.equal(drawn.sample, torch.randn((1, *shape), generator=theirs))
        assert drawn.sample.dtype == torch.float32
        stream = drawn.rng


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_of_a_batch_is_that_image_alone(shape: list[int]) -> None:
    together = gaussian_noise(shape, rng(100, 5))
    again = gaussian_noise(shape, together.rng)
    for i in range(5):
        alone = gaussian_noise(shape, rng(100 + i, 1))
        assert torch.equal(together.sample[i : i + 1], alone.sample)
        assert torch.equal(again.sample[i : i + 1], gaussian_noise(shape, alone.rng).sample)


def test_seeds_wrap_at_64_bits() -> None:
    assert torch.equal(rng(2**64 - 1, 2).states[1], rng(0, 1).states[0])


def test_a_stream_is_not_changed_by_its_use() -> None:
    stream = rng(3, 2)
    before = stream.states.clone()
    gaussian_noise([4], stream)
    fork_rng(stream)
    assert torch.equal(stream.states, before)
    assert torch.equal(gaussian_noise([4], stream).sample, gaussian_noise([4], stream).sample)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    gaussian_noise([8], rng(0, 2))
    fork_rng(rng(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_states_at_any_place_in_memory() -> None:
    """torch reads a state from the start of its storage: rows of a batch, and what a file maps at any offset."""
    states = rng(9, 3).states
    shifted = torch.zeros(states.numel() + 1, dtype=torch.uint8)[1:].view(3, -1).copy_(states)
    assert torch.equal(gaussian_noise([5], RngState(shifted)).sample, gaussian_noise([5], rng(9, 3)).sample)


def test_scale_and_target() -> None:
    plain = gaussian_noise([3, 4, 4], rng(1, 2)).sample
    assert torch.equal(gaussian_noise([3, 4, 4], rng(1, 2), 0.997).sample, plain * 0.997)
    token = running_target.set(Target("cpu", "float16"))
    try:
        half = gaussian_noise([3, 4, 4], rng(1, 2)).sample
    finally:
        running_target.reset(token)
    assert torch.equal(half, plain.half())  # drawn in float32, rounded after


def test_whole_numbers_and_uniform_ones() -> None:
    numbers, after = draw.whole(rng(5, 4), 1000)
    assert numbers.tolist() == [int(torch.randint(1000, (1,), generator=generator(5 + i))) for i in range(4)]
    assert not torch.equal(after.states, rng(5, 4).states)
    shares, _ = draw.uniform(rng(5, 4))
    assert torch.equal(shares, torch.cat([torch.rand(1, generator=generator(5 + i)) for i in range(4)]))


# --- forks ----------------------------------------------------------------------------------------------------------


def test_forks_are_independent() -> None:
    stream = rng(0, 1)
    first, second = fork_rng(stream)
    third, _ = fork_rng(first)
    draws = [gaussian_noise([20000], s).sample[0] for s in (stream, first, second, third)]
    together = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert together.abs().max() < 0.04  # 1 / sqrt(20000) is 0.007
    for numbers in draws:
        assert abs(float(numbers.mean())) < 0.04
        assert float(numbers.std()) == pytest.approx(1, abs=0.03)


def test_a_fork_depends_on_its_image_alone() -> None:
    together, alone = fork_rng(rng(10, 4)), fork_rng(rng(12, 1))
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours.states[2:3], theirs.states)


def test_a_fork_depends_on_what_was_drawn_before() -> None:
    stream = rng(0, 1)
    later = gaussian_noise([3], stream).rng
    assert not torch.equal(fork_rng(stream).first.states, fork_rng(later).first.states)


def test_forks_do_not_collide() -> None:
    """32-bit seeds would, about once, among so many."""
    states = draw.fork(rng(0, 1), [str(i) for i in range(3000)])
    words = {s.states[0, draw.WORDS].numpy().tobytes() for s in states}
    assert len(words) == 3000


def test_a_fork_is_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from diffgraph.nodes.random import fork_rng, rng, gaussian_noise;"
        "s = gaussian_noise([3], rng(7, 2)).rng; f = fork_rng(fork_rng(s).second).first;"
        "print(hashlib.sha256(f.states.numpy().tobytes()).hexdigest())"
    )
    once, twice = (subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(2))
    assert len(once.stdout) == 65
    assert once.stdout == twice.stdout


@pytest.mark.parametrize("seed", [0, 5, 4294967295])
def test_the_layout_of_a_state(seed: int) -> None:
    """The words are where `fork` puts them: NumPy seeds its MT19937 by the same published rule."""
    state = rng(seed, 1).states[0]
    assert len(state) == draw.STATE_BYTES
    words = state[draw.WORDS].numpy().view("=u8")
    assert (words == np.random.RandomState(seed).get_state(legacy=False)["state"]["key"]).all()  # type: ignore[index]


def test_forked_words_are_what_is_drawn() -> None:
    """The draws of a fork are those of MT19937 with the words that it was given."""
    first = fork_rng(rng(1, 1)).first
    peer = np.random.RandomState()
    words = first.states[0, draw.WORDS].numpy().view("=u8").astype(np.uint32)
    peer.set_state(("MT19937", words, 624))
    numbers, _ = draw.whole(first, 2**20)
    assert int(numbers) == int(peer.randint(0, 2**32, dtype=np.uint32)) % 2**20


def test_what_is_no_stream() -> None:
    with pytest.raises(PortError, match="wire an Rng"):
        gaussian_noise([3], RngState(torch.zeros(2, 16, dtype=torch.uint8)))
