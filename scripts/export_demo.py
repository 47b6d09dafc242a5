"""Puts trained weights into graphs/weights/ as the demo variants load them: fp16, with scheduler and tokenizer.

diffgraph train graphs/train/glide.yaml --data data/emoji312/train --tokenizer runs/bpe --out runs/base
diffgraph train graphs/train/glide_upsampler.yaml --data data/emoji312/train --tokenizer runs/bpe --out runs/upsampler
diffgraph train graphs/train/ddpm.yaml --data data/emoji/plain --out runs/ddpm
python scripts/export_demo.py --base runs/base --upsampler runs/upsampler --ddpm runs/ddpm

Latent diffusion is trained in two stages: the second needs what the first exported, with the scale of its latents.

diffgraph train graphs/train/ldm_autoencoder.yaml --data data/emoji/train --out runs/autoencoder
python scripts/export_demo.py --autoencoder runs/autoencoder --data data/emoji/train
diffgraph train graphs/train/ldm.yaml --data data/emoji/train --out runs/ldm
python scripts/export_demo.py --ldm runs/ldm

So is Imagen, whose second stage reads texts with the encoder of the first.

python scripts/build_t5_tokenizer.py data/emoji/train runs/t5
diffgraph train graphs/train/imagen.yaml --data data/emoji/train --tokenizer runs/t5 --out runs/imagen
python scripts/export_demo.py --imagen runs/imagen
diffgraph train graphs/train/imagen_upsampler.yaml --data data/emoji/train --out runs/imagen_upsampler
python scripts/export_demo.py --imagen_upsampler runs/imagen_upsampler
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from build_emoji import COLOURS, MORE_NAMES, NAMES

from diffgraph.nodes.data import ImageFolder, ImageFolderConfig
from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL
from diffgraph.nodes.models.ldm_bert import LDMBert
from diffgraph.nodes.models.t5_encoder import T5Encoder
from diffgraph.nodes.models.unet2d import UNet2D
from diffgraph.nodes.models.unet2d_condition import UNet2DCondition
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.models.unet_if import UNetIF
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from diffgraph.nodes.text.t5_tokenizer import T5Tokenizer
from diffgraph.nodes.text.tokenizer import Tokenizer

WEIGHTS = Path(__file__).parent.parent / "graphs" / "weights"


def export_names(folder: Path, more: bool = False) -> None:
    """What the weights know by name, for the note that answers other prompts."""
    names = {"names": sorted({**NAMES, **MORE_NAMES} if more else NAMES), "colours": list(COLOURS)}
    (folder / "names.json").write_text(json.dumps(names, indent=1) + "\n")


def export_autoencoder(run: Path, data: Path, size: int = 64) -> None:
    """The autoencoder of latent diffusion, with the scale that gives the latents of its data a variance of 1."""
    import torch

    model = AutoencoderKL.from_pretrained(run / "vqvae")
    pictures = ImageFolder.open(ImageFolderConfig(size=size), data).pixels
    latents = []
    with torch.no_grad():
        for rows in torch.from_numpy(pictures).split(64):
            latents.append(model.posterior(rows.permute(0, 3, 1, 2) / 127.5 - 1).mean)
    scale = round(1 / float(torch.cat(latents).std()), 5)
    model.config = replace(model.config, scaling_factor=scale)
    model.save_pretrained(WEIGHTS / "ldm-demo" / "vqvae", dtype="float16")
    print(f"scaling_factor {scale}")


def export_ldm(run: Path) -> None:
    """The U-Net and the text encoder of latent diffusion, and a scheduler that ends at the clean latents."""
    place = WEIGHTS / "ldm-demo"
    UNet2DCondition.from_pretrained(run / "unet").save_pretrained(place / "unet", dtype="float16")
    LDMBert.from_pretrained(run / "bert").save_pretrained(place / "bert", dtype="float16")
    config = DDIMConfig(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    DDIMScheduler(config).save_pretrained(place / "scheduler")
    export_names(place / "tokenizer")


def export_imagen(run: Path) -> None:
    """The first stage of Imagen, with its text encoder, in the folders of a published repository."""
    place = WEIGHTS / "imagen-demo" / "base"
    UNetIF.from_pretrained(run / "base/unet").save_pretrained(place / "unet", dtype="float16")
    T5Encoder.from_pretrained(run / "base/text_encoder").save_pretrained(place / "text_encoder", dtype="float16")
    T5Tokenizer.from_pretrained(run / "base/tokenizer").save_pretrained(place / "tokenizer")
    DDPMScheduler.from_pretrained(run / "base/scheduler").save_pretrained(place / "scheduler")
    export_names(place / "tokenizer")


def export_imagen_upsampler(run: Path) -> None:
    """The second stage of Imagen."""
    place, trained = WEIGHTS / "imagen-demo" / "upsampler", run / "upsampler"
    UNetIF.from_pretrained(trained / "unet").save_pretrained(place / "unet", dtype="float16")
    DDIMScheduler.from_pretrained(trained / "scheduler").save_pretrained(place / "scheduler")
    noising = DDPMScheduler.from_pretrained(trained / "image_noising_scheduler")
    noising.save_pretrained(place / "image_noising_scheduler")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "upsampler", "ddpm", "autoencoder", "ldm", "imagen", "imagen_upsampler"):
        parser.add_argument(f"--{name}", type=Path, help=f"the folder that the training of {name} wrote")
    parser.add_argument("--data", type=Path, help="what the autoencoder was trained on")
    options = parser.parse_args()
    if options.autoencoder and not options.data:
        parser.error("--autoencoder needs --data, to measure its latents")
    ancestral = DDPMScheduler(
        DDPMConfig(beta_schedule="squaredcos_cap_v2", prediction_type="sample", respaced=True)
    )  # a count of steps is a respacing too, and so begins at the last timestep
    ddim = DDIMScheduler(
        DDIMConfig(
            beta_schedule="squaredcos_cap_v2", prediction_type="sample", respaced=True, use_clipped_model_output=True
        )
    )
    if options.base:
        place = WEIGHTS / "glide-demo" / "base"
        UNetGLIDE.from_pretrained(options.base / "base").save_pretrained(place, dtype="float16")
        Tokenizer.from_pretrained(options.base / "base").save_pretrained(place)
        ancestral.save_pretrained(place)
        export_names(place, more=True)
    if options.upsampler:
        place = WEIGHTS / "glide-demo" / "upsampler"
        UNetGLIDE.from_pretrained(options.upsampler / "upsampler").save_pretrained(place, dtype="float16")
        ddim.save_pretrained(place)
    if options.ddpm:
        place = WEIGHTS / "ddpm-demo"
        UNet2D.from_pretrained(options.ddpm).save_pretrained(place, dtype="float16")
        ancestral.save_pretrained(place)
    if options.autoencoder:
        export_autoencoder(options.autoencoder, options.data)
    if options.ldm:
        export_ldm(options.ldm)
    if options.imagen:
        export_imagen(options.imagen)
    if options.imagen_upsampler:
        export_imagen_upsampler(options.imagen_upsampler)


if __name__ == "__main__":
    main()
