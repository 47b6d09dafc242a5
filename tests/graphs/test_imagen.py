"""Imagen and DeepFloyd IF: both stages as the published pipelines have them, the shared text, and the demo's weights."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.deepfloyd_if import pipeline_if_superresolution, smart27_timesteps
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from diffgraph.builder import Graph
from diffgraph.nodes.models.t5_encoder import T5Encoder
from diffgraph.nodes.schedulers.noise_schedule import beta_table, respaced_timesteps
from diffgraph.nodes.text.lower_case import lower_case
from diffgraph.running.run import Event
from diffgraph.session import Options
from diffgraph.training.train import train

from ..engine.lab import Lab
from ..fill import randomise
from ..nodes.test_tokenizers import write_t5
from ..nodes.test_unet_if import first_stage, second_stage
from ..parity import agree
from .conftest import GRAPHS

IF = GRAPHS / "imagen_if.yaml"
DEMO = GRAPHS / "weights/imagen-demo"
CPU = Options(device="cpu", cache=False)
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the library's own, of NumPy
TEXT = T5Config(
    vocab_size=160, d_model=48, d_kv=16, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)  # fmt: skip
NARROW: dict[str, Any] = {"encoder_hid_dim": 48, "addition_embed_type_num_heads": 4, "attention_head_dim": 16}
COSINE: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2"}
PUBLISHED = COSINE | {  # of both stages; the largest threshold is 1.5 in the first
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
}
FIRST = {
    "IF-I-M": first_stage(32) | {"layers_per_block": 1},
    "IF-I-L": first_stage(48) | {"norm_num_groups": 16, "layers_per_block": 1},
    "IF-I-XL": first_stage(64) | {"layers_per_block": 1},
}
SECOND = {
    "IF-II-M": second_stage(16) | {"norm_num_groups": 16, "time_embedding_dim": None, "layers_per_block": 1},
    "IF-II-L": second_stage(32) | {"layers_per_block": (1, 1, 1, 2, 2)},
}
PAIRS = {"medium": ("IF-I-M", "IF-II-M"), "large": ("IF-I-L", "IF-II-L"), "xl": ("IF-I-XL", "IF-II-L")}
PROMPT, NEGATIVE = " A red apple on a Table", "the green dog"


def published(first: str, second: str, folder: Path) -> tuple[Any, Any]:
    """Both pipelines of the library with small random weights, none zero, and their repositories below a folder."""
    with torch.random.fork_rng(devices=[]):
        (folder / "vocabulary").mkdir(parents=True)
        write_t5(folder / "vocabulary", "spiece.model")
        text: dict[str, Any] = {
            "tokenizer": T5Tokenizer.from_pretrained(folder / "vocabulary"), "text_encoder": T5EncoderModel(TEXT).eval(),
        }  # fmt: skip
        networks = [
            UNet2DConditionModel(**(config | NARROW | {"sample_size": size})).eval()
            for config, size in ((FIRST[first], 16), (SECOND[second], 32))
        ]
        for module in (text["text_encoder"], *networks):
            randomise(module)
        for network in networks:  # guided, what they predict is about as large as noise
            network.conv_out.weight.data *= 0.3
        no_checks: dict[str, Any] = {
            "safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False,
        }  # fmt: skip
        small = IFPipeline(
            **text, unet=networks[0], scheduler=DDPMScheduler(**PUBLISHED, sample_max_value=1.5), **no_checks
        )
        large = IFSuperResolutionPipeline(
            **text, unet=networks[1], scheduler=DDPMScheduler(**PUBLISHED, sample_max_value=1.0),
            image_noising_scheduler=DDPMScheduler(**COSINE), **no_checks,
        )  # fmt: skip
        for name, pipeline in (("first", small), ("second", large)):
            pipeline.set_progress_bar_config(disable=True)
            pipeline.save_pretrained(folder / name)
    return small, large


def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's second stage draws what it starts from, then the noise on the small image; the graph draws them the
    other way round. They have one shape: here the library gets each as the graph draws it.
    """
    draw, kept = pipeline_if_superresolution.randn_tensor, []

    def drawn(shape: Any, **options: Any) -> Tensor:
        if kept:
            return kept.pop()
        kept.append(draw(shape, **options))
        return draw(shape, **options)

    monkeypatch.setattr(pipeline_if_superresolution, "randn_tensor", drawn)


def exactly(scheduler: Any) -> None:
    """Gives a library's scheduler its tables in double precision, as ours are. In the fp32 of its own 1 - alpha_cumprod
    is off by 7e-4 of itself at the last step, which random networks and guidance make up to 4e-4 of a picture.
    """
    scheduler.betas = torch.from_numpy(beta_table("squaredcos_cap_v2", 1e-4, 0.02, 1000))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)


