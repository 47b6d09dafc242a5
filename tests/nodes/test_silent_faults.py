"""The mistakes that elsewhere cost days, because nothing fails: each is an error of the check, and its mend is not.

The parts are the real ones where they exist, and stand-ins with the ports of the real ones (tests/packages/pixels).
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed

PARTS = """
photo:   {node: pixels.Photo, height: 64, width: 64}
vae:     {node: pixels.Autoencoder}
latents: {call: $vae.encode, image: $photo}
"""
SMALL = "in_channels: 3, out_channels: 3, block_out_channels: [8], down_block_types: [DownBlock2D], up_block_types: [UpBlock2D], norm_num_groups: 4"  # fmt: skip
GLIDE = (
    "image_size: 16, model_channels: 32, channel_mult: [1], num_res_blocks: 1, attention_sizes: [], num_head_channels: 32, "
    "text_context: 8, text_width: 32, text_layers: 1, text_heads: 1, vocab_size: 100, learn_variance: false"
)
SAMPLER = """
rng:     {node: Rng, seed: 0}
sampled: {graph: "pkg://diffgraph/samplers/plain.yaml", model: $model, scheduler: $scheduler, steps: 4, rng: $rng%s}
value:   {node: pixels.Height, value: $sampled.sample}
"""
DENOISER = """
tokenizer: {node: pixels.WordTokenizer}
encoder:   {node: pixels.TextEncoder, vocabulary: clip}
tokens:    {call: $tokenizer, text: a cat}
words:     {call: $encoder, tokens: $tokens}
model:     {node: pixels.LatentDenoiser}
scheduler: {node: DDPMScheduler}
condition: {call: $model.condition, embeddings: $words}
"""
SAMPLED = DENOISER + SAMPLER % ", condition: $condition"


@dataclass(frozen=True)
class Fault:
    """A right graph, the edit that makes it wrong, and what is said of it."""

    right: str
    old: str
    new: str
    said: str


FAULTS = {
    "wrong channel count": Fault(
        f"model: {{node: UNet2D, {SMALL}, sample_size: 16}}\nscheduler: {{node: DDPMScheduler}}\n"
        "rng: {node: Rng, seed: 0}\nnoise: {node: GaussianNoise, shape: [3, 16, 16], rng: $rng}\n"
        "plan: {call: $scheduler.schedule, steps: 4}\nstart: {call: $scheduler.start, noise: $noise.sample, schedule: $plan}\n"
        "one: {node: Item, items: $plan, index: 0}\nscaled: {call: $scheduler.scale_input, sample: $start.sample, step: $one}\n"
        "out: {call: $model, sample: $scaled, timestep: 1}\nvalue: {node: pixels.Height, value: $out}",
        "[3, 16, 16]", "[1, 16, 16]", "out.sample: expected shape [B, 3, 16, 16], got [1, 1, 16, 16]",
    ),
    "a latent where pixels belong": Fault(
        PARTS + "back: {call: $vae.decode, latents: $latents}\nvalue: {node: pixels.Height, value: $rounded}\nrounded: {node: Quantize, image: $back}",
        "image: $back}", "image: $latents}", "rounded.image: expected space pixel, got latent 0.18215",
    ),
    "pixels where a latent belongs": Fault(
        PARTS + "back: {call: $vae.decode, latents: $latents}\nvalue: {node: pixels.Height, value: $back}",
        "latents: $latents}", "latents: $photo}", "back.latents: expected shape [B, 4, H, W], got [1, 3, 64, 64]",
    ),
    "[0, 1] for [-1, 1]": Fault(
        PARTS + "unit: {node: pixels.UnitRange, image: $photo}\nother: {call: $vae.encode, image: $photo}\n"
        "both: {node: Concat, items: [$latents, $other]}\nvalue: {node: pixels.Height, value: $both}\nvalue2: {node: pixels.Brightness, image: $unit}",
        "other: {call: $vae.encode, image: $photo}", "other: {call: $vae.encode, image: $unit}",
        "other.image: expected range [-1, 1], got [0, 1]",
    ),
    "an epsilon model under a v scheduler": Fault(
        SAMPLED, "{node: DDPMScheduler}", "{node: DDPMScheduler, prediction_type: v_prediction}",
        "stepped.prediction: expected prediction v_prediction, got epsilon",
    ),
    "CLIP tokens into T5": Fault(
        DENOISER + SAMPLER % ", condition: $condition", "vocabulary: clip}", "vocabulary: t5}",
        "words.tokens: expected vocabulary t5, got clip",
    ),
    "an embedding width that does not match": Fault(
        SAMPLED, "vocabulary: clip}", "vocabulary: clip, width: 1024}",
        "condition.embeddings: expected shape [N, L, 768], got [1, 77, 1024]",
    ),
    "a noise schedule unlike the one trained with": Fault(
        SAMPLED, "{node: DDPMScheduler}", "{node: DDPMScheduler, beta_schedule: scaled_linear, beta_start: 0.00085, beta_end: 0.012}",
        "stepped.prediction: expected schedule scaled_linear 0.00085 0.012 1000, got linear 0.0001 0.02 1000",
    ),
    "a wrong upsampling factor": Fault(
        f"photo: {{node: pixels.Photo, height: 8, width: 8}}\nmodel: {{node: UNetGLIDE, {GLIDE}, low_res_size: 8}}\n"
        "tokenizer: {node: Tokenizer, weights: words, model_max_length: 8}\ntokens: {call: $tokenizer, text: a cat}\n"
        "condition: {call: $model.condition, tokens: $tokens, low_res: $photo}\nscheduler: {node: DDPMScheduler}\n"
        + SAMPLER % ", condition: $condition",
        "height: 8, width: 8", "height: 4, width: 4", "condition.low_res: expected shape [1, 3, 8, 8], got [1, 3, 4, 4]",
    ),
    "a mask of the wrong polarity": Fault(
        PARTS.split("vae")[0] + "subject: {node: pixels.Subject, image: $photo}\nmask: {node: pixels.Inverted, mask: $subject}\n"
        "erased: {node: pixels.Erase, image: $photo, mask: $mask}\nvalue: {node: pixels.Height, value: $erased}\nvalue2: {node: pixels.Height, value: $mask}",
        "mask: $mask}", "mask: $subject}", "erased.mask: expected white repainted, got kept",
    ),
    "guidance on a model that is not conditioned": Fault(
        DENOISER.replace("model:     {node: pixels.LatentDenoiser}", "model:     {node: pixels.LatentDenoiser}") + """
        nothing:   {call: $tokenizer, text: ""}
        no_words:  {call: $encoder, tokens: $nothing}
        empty:     {call: $model.condition, embeddings: $no_words}
        rng:       {node: Rng, seed: 0}
        noise:     {node: GaussianNoise, shape: $model.sample_shape, rng: $rng}
        plan:      {call: $scheduler.schedule, steps: 4}
        start:     {call: $scheduler.start, noise: $noise.sample, schedule: $plan}
        one:       {node: Item, items: $plan, index: 0}
        scaled:    {call: $scheduler.scale_input, sample: $start.sample, step: $one}
        twice:     {node: Concat, items: [$scaled, $scaled]}
        both:      {node: Concat, items: [$empty, $condition]}
        out:       {call: $model, sample: $twice, timestep: 1, condition: $both}
        guided:    {node: Guidance, prediction: $out, scale: 3}
        value:     {node: pixels.Height, value: $guided}
        """,
        "out:       {call: $model, sample: $twice, timestep: 1, condition: $both}",
        f"other:     {{node: UNet2D, {SMALL}, sample_size: 8, in_channels: 4, out_channels: 4}}\n"
        "        out:       {call: $other, sample: $twice, timestep: 1}".replace("in_channels: 3, out_channels: 3, ", ""),
        "guided.prediction: expected conditioned yes, got no",
    ),
    "a wrong latent scale": Fault(
        PARTS + DENOISER + "plan: {call: $scheduler.schedule, steps: 4}\nrng: {node: Rng, seed: 0}\n"
        "noise: {node: GaussianNoise, shape: $model.sample_shape, rng: $rng}\n"
        "start: {call: $scheduler.start, noise: $noise.sample, schedule: $plan, sample: $latents}\n"
        "one: {node: Item, items: $plan, index: 0}\nscaled: {call: $scheduler.scale_input, sample: $start.sample, step: $one}\n"
        "out: {call: $model, sample: $scaled, timestep: 1, condition: $condition}\nvalue: {node: pixels.Height, value: $out}",
        "{node: pixels.Autoencoder}", "{node: pixels.Autoencoder, scaling_factor: 0.13025}", "expected space latent 0.18215, got latent 0.13025",
    ),
    "an image size that the model cannot take": Fault(
        PARTS + "value: {node: pixels.Height, value: $latents}",
        "height: 64, width: 64", "height: 64, width: 60", "latents.image: expected shape [B, 3, 8*H, 8*W], got [1, 3, 64, 60]",
    ),
    "a random stream used twice": Fault(
        "rng: {node: Rng, seed: 0}\nboth: {node: Fork, rng: $rng}\na: {node: GaussianNoise, shape: [3, 8, 8], rng: $both.first}\n"
        "b: {node: GaussianNoise, shape: [3, 8, 8], rng: $both.second}\nc: {node: Concat, items: [$a.sample, $b.sample]}\n"
        "value: {node: pixels.Height, value: $c}",
        "rng: $both.second}", "rng: $both.first}", "b.rng: $both.first was used already, by a.rng",
    ),
    "a random stream not carried through a loop": Fault(
        "rng: {node: Rng, seed: 0}\nstart: {node: GaussianNoise, shape: [3, 8, 8], rng: $rng}\n"
        "walk: {loop: [1, 2], as: i, carry: {x: $start.sample, stream: $start.rng}, nodes: {n: {node: GaussianNoise, shape: [3, 8, 8],"
        " rng: $stream, scale: $i}, s: {node: Concat, items: [$x, $n.sample], dim: 0}, h: {node: pixels.HalveRows, value: $s}},"
        " next: {x: $h, stream: $n.rng}}\nvalue: {node: pixels.Height, value: $walk.x}",
        " rng: $stream,", " rng: $start.rng,", "$start.rng may be used once",
    ),
}  # fmt: skip


def write(folder: Path, nodes: str) -> Path:
    place = folder / "g.yaml"
    body = textwrap.indent("\n".join(line.strip() for line in nodes.strip().split("\n")), "  ")
    outputs = "value: $value, value2: $value2" if "value2:" in nodes else "value: $value"
    place.write_text(f"diffgraph: 1\nnodes:\n{body}\noutputs: {{{outputs}}}\n")
    words = folder / "words"
    words.mkdir(exist_ok=True)
    (words / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 8}))
    (words / "tokenizer.json").write_text("{}")
    return place


@pytest.mark.parametrize("name", FAULTS)
def test_a_silent_mistake_is_an_error(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    Graph.load(write(tmp_path, fault.right)).check()
    assert fault.old in fault.right
    with pytest.raises(CheckFailed) as raised:
        Graph.load(write(tmp_path, fault.right.replace(fault.old, fault.new))).check()
    said = [problem.message for problem in raised.value.problems]
    assert any(fault.said in message for message in said), said
    assert len(said) <= 3, said
    assert all(problem.place is not None and problem.place.line for problem in raised.value.problems)
