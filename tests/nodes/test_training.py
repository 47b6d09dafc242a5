"""Timesteps, losses and noise of training."""

from __future__ import annotations

import pytest
import torch

from diffgraph.errors import PortError
from diffgraph.nodes.draw import normal, seeded, uniform
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from diffgraph.nodes.training import (
    add_loss,
    hybrid_loss,
    noise_augment,
    random_timesteps,
    reconstruction_error,
    squared_error,
)


def test_timesteps_are_uniform_and_leave_the_streams_advanced() -> None:
    rng = seeded(range(4000))
    drawn = DDPMScheduler(DDPMConfig(num_train_timesteps=10)).random_timesteps(rng)
    assert drawn.timestep.dtype == torch.int64
    counts = torch.bincount(drawn.timestep, minlength=10)
    assert len(counts) == 10
    assert int(counts.min()) > 300
    assert not torch.equal(drawn.rng.states, rng.states)


def test_row_i_of_the_timesteps_depends_on_stream_i() -> None:
    scheduler = DDPMScheduler(DDPMConfig())
    together, alone = scheduler.random_timesteps(seeded([3, 4])), scheduler.random_timesteps(seeded([4]))
    assert together.timestep[1] == alone.timestep[0]


def test_squared_error_is_the_mean_of_each_image_times_its_weight() -> None:
    value, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    plain = squared_error(Prediction(value), target)
    assert torch.allclose(plain, ((value - target) ** 2).mean((1, 2, 3)))
    assert torch.allclose(
        squared_error(Prediction(value), target, torch.tensor([2.0, 0.5])), plain * torch.tensor([2, 0.5])
    )
    assert torch.allclose(squared_error(Prediction(value), target, torch.tensor([2.0])), plain * 2)


def test_squared_error_of_half_precision_is_summed_in_fp32() -> None:
    value, target = torch.full((1, 3, 64, 64), 300.0).half(), torch.zeros(1, 3, 64, 64).half()
    assert squared_error(Prediction(value), target).item() == 90000


def test_squared_error_refuses_other_shapes() -> None:
    value = torch.zeros(2, 3, 4, 4)
    with pytest.raises(PortError, match="target"):
        squared_error(Prediction(value), torch.zeros(2, 3, 4, 5))
    with pytest.raises(PortError, match="weight"):
        squared_error(Prediction(value), value, torch.zeros(3))


def test_the_hybrid_loss_trains_the_variance_alone_through_the_bound() -> None:
    scheduler = DDPMScheduler(DDPMConfig(variance_type="learned_range", num_train_timesteps=100))
    sample, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    timestep = torch.tensor([5, 50])
    noisy = scheduler.add_noise(sample, noise, timestep)
    value, variance = (torch.zeros(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    prediction = Prediction(value, variance)
    simple = squared_error(prediction, scheduler.target(sample, noise, timestep))
    bound = scheduler.variational_bound(prediction, sample, noisy, timestep)
    loss = hybrid_loss(simple, bound, 100)
    assert torch.allclose(loss, simple + 0.1 * bound)
    (of_value,) = torch.autograd.grad(loss.sum(), value, retain_graph=True)
    (of_value_alone,) = torch.autograd.grad(simple.sum(), value, retain_graph=True)
    assert torch.equal(of_value, of_value_alone)
    (of_variance,) = torch.autograd.grad(loss.sum(), variance)
    assert of_variance.abs().sum() > 0


def test_the_hybrid_loss_refuses_other_rows() -> None:
    with pytest.raises(PortError, match="bound"):
        hybrid_loss(torch.zeros(2), torch.zeros(3), 10)


def test_noise_augment_adds_noise_of_a_strength_drawn_for_each_image() -> None:
    image, rng = torch.zeros(2, 3, 16, 16), seeded([7, 8])
    out = noise_augment(image, rng, max_sigma=0.5)
    sigma, after = uniform(rng)
    noise, _ = normal(after, (3, 16, 16))
    assert torch.equal(out.image, 0.5 * sigma[:, None, None, None] * noise)
    assert torch.equal(image, torch.zeros_like(image))
    alone = noise_augment(image[1:], seeded([8]), max_sigma=0.5)
    assert torch.equal(out.image[1:], alone.image)
    assert torch.equal(out.rng.states[1:], alone.rng.states)


def test_noise_augment_wants_a_stream_an_image() -> None:
    with pytest.raises(PortError, match="one each is needed"):
        noise_augment(torch.zeros(2, 3, 4, 4), seeded([0]))


def test_random_timesteps_are_uniform_below_the_count() -> None:
    rng = seeded(range(4000))
    drawn = random_timesteps(rng, count=10)
    assert drawn.timestep.dtype == torch.int64
    counts = torch.bincount(drawn.timestep, minlength=10)
    assert len(counts) == 10
    assert int(counts.min()) > 300
    scheduler = DDPMScheduler(DDPMConfig(num_train_timesteps=10))
    assert torch.equal(drawn.timestep, scheduler.random_timesteps(rng).timestep)
    alone = random_timesteps(seeded([7]), count=10)
    assert alone.timestep[0] == drawn.timestep[7]
    assert torch.equal(alone.rng.states[0], drawn.rng.states[7])


def test_reconstruction_error_is_the_mean_of_each_image() -> None:
    image, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.allclose(reconstruction_error(image, target), (image - target).abs().mean((1, 2, 3)))
    squared = reconstruction_error(image, target, metric="squared")
    assert torch.allclose(squared, (image - target).square().mean((1, 2, 3)))


def test_reconstruction_error_of_half_precision_is_summed_in_fp32() -> None:
    image, target = torch.full((1, 3, 64, 64), 300.0).half(), torch.zeros(1, 3, 64, 64).half()
    assert reconstruction_error(image, target, metric="squared").item() == 90000


def test_reconstruction_error_refuses_other_shapes() -> None:
    with pytest.raises(PortError, match="target"):
        reconstruction_error(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def test_add_loss_weighs_the_second() -> None:
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert torch.equal(add_loss(first, second), torch.tensor([11.0, 22.0]))
    assert torch.equal(add_loss(first, second, scale=0.5), torch.tensor([6.0, 12.0]))
    with pytest.raises(PortError, match="other"):
        add_loss(first, second[:1])
