"""AutoencoderKL and VQModel beside the library's: the same published files, the same numbers, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL
from diffgraph.nodes.models.vq_model import VQModel

from ..fill import noise, randomise
from ..nodes.test_autoencoders import KL_SIZES, VQ_SIZES, published
from ..parity import agree

LibraryKL: Any = diffusers.AutoencoderKL
LibraryVQ: Any = diffusers.VQModel

# Published configs, an eighth as wide or so.
KL_CONFIGS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1 and 2": published((16, 32, 64, 64), sample_size=512, norm_num_groups=8),
    "kl-f16": published((16, 16, 32, 32, 64), (4,), latent_channels=16, norm_num_groups=8),
    "kl-f32": published((16, 16, 32, 32, 64, 64), (4, 5), latent_channels=64, norm_num_groups=8),
    "kl-f4": published((32, 64, 64), latent_channels=3, scaling_factor=0.08333),
    "Stable Diffusion 3": published(
        (16, 32, 64, 64), latent_channels=16, norm_num_groups=8, scaling_factor=1.5305, shift_factor=0.0609,
        use_quant_conv=False, use_post_quant_conv=False, force_upcast=False,
    ),
    "no attention, other images": published(
        (32, 32), mid_block_add_attention=False, in_channels=1, out_channels=2, act_fn="swish", norm_num_groups=16
    ),
}  # fmt: skip
VQ_CONFIGS: dict[str, dict[str, Any]] = {
    "celebahq and super-resolution": published((32, 64, 64), num_vq_embeddings=64, vq_embed_dim=3, scaling_factor=1.0),
    "vq-f4-noattn": published((32, 64, 64), mid_block_add_attention=False, num_vq_embeddings=64),
    "vq-f8": published((16, 32, 32, 64), (3,), latent_channels=4, num_vq_embeddings=64, norm_num_groups=8),
    "vq-f16": published((16, 16, 32, 32, 64), (4,), latent_channels=8, num_vq_embeddings=64, norm_num_groups=8),
    "tokens": published((32, 64), num_vq_embeddings=32, lookup_from_codebook=True, force_upcast=True),
}


def save(config: dict[str, Any], folder: Path) -> Any:
    """A library's autoencoder with random weights, none zero, and what it publishes."""
    peer = (LibraryVQ if "num_vq_embeddings" in config else LibraryKL)(**config).eval()
    randomise(peer)
    peer.save_pretrained(folder)
    return peer


def far_from_ties(peer: Any, latents: Tensor) -> bool:
    """Whether no latent lies so near to the middle of two entries that rounding decides which is nearest."""
    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
    two = torch.cdist(flat.double(), peer.quantize.embedding.weight.double()).topk(2, largest=False).values
    return bool((two[:, 1] - two[:, 0] > 1e-5).all())


