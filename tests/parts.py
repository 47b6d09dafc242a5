"""Tiny untrained weights for every shipped system, in the layout of its published ones, and pictures to train on.

Every function fills a folder that exists, and returns it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers

from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from diffgraph.nodes.models.clip_text import CLIPText, CLIPTextConfig
from diffgraph.nodes.models.dit import DiT, DiTConfig
from diffgraph.nodes.models.ldm_bert import LDMBert, LDMBertConfig
from diffgraph.nodes.models.t5_encoder import T5Encoder, T5EncoderConfig
from diffgraph.nodes.models.unet2d import UNet2D, UNet2DConfig
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition, UNet2DConditionConfig
from diffgraph.nodes.models.unet_glide import UNetGLIDE, UNetGLIDEConfig
from diffgraph.nodes.models.unet_if import UNetIF, UNetIFConfig
from diffgraph.nodes.models.vq_model import VQModel, VQModelConfig

from .fill import fill
from .nodes.test_unet_if import first_stage, second_stage

SMALL: dict[str, Any] = {
    "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_head_channels": 32,
    "attention_sizes": (8, 4), "text_context": 8, "text_width": 32, "text_layers": 1, "text_heads": 2,
    "vocab_size": 257, "learn_variance": True,
}  # fmt: skip
COSINE = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"}
LINEAR = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "use_clipped_model_output": True}


def write_tokenizer(folder: Path, length: int) -> None:
    """A vocabulary of the 256 bytes and the end of text, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.BPE(vocab=vocabulary, merges=[])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))


def write_scheduler(folder: Path, config: dict[str, Any]) -> None:
    (folder / "scheduler_config.json").write_text(json.dumps(config))


def save_glide(folder: Path) -> Path:
    """A tiny GLIDE with OpenAI's settings: learned variance, cosine and linear betas. 8 pixels, then 16."""
    with torch.random.fork_rng(devices=[]):
        networks = {
            "base": UNetGLIDE(UNetGLIDEConfig(image_size=8, **SMALL)),
            "upsampler": UNetGLIDE(UNetGLIDEConfig(image_size=16, low_res_size=8, **SMALL)),
        }
    for name, network in networks.items():
        fill(network)
        network.save_pretrained(folder / name)
        write_scheduler(folder / name, COSINE if name == "base" else LINEAR)
    write_tokenizer(folder / "base", 8)
    return folder


def save_glide_inpaint(folder: Path) -> Path:
    """A tiny GLIDE made for inpainting, in the same way; both of its stages are ancestral, as the original's are."""
    told: dict[str, Any] = {"inpaint": True, **SMALL}
    with torch.random.fork_rng(devices=[]):
        networks = {
            "base": UNetGLIDE(UNetGLIDEConfig(image_size=8, **told)),
            "upsampler": UNetGLIDE(UNetGLIDEConfig(image_size=16, low_res_size=8, **told)),
        }
    for name, network in networks.items():
        fill(network)
        network.save_pretrained(folder / name)
        write_scheduler(folder / name, COSINE if name == "base" else COSINE | {"beta_schedule": "linear"})
    write_tokenizer(folder / "base", 8)
    return folder


def save_ddpm(folder: Path) -> Path:
    """A tiny U-Net of DDPM with its scheduler's config."""
    config = UNet2DConfig(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        network = UNet2D(config)
    fill(network)
    network.save_pretrained(folder)
    write_scheduler(folder, {"_class_name": "DDPMScheduler"})
    return folder


def write_pieces(folder: Path, length: int) -> None:
    """A vocabulary of T5's form: letters as sentence pieces."""
    letters = [(letter, -3.0) for letter in ("▁", *"abcdefghijklmnopqrstuvwxyz")]
    special = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    folder.mkdir(parents=True, exist_ok=True)
    model = {"type": "Unigram", "unk_id": 2, "vocab": [*special, *letters]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))


def save_imagen(folder: Path) -> Path:
    """A tiny Imagen in DeepFloyd IF's layout, with its schedulers' configs: base, 8 pixels, and upsampler, 16."""
    tiny = {"encoder_hid_dim": 32, "addition_embed_type_num_heads": 4, "attention_head_dim": 16, "layers_per_block": 1}
    text = T5EncoderConfig(
        vocab_size=32, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng(devices=[]):
        modules = {
            "base/text_encoder": T5Encoder(text),
            "base/unet": UNetIF(UNetIFConfig(**(first_stage(32) | tiny | {"sample_size": 8}))),
            "upsampler/unet": UNetIF(
                UNetIFConfig(**(second_stage(32) | tiny | {"sample_size": 16, "time_embedding_dim": 64}))
            ),
        }
    for name, module in modules.items():
        fill(module)
        module.save_pretrained(folder / name)
    write_pieces(folder / "base/tokenizer", 512)
    for name in ("tokenizer", "text_encoder"):
        shutil.copytree(folder / "base" / name, folder / "upsampler" / name)
    for name, largest in (("base", 1.5), ("upsampler", 1.0)):
        threshold = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": largest}
        (folder / name / "scheduler").mkdir()
        write_scheduler(folder / name / "scheduler", COSINE | threshold)
    (folder / "upsampler/image_noising_scheduler").mkdir()
    write_scheduler(
        folder / "upsampler/image_noising_scheduler", {k: v for k, v in COSINE.items() if k != "variance_type"}
    )
    return folder


# Autoencoders of two levels: latents half as large as pictures.
CODER: dict[str, Any] = {
    "block_out_channels": (16, 32), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 8,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
}  # fmt: skip
LDM_SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "clip_sample": False,
}  # fmt: skip


