"""The shared samplers, each beside the same loop written by hand with the parts alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diffgraph.nodes.draw import normal, seeded
from diffgraph.nodes.guidance import guidance, guidance_scale
from diffgraph.nodes.kinds import Prediction, Tokens
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.tensors import concat, expand
from diffgraph.session import Options

from ..engine.lab import Lab

HEAD = """
diffgraph: 1
name: user
summary: a sampler in a small system
inputs:
  weights: {type: weights}
%s
nodes:
  model:     {node: UNetGLIDE, weights: $weights}
  scheduler: {node: DDIMScheduler, beta_schedule: squaredcos_cap_v2, eta: 0.5}
  tokenizer: {node: Tokenizer, weights: $weights}
  tokens:    {call: $tokenizer, text: ab}
  text:      {call: $model.condition, tokens: $tokens}
%s  rng:       {node: Rng, seed: 5, batch: 2}
  sampled:
    graph: pkg://diffgraph/samplers/%s.yaml
    model: $model
    scheduler: $scheduler
    condition: $text
    steps: 6
    rng: $rng
%s
outputs: {sample: $sampled.sample}
"""
NOTHING = """  nothing:   {call: $tokenizer, text: ""}
  no_text:   {call: $model.condition, tokens: $nothing}
"""
TOLERANCE = (
    5e-5  # of samples about 1 in size, after six steps: sums in another order, made larger by 1 / sqrt(alpha_cumprod)
)
MASK = torch.zeros(1, 1, 8, 8)
MASK[..., 2:6, 3:] = 1


class Parts:
    """The parts of that system, alone."""

    def __init__(self, folder: Path) -> None:
        self.model = UNetGLIDE.from_pretrained(folder)
        self.scheduler = DDIMScheduler(DDIMConfig(beta_schedule="squaredcos_cap_v2", eta=0.5))
        letters = self.model.config.vocab_size - 1
        from diffgraph.nodes.text.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_pretrained(folder)
        assert tokenizer.vocab_size == letters + 1
        self.positive = self._condition(tokenizer("ab"))
        self.negative = self._condition(tokenizer(""))
        self.both = concat([self.negative, self.positive])

    def _condition(self, tokens: Tokens) -> Any:
        return expand(self.model.condition(tokens), torch.zeros(2, 1))

    def said(self, sample: Tensor, timestep: Any, scale: float, rescale: float = 0.0) -> Prediction:
        """A guided prediction."""
        if scale == 1:
            return self.model(sample, timestep, self.positive)
        pair = self.model(torch.cat([sample, sample]), timestep, self.both)
        return guidance(pair, scale, rescale)


@pytest.fixture(scope="module")
def parts(glide_parts: Path) -> Iterator[Parts]:
    with torch.no_grad():
        yield Parts(glide_parts / "base")


def sampled(tmp_path: Path, glide_parts: Path, sampler: str, inputs: str = "", wires: str = "", **given: Any) -> Tensor:
    """What a sampler makes in that system."""
    file = tmp_path / "user.yaml"
    lines = "".join(f"    {line}\n" for line in wires.strip().splitlines())
    file.write_text((HEAD % (inputs, NOTHING if "$no_text" in wires else "", sampler, lines)).lstrip())
    made = Lab(tmp_path / "cache").run(file, Options(device="cpu", cache=False), weights=glide_parts / "base", **given)
    result: Tensor = made["sample"]
    assert bool(result.isfinite().all())
    return result


def picture() -> Tensor:
    return torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many samples the model is given at each call."""
    seen: list[int] = []
    forward = UNetGLIDE.forward

    def counted(self: Any, sample: Tensor, timestep: Any, condition: Any) -> Prediction:
        seen.append(len(sample))
        return forward(self, sample, timestep, condition)

    monkeypatch.setattr(UNetGLIDE, "forward", counted)
    return seen


