"""Commands that are read and not run (tests/commands.py): a wrong one is not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import read_commands

WRONG = {
    "diffgraph ran ddpm": "no command ran",
    "diffgraph run dpdm": "no shipped graph",
    "diffgraph run ddpm --variant chruch": "no variant 'chruch'",
    "diffgraph run ddpm --stepz 3": "--stepz",
    "diffgraph run ddpm --num-images few": "'few'",
    "diffgraph run ddpm --dtype fp8": "fp8",
    "diffgraph run ddpm --memory much": "much",
    "diffgraph run stable_diffusion_img2img --variant v1-5 --prompt corgi": "image .* is missing",
    "diffgraph run train/ddpm --data photos": "diffgraph train",
    "diffgraph run ddpm --set schedular.node=DDIMScheduler": "no node 'schedular'",
    "diffgraph run ddpm --set scheduler.node=DDIMSchedular": "no node type 'DDIMSchedular'",
    "diffgraph run ddpm --set unet.sizes=96": "'sizes'",
    "diffgraph run ddpm --set unet.sample_size=large": "sample_size",
    "diffgraph train ddpm": "does not train",
    "diffgraph train train/ddpm --out runs/first": "data .* is missing",
    "diffgraph convert base.pt": "Missing parameter: output",
    "diffgraph convert base.pt -o made --set prediction=v_prediction": "no checkpoint",
    "diffgraph show ddpm": "console",
    "python scripts/build_word_pieces.py data": "2",
    "python scripts/build_word_piece.py data made": "build_word_piece.py",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_not_read(command: str, tmp_path: Path) -> None:
    with pytest.raises((Exception, SystemExit), match=WRONG[command]):
        read_commands(command, tmp_path, Path.mkdir)
