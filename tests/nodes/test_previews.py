"""What a picture has come to: the clean estimate of every solver's step, in colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffgraph.builder import Graph
from diffgraph.errors import PortError
from diffgraph.nodes.draw import seeded
from diffgraph.nodes.kinds import Prediction, Stepped
from diffgraph.nodes.previews import LATENT_COLOURS, picture_of, preview_step
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.session import Options

from ..parts import save_ddpm

SOLVERS = [
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]  # fmt: skip


class Asks:
    previews = True

    def __init__(self) -> None:
        self.pictures: list[Any] = []
        self.warnings: list[str] = []

    def __call__(self, event: Any) -> None:
        if event.kind == "preview":
            self.pictures.append(event.value)
        elif event.kind == "warning":
            self.warnings.append(event.text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ddpm(tmp_path_factory.mktemp("ddpm"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_shown_and_gives_the_same(solver: str, weights: Path) -> None:
    graph, asks = Graph.load("ddpm"), Asks()
    known = sorted(name for name in graph.registry.nodes if name in SOLVERS)
    if solver not in known:
        solver = next(name for name, node in graph.registry.nodes.items() if solver in node.published)
    once: dict[str, Any] = {"weights": weights, "steps": 4, "num_images": 2}
    options = Options(device="cpu", cache=False)
    sets = {"scheduler.node": solver}
    plain = graph.plan(options=options, sets=sets, **once).run()["image"]
    shown = graph.plan(options=options, sets=sets, **once).run([asks])["image"]
    assert torch.equal(plain, shown)
    assert asks.warnings == []
    assert {picture.dtype for picture in asks.pictures} == {np.dtype(np.uint8)}
    assert {picture.shape for picture in asks.pictures} == {(2, *plain.shape[2:], 3)}
    end = ((plain + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(float)
    assert np.abs(asks.pictures[-1] - end).mean() < 12  # the last estimate is nearly the picture


def call(prediction_type: Any = "epsilon", **more: Any) -> tuple[Stepped, dict[str, Any]]:
    scheduler = DDIMScheduler(DDIMConfig(prediction_type=prediction_type, **more))
    step = scheduler.schedule(10)[3]
    sample, value = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    given = {"self": scheduler, "prediction": Prediction(value), "sample": sample, "step": step, "original": None}
    stepped = scheduler.step(given["prediction"], sample, step, None, seeded([0, 1]))
    return stepped, given


def test_the_clean_estimate_or_the_edited_one() -> None:
    stepped, given = call()
    clean = given["self"].original(given["prediction"], given["sample"], given["step"])
    assert np.array_equal(preview_step(stepped, given), picture_of(clean))
    edited = torch.zeros(2, 3, 4, 4)
    assert preview_step(stepped, given | {"original": edited}).tolist() == np.full((2, 4, 4, 3), 128).tolist()
    assert np.array_equal(preview_step(stepped, {"self": object()}), picture_of(stepped.sample))


def test_where_there_is_no_estimate_nothing_is_shown() -> None:
    _, given = call(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    first = given["self"].schedule(10)[0]
    with pytest.raises(PortError):
        given["self"].original(given["prediction"], given["sample"], first)
    assert preview_step(Stepped(given["sample"], None, seeded([0, 1])), given | {"step": first}) is None


def test_no_gradient_is_kept() -> None:
    stepped, given = call("sample")
    leaf = given["prediction"].value.requires_grad_()
    with torch.enable_grad():
        preview_step(stepped, given)
    assert leaf.grad is None


def test_channels_as_colours() -> None:
    grey = picture_of(torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 2, 2))
    assert grey[0, :, :, 0].tolist() == [[0, 128], [255, 255]]
    assert (grey == grey[..., :1]).all()
    colours = picture_of(torch.tensor([1.0, -1.0, float("nan")]).reshape(1, 3, 1, 1))
    assert colours.tolist() == [[[[255, 0, 128]]]]
    latent = picture_of(torch.tensor([1.0, 2.0, -1.0, 0.5]).reshape(1, 4, 1, 1))[0, 0, 0]
    mixed = np.array([1.0, 2.0, -1.0, 0.5]) @ np.array(LATENT_COLOURS)
    assert latent.tolist() == np.rint((mixed + 1) * 127.5).tolist()
    other = picture_of(torch.randn(2, 16, 8, 8) * 5)
    assert (other.min(axis=(1, 2, 3)) == 0).all()
    assert (other.max(axis=(1, 2, 3)) == 255).all()
    assert picture_of(torch.randn(1, 2, 4, 4)).shape == (1, 4, 4, 3)


def test_large_ones_are_small_film_is_a_frame_and_vectors_are_nothing() -> None:
    assert picture_of(torch.zeros(1, 3, 1024, 512)).shape == (1, 256, 128, 3)
    assert picture_of(torch.zeros(1, 3, 1, 5000)).shape == (1, 1, 256, 3)
    film = torch.zeros(1, 3, 5, 4, 4)
    film[:, :, 2] = 1
    assert picture_of(film).min() == 255
    assert picture_of(torch.zeros(2, 8)) is None
    assert picture_of(torch.zeros(2, 3, 0, 4)) is None
    assert picture_of(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)).tolist() == np.full((1, 4, 4, 3), 128).tolist()
