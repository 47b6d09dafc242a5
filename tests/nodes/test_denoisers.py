"""What holds for every denoiser alike: the dtype of what it gives back, and which timesteps it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgraph.errors import PortError
from diffgraph.nodes.schedulers.ddpm import DDPMScheduler

from ..fill import noise
from . import test_dit, test_unet2d, test_unet2d_condition, test_unet3d, test_unet_glide, test_unet_if

Inputs = tuple[Any, Tensor, Callable[[], Any]]


def dit() -> Inputs:
    model = test_dit.random(test_dit.SMALL)
    return model, noise(2, *model.sample_shape), lambda: model.condition([1, 2])


def unet2d() -> Inputs:
    model = test_unet2d.random(test_unet2d.SMALL)
    return model, noise(2, *model.sample_shape), lambda: None


def unet3d() -> Inputs:
    model = test_unet3d.random(test_unet3d.SMALL)
    return model, noise(2, 4, 3, 8, 8), lambda: test_unet3d.told(model, 2)


def told(tests: Any, config: Any) -> Inputs:
    """Of a network whose own tests have the inputs of its condition."""
    model = tests.random(config)
    return model, noise(2, *model.sample_shape), lambda: model.condition(**tests.inputs_of(config, 2))


DENOISERS: dict[str, Callable[[], Inputs]] = {
    "DiT": dit,
    "UNet2D": unet2d,
    "UNet2DCondition": lambda: told(test_unet2d_condition, test_unet2d_condition.SMALL),
    "UNet3D": unet3d,
    "UNetGLIDE": lambda: told(test_unet_glide, test_unet_glide.BASE),
    "UNetIF": lambda: told(test_unet_if, test_unet_if.SMALL),
}


@pytest.mark.parametrize("weights", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_a_prediction_has_the_dtype_of_its_sample(name: str, weights: torch.dtype) -> None:
    """Whatever that of the weights is."""
    model, sample, condition = DENOISERS[name]()
    model.to(weights)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        prediction = model(sample.to(dtype), 37, condition())
        assert {value.dtype for value in prediction if value is not None} == {dtype}
        assert bool(prediction.value.isfinite().all())


@pytest.mark.parametrize("name", [name for name in DENOISERS if name not in ("DiT", "UNet2D")])  # DiT's are classes
@torch.no_grad()
def test_a_condition_from_before_the_weights_changed_is_refused(name: str) -> None:
    """But under autocast, which sees to dtypes itself."""
    model, sample, condition = DENOISERS[name]()
    before = condition()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(sample, 37, condition()).value.isfinite().all()
        assert model(sample, 37, before).value.isfinite().all()
    model.half()
    with pytest.raises(PortError, match=r"condition: is torch\.float32 on cpu, the network torch\.float16"):
        model(sample, 37, before)


@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_a_timestep_beyond_the_training_is_for_the_scheduler_to_refuse(name: str) -> None:
    """A network does not know how many there were; its scheduler does, and adds no noise of one beyond."""
    model, sample, condition = DENOISERS[name]()
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(PortError) as error:
            model(sample, bad, condition())
        assert error.value.port == "timestep"
    assert bool(model(sample, 1000, condition()).value.isfinite().all())
    with pytest.raises(PortError) as error:
        DDPMScheduler(DDPMScheduler.Config()).add_noise(sample, sample, 1000)
    assert error.value.port == "timestep"