def both(pipelines: tuple[Any, Any], folder: Path, *, solver: str, steps: tuple[Any, int]) -> Iterator[tuple[Any, Any]]:
    """Two pictures of the first stage, and of both, with guidance, from the same seeds: ours and the library's."""
    small, large = pipelines
    sets = {"ancestral.node": solver, "upsampling.node": solver} if solver != "DDPMScheduler" else {}
    first = {"num_inference_steps": steps[0]} if isinstance(steps[0], int) else {"timesteps": smart27_timesteps}
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    embeds = small.encode_prompt(PROMPT, negative_prompt=NEGATIVE, clean_caption=False)
    told: dict[str, Any] = {"output_type": "pt", "generator": seeds}
    told |= {
        name: part.repeat(2, 1, 1)
        for name, part in zip(("prompt_embeds", "negative_prompt_embeds"), embeds, strict=True)
    }
    image = small(**told, **first).images
    expected = large(**told, image=image, num_inference_steps=steps[1]).images
    made = Lab(folder / "cache").run(
        IF, CPU, sets=sets, prompt=PROMPT, negative_prompt=NEGATIVE, seed=7, num_images=2,
        weights=folder / "first", upsampler_weights=folder / "second", show=("small.sample",),
        steps=steps[0], upsampler_steps=steps[1],
    )  # fmt: skip
    yield made["small.sample"], image
    yield made["image"], expected