@pytest.mark.parametrize("name", KL_CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_librarys_kl(name: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest value: fp32 sums in another order."""
    peer = save(KL_CONFIGS[name], tmp_path)
    model = AutoencoderKL.from_pretrained(tmp_path)
    config = model.config
    side = 3 * model.factor
    image, latents = noise(2, config.in_channels, side, 2 * side), noise(2, config.latent_channels, 3, 6)
    posterior, ours = peer.encode(image).latent_dist, model.posterior(image)
    agree("AutoencoderKL", "diffusers AutoencoderKL", ours.mean, posterior.mean, what=f"{name}: mean")
    agree("AutoencoderKL", "diffusers AutoencoderKL", ours.logvar, posterior.logvar, what=f"{name}: variance")
    scaled = (posterior.mean - (config.shift_factor or 0)) * config.scaling_factor  # as its pipelines do
    agree("AutoencoderKL", "diffusers AutoencoderKL", model.encode(image), scaled, what=f"{name}: latents")
    unscaled = latents / config.scaling_factor + (config.shift_factor or 0)
    decoded = peer.decode(unscaled).sample
    agree("AutoencoderKL", "diffusers AutoencoderKL", model.decode(latents), decoded, what=f"{name}: image")


@torch.no_grad()
def test_the_librarys_divergence(tmp_path: Path) -> None:
    from diffgraph.nodes.draw import seeded

    peer = save(KL_CONFIGS["kl-f4"], tmp_path)
    model, image = AutoencoderKL.from_pretrained(tmp_path), noise(2, 3, 16, 16)
    posterior = peer.encode(image).latent_dist
    encoded = model.encode_sample(image, seeded([3, 4]))
    agree("AutoencoderKL", "diffusers AutoencoderKL", encoded.kl, posterior.kl(), what="KL divergence")
    drawn = [posterior.mean[row : row + 1] for row in (0, 1)]
    for row, seed in enumerate((3, 4)):
        generator = torch.Generator().manual_seed(seed)
        alone = peer.encode(image[row : row + 1]).latent_dist.sample(generator)
        drawn[row] = alone * model.config.scaling_factor
    agree("AutoencoderKL", "diffusers AutoencoderKL", encoded.sample, torch.cat(drawn), what="a draw, by seed")


@pytest.mark.parametrize("name", VQ_CONFIGS)
@torch.no_grad()
def test_same_numbers_as_the_librarys_vq(name: str, tmp_path: Path) -> None:
    """To 1e-5 of the largest value: fp32 sums in another order. No latent is near a tie, which may go either way.

    Images to 2e-5: the library's own are up to 7.5e-6 from what it gives in double precision.
    """
    peer = save(VQ_CONFIGS[name], tmp_path)
    model = VQModel.from_pretrained(tmp_path)
    scale = model.config.scaling_factor
    side = 4 * model.factor
    image, latents = noise(2, 3, side, 2 * side), noise(2, model.config.latent_channels, 4, 8)
    encoded = peer.encode(image).latents
    agree("VQModel", "diffusers VQModel", model.encode(image), encoded * scale, what=f"{name}: latents")
    assert far_from_ties(peer, latents / scale)
    rounded, loss, (_, _, codes) = peer.quantize(latents / scale)
    ours = model.nearest(latents, legacy=True)
    assert torch.equal(ours.codes.flatten(), codes)
    agree("VQModel", "diffusers VQModel", ours.sample, rounded * scale, what=f"{name}: rounded")
    agree("VQModel", "diffusers VQModel", ours.loss.mean(), loss, what=f"{name}: loss")
    decoded = peer.decode(latents / scale).sample
    agree("VQModel", "diffusers VQModel", model.decode(latents), decoded, tolerance=2e-5, what=f"{name}: image")
    if model.metadata["lookup_from_codebook"]:
        shape = (2, 4, 8, model.config.latent_channels)
        decoded = peer.decode(codes, force_not_quantize=True, shape=shape).sample
        from_codes = model.decode(model.lookup(ours.codes))
        agree("VQModel", "diffusers VQModel", from_codes, decoded, tolerance=2e-5, what=f"{name}: image of codes")


@pytest.mark.parametrize("config", [KL_CONFIGS["kl-f16"], VQ_CONFIGS["vq-f8"]], ids=["kl", "vq"])
@torch.no_grad()
def test_pretrained_and_back(config: dict[str, Any], tmp_path: Path) -> None:
    """The library reads what save_pretrained wrote, with no tensor too many or too few, and gives the same image."""
    peer = save(config, tmp_path / "theirs")
    cls: Any = VQModel if "num_vq_embeddings" in config else AutoencoderKL
    cls.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    back, info = type(peer).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    latents = noise(1, peer.config.latent_channels, 4, 4)
    assert torch.equal(back.decode(latents).sample, peer.decode(latents).sample)
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    assert ours == theirs


@pytest.mark.parametrize("square", [False, True])
@torch.no_grad()
def test_old_attention_names_and_shapes(square: bool, tmp_path: Path) -> None:
    """Files of 2022 call the projections query, key, value, proj_attn; some hold them as 1x1 convolutions."""
    peer = save(KL_CONFIGS["Stable Diffusion 1 and 2"], tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in load_file(file).items():
        for new, ancient in old.items():
            name = name.replace(f".{new}.", f".{ancient}.")
        attends = ".attentions." in name and tensor.ndim == 2 and square
        state[name] = tensor[:, :, None, None].contiguous() if attends else tensor
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in state
    save_file(state, file)
    model, latents = AutoencoderKL.from_pretrained(tmp_path), noise(1, 4, 4, 4)
    decoded = peer.decode(latents / 0.18215).sample
    agree("AutoencoderKL", "diffusers AutoencoderKL", model.decode(latents), decoded, what="old names of attention")


@pytest.mark.parametrize("name", ["kl", "vq"])
def test_gradients_are_the_librarys(name: str, tmp_path: Path) -> None:
    """One backward pass through both halves: the gradient of every tensor, to 1e-5 of the largest of any."""
    config = KL_CONFIGS["kl-f4"] if name == "kl" else VQ_CONFIGS["celebahq and super-resolution"]
    peer, image = save(config, tmp_path), noise(2, 3, 16, 16)
    if name == "kl":
        model: Any = AutoencoderKL.from_pretrained(tmp_path)
        peer.decode(peer.encode(image).latent_dist.mode()).sample.square().mean().backward()
        model.decode(model.encode(image)).square().mean().backward()
    else:
        model = VQModel.from_pretrained(tmp_path)
        theirs = peer.decode(peer.encode(image).latents)
        (theirs.sample.square().mean() + theirs.commit_loss).backward()
        latents = model.encode(image)
        (model.decode(latents).square().mean() + model.nearest(latents, legacy=True).loss.mean()).backward()
    expected = {name: p.grad for name, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values() if grad is not None)
    for name, p in model.named_parameters():
        wanted = expected[name]
        assert (p.grad is None) == (wanted is None), name
        if p.grad is not None and wanted is not None:
            assert (p.grad - wanted).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_as_near_as_the_librarys(dtype: torch.dtype, tmp_path: Path) -> None:
    """Our fp16 and bf16 are no further from fp32 than twice the library's."""
    peer = save(KL_CONFIGS["kl-f4"] | {"force_upcast": False}, tmp_path)
    model, latents = AutoencoderKL.from_pretrained(tmp_path), noise(1, 3, 8, 8)
    exact = model.decode(latents)
    ours = (model.to(dtype).decode(latents) - exact).abs().mean()
    half = (latents / model.config.scaling_factor).to(dtype)
    theirs = (peer.to(dtype).decode(half).sample.float() - exact).abs().mean()
    assert ours <= 2 * theirs


@pytest.mark.parametrize("name", [*KL_SIZES, *VQ_SIZES])
def test_published_names_are_the_librarys(name: str) -> None:
    """Full published configs: the same names and shapes of all tensors."""
    cls, peer = (AutoencoderKL, LibraryKL) if name in KL_SIZES else (VQModel, LibraryVQ)
    config = {**KL_SIZES, **VQ_SIZES}[name][0]
    built: Any = cls
    with torch.device("meta"):
        ours, theirs = built(built.Config(**config)).state_dict(), peer(**config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
