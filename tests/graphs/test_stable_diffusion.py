"""The graphs of Stable Diffusion beside the library's pipelines, with the same weights and the same draws."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffgraph.errors import CheckFailed, DiffgraphError
from diffgraph.session import Options, Prepared

from ..engine.lab import Lab
from ..fill import randomise
from ..nodes.test_text_encoders import SMALL_CLIP
from ..nodes.test_tokenizers import clip_vocabulary, write_clip
from ..parity import agree
from .conftest import GRAPHS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers

CPU = Options(device="cpu")
Library: Any = diffusers
Texts: Any = transformers
SEEDS = [5, 6]
LENGTH = 12
PROMPT = {"prompt": "a green dog", "negative_prompt": "a red apple"}

# The scheduler configs as published: versions 1 and 2 of 512 pixels, and the one of 768 that predicts v.
PNDM = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None, "clip_sample": False,
}  # fmt: skip
VELOCITY = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
FIRST: dict[str, Any] = {"attention_head_dim": 2}
SECOND: dict[str, Any] = {"attention_head_dim": (2, 4), "use_linear_projection": True}
LAYOUTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # variant: its repository's U-Net, text encoder and scheduler, over sizes that are small
    "v1-4": ("L/14", FIRST, {"hidden_act": "quick_gelu"}, PNDM),
    "v1-5": ("L/14", FIRST, {"hidden_act": "quick_gelu"}, PNDM),
    "v2-1-base": ("H", SECOND, {"hidden_act": "gelu"}, PNDM),
    "v2-1": ("H", SECOND | {"upcast_attention": True}, {"hidden_act": "gelu"}, VELOCITY),
}
OURS = {
    "PNDMScheduler": "PNDMScheduler", "DDIMScheduler": "DDIMScheduler",
    "EulerAncestralDiscreteScheduler": "EulerAncestralScheduler", "UniPCMultistepScheduler": "UniPCScheduler",
}  # fmt: skip


def built(part: Any, seed: int) -> Any:
    """A part with random weights; the autoencoder's images lie within [-1, 1], which the pipelines clip to."""
    randomise(part, seed)
    if hasattr(part, "decoder"):
        with torch.no_grad():
            part.decoder.conv_out.weight.mul_(0.2)
            part.decoder.conv_out.bias.mul_(0.2)
    return part.eval()