def test_scale_one_costs_no_second_half(tmp_path: Path, glide_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = rows_seen(monkeypatch)
    plain = sampled(tmp_path, glide_parts, "plain")
    assert seen == [2] * 6
    seen.clear()
    off = sampled(tmp_path, glide_parts, "guided", wires="uncondition: $no_text\nguidance_scale: 1")
    assert seen == [2] * 6
    assert torch.equal(off, plain)
    seen.clear()
    guided = sampled(tmp_path, glide_parts, "guided", wires="uncondition: $no_text\nguidance_scale: 2")
    assert seen == [4] * 6
    assert not torch.allclose(guided, plain)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guided(tmp_path: Path, glide_parts: Path, parts: Parts, rescale: float) -> None:
    ours = sampled(
        tmp_path, glide_parts, "guided", wires=f"uncondition: $no_text\nguidance_scale: 4\nrescale: {rescale}"
    )
    x, rng = normal(seeded([5, 6]), (3, 8, 8))
    for step in parts.scheduler.schedule(6):
        x, _, rng = parts.scheduler.step(parts.said(x, step.timestep, 4, rescale), x, step, None, rng)
    torch.testing.assert_close(ours, x, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("ramp", ["constant", "linear", "cosine"])
def test_guidance_that_changes(
    tmp_path: Path, glide_parts: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch, ramp: Any
) -> None:
    x, rng = normal(seeded([5, 6]), (3, 8, 8))
    schedule = parts.scheduler.schedule(6)
    low, high = schedule[4].sigma, schedule[1].sigma
    scales = [guidance_scale(step, 4.0, low, high, ramp) for step in schedule]
    for step, scale in zip(schedule, scales, strict=True):
        x, _, rng = parts.scheduler.step(parts.said(x, step.timestep, scale), x, step, None, rng)
    seen = rows_seen(monkeypatch)
    wires = f"uncondition: $no_text\nguidance_scale: 4\nlow: {low}\nhigh: {high}\nramp: {ramp}"
    ours = sampled(tmp_path, glide_parts, "guided_schedule", wires=wires)
    assert seen == [2, 4, 4, 4, 2, 2]
    torch.testing.assert_close(ours, x, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_img2img(tmp_path: Path, glide_parts: Path, parts: Parts, strength: float) -> None:
    wires = f"uncondition: $no_text\nguidance_scale: 3\nimage: $image\nstrength: {strength}"
    ours = sampled(tmp_path, glide_parts, "img2img", "  image: {type: Sample}", wires, image=picture())
    noise, rng = normal(seeded([5, 6]), (3, 8, 8))
    schedule = parts.scheduler.schedule(6, strength)
    assert len(schedule) == 6 * strength
    x = parts.scheduler.start(noise, schedule, picture().expand(2, -1, -1, -1)).sample
    for step in schedule:
        x, _, rng = parts.scheduler.step(parts.said(x, step.timestep, 3), x, step, None, rng)
    torch.testing.assert_close(ours, x, rtol=0, atol=TOLERANCE)
    assert (strength == 0) == torch.equal(ours[0], picture()[0])


@pytest.mark.parametrize("form", ["inpaint", "inpaint_clean"])
def test_inpaint(tmp_path: Path, glide_parts: Path, parts: Parts, form: str) -> None:
    """What is not repainted is the given image to the bit; the rest is what the loop by hand makes."""
    wires = "uncondition: $no_text\nguidance_scale: 3\nimage: $image\nmask: $mask"
    inputs = "  image: {type: Sample}\n  mask: {type: Mask}"
    ours = sampled(tmp_path, glide_parts, form, inputs, wires, image=picture(), mask=MASK)
    noise, rng = normal(seeded([5, 6]), (3, 8, 8))
    x = noise
    for step in parts.scheduler.schedule(6):
        prediction = parts.said(x, step.timestep, 3)
        if form == "inpaint":
            x, _, rng = parts.scheduler.step(prediction, x, step, None, rng)
            known = parts.scheduler.add_noise(picture().expand(2, -1, -1, -1), noise, step.next)
            x = torch.where(MASK == 1, x, known)
        else:
            estimate = torch.where(MASK == 1, parts.scheduler.original(prediction, x, step), picture())
            x, _, rng = parts.scheduler.step(prediction, x, step, None, rng, original=estimate)
    torch.testing.assert_close(ours, x, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        ours * (1 - MASK), (picture() * (1 - MASK)).expand(2, -1, -1, -1), rtol=0, atol=0 if form == "inpaint" else 1e-6
    )
    assert (ours - picture()).abs().mul(MASK).max() > 0.1


def test_gradient_of_a_score(tmp_path: Path, glide_parts: Path, parts: Parts) -> None:
    """The guided samples are more like the small target; scale 0 is the plain sampler."""
    target = picture()[..., ::2, ::2]

    def run(scale: float) -> Tensor:
        wires = f"target: $target\nheight: 4\nwidth: 4\ngradient_scale: {scale}"
        return sampled(tmp_path, glide_parts, "gradient", "  target: {type: Sample}", wires, target=target)

    def distance(sample: Tensor) -> float:
        return (interpolate(sample, (4, 4), mode="area") - target).norm().item()

    assert torch.equal(run(0.0), sampled(tmp_path, glide_parts, "plain"))
    ours = run(0.5)
    x, rng = normal(seeded([5, 6]), (3, 8, 8))
    for step in parts.scheduler.schedule(6):
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            prediction = parts.model(given, step.timestep, parts.positive)
            small = interpolate(parts.scheduler.original(prediction, given, step), (4, 4), mode="area")
            score = -((small - target).flatten(1).norm(dim=1))
            (slope,) = torch.autograd.grad(score.sum(), given)
        prediction = parts.model(x, step.timestep, parts.positive)
        x, _, rng = parts.scheduler.step(prediction, x, step, None, rng)
        x = x + 0.5 * slope
    torch.testing.assert_close(ours, x, rtol=0, atol=TOLERANCE)
    assert distance(ours) < distance(run(0.0))


@pytest.mark.parametrize(("rounds", "align_corners"), [(True, False), (False, True)])
def test_hand_off(rounds: bool, align_corners: bool, tmp_path: Path) -> None:
    """8-bit pixels, or as they are, enlarged, then noised by the next stage's schedule; the level goes on beside them."""
    file = tmp_path / "user.yaml"
    file.write_text(
        f"""
diffgraph: 1
name: user
inputs: {{image: {{type: Image}}}}
nodes:
  scheduler: {{node: DDPMScheduler}}
  rng: {{node: Rng, seed: 3}}
  handed:
    graph: pkg://diffgraph/samplers/hand_off.yaml
    image: $image
    height: 16
    width: 16
    rounds: {str(rounds).lower()}
    align_corners: {str(align_corners).lower()}
    scheduler: $scheduler
    level: 250
    rng: $rng
outputs: {{low_res: $handed.low_res, level: $handed.level}}
""".lstrip()
    )
    made = Lab(tmp_path / "cache").run(file, Options(device="cpu"), image=picture())
    small = ((picture() + 1) * 127.5).round() / 127.5 - 1 if rounds else picture()
    large = interpolate(small, (16, 16), mode="bilinear", align_corners=align_corners)
    noise, _ = normal(seeded([3]), (3, 16, 16))
    level = float(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)[250])
    torch.testing.assert_close(made["low_res"], level**0.5 * large + (1 - level) ** 0.5 * noise, rtol=0, atol=TOLERANCE)
    assert made["level"] == 250
