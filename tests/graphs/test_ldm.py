"""The graphs of latent diffusion beside the library's pipelines, with the same weights and the same draws."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffgraph.session import Options

from ..engine.lab import Lab
from ..fill import randomise
from ..nodes.test_tokenizers import write_bert
from ..parity import agree
from .conftest import GRAPHS, Cli

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

CPU = Options(device="cpu")
Library: Any = diffusers
Texts: Any = transformers
SEEDS = [5, 6]
CODER = {"layers_per_block": 1, "norm_num_groups": 8}
# What the scheduler configs of the three repositories say, and no more.
SCHEDULER = {
    "_class_name": "DDIMScheduler", "_diffusers_version": "0.4.0", "beta_schedule": "scaled_linear", "clip_sample": False,
    "num_train_timesteps": 1000, "timestep_values": None, "trained_betas": None,
}  # fmt: skip
TEXT2IM = SCHEDULER | {"beta_start": 0.00085, "beta_end": 0.012}
CELEBAHQ = SCHEDULER | {"beta_start": 0.0015, "beta_end": 0.0195}
OPENIMAGES = SCHEDULER | {"beta_start": 0.0015, "beta_end": 0.0155}
OTHERS = ["PNDMScheduler", "DPMSolverMultistepScheduler"]  # of the library, which neither scale nor draw
OURS = {"DDIMScheduler": "DDIMScheduler", "PNDMScheduler": "PNDMScheduler",
        "DPMSolverMultistepScheduler": "DPMSolverScheduler"}  # fmt: skip


def built(part: Any, seed: int) -> Any:
    """A part with random weights; an autoencoder's images lie within [-1, 1], which the pipelines clip to."""
    randomise(part, seed)
    if hasattr(part, "decoder"):
        with torch.no_grad():
            part.decoder.conv_out.weight.mul_(0.15)
            part.decoder.conv_out.bias.mul_(0.15)
    return part.eval()


def codebook_model() -> Any:
    """A VQModel of four times smaller latents, as ldm-celebahq-256 has it."""
    return Library.VQModel(
        block_out_channels=(16, 16, 32), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=3, num_vq_embeddings=32, scaling_factor=1.0, **CODER,
    )  # fmt: skip


def saved(pipeline: Any, folder: Path, scheduler: dict[str, Any]) -> Any:
    """Writes a pipeline as published: its scheduler's config has the keys of 2022 alone."""
    pipeline.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has moved
        pipeline.save_pretrained(folder)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return pipeline


def scheduled(pipeline: Any, folder: Path, name: str) -> Any:
    """The pipeline with a scheduler made of the published config."""
    pipeline.scheduler = getattr(Library, name).from_pretrained(folder / "scheduler")
    return pipeline


def images_of(pipeline: Any, *args: Any, **given: Any) -> torch.Tensor:
    """The library's images, in [-1, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own
        images = pipeline(*args, num_inference_steps=10, output_type="np", **given).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def compare(graph: str, peer: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Images that are equal to 1e-4, of which few pixels are clipped. peer: the pipeline, then what it was given."""
    assert theirs.std() > 0.1
    assert (theirs.abs() < 1).float().mean() > 0.9
    name, _, what = peer.partition(", ")
    agree(graph, f"diffusers {name}", ours.clamp(-1, 1), theirs, tolerance=1e-4, what=what)


# --- text to image ---------------------------------------------------------------------------------------------------


def write_text2im(folder: Path) -> Any:
    """A folder as CompVis/ldm-text2im-large-256 in `parts`, and the pipeline that wrote it."""
    write_bert(folder, "vocab.txt")
    tokenizer = Texts.BertTokenizer.from_pretrained(folder, model_max_length=512)
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(tokenizer), d_model=24, encoder_layers=2, encoder_ffn_dim=32, encoder_attention_heads=2,
            head_dim=8,
        )
    )  # fmt: skip
    unet = Library.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    autoencoder = Library.AutoencoderKL(
        block_out_channels=(16, 16, 16, 32), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, **CODER,
    )  # fmt: skip
    pipeline = Library.LDMTextToImagePipeline(
        built(autoencoder, 1), built(bert, 2), tokenizer, built(unet, 3), Library.DDIMScheduler()
    )
    return saved(pipeline, folder / "parts", TEXT2IM)


