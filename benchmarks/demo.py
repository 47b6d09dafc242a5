"""Scores the demo's weights: names drawn, copies, pairs never seen, and the upsampler beside bicubic.

    python scripts/build_emoji.py data/emoji312 --all         (GLIDE's; without --all the others' set of 144 names)
    python benchmarks/demo.py data/emoji312 [--system imagen] [--out runs/demo] [--seeds 4] [--batch 48]

Prints one line a score and writes them to OUT/figures.json; writes OUT/blind.png, a sheet of 64 pictures to be named
by someone who has not seen the prompts, with the prompts in OUT/blind-key.json; and OUT/names.png, OUT/unseen.png,
OUT/upsampler.png or OUT/autoencoder.png.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from scoring import Drawings, Pixels

Sample = Callable[[Sequence[str], Sequence[int]], Pixels]  # prompts, seeds -> pictures [N, 64, 64, 3] in [0, 1]
Upsample = Callable[[Any, Sequence[str]], Any]  # small images [N, 3, 16, 16] in [-1, 1], captions -> [N, 3, 64, 64]
WEIGHTS = Path(__file__).parent.parent / "graphs" / "weights"


def emoji_script() -> Any:
    """scripts/build_emoji.py as a module: the names, the colours and the unseen pairs."""
    path = Path(__file__).parent.parent / "scripts" / "build_emoji.py"
    spec = importlib.util.spec_from_file_location("build_emoji", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def to_pixels(image: Any) -> Pixels:
    """A tensor [B, 3, H, W] in [-1, 1] as [B, H, W, 3] in [0, 1]."""
    return np.asarray(((image.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).cpu().numpy(), dtype=np.float32)


def score_names(sample: Sample, plain: Drawings, seeds: int, out: Path) -> dict[str, Any]:
    """Names right by the nearest training drawing, copies, and the same score for real drawings."""
    names = sorted(set(plain.names))
    prompts = [name for name in names for _ in range(seeds)]
    pictures = sample(prompts, [seed for _ in names for seed in range(seeds)])
    right = scoring.names_right(pictures, prompts, plain)
    copied = scoring.copied(pictures, prompts, plain)
    scoring.sheet(pictures[::seeds], 16).save(out / "names.png")
    apart = scoring.styles_apart(plain)
    hits = right.reshape(-1, seeds).sum(1)
    return {
        "names": len(names),
        "names right": round(float(right.mean()), 4),
        "names drawn right at least once": int((hits > 0).sum()),
        "names with a miss": {name: int(n) for name, n in zip(names, hits, strict=True) if n < seeds},
        "real drawings, one style against the others": round(float(np.mean(list(apart.values()))), 4),
        "of each style": {style: round(value, 4) for style, value in apart.items()},
        "copied": round(float(copied.mean()), 4),
    }


def score_unseen(sample: Sample, script: Any, train: Drawings, unseen: Drawings, out: Path) -> dict[str, Any]:
    """Pairs never seen: the colour by the hue of the ink, the name by the nearest drawing in that colour."""
    prompts = list(script.UNSEEN_PAIRS)
    pictures = sample(prompts, list(range(len(prompts))))
    scoring.sheet(pictures, 10).save(out / "unseen.png")
    real = Drawings(
        np.concatenate([train.pixels, unseen.pixels]),
        train.names + unseen.names,
        train.styles + unseen.styles,
        train.colours + unseen.colours,
        train.texts + unseen.texts,
    )
    missed = {}
    for prompt, picture in zip(prompts, pictures, strict=True):
        colour, noun = prompt.split(" ", 1)
        same = real.where([other == colour for other in real.colours])
        seen = scoring.main_colour(picture, script.COLOURS)
        if seen != colour or not scoring.names_right(picture[None], [noun], same)[0]:
            missed[prompt] = "colour" if seen != colour else "name"
    return {"unseen pairs": len(prompts), "unseen pairs right": len(prompts) - len(missed), "missed": missed}


def score_upsampler(upsample: Upsample, chosen: Drawings, file: Path) -> dict[str, float]:
    """PSNR and SSIM of the upsampler and of bicubic, from drawings made 16 x 16 by averaging."""
    import torch
    from torch.nn import functional as F

    image = torch.from_numpy(chosen.pixels).permute(0, 3, 1, 2) * 2 - 1
    small = ((F.avg_pool2d(image, 4) + 1) * 127.5).round() / 127.5 - 1
    bicubic = to_pixels(F.interpolate(small, (64, 64), mode="bicubic"))
    made = to_pixels(upsample(small, chosen.texts))
    rows = np.stack([bicubic, made, chosen.pixels], 1)[:24].reshape(-1, *made.shape[1:])
    scoring.sheet(rows, 12).save(file)
    return {
        "drawings": len(chosen.names),
        "PSNR bicubic": round(float(scoring.psnr(bicubic, chosen.pixels).mean()), 2),
        "PSNR upsampler": round(float(scoring.psnr(made, chosen.pixels).mean()), 2),
        "SSIM bicubic": round(float(scoring.ssim(bicubic, chosen.pixels).mean()), 4),
        "SSIM upsampler": round(float(scoring.ssim(made, chosen.pixels).mean()), 4),
    }


def write_blind_sheet(sample: Sample, known: Sequence[str], script: Any, out: Path) -> None:
    """64 pictures of prompts drawn at random, a quarter of them unseen pairs; the key lies beside the sheet."""
    draw = np.random.default_rng(2026)
    names = draw.choice(sorted(set(known)), 48, replace=False)
    pairs = draw.choice(script.UNSEEN_PAIRS, 16, replace=False)
    prompts = [str(prompt) for prompt in draw.permutation([*names, *pairs])]
    pictures = sample(prompts, [int(seed) for seed in draw.integers(1000, 9999, size=64)])
    scoring.sheet(pictures.repeat(2, 1).repeat(2, 2), 8, gap=8).save(out / "blind.png")
    (out / "blind-key.json").write_text(json.dumps(prompts, indent=1) + "\n")


def graph_sample(system: str, size: int) -> Sample:
    """Pictures through a shipped graph, a prompt at a time; seeds that follow one another are one batch."""
    from diffgraph import Graph

    graph = Graph.load(system)

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Pixels:
        pictures, index = [], 0
        while index < len(prompts):
            count = 1
            while (
                count < size
                and index + count < len(prompts)
                and prompts[index + count] == prompts[index]
                and seeds[index + count] == seeds[index] + count
            ):
                count += 1
            result = graph(prompt=prompts[index], seed=seeds[index], num_images=count)
            pictures.append(to_pixels(result.image))
            index += count
        return np.concatenate(pictures)

    return sample


def glide_upsample(small: Any, texts: Sequence[str]) -> Any:
    """GLIDE's upsampler alone, with its own scheduler, from given small images."""
    import torch

    from diffgraph.nodes.draw import normal, seeded
    from diffgraph.nodes.models.unet_glide import UNetGLIDE
    from diffgraph.nodes.schedulers.ddim import DDIMScheduler
    from diffgraph.nodes.text.tokenizer import Tokenizer

    folder = WEIGHTS / "glide-demo"
    model = UNetGLIDE.from_pretrained(folder / "upsampler")
    scheduler = DDIMScheduler.from_pretrained(folder / "upsampler")
    tokenizer = Tokenizer.from_pretrained(folder / "base")
    with torch.no_grad():
        condition = model.condition(tokenizer.batch(list(texts)), low_res=small)
        noise, rng = normal(seeded(range(len(texts))), model.sample_shape)
        steps = scheduler.schedule("15")
        sample, state = scheduler.start(noise * 0.997, steps)
        for step in steps:
            prediction = model(sample, step.timestep, condition)
            sample, state, rng = scheduler.step(prediction, sample, step, state, rng)
    return sample