@pytest.mark.parametrize("solver", ["DDPM", "DPM-Solver++"])
@pytest.mark.parametrize("pair", PAIRS)
def test_same_pictures_as_the_library(pair: str, solver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDPM as published, and another solver. fp32 sums in another order."""
    small, large = published(*PAIRS[pair], tmp_path)
    swapped(monkeypatch)
    for pipeline in (small, large):
        if solver != "DDPM":
            config = dict(pipeline.scheduler.config)
            config.pop("_use_default_values")  # its note of what was not given, which it would give anew
            pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
        exactly(pipeline.scheduler)
    ours, steps = ("DDPMScheduler", (5, 3)) if solver == "DDPM" else ("DPMSolverScheduler", (4, 3))
    whose = ("IFPipeline", "IFSuperResolutionPipeline")
    for name, pictures in zip(whose, both((small, large), tmp_path, solver=ours, steps=steps), strict=True):
        agree("imagen_if", f"diffusers {name}", *pictures, what=f"{pair}, {solver}", tolerance=1e-4)


def test_same_pictures_as_the_library_with_its_own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged but for the order of two draws, and respaced. Networks that predict a twentieth: see `exactly`."""
    small, large = published(*PAIRS["medium"], tmp_path)
    swapped(monkeypatch)
    for pipeline, name in ((small, "first"), (large, "second")):
        pipeline.unet.conv_out.weight.data *= 0.05
        pipeline.unet.save_pretrained(tmp_path / name / "unet")
    for pictures in both((small, large), tmp_path, solver="DDPMScheduler", steps=("smart27", 7)):
        agree("imagen_if", "diffusers IF pipelines", *pictures, what="tables in fp32", tolerance=1e-4)


def test_the_respacings_are_the_librarys() -> None:
    """All that IF uses; fast27, which is GLIDE's, ends at 997 in the original and at 999 in the library."""
    from diffusers.pipelines.deepfloyd_if import timesteps

    for name in ("smart27", "smart50", "smart100", "smart185", "super27", "super40", "super100"):
        assert respaced_timesteps(name, 1000) == getattr(timesteps, f"{name}_timesteps"), name


def test_the_published_defaults() -> None:
    """What DeepFloyd's own demonstration uses; the library's pipelines have the same scales and level of noise."""
    inputs = Graph.load(IF).document.inputs
    defaults = {name: item.default for name, item in inputs.items() if not item.required}
    assert defaults == {
        "negative_prompt": "", "num_images": 1, "seed": 0, "steps": "smart100", "upsampler_steps": "smart50",
        "guidance_scale": 7.0, "upsampler_guidance_scale": 4.0, "noise_level": 250,
    }  # fmt: skip


@pytest.mark.parametrize("memory", [None, 2**20])
def test_the_text_encoder_is_shared_and_dropped_before_the_first_step(
    memory: int | None, if_parts: dict[str, Path], tmp_path: Path
) -> None:
    """It is loaded once for both prompts and both stages, and no longer in memory when denoising begins: neither with
    room for all, nor with less than any two parts need.
    """
    loaded: list[str] = []
    alive: list[int] = []

    def listen(event: Event) -> None:
        if event.kind == "loaded":
            loaded.append(event.path)
        if event.kind == "step":
            alive.append(sum(type(thing) is T5Encoder for thing in gc.get_objects()))

    gc.collect()
    options = Options(device="cpu", cache=False, memory=memory)
    prepared = Lab(tmp_path).prepare(
        IF, options, prompt="a red apple", steps="3", upsampler_steps="2", **if_parts
    )  # fmt: skip
    prepared.run(listeners=[listen])
    assert loaded.count("text_encoder") == 1
    assert loaded.index("text_encoder") < loaded.index("base")
    assert len(alive) == 5
    assert set(alive) == {0}


def test_another_seed_reads_no_text_again(if_parts: dict[str, Path], tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    given: dict[str, Any] = {"prompt": "a red apple", "steps": "2", "upsampler_steps": "2", **if_parts}
    lab.run(IF, Options(device="cpu"), **given)
    lab.events.clear()
    lab.run(IF, Options(device="cpu"), seed=1, **given)
    ran = {event.path for event in lab.events if event.kind in ("started", "loaded")}
    assert not ran & {"text", "no_text", "tokens", "text_encoder"}, ran


def test_lower_case() -> None:
    assert lower_case("  A RED Äpfel\n") == "a red äpfel"
    assert lower_case("") == ""


def test_a_published_tokenizer_is_cut_to_what_was_trained(if_parts: dict[str, Path], tmp_path: Path) -> None:
    """The repository's tokenizer_config.json says 512."""
    config = json.loads((if_parts["weights"] / "tokenizer/tokenizer_config.json").read_text())
    assert config["model_max_length"] == 512
    lab = Lab(tmp_path)
    made = lab.run(IF, CPU, prompt="dog " * 100, steps="1", upsampler_steps="1", show=("tokens",), **if_parts)
    assert made["tokens"].ids.shape == (1, 77)
    assert any(event.kind == "note" and "prompt cut after 76 tokens" in event.text for event in lab.events)


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_demos_weights_make_the_librarys_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library loads them as they are shipped; both stages by DDPM, with the timesteps of the graph."""
    swapped(monkeypatch)
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None} | dict.fromkeys(
        ("safety_checker", "feature_extractor", "watermarker")
    )
    base, upsampler = DEMO / "base", DEMO / "upsampler"
    with torch.random.fork_rng(devices=[]):
        first, second = (UNet2DConditionModel.from_pretrained(place / "unet") for place in (base, upsampler))
    schedulers = [DDPMScheduler.from_pretrained(place / "scheduler") for place in (base, upsampler)]
    noising = DDPMScheduler.from_pretrained(upsampler / "image_noising_scheduler")
    small = IFPipeline(unet=first, scheduler=schedulers[0], requires_safety_checker=False, **parts)
    large = IFSuperResolutionPipeline(
        unet=second, scheduler=schedulers[1], image_noising_scheduler=noising, requires_safety_checker=False, **parts
    )
    made = Lab(tmp_path).run(
        GRAPHS / "imagen.yaml", CPU, sets={"ddim.node": "DDPMScheduler"}, prompt="Green Dog", seed=3, steps=9,
        upsampler_steps=5, show=("small.sample", "text", "no_text"),
    )  # fmt: skip
    told: dict[str, Any] = {
        "prompt_embeds": made["text"].hidden, "negative_prompt_embeds": made["no_text"].hidden, "output_type": "pt",
        "generator": [torch.Generator().manual_seed(3)],
    }  # fmt: skip
    for pipeline in (small, large):
        pipeline.set_progress_bar_config(disable=True)
        exactly(pipeline.scheduler)
    image = small(**told, timesteps=respaced_timesteps("9", 1000), guidance_scale=3.0).images
    agree("imagen", "diffusers IFPipeline", made["small.sample"], image, what="the demo", tolerance=1e-4)
    rounded = ((image + 1) * 127.5).round() / 127.5 - 1
    level = Graph.load("imagen").document.inputs["noise_level"].default
    told |= {"image": rounded, "noise_level": level, "timesteps": respaced_timesteps("5", 1000)}
    expected = large(**told, guidance_scale=1.0).images
    agree("imagen", "diffusers IFSuperResolutionPipeline", made["image"], expected, what="the demo", tolerance=1e-4)


def test_the_demos_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 15_000_000


def test_the_second_stage_goes_on_from_given_weights(data: Path, tmp_path: Path) -> None:
    """`start` is what the training begins with: at a rate of next to nothing it is also what it ends with."""
    given = {"data": data, "steps": 1, "batch": 2, "rate": 1e-9, "start": DEMO / "upsampler/unet"}
    out = train(Graph.load("train/imagen_upsampler"), given, out=tmp_path / "out", options=CPU)
    before, after = (load_file(next((place / "upsampler/unet").glob("*.safetensors"))) for place in (DEMO, out))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key].float(), after[key], rtol=0, atol=1e-6) for key in before)