@pytest.fixture(scope="module")
def text2im(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Its folder, and the pipeline that wrote it."""
    folder = tmp_path_factory.mktemp("text2im")
    pipeline = write_text2im(folder)
    return folder / "parts", pipeline


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("scheduler", OURS)
def test_text_to_image(text2im: tuple[Path, Any], tmp_path: Path, scheduler: str, guidance_scale: float) -> None:
    folder, pipeline = text2im
    given = {"prompt": "a green dog", "guidance_scale": guidance_scale, "steps": 10, "weights": folder}
    sets = {"scheduler.node": OURS[scheduler]}
    ours = Lab(tmp_path).run(
        GRAPHS / "ldm.yaml", CPU, variant="text2im", seed=5, num_images=2, sets=sets, **given
    )["image"]  # fmt: skip
    theirs = images_of(
        scheduled(pipeline, folder, scheduler), [given["prompt"]] * 2, guidance_scale=guidance_scale,
        generator=generators(SEEDS),
    )  # fmt: skip
    compare("ldm", f"LDMTextToImagePipeline, {scheduler}, guidance {guidance_scale:g}", ours, theirs)


# --- without a text --------------------------------------------------------------------------------------------------


def write_celebahq(folder: Path) -> Any:
    """A folder as CompVis/ldm-celebahq-256, and the pipeline that wrote it."""
    unet = Library.UNet2DModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=32,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipeline = Library.LDMPipeline(built(codebook_model(), 1), built(unet, 2), Library.DDIMScheduler())
    return saved(pipeline, folder, CELEBAHQ)


@pytest.fixture(scope="module")
def celebahq(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Its folder, where the autoencoder's config says nothing of a scale, and the pipeline that wrote it."""
    folder = tmp_path_factory.mktemp("celebahq")
    pipeline = write_celebahq(folder)
    path = folder / "vqvae/config.json"
    config = json.loads(path.read_text())
    assert config.pop("scaling_factor") == 1
    path.write_text(json.dumps(config))
    return folder, pipeline


@pytest.mark.parametrize("scheduler", OURS)
def test_without_a_text(celebahq: tuple[Path, Any], tmp_path: Path, scheduler: str) -> None:
    folder, pipeline = celebahq
    sets = {"scheduler.node": OURS[scheduler]}
    ours = Lab(tmp_path).run(
        GRAPHS / "ldm_unconditional.yaml", CPU, weights=folder, seed=5, num_images=2, steps=10, sets=sets
    )["image"]
    theirs = images_of(scheduled(pipeline, folder, scheduler), batch_size=2, generator=generators(SEEDS))
    compare("ldm_unconditional", f"LDMPipeline, {scheduler}", ours, theirs)


# --- super-resolution ------------------------------------------------------------------------------------------------


def write_openimages(folder: Path) -> Any:
    """A folder as CompVis/ldm-super-resolution-4x-openimages, and the pipeline that wrote it."""
    unet = Library.UNet2DModel(
        sample_size=8, in_channels=6, out_channels=3, block_out_channels=(32, 64), layers_per_block=1,
        attention_head_dim=32, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipeline = Library.LDMSuperResolutionPipeline(built(codebook_model(), 1), built(unet, 2), Library.DDIMScheduler())
    return saved(pipeline, folder, OPENIMAGES)


@pytest.fixture(scope="module")
def openimages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Its folder, and the pipeline that wrote it."""
    folder = tmp_path_factory.mktemp("openimages")
    return folder, write_openimages(folder)


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("scheduler", OURS)
def test_super_resolution(openimages: tuple[Path, Any], tmp_path: Path, scheduler: str, size: int) -> None:
    """At the size that it was trained with, and at another."""
    folder, pipeline = openimages
    draw = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    Image.fromarray(draw.numpy()).save(tmp_path / "small.png")
    sets = {"scheduler.node": OURS[scheduler]}
    ours = Lab(tmp_path).run(
        GRAPHS / "ldm_super_resolution.yaml", CPU, image=tmp_path / "small.png", size=size, weights=folder, seed=5,
        steps=10, sets=sets,
    )["image"]  # fmt: skip
    low_res = draw.permute(2, 0, 1)[None].float() / 127.5 - 1
    theirs = images_of(scheduled(pipeline, folder, scheduler), low_res, generator=generators(SEEDS)[0])
    assert ours.shape == (1, 3, 4 * size, 4 * size)
    compare("ldm_super_resolution", f"LDMSuperResolutionPipeline, {scheduler}, {size} pixels", ours, theirs)


def test_a_picture_of_another_size_is_brought_to_it(openimages: tuple[Path, Any], tmp_path: Path) -> None:
    Image.new("RGB", (37, 20), "teal").save(tmp_path / "wide.png")
    given = {"image": tmp_path / "wide.png", "size": 8, "weights": openimages[0], "steps": 2, "num_images": 3}
    assert Lab(tmp_path).run(GRAPHS / "ldm_super_resolution.yaml", CPU, **given)["image"].shape == (3, 3, 32, 32)


# --- the parts -------------------------------------------------------------------------------------------------------


def test_eta_draws_in_each_step(celebahq: tuple[Path, Any], tmp_path: Path) -> None:
    given = {"weights": celebahq[0], "seed": 5, "steps": 4}
    plain, drawn, one = (
        Lab(tmp_path / str(eta)).run(GRAPHS / "ldm_unconditional.yaml", CPU, sets={"scheduler.eta": eta}, **given)[
            "image"
        ]
        for eta in (0.0, 0.5, 1.0)
    )
    assert not torch.equal(plain, drawn)
    assert not torch.equal(drawn, one)


def test_images_of_a_batch_are_those_made_alone(text2im: tuple[Path, Any], tmp_path: Path) -> None:
    given = {"prompt": "a red apple", "weights": text2im[0], "steps": 4, "variant": "text2im"}
    both = Lab(tmp_path / "both").run(GRAPHS / "ldm.yaml", CPU, seed=5, num_images=2, **given)["image"]
    alone = Lab(tmp_path / "alone").run(GRAPHS / "ldm.yaml", CPU, seed=6, **given)["image"]
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)


def test_another_seed_neither_runs_nor_loads_the_text_encoder(text2im: tuple[Path, Any], tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    given = {"prompt": "a red apple", "weights": text2im[0], "steps": 2, "variant": "text2im"}
    lab.run(GRAPHS / "ldm.yaml", CPU, seed=1, **given)
    assert {"text", "no_text"} <= set(lab.ran)
    lab.run(GRAPHS / "ldm.yaml", CPU, seed=2, **given)
    assert not {"text", "no_text", "tokens"} & set(lab.ran)
    assert "text_encoder" not in lab.loaded


def test_a_tokenizer_of_another_length_is_refused(text2im: tuple[Path, Any], tmp_path: Path) -> None:
    """As published it says 512, which the variant mends."""
    from diffgraph.errors import CheckFailed

    with pytest.raises(CheckFailed, match="512"):
        Lab(tmp_path).prepare(
            GRAPHS / "ldm.yaml", CPU, prompt="x", weights=text2im[0], sets={"tokenizer.model_max_length": 512}
        )


def test_weights_that_do_not_fit_one_another_are_refused(
    text2im: tuple[Path, Any], celebahq: tuple[Path, Any], tmp_path: Path
) -> None:
    """The U-Net of one repository with the autoencoder of another: found before anything is loaded."""
    from diffgraph.errors import CheckFailed

    mixed = tmp_path / "mixed"
    shutil.copytree(celebahq[0], mixed)
    path = mixed / "vqvae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latent_channels": 4}))
    with pytest.raises(CheckFailed, match=r"image.latents: expected shape .B, 4, H, W., got"):
        Lab(tmp_path).prepare(GRAPHS / "ldm_unconditional.yaml", CPU, weights=mixed)


# --- the demo --------------------------------------------------------------------------------------------------------

DEMO = GRAPHS / "weights/ldm-demo"


def test_the_demos_weights_make_the_librarys_pictures(tmp_path: Path) -> None:
    """The library loads them as they are shipped; its pipeline asks for texts of 77 tokens, the demo's have 16."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has moved
        unet = Library.UNet2DConditionModel.from_pretrained(DEMO / "unet").float()
        autoencoder = Library.AutoencoderKL.from_pretrained(DEMO / "vqvae").float()
        bert = LDMBertModel.from_pretrained(DEMO / "bert").float()
    scheduler = Library.DDIMScheduler.from_pretrained(DEMO / "scheduler")
    words = Texts.PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer/tokenizer.json"), pad_token="[PAD]")

    def tokenizer(texts: list[str], **given: Any) -> Any:
        return words(texts, **given | {"max_length": 16})

    pipeline = Library.LDMTextToImagePipeline(autoencoder.eval(), bert.eval(), words, unet.eval(), scheduler)
    pipeline.tokenizer = tokenizer
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["green dog", "green dog"]
    ours = Lab(tmp_path).run(GRAPHS / "ldm.yaml", CPU, prompt=prompts[0], seed=5, num_images=2, steps=10)["image"]
    size = 8 * 16  # the pipeline takes it that latents are eight times smaller; these are four times
    theirs = images_of(pipeline, prompts, guidance_scale=3.0, generator=generators(SEEDS), height=size, width=size)
    agree("ldm", "diffusers LDMTextToImagePipeline", ours.clamp(-1, 1), theirs, what="the demo", tolerance=1e-4)


def test_the_demos_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 15_000_000


@pytest.mark.parametrize("edit", ["img2img", "inpaint"])
def test_the_demos_parts_edit_the_example(edit: str, cli: Cli, tmp_path: Path) -> None:
    """Their own text encoder, folders and scheduler are set in the variant; what the mask keeps is the picture's."""
    place = tmp_path / "edited.png"
    done = cli("run", f"stable_diffusion_{edit}", "--variant", "demo", "--device", "cpu", "--no-cache", "-o", place)
    assert done.exit_code == 0, done.stderr
    before, after = (torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255) for path in (
        GRAPHS / "examples/mushroom.png", place))  # fmt: skip
    assert after.shape == before.shape
    change = (after - before).abs().mean(dim=(1, 2))  # of each row of pixels
    assert change[:32].mean() > 0.05
    if edit == "inpaint":
        assert change[44:].max() == 0  # the mask ends there