def imagen_upsample(small: Any, texts: Sequence[str]) -> Any:
    """Imagen's upsampler alone, from given small images, with as much noise on them as its graph adds."""
    import torch

    from diffgraph import Graph
    from diffgraph.nodes.draw import normal, seeded
    from diffgraph.nodes.models.t5_encoder import T5Encoder
    from diffgraph.nodes.models.unet_if import UNetIF
    from diffgraph.nodes.schedulers.ddim import DDIMScheduler
    from diffgraph.nodes.schedulers.ddpm import DDPMScheduler
    from diffgraph.nodes.tensors import resize
    from diffgraph.nodes.text.t5_tokenizer import T5Tokenizer

    base, folder = WEIGHTS / "imagen-demo" / "base", WEIGHTS / "imagen-demo" / "upsampler"
    inputs = Graph.load("imagen").document.inputs
    level = inputs["noise_level"].default
    model = UNetIF.from_pretrained(folder / "unet")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    noising = DDPMScheduler.from_pretrained(folder / "image_noising_scheduler")
    tokenizer, encoder = (
        T5Tokenizer.from_pretrained(base / "tokenizer"),
        T5Encoder.from_pretrained(base / "text_encoder"),
    )
    with torch.no_grad():
        noise, rng = normal(seeded(range(len(texts))), model.sample_shape)
        low_res = noising.add_noise(resize(small, *model.sample_shape[1:], align_corners=True), noise, level)
        condition = model.condition(encoder(tokenizer.batch(list(texts))), low_res, level)
        noise, rng = normal(rng, model.sample_shape)
        steps = scheduler.schedule(str(inputs["upsampler_steps"].default))
        sample, state = scheduler.start(noise, steps)
        for step in steps:
            prediction = model(sample, step.timestep, condition)
            sample, state, rng = scheduler.step(prediction, sample, step, state, rng)
    return sample


