"""Original checkpoints, converted by the command: the numbers of the originals' code, and those of the library's own
converters for the same file. Full published sizes are held against the models by names and shapes alone.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.builder import Graph
from diffgraph.cli import main
from diffgraph.converting import left_over, part_specs, recognised
from diffgraph.nodes.kinds import TextEmbeds, Tokens
from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL
from diffgraph.nodes.models.clip_text import CLIPText
from diffgraph.nodes.models.ldm_bert import LDMBert
from diffgraph.nodes.models.unet2d import UNet2D
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.models.unet_if import UNetIF
from diffgraph.nodes.models.vq_model import VQModel
from diffgraph.originals import Checkpoint
from diffgraph.registry import import_name, registry
from diffgraph.weights.tensors import TensorSpec, built_without_memory, renamed

from .. import originals as made
from ..fill import filled, noise, wave
from ..nodes.test_tokenizers import clip_vocabulary, write_clip
from ..parity import agree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import transformers
    from diffusers.loaders import single_file_utils

Library: Any = diffusers
Texts: Any = transformers
Theirs: Any = single_file_utils
State = dict[str, Tensor]


def convert(state: State, folder: Path, *options: str) -> Path:
    """A folder made by the command of a file with these tensors, without tokenizers."""
    save_file(state, folder / "original.safetensors")
    arguments = ["convert", folder / "original.safetensors", "-o", folder / "made", *options]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="diffgraph")
    assert done.exit_code == 0, done.stderr
    return folder / "made"


def sets(**settings: object) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


# --- the numbers of the originals' code -------------------------------------------------------------------------------


def reference(shapes: made.Shapes, prefix: str = "") -> State:
    """The tensors of a fixture: values by the sorted place of their names. prefix: put before each afterwards."""
    return {prefix + name: filled(name, number, shapes[name]).float() for number, name in enumerate(sorted(shapes))}


def golden(part: str, output: Tensor, elements: list[float], mean: float, std: float) -> None:
    """Elements, mean and deviation are the original's, which are given to five digits."""
    flat = output.flatten()
    found = torch.cat([flat[[0, 1, 2, flat.numel() // 2, -1]], flat.mean()[None], flat.std()[None]])
    wanted = torch.tensor([*elements, mean, std])
    agree(part, "the original's published numbers", found, wanted, tolerance=1e-4, what="converted")


def text(hidden: Tensor) -> TextEmbeds:
    return TextEmbeds(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))


GLIDE_IDS = torch.tensor([[3, 7, 11, 49, 49, 49, 49, 49]])
GLIDE_TOKENS = Tokens(GLIDE_IDS, GLIDE_IDS < 49)


@torch.no_grad()
@pytest.mark.parametrize(
    ("channels", "count", "folder", "numbers"),
    [
        (3, 877_062, "base", ([-0.1192, -0.37456, -0.38244, 0.02838, -0.05068], 0.040259, 0.46985)),
        (6, 877_926, "upsampler", ([-0.13084, -0.11778, 0.04577, 0.09489, 0.07894], 0.029338, 0.49461)),
        (7, 878_214, "base", ([-0.00482, 0.11893, 0.11754, 0.08173, -0.24709], 0.036826, 0.5216)),
    ],
)
def test_glide(
    channels: int, count: int, folder: str, numbers: tuple[list[float], float, float], tmp_path: Path
) -> None:
    shapes = made.glide(32, (1, 2), 1, (2,), channels, text=32, layers=2, vocabulary=50, length=8)
    assert (made.count(shapes), len(shapes)) == (count, 183)
    without = ["--without", "tokenizer"] if folder == "base" else []
    place = convert(reference(shapes), tmp_path, *sets(num_head_channels=16, text_heads=2), *without) / folder
    size = 16 if folder == "upsampler" else 8
    smaller = {"low_res_size": 8} if folder == "upsampler" else {}
    model = UNetGLIDE.from_pretrained(place, image_size=size, attention_sizes=[size // 2], **smaller)
    given: dict[str, Tensor] = {}
    if channels == 6:
        given["low_res"] = wave(1, 3, 8, 8, phase=1.0)
    if channels == 7:
        given |= {"image": wave(1, 3, 8, 8, phase=1.0), "mask": torch.ones(1, 1, 8, 8)}
        given["mask"][:, :, :4] = 0
    prediction = model(wave(1, 3, size, size), 37, model.condition(GLIDE_TOKENS, **given))
    golden("UNetGLIDE", torch.cat(prediction, dim=1), *numbers)


@torch.no_grad()
def test_ddpm(tmp_path: Path) -> None:
    shapes = made.ddpm(32, (1, 2), 1, 1)
    assert (made.count(shapes), len(shapes)) == (702_499, 144)
    place = convert(reference(shapes), tmp_path, *sets(sample_size=8))
    output = UNet2D.from_pretrained(place / "unet")(wave(1, 3, 8, 8), 37).value
    golden("UNet2D", output, [-0.15412, 0.10512, 0.22483, -0.35594, -0.01341], -0.058126, 0.427298)
    theirs = Library.UNet2DModel.from_pretrained(place / "unet")(wave(1, 3, 8, 8), 37).sample
    agree("UNet2D", "diffusers UNet2DModel", output, theirs, what="converted DDPM")


@torch.no_grad()
def test_latent_diffusion_without_a_text(tmp_path: Path) -> None:
    unet = made.unet(32, (1, 2), 1, (2,), (3, 3), made.joined_attention)
    coder = made.coder(32, (1, 2), 3, blocks=1, codebook=16)
    assert [(made.count(shapes), len(shapes)) for shapes in (unet, coder)] == [(702_499, 128), (654_894, 125)]
    state = reference(unet, "model.diffusion_model.") | reference(coder, "first_stage_model.")
    place = convert(state | made.random_state(made.BUFFERS), tmp_path, *sets(head_width=16, sample_size=8))
    model = UNet2D.from_pretrained(place / "unet")
    expected = [0.02594, -0.42805, -0.19793, 0.03789, 0.02674]
    golden("UNet2D", model(wave(1, 3, 8, 8), 37).value, expected, -0.041947, 0.513169)
    decoded = VQModel.from_pretrained(place / "vqvae").decode(wave(1, 3, 8, 8))
    golden("VQModel", decoded, [0.0492, 0.24619, 0.31686, -0.61339, -0.18635], -0.112442, 0.510788)
    theirs = Library.UNet2DModel.from_pretrained(place / "unet")(wave(1, 3, 8, 8), 37).sample
    agree(
        "UNet2D", "diffusers UNet2DModel", model(wave(1, 3, 8, 8), 37).value, theirs, what="converted latent diffusion"
    )


@torch.no_grad()
def test_latent_diffusion_of_a_text(tmp_path: Path) -> None:
    unet = made.unet(32, (1, 2), 1, (1, 2), (4, 4), lambda name, width: made.transformer(name, width, 24, False))
    coder, bert = made.coder(32, (1, 2), 4, blocks=1), made.bert(48, 2, 40, 7)
    counts = [(made.count(shapes), len(shapes)) for shapes in (unet, coder, bert)]
    assert counts == [(1_049_412, 286), (658_375, 124), (238_744, 32)]
    state = reference(unet, "model.diffusion_model.") | reference(coder, "first_stage_model.")
    state |= reference(bert, "cond_stage_model.transformer.")
    place = convert(state, tmp_path, *sets(sample_size=8), "--without", "tokenizer")
    model = UNet2DCondition.from_pretrained(place / "unet", attention_head_dim=4)
    output = model(wave(1, 4, 8, 8), 37, model.condition(text(wave(1, 5, 24, phase=0.2)))).value
    golden("UNet2DCondition", output, [0.16951, -0.48419, -0.61377, 0.18169, -0.22258], -0.038503, 0.495882)
    decoded = AutoencoderKL.from_pretrained(place / "vqvae", scaling_factor=1.0).decode(wave(1, 4, 8, 8))
    golden("AutoencoderKL", decoded, [-0.05681, 0.04777, -0.17575, -0.20135, -0.828], -0.1039, 0.437029)
    ids = torch.tensor([[1, 5, 9, 2, 0, 0, 0]])
    hidden = LDMBert.from_pretrained(place / "bert")(Tokens(ids, ids > 0)).hidden
    golden("LDMBert", hidden, [1.98872, -1.06527, -1.61191, 0.03255, -2.07316], 0.008469, 1.0271)


@torch.no_grad()
def test_if(tmp_path: Path) -> None:
    """The second stage's U-Net divides by 1.4142271 as published, which is the square root of 2 to six digits."""
    low_res = torch.nn.functional.interpolate(wave(1, 3, 4, 4, phase=1.0), (8, 8), mode="bilinear", align_corners=True)
    for enlarges, counts, numbers in (
        (False, (795_750, 175), ([0.10098, 0.0377, 0.09876, 0.16677, -0.20941], 0.015637, 0.600185)),
        (True, (769_606, 179), ([0.13927, -0.41758, -0.09451, -0.44519, -0.34284], 0.004253, 0.477782)),
    ):
        shapes = made.deepfloyd(32, (1, 2), 1, (2,), text=64, states=48, enlarges=enlarges)
        assert (made.count(shapes), len(shapes)) == counts
        folder = tmp_path / str(enlarges)
        folder.mkdir()
        options = sets(head_width=16, pooling_heads=4, sample_size=8)
        place = convert(reference(shapes), folder, *options, "--without", "tokenizer", "--without", "text_encoder")
        model = UNetIF.from_pretrained(place / "unet")
        told = {"low_res": low_res, "aug_level": 250} if enlarges else {}
        condition = model.condition(text(wave(1, 5, 48, phase=0.2)), **told)
        golden("UNetIF", torch.cat(model(wave(1, 3, 8, 8), 37, condition), dim=1), *numbers)


# --- the library's converters -----------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "mult": (1, 2), "blocks": 1, "attends": (1,), "text": 64, "depth": 2, "length": 16, "coder_width": 32,
}  # fmt: skip


@pytest.fixture(scope="module", params=[1, 2, 9], ids=["1.x", "2.x", "inpainting"])
def stable_diffusion(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, State, Path]:
    """A Stable Diffusion of this version (9: of version 1, made for inpainting), and the folder that it became."""
    version, channels = (1, 9) if request.param == 9 else (request.param, 4)
    folder = tmp_path_factory.mktemp("original")
    write_clip(folder, "vocab.json")
    vocabulary = len(clip_vocabulary()[0])
    state = made.random_state(made.stable_diffusion(version, 64, vocabulary=vocabulary, channels=channels, **TINY))
    for name in state:
        if name.endswith("position_ids"):
            state[name] = torch.arange(TINY["length"])[None]
    for name in ("model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_out.weight"):
        state[name] *= 0.2
    told = {"prediction_type": "v_prediction"} if version == 2 else {}
    place = convert(state, folder, *sets(sample_size=8, **told), "--part", f"tokenizer={folder}")
    return version, state, place


@torch.no_grad()
def test_the_librarys_converters_make_the_same(stable_diffusion: tuple[int, State, Path]) -> None:
    version, state, place = stable_diffusion
    configs = {name: json.loads((place / name / "config.json").read_text()) for name in ("unet", "vae")}
    unet = Theirs.convert_ldm_unet_checkpoint(dict(state), configs["unet"])
    vae = Theirs.convert_ldm_vae_checkpoint(dict(state), configs["vae"])
    for name, expected in (("unet", unet), ("vae", vae)):
        found = load_file(place / name / "diffusion_pytorch_model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(value.reshape(expected[key].shape), expected[key]) for key, value in found.items())

    peer = Library.UNet2DConditionModel.from_config(configs["unet"]).eval()
    peer.load_state_dict(unet)
    hidden = noise(2, TINY["length"], TINY["text"])
    sample, extra = noise(2, 4, 8, 8, seed=1), noise(2, 5, 8, 8, seed=2)
    inpaints = configs["unet"]["in_channels"] == 9
    extra[:, :1] = (extra[:, :1] > 0).float()
    told = {"mask": extra[:, :1], "masked": extra[:, 1:]} if inpaints else {}
    model = UNet2DCondition.from_pretrained(place / "unet")
    theirs = peer(torch.cat([sample, extra], dim=1) if inpaints else sample, 500, hidden).sample
    what = f"converted Stable Diffusion {version}{', inpainting' if inpaints else ''}"
    ours = model(sample, 500, model.condition(text(hidden), **told)).value
    agree("UNet2DCondition", "diffusers UNet2DConditionModel", ours, theirs, what=what)

    peer = Library.AutoencoderKL.from_config(configs["vae"]).eval()
    peer.load_state_dict(vae)
    latents = noise(1, 4, 4, 4, seed=3)
    decoded = AutoencoderKL.from_pretrained(place / "vae").decode(latents)
    theirs = peer.decode(latents / configs["vae"]["scaling_factor"]).sample
    agree("AutoencoderKL", "diffusers AutoencoderKL", decoded, theirs, what=what)


@torch.no_grad()
def test_the_librarys_converters_make_the_same_text_encoder(stable_diffusion: tuple[int, State, Path]) -> None:
    version, state, place = stable_diffusion
    config = json.loads((place / "text_encoder/config.json").read_text())
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    keys += ("max_position_embeddings", "eos_token_id", "projection_dim")
    peer = Texts.CLIPTextModel(Texts.CLIPTextConfig(**{key: config[key] for key in keys})).eval()
    if version == 1:
        found = Theirs.convert_ldm_clip_checkpoint(dict(state))
    else:
        found = Theirs.convert_open_clip_checkpoint(peer, dict(state), prefix="cond_stage_model.model.")
    found = {name.removeprefix("text_model."): value for name, value in found.items()}
    peer.load_state_dict(
        {name: found[name] for name in peer.state_dict()}
    )  # without the layer that version 2 leaves out
    end = config["eos_token_id"]
    ids = torch.tensor([[end - 1, 5, 60, 100, *[end] * (TINY["length"] - 4)]])
    ours = CLIPText.from_pretrained(place / "text_encoder")(Tokens(ids, ids < end))
    theirs = peer(ids)
    what = f"converted Stable Diffusion {version}"
    agree("CLIPText", "transformers CLIPTextModel", ours.hidden, theirs.last_hidden_state, what=what)


@pytest.mark.parametrize("stable_diffusion", [1, 2], indirect=True, ids=["1.x", "2.x"])
def test_the_library_reads_the_folder(stable_diffusion: tuple[int, State, Path]) -> None:
    """The whole pipeline, from the same seed; the folder is a graph here by itself."""
    version, _, place = stable_diffusion
    given = {"prompt": "a green dog", "guidance_scale": 4.0}
    ours = Graph.load(place)(seed=5, steps=4, **given).image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        pipeline = Library.StableDiffusionPipeline.from_pretrained(place)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        images = pipeline(num_inference_steps=4, generator=generator, output_type="np", **given).images
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    what = f"a converted folder, version {version}"
    assert theirs.std() > 0.1
    if version == 1:  # the shipped graph takes the folder too
        assert torch.equal(Graph.load("stable_diffusion")(seed=5, steps=4, weights=place, **given).image, ours)
    agree("stable_diffusion", "diffusers StableDiffusionPipeline", ours.clamp(-1, 1), theirs, tolerance=1e-4, what=what)


# --- the published sizes ----------------------------------------------------------------------------------------------


SD = {"width": 320, "mult": (1, 2, 4, 4), "blocks": 2, "attends": (1, 2, 4), "coder_width": 128, "length": 77}
GLIDE = {"text": 512, "layers": 16, "vocabulary": 50257, "length": 128}
UPSAMPLER = ((1, 1, 2, 2, 4, 4), 2, (8, 16, 32))
TEXT2IM = made.text2im(
    320, (1, 2, 4, 4), 2, (1, 2, 4), text=1280, depth=32, vocabulary=30522, length=77, coder_width=128
)  # fmt: skip
CELEBAHQ = made.without_text(224, (1, 2, 3, 4), 2, (2, 4, 8), coder_width=128, codebook=8192)
OPENIMAGES = made.without_text(160, (1, 2, 2, 4), 2, (8, 16), channels=6, coder_width=128, codebook=8192)
SD1 = made.stable_diffusion(1, text=768, depth=12, vocabulary=49408, **SD)
SD1_INPAINTING = made.stable_diffusion(1, text=768, depth=12, vocabulary=49408, channels=9, **SD)
SD2 = made.stable_diffusion(2, text=1024, depth=24, vocabulary=49408, **SD)
IF_XL = made.deepfloyd(704, (1, 2, 3, 4), 3, (2, 4, 8), text=2816, states=4096)
IF_II_L = made.deepfloyd(160, (1, 2, 4, 6, 8), (2, 2, 3, 5, 5), (8, 16), text=1280, states=4096, enlarges=True)

# For each file: tensors and numbers of a part in it, by a prefix, as published, and some of the part's config.
PUBLISHED: list[Any] = [
    ("base", made.glide(192, (1, 2, 3, 4), 3, (2, 4, 8), 3, **GLIDE), "base", "", 783, 385_030_726,
     {"image_size": 64, "low_res_size": None, "attention_sizes": [32, 16, 8], "channel_mult": [1, 2, 3, 4]}),
    ("upsample", made.glide(192, *UPSAMPLER, 6, **GLIDE), "upsampler", "", 797, 398_361_286,
     {"image_size": 256, "low_res_size": 64, "attention_sizes": [32, 16, 8], "inpaint": False}),
    ("base_inpaint", made.glide(192, (1, 2, 3, 4), 3, (2, 4, 8), 7, **GLIDE), "base", "", 783, 385_037_638,
     {"image_size": 64, "inpaint": True}),
    ("upsample_inpaint", made.glide(192, *UPSAMPLER, 10, **GLIDE), "upsampler", "", 797, 398_368_198,
     {"image_size": 256, "low_res_size": 64, "inpaint": True}),
    ("cifar10", made.ddpm(128, (1, 2, 2, 2), 2, 1), "unet", "", 328, 35_746_307,
     {"sample_size": 32, "block_out_channels": [128, 256, 256, 256]}),
    ("church", made.ddpm(128, (1, 1, 2, 2, 4, 4), 2, 4), "unet", "", 450, 113_673_219, {"sample_size": 256}),
    ("text2im", TEXT2IM, "unet", "model.diffusion_model.", 686, 872_300_484, {"sample_size": 32, "attention_head_dim": 8}),
    ("text2im", TEXT2IM, "bert", "cond_stage_model.transformer.", 422, 581_994_042, {"head_dim": 64}),
    ("text2im", TEXT2IM, "vqvae", "first_stage_model.", 248, 83_653_863, {"scaling_factor": 0.18215}),
    ("celebahq", CELEBAHQ, "unet", "model.diffusion_model.", 368, 274_056_163,
     {"sample_size": 64, "block_out_channels": [224, 448, 672, 896], "attention_head_dim": 32}),
    ("celebahq", CELEBAHQ, "vqvae", "first_stage_model.", 205, 55_322_782, {"scaling_factor": 1.0}),
    ("openimages", OPENIMAGES, "unet", "model.diffusion_model.", 306, 113_622_563, {"in_channels": 6, "out_channels": 3}),
    ("sd1", SD1, "unet", "model.diffusion_model.", 686, 859_520_964, {"sample_size": 64, "cross_attention_dim": 768}),
    ("sd1", SD1, "vae", "first_stage_model.", 248, 83_653_863, {"block_out_channels": [128, 256, 512, 512]}),
    ("sd1", SD1, "text_encoder", "cond_stage_model.transformer.text_model.", 197, 123_060_557, {"num_attention_heads": 12}),
    ("sd1_inpainting", SD1_INPAINTING, "unet", "model.diffusion_model.", 686, 859_535_364, {"in_channels": 9}),
    ("sd2", SD2, "unet", "model.diffusion_model.", 686, 865_910_724,
     {"sample_size": 96, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}),
    ("if_i_xl", IF_XL, "unet", "", 643, 4_304_695_110,
     {"sample_size": 64, "block_out_channels": [704, 1408, 2112, 2816], "only_cross_attention": False}),
    ("if_ii_l", IF_II_L, "unet", "", 801, 1_183_628_550,
     {"sample_size": 256, "layers_per_block": [2, 2, 3, 5, 5], "only_cross_attention": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shapes", "part", "prefix", "tensors", "numbers", "config"),
    PUBLISHED,
    ids=[f"{row[0]}-{row[2]}" for row in PUBLISHED],
)
def test_published_sizes(
    name: str, shapes: made.Shapes, part: str, prefix: str, tensors: int, numbers: int, config: dict[str, Any]
) -> None:
    """The file's names and shapes, which have the published counts, are the model's, each once, and nothing is left."""
    own = {key: shape for key, shape in shapes.items() if key.startswith(prefix)}
    assert (len(own), made.count(own)) == (tensors, numbers)
    settings = {"prediction_type": "v_prediction"} if name == "sd2" else {}
    conversion = import_name(recognised(list(shapes), name).place).convert(Checkpoint(shapes, settings=settings))
    assert left_over(conversion, shapes) == []
    one = next(one for one in conversion.parts if one.name == part)
    assert {key: one.config[key] for key in config} == config
    cls: Any = registry().nodes[one.node].load()
    module: Any = built_without_memory(lambda: cls(cls.Config(**tuples(one.config))))
    specs = {key: TensorSpec(Path(name), key, "F32", shape) for key, shape in shapes.items()}
    found = renamed(part_specs(one, specs, name), cls.keys, name)
    state = module.state_dict()
    assert found.keys() == state.keys()
    assert [key for key, value in state.items() if squeezed(found[key].shape) != squeezed(value.shape)] == []
    spare = 77 if part == "text_encoder" else 0  # the numbers of the places
    assert sum(value.numel() for value in state.values()) == numbers - spare


def squeezed(shape: tuple[int, ...]) -> list[int]:
    """A shape without the ones by which a convolution of one pixel differs from a linear layer."""
    return [*shape[:1], *(size for size in shape[1:] if size != 1)]


def tuples(config: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
