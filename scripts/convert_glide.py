"""Makes a folder for glide.yaml or glide_inpaint.yaml of OpenAI's checkpoints (github.com/openai/glide-text2im).

python scripts/convert_glide.py openai base.pt upsample.pt
python scripts/convert_glide.py openai_inpaint base_inpaint.pt upsample_inpaint.pt --inpaint

The names of the tensors stay as they are; every one is held against the published shape. The weights are stored as
safetensors, in half precision unless --dtype says otherwise. The vocabulary is GPT-2's, from the Hub or a folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from diffgraph import DiffgraphError
from diffgraph.nodes.models.unet_glide import UNetGLIDE, UNetGLIDEConfig
from diffgraph.nodes.schedulers.ddim import DDIMConfig, DDIMScheduler
from diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler
from diffgraph.nodes.text.tokenizer import Tokenizer


def networks(inpaint: bool) -> dict[str, UNetGLIDEConfig]:
    """The two published networks, by the folder that each goes to."""
    upsampler = UNetGLIDEConfig(
        image_size=256, low_res_size=64, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, inpaint=inpaint
    )
    return {"base": UNetGLIDEConfig(inpaint=inpaint), "upsampler": upsampler}


def convert(checkpoint: Path, config: UNetGLIDEConfig, folder: Path, dtype: str = "float16") -> None:
    """Writes a checkpoint as a folder with its config. Raises WeightsError where a tensor is missing or misshapen."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "config.json").write_text(json.dumps({"_class_name": "UNetGLIDE", **asdict(config)}))
        (place / "diffusion_pytorch_model.bin").symlink_to(checkpoint.resolve())
        UNetGLIDE.from_pretrained(place).save_pretrained(folder, dtype=dtype)


def write_schedulers(folder: Path) -> None:
    """The noise schedules, and how each network is sampled from where nothing else is said."""
    base = DDPMConfig(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    DDPMScheduler(base).save_pretrained(folder / "base")
    DDIMScheduler(DDIMConfig(use_clipped_model_output=True)).save_pretrained(folder / "upsampler")
    config = folder / "upsampler" / "scheduler_config.json"  # glide_inpaint's large stage is ancestral
    config.write_text(json.dumps(json.loads(config.read_text()) | {"variance_type": "learned_range"}, indent=2) + "\n")


def main() -> None:
    """Converts both, and writes their noise schedules and the tokenizer beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("upsampler", type=Path)
    parser.add_argument("--inpaint", action="store_true", help="they are base_inpaint.pt and upsample_inpaint.pt")
    parser.add_argument("--tokenizer", default="openai-community/gpt2", help="a repository or a folder")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    given = parser.parse_args()
    for name, config in networks(given.inpaint).items():
        try:
            convert(getattr(given, name), config, given.folder / name, given.dtype)
        except DiffgraphError as error:
            raise SystemExit(f"{getattr(given, name)}: {error}") from None
    write_schedulers(given.folder)
    Tokenizer.from_pretrained(given.tokenizer, model_max_length=128).save_pretrained(given.folder / "base")


if __name__ == "__main__":
    main()