def write_pipeline(folder: Path, variant: str, cls: str = "StableDiffusionPipeline", in_channels: int = 4) -> Any:
    """A folder as a repository of this version has it, and the pipeline that wrote it."""
    text, unet_keys, text_keys, scheduler = LAYOUTS[variant]
    folder.mkdir(parents=True)
    write_clip(folder, "vocab.json")
    pad = {"pad_token": "!"} if text == "H" else {}
    tokenizer = Texts.CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, **pad)
    ids = clip_vocabulary()[0]
    config = {key: value for key, value in SMALL_CLIP.items() if key != "vocab_size"}
    config |= {"vocab_size": len(ids), "max_position_embeddings": LENGTH, "eos_token_id": max(ids.values())}
    encoder = Texts.CLIPTextModel(Texts.CLIPTextConfig(**config | text_keys))
    unet = Library.UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        cross_attention_dim=encoder.config.hidden_size, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **unet_keys,
    )  # fmt: skip
    autoencoder = Library.AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, norm_num_groups=8,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no safety checker
        pipeline = getattr(Library, cls)(
            vae=built(autoencoder, 1), text_encoder=built(encoder, 2), tokenizer=tokenizer, unet=built(unet, 3),
            scheduler=Library.PNDMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder / "parts")
    pipeline.set_progress_bar_config(disable=True)
    (folder / "parts/scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return pipeline


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Each version in its folder. Those of version 1 differ in nothing that the graph sees."""
    found = {}
    for variant in LAYOUTS:
        folder = tmp_path_factory.mktemp("published") / variant
        pipeline = write_pipeline(folder, variant)
        found[variant] = (folder / "parts", pipeline)
    return found


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Networks of nine channels, made for inpainting, of versions 1 and 2; and one of four."""
    found = {}
    for name, variant, channels in (("v1-5", "v1-5", 9), ("v2", "v2-1-base", 9), ("any", "v1-5", 4)):
        folder = tmp_path_factory.mktemp("inpainting") / name
        pipeline = write_pipeline(folder, variant, "StableDiffusionInpaintPipeline", channels)
        found[name] = (folder / "parts", pipeline)
    return found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the size of the small models."""
    folder = tmp_path_factory.mktemp("picture")
    draw = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    Image.fromarray(draw.numpy()).resize((16, 16), Image.Resampling.BICUBIC).save(folder / "picture.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 2, 12, 10))
    mask.save(folder / "mask.png")
    return folder


def theirs(pipeline: Any, folder: Path, scheduler: str, **given: Any) -> torch.Tensor:
    """The library's images, in [-1, 1], each made alone, with a scheduler made of the published config.

    In one batch its inpainting would take all from the first image's draw of the picture's latents.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own
        pipeline.scheduler = getattr(Library, scheduler).from_pretrained(folder / "scheduler")
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            found.append(pipeline(generator=generator, output_type="np", **PROMPT, **given).images)
    return torch.cat([torch.from_numpy(images) for images in found]).permute(0, 3, 1, 2) * 2 - 1


def ours(tmp_path: Path, name: str, folder: Path, variant: str, scheduler: str, **given: Any) -> torch.Tensor:
    found = Lab(tmp_path).run(
        GRAPHS / f"{name}.yaml", CPU, variant=variant, weights=folder, seed=SEEDS[0], num_images=2, **PROMPT,
        sets={"scheduler.node": OURS[scheduler]}, **given,
    )  # fmt: skip
    images: torch.Tensor = found["image"]
    return images


def compare(graph: str, peer: str, images: torch.Tensor, expected: torch.Tensor) -> None:
    """Images that are equal to 1e-4, of which few pixels are clipped. peer: the pipeline, then what it was given."""
    assert expected.std() > 0.1
    assert (expected.abs() < 1).float().mean() > 0.9
    name, _, what = peer.partition(", ")
    agree(graph, f"diffusers {name}", images.clamp(-1, 1), expected, tolerance=1e-4, what=what)


# --- text to image ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["own", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("variant", LAYOUTS)
def test_text_to_image(published: dict[str, tuple[Path, Any]], tmp_path: Path, variant: str, scheduler: str) -> None:
    folder, pipeline = published[variant]
    scheduler = LAYOUTS[variant][3]["_class_name"] if scheduler == "own" else scheduler
    images = ours(tmp_path, "stable_diffusion", folder, variant, scheduler, steps=8, guidance_scale=7.5)
    expected = theirs(pipeline, folder, scheduler, num_inference_steps=8, guidance_scale=7.5)
    compare("stable_diffusion", f"StableDiffusionPipeline, {variant}, {scheduler}", images, expected)


def test_without_guidance(published: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, pipeline = published["v1-5"]
    images = ours(tmp_path, "stable_diffusion", folder, "v1-5", "PNDMScheduler", steps=8, guidance_scale=1.0)
    expected = theirs(pipeline, folder, "PNDMScheduler", num_inference_steps=8, guidance_scale=1.0)
    compare("stable_diffusion", "StableDiffusionPipeline, guidance 1", images, expected)


def test_guidance_rescaled(published: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder, pipeline = published["v2-1"]
    given = {"guidance_scale": 7.5}
    images = ours(tmp_path, "stable_diffusion", folder, "v2-1", "DDIMScheduler", steps=8, rescale=0.7, **given)
    expected = theirs(pipeline, folder, "DDIMScheduler", num_inference_steps=8, guidance_rescale=0.7, **given)
    compare("stable_diffusion", "StableDiffusionPipeline, rescaled guidance", images, expected)


def test_the_variant_of_768_pixels_predicts_v(published: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    """Its scheduler says so; another version's under it is refused."""
    folder = published["v2-1"][0]
    prepared = Lab(tmp_path).prepare(GRAPHS / "stable_diffusion.yaml", CPU, variant="v2-1", weights=folder, **PROMPT)
    assert prepared is not None
    with pytest.raises(CheckFailed, match="predict"):
        Lab(tmp_path).prepare(
            GRAPHS / "stable_diffusion.yaml", CPU, variant="v2-1", weights=folder, **PROMPT,
            sets={"scheduler.prediction_type": "epsilon"},
        )  # fmt: skip


# --- image to image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "strength"), [("PNDMScheduler", 0.3), ("PNDMScheduler", 1.0), *((name, 0.75) for name in OURS)]
)
def test_image_to_image(
    published: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path, scheduler: str, strength: float
) -> None:
    """The latents of the image are drawn from their distribution, then the noise: as many steps as the library takes."""
    folder, pipeline = published["v1-5"]
    given = {"strength": strength, "guidance_scale": 7.5}
    images = ours(
        tmp_path, "stable_diffusion_img2img", folder, "v1-5", scheduler, image=picture / "picture.png", steps=8, **given
    )
    cls = Library.StableDiffusionImg2ImgPipeline
    expected = theirs(
        cls(**pipeline.components, requires_safety_checker=False), folder, scheduler, num_inference_steps=8,
        image=Image.open(picture / "picture.png"), **given,
    )  # fmt: skip
    peer = f"StableDiffusionImg2ImgPipeline, {scheduler}, strength {strength:g}"
    compare("stable_diffusion_img2img", peer, images, expected)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("variant", ["v1-4", "v2-1-base", "v2-1"])
def test_image_to_image_of_other_versions(
    published: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path, variant: str, scheduler: str
) -> None:
    folder, pipeline = published[variant]
    given = {"strength": 0.6, "guidance_scale": 7.5}
    images = ours(
        tmp_path, "stable_diffusion_img2img", folder, variant, scheduler, image=picture / "picture.png", steps=8,
        **given,
    )  # fmt: skip
    cls = Library.StableDiffusionImg2ImgPipeline
    expected = theirs(
        cls(**pipeline.components, requires_safety_checker=False), folder, scheduler, num_inference_steps=8,
        image=Image.open(picture / "picture.png"), **given,
    )  # fmt: skip
    compare("stable_diffusion_img2img", f"StableDiffusionImg2ImgPipeline, {variant}, {scheduler}", images, expected)


def test_a_strength_of_0_gives_the_image_back(
    published: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path
) -> None:
    """As the autoencoder has it: no step runs."""
    given = {"image": picture / "picture.png", "strength": 0.0, "weights": published["v1-5"][0], "variant": "v1-5"}
    lab = Lab(tmp_path)
    prepared = lab.prepare(GRAPHS / "stable_diffusion_img2img.yaml", CPU, show=("given.sample",), **given, **PROMPT)
    found = prepared.run([])
    vae = published["v1-5"][1].vae
    with torch.no_grad():
        expected = vae.decode(found["given.sample"] / vae.config.scaling_factor).sample
    torch.testing.assert_close(found["image"], expected, rtol=0, atol=1e-4)


# --- inpainting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "scheduler"),
    [*(("v1-5", name) for name in OURS), ("v2", "PNDMScheduler"), ("v2", "EulerAncestralDiscreteScheduler")],
)
def test_inpainting(
    inpainting: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path, variant: str, scheduler: str
) -> None:
    """A network of nine channels, which sees the mask and the rest of the picture."""
    folder, pipeline = inpainting[variant]
    images = ours(
        tmp_path, "stable_diffusion_inpaint", folder, variant, scheduler, image=picture / "picture.png",
        mask=picture / "mask.png", steps=8, guidance_scale=7.5,
    )  # fmt: skip
    expected = theirs(
        pipeline, folder, scheduler, num_inference_steps=8, guidance_scale=7.5, height=16, width=16,
        image=Image.open(picture / "picture.png"), mask_image=Image.open(picture / "mask.png"),
    )  # fmt: skip
    compare("stable_diffusion_inpaint", f"StableDiffusionInpaintPipeline, {variant}, {scheduler}", images, expected)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_inpainting_with_a_network_that_was_not_made_for_it(
    inpainting: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path, scheduler: str
) -> None:
    folder, pipeline = inpainting["any"]
    images = ours(
        tmp_path, "stable_diffusion_inpaint", folder, "any", scheduler, image=picture / "picture.png",
        mask=picture / "mask.png", steps=8, guidance_scale=7.5,
    )  # fmt: skip
    expected = theirs(
        pipeline, folder, scheduler, num_inference_steps=8, guidance_scale=7.5, height=16, width=16,
        image=Image.open(picture / "picture.png"), mask_image=Image.open(picture / "mask.png"),
    )  # fmt: skip
    compare("stable_diffusion_inpaint", f"StableDiffusionInpaintPipeline, 4 channels, {scheduler}", images, expected)


def test_pictures_and_masks_of_any_size(inpainting: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    """They are brought to the size of the model together; a mask of another shape does not lie on the picture."""
    Image.new("RGB", (37, 20), "teal").save(tmp_path / "wide.png")

    def prepared(size: tuple[int, int]) -> Prepared:
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0], size[1] // 2))
        mask.save(tmp_path / "mask.png")
        return Lab(tmp_path).prepare(
            GRAPHS / "stable_diffusion_inpaint.yaml", CPU, variant="v1-5", weights=inpainting["v1-5"][0], steps=2,
            seed=1, image=tmp_path / "wide.png", mask=tmp_path / "mask.png", show=("repainted", "fitted"), **PROMPT,
        )  # fmt: skip

    with pytest.raises(DiffgraphError, match="is 90 x 100, the picture that it lies on 37 x 20"):
        prepared((90, 100)).run([])
    found = prepared((74, 40)).run([])
    assert found["image"].shape == found["fitted"].shape == (1, 3, 16, 16)
    assert found["repainted"].shape == (1, 1, 8, 8)
    assert found["repainted"][0, 0, :, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_black_mask_gives_the_picture_back(
    inpainting: dict[str, tuple[Path, Any]], picture: Path, tmp_path: Path
) -> None:
    """As the autoencoder has it: white is repainted."""
    Image.new("L", (16, 16)).save(tmp_path / "black.png")
    prepared = Lab(tmp_path).prepare(
        GRAPHS / "stable_diffusion_inpaint.yaml", CPU, variant="any", weights=inpainting["any"][0], steps=3,
        image=picture / "picture.png", mask=tmp_path / "black.png", sets={"scheduler.node": "DDIMScheduler"}, **PROMPT,
        show=("fitted",),
    )  # fmt: skip
    found = prepared.run([])
    vae = inpainting["any"][1].vae
    with torch.no_grad():
        drawn = vae.encode(found["fitted"]).latent_dist.sample(torch.Generator().manual_seed(0))
        expected = vae.decode(drawn).sample
    torch.testing.assert_close(found["image"], expected, rtol=0, atol=1e-4)