def save_all(folder: Path, make: Callable[[], dict[str, Any]], scheduler: dict[str, Any]) -> Path:
    """A repository of networks, each in its folder, with the config of a scheduler."""
    with torch.random.fork_rng(devices=[]):
        modules = make()
    for name, module in modules.items():
        fill(module)
        module.save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    write_scheduler(folder / "scheduler", scheduler)
    return folder


def text_unet(width: int, in_channels: int = 4) -> UNet2DCondition:
    """A U-Net of 8 x 8 latents that sees a text of this width; with 9 channels also what is to be repainted."""
    levels = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2}
    return UNet2DCondition(
        UNet2DConditionConfig(
            **LATENT,
            **levels,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            in_channels=in_channels,
        )
    )


def save_ldm(folder: Path) -> Path:
    """A tiny latent diffusion in the layout of CompVis/ldm-text2im-large-256. 8 x 8 latents, 16 pixels."""
    text = LDMBertConfig(
        vocab_size=31, max_position_embeddings=8, encoder_layers=1, encoder_ffn_dim=32, d_model=24, head_dim=8,
        encoder_attention_heads=2, dropout=0.0,
    )  # fmt: skip

    def make() -> dict[str, Any]:
        autoencoder = AutoencoderKL(AutoencoderKLConfig(**CODER))
        return {"bert": LDMBert(text), "unet": text_unet(24), "vqvae": autoencoder}

    save_all(folder, make, LDM_SCHEDULER)
    (folder / "tokenizer").mkdir()
    letters = [f"{start}{letter}" for start in ("", "##") for letter in "acdeginoprstu"]
    (folder / "tokenizer/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": 8}))
    return folder


def save_dit(folder: Path) -> Path:
    """A tiny DiT of ten classes, with a variance as the published ones have it; its index names some."""
    config = DiTConfig(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, out_channels=8, num_embeds_ada_norm=10
    )

    def make() -> dict[str, Any]:
        return {"transformer": DiT(config), "vae": AutoencoderKL(AutoencoderKLConfig(**CODER))}

    save_all(folder, make, LDM_SCHEDULER)
    parts = {"transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index = {"_class_name": "DiTPipeline", **{name: ["diffusers", cls] for name, cls in parts.items()}}
    index["id2label"] = {"0": "tench, Tinca tinca", "9": "ostrich"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def save_clip(folder: Path, in_channels: int) -> Path:
    """A tiny Stable Diffusion: its text encoder is CLIP's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextConfig(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, eos_token_id=len(pieces) - 1,
    )  # fmt: skip

    def make() -> dict[str, Any]:
        return {
            "text_encoder": CLIPText(text), "unet": text_unet(32, in_channels),
            "vae": AutoencoderKL(AutoencoderKLConfig(**CODER)),
        }  # fmt: skip

    scheduler = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}
    save_all(folder, make, LDM_SCHEDULER | scheduler)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": 8}))
    return folder


def save_codebook(folder: Path, in_channels: int) -> Path:
    """A U-Net without a text, over the latents of a codebook."""
    levels = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}

    def make() -> dict[str, Any]:
        autoencoder = VQModel(VQModelConfig(**CODER, num_vq_embeddings=16))
        return {"unet": UNet2D(UNet2DConfig(**LATENT, **levels, in_channels=in_channels)), "vqvae": autoencoder}

    return save_all(folder, make, LDM_SCHEDULER)


def save_photo(folder: Path) -> Path:
    """A folder with a picture, and a mask that covers its right half."""
    picture = Image.linear_gradient("L").resize((24, 16))
    Image.merge("RGB", (picture, picture.rotate(180), picture)).save(folder / "image.png")
    mask = Image.new("L", (24, 16))
    mask.paste(255, (12, 0, 24, 16))
    mask.save(folder / "mask.png")
    return folder


def save_data(folder: Path, count: int) -> Path:
    """So many captioned pictures of discs and squares."""
    with (folder / "metadata.jsonl").open("w") as metadata:
        for number in range(count):
            colour = ("red", "green", "blue", "orange")[number % 4]
            shape = "disc" if number % 8 < 4 else "square"
            picture = Image.new("RGB", (32, 32), "white")
            draw = ImageDraw.Draw(picture)
            box = (4 + number % 5, 6, 24 + number % 5, 26)
            (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
            picture.save(folder / f"{number:02}.png")
            metadata.write(json.dumps({"file_name": f"{number:02}.png", "text": f"{colour} {shape}"}) + "\n")
    return folder
