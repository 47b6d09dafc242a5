"""Puts trained weights into graphs/weights/ as the demo variants load them: fp16, with scheduler and tokenizer.

diffgraph train graphs/train/glide.yaml --data data/emoji/train --out runs/base
diffgraph train graphs/train/glide_upsampler.yaml --data data/emoji/train --out runs/upsampler
diffgraph train graphs/train/ddpm.yaml --data data/emoji/plain --out runs/ddpm
python scripts/export_demo.py --base runs/base --upsampler runs/upsampler --ddpm runs/ddpm
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from build_emoji import COLOURS, NAMES

from diffgraph.nodes.models.unet2d import UNet2D
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from diffgraph.nodes.text.tokenizer import Tokenizer

WEIGHTS = Path(__file__).parent.parent / "graphs" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "upsampler", "ddpm"):
        parser.add_argument(f"--{name}", type=Path, help=f"the folder that the training of {name} wrote")
    options = parser.parse_args()
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
        names = {"names": sorted(NAMES), "colours": list(COLOURS)}
        (place / "names.json").write_text(json.dumps(names, indent=1) + "\n")
    if options.upsampler:
        place = WEIGHTS / "glide-demo" / "upsampler"
        UNetGLIDE.from_pretrained(options.upsampler / "upsampler").save_pretrained(place, dtype="float16")
        ddim.save_pretrained(place)
    if options.ddpm:
        place = WEIGHTS / "ddpm-demo"
        UNet2D.from_pretrained(options.ddpm).save_pretrained(place, dtype="float16")
        ancestral.save_pretrained(place)


if __name__ == "__main__":
    main()
