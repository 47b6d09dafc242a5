"""Pickled weights of old repositories: converted once, in a process of their own, to safetensors in the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ..errors import WeightsError
from .digests import file_digest
from .tensors import printable, write_whole

SPARE_BYTES = 1 << 30  # what the loader may use besides the tensors
SECONDS_AT_LEAST, BYTES_A_SECOND = 120, 20 << 20
_TAKES = "weights are taken from safetensors, or from a plain pickled dictionary of tensors"


def converted(path: Path, where: str) -> Path:
    """The same tensors in a safetensors file, made at the first call for this content.

    The file is read by torch's weights-only loader with limits on memory and time. Raises WeightsError where it holds
    anything but tensors by name, or tensors larger than itself.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        return path  # judged by its content, it is safetensors already
    from ..running.store import cache_folder

    out = cache_folder() / "converted" / f"{file_digest(path)}.safetensors"
    if not out.is_file():
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WeightsError(f"{out.parent}: cannot be made: {error.strerror}") from None
        write_whole(out, lambda draft: unpickle(path, draft, where))
    return out


def unpickle(path: Path, out: Path, where: str, *, nested: bool = False) -> None:
    """Writes the tensors of a pickle to a safetensors file, in a process of its own with limits on memory and time.

    nested: it may be what a trainer wrote, with more than tensors, and dictionaries within one another (see
    unpickle.py). Raises WeightsError as `converted` does.
    """
    size = path.stat().st_size
    script = Path(__file__).with_name("unpickle.py")
    command = [sys.executable, "-P", str(script), str(path.resolve()), str(out), str(4 * size + SPARE_BYTES)]
    command += ["nested"] if nested else []
    seconds = SECONDS_AT_LEAST + size / BYTES_A_SECOND
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{where}: reading the pickle took more than {seconds:.0f} s", hint=_TAKES) from None
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        answer = {"error": f"its reader ended with code {done.returncode}"}
    if "error" in answer:
        raise WeightsError(f"{where}: the pickle is refused: {printable(answer['error'])}", hint=_TAKES)