def score_autoencoder(drawings: Drawings, out: Path) -> dict[str, float]:
    """PSNR and SSIM of what the autoencoder of latent diffusion gives back; writes `out`: each drawing and its own."""
    import torch

    from diffgraph.nodes.models.autoencoder_kl import AutoencoderKL

    model = AutoencoderKL.from_pretrained(WEIGHTS / "ldm-demo" / "vqvae")
    image = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        made = np.concatenate([to_pixels(model.decode(model.encode(rows))) for rows in image.split(32)])
    rows = np.stack([drawings.pixels, made], 1)[:36].reshape(-1, *made.shape[1:])
    scoring.sheet(rows, 12).save(out)
    return {
        "drawings": len(drawings.names),
        "PSNR": round(float(scoring.psnr(made, drawings.pixels).mean()), 2),
        "SSIM": round(float(scoring.ssim(made, drawings.pixels).mean()), 4),
    }


UPSAMPLERS: dict[str, Upsample] = {"glide": glide_upsample, "imagen": imagen_upsample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what scripts/build_emoji.py wrote")
    parser.add_argument("--system", default="glide", help="a shipped graph with a prompt and pictures of 64 x 64")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=48)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    script, sample = emoji_script(), graph_sample(given.system, given.batch)
    train, unseen = scoring.load(given.data / "train"), scoring.load(given.data / "unseen")
    plain = train.where([not colour for colour in train.colours])
    figures: dict[str, dict[str, Any]] = {}
    if given.system in UPSAMPLERS:
        upsample, few = UPSAMPLERS[given.system], [index % 9 == 0 for index in range(len(plain.names))]
        figures["upsampler"] = score_upsampler(upsample, plain.where(few), given.out / "upsampler.png")
        few = [index % 3 == 0 for index in range(len(unseen.names))]
        figures["upsampler, held out"] = score_upsampler(upsample, unseen.where(few), given.out / "held_out.png")
    if given.system == "ldm":
        figures["autoencoder"] = score_autoencoder(plain, given.out / "autoencoder.png")
        figures["autoencoder, held out"] = score_autoencoder(unseen, given.out / "held_out.png")
    figures |= {
        "unseen": score_unseen(sample, script, train, unseen, given.out),
        "names": score_names(sample, plain, given.seeds, given.out),
    }
    write_blind_sheet(sample, plain.names, script, given.out)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for part, scores in figures.items():
        for name, value in scores.items():
            print(f"{part}: {name}: {value}")


if __name__ == "__main__":
    main()
