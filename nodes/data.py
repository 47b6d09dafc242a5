"""The data of a training graph: a folder of images with captions, as numbered batches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np

from ..authoring import Bound, Component, Fact
from ..errors import InputError, PortError
from .draw import seeded
from .kinds import Image, Rng

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_PIXELS = 64_000_000  # of one image, before it is made smaller


class Batch(NamedTuple):
    """What one training step sees. `image` [B, 3, H, W]; `text`: B captions; `rng`: a fresh stream an image."""

    image: Annotated[Image, "batch 3 size size", Fact(space="pixel")]
    text: list[str]
    rng: Annotated[Rng, "batch"]


class Row(NamedTuple):
    """A line of the metadata, and its number, counted from 1."""

    line: int
    file: Path
    text: str
    weight: float


@dataclass(frozen=True)
class ImageFolderConfig:
    """size: height and width that images are cropped and resized to. batch: images a step. caption_dropout: the share
    of captions that are replaced by the empty text (Ho and Salimans 2022, arXiv:2207.12598). flip: mirrors half of
    the images. seed: of the order, of what is dropped and mirrored, and of the streams.
    """

    size: Annotated[int, Bound(ge=1, le=4096)] = 64
    batch: Annotated[int, Bound(ge=1, le=65536)] = 32
    caption_dropout: Annotated[float, Bound(ge=0, le=1)] = 0.0
    flip: bool = False
    seed: Annotated[int, Bound(ge=0)] = 0


class ImageFolder(Component, version=1):
    """Images and captions of a folder in the Hub's image-folder convention, held in memory as 8-bit RGB.

    The folder has a `metadata.jsonl`, whose lines are objects with `file_name` (inside the folder), `text` (the
    caption; either all lines have it, or none) and optionally `weight` (how often it is drawn, 1 unless given; 0 is
    never). Without `metadata.jsonl`, all images of the folder count once, without captions.

    Batch `step` depends on (seed, step) alone, so training resumes without any state of the data.
    """

    Config = ImageFolderConfig

    def __init__(self, config: ImageFolderConfig) -> None:
        self.config = config
        self.pixels: Any = None  # uint8 [N, size, size, 3]
        self.texts: list[str] = []
        self.shares: Any = None  # float64 [N], cumulated weights, the last is 1

    @classmethod
    def open(cls, config: ImageFolderConfig, folder: Path) -> Self:
        """Reads the folder. Raises InputError that names what is missing or broken, up to five files at once."""
        rows = read_metadata(folder) if (folder / METADATA).is_file() else list_images(folder)
        data = cls(config)
        data.pixels = np.empty((len(rows), config.size, config.size, 3), dtype=np.uint8)
        broken = []
        for index, row in enumerate(rows):
            try:
                data.pixels[index] = read_image(row.file, config.size)
            except (OSError, ValueError, SyntaxError) as error:
                where = f"{METADATA}:{row.line}: " if row.line else ""
                broken.append(f"{where}{row.file.name}: {error}")
        if broken:
            shown = "\n  ".join(islice(broken, 5))
            raise InputError(
                f"data: {len(broken)} of {len(rows)} images of {folder} cannot be read\n  {shown}",
                hint=f"repair them, or take their lines out of {METADATA}",
            )
        data.texts = [row.text for row in rows]
        weights = np.array([row.weight for row in rows], dtype=np.float64)
        data.shares = np.cumsum(weights) / weights.sum()
        return data

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, step: Annotated[int, Bound(ge=0)]) -> Batch:
        """Batch number `step`: images drawn by weight, with replacement, in [-1, 1].

        Raises PortError where no folder was opened, or step is negative.
        """
        import torch

        if self.pixels is None:
            raise PortError("data", "no folder was opened", hint="use ImageFolder.open(config, folder)")
        if step < 0:
            raise PortError("step", f"must be 0 or more, not {step}")
        config = self.config
        draw = np.random.default_rng([config.seed, step])
        chosen = np.searchsorted(self.shares, draw.random(config.batch), side="right").clip(max=len(self) - 1)
        silent = draw.random(config.batch) < config.caption_dropout
        mirrored = (draw.random(config.batch) < 0.5) & config.flip
        seeds = draw.integers(2**32, size=config.batch)
        pixels = np.where(mirrored[:, None, None, None], self.pixels[chosen][:, :, ::-1], self.pixels[chosen])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1  # B 3 H W
        text = ["" if drop else self.texts[row] for row, drop in zip(chosen, silent, strict=True)]
        return Batch(image.contiguous(), text, seeded([int(seed) for seed in seeds]))


def read_metadata(folder: Path) -> list[Row]:
    """The lines of a folder's metadata. Raises InputError that names the line."""
    rows, captioned = [], []
    try:
        lines = (folder / METADATA).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data: {folder / METADATA} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"data: {METADATA}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is not JSON: {error}") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise InputError(f"{where}: expected an object with a file_name")
        text, weight, name = entry.get("text", ""), entry.get("weight", 1), entry["file_name"]
        if not isinstance(text, str):
            raise InputError(f"{where}: text must be a text, not {text!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"{where}: weight must be a number from 0, not {weight!r}")
        file = folder / name
        if "\0" in name or not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{where}: {name!r} is not inside the folder", hint="copy the image into it")
        captioned.append("text" in entry)
        rows.append(Row(number, file, text, float(weight)))
    if any(captioned) and not all(captioned):
        line_number = rows[captioned.index(False)].line
        raise InputError(f"data: {METADATA}:{line_number}: has no text, others have", hint='use "" for no caption')
    if not any(row.weight for row in rows):
        raise InputError(f"data: {folder / METADATA} names no image" + (" with a weight above 0" if rows else ""))
    return rows


def list_images(folder: Path) -> list[Row]:
    """The images of a folder without metadata, by name. Raises InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"data: there is no folder {folder}")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(
            f"data: {folder} holds neither {METADATA} nor images",
            hint="give the folder that the images lie in, such as data/train",
        )
    return [Row(0, file, "", 1.0) for file in files]


def read_image(file: Path, size: int) -> Any:
    """An image as uint8 [size, size, 3]: its middle square, on white, averaged where it is made smaller.

    Raises OSError or ValueError where it cannot be decoded, or has more than MAX_PIXELS.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    if not file.is_file():
        raise ValueError("there is no such file")
    with Pillow.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
        whole = image.convert("RGBA")
    flat = Pillow.alpha_composite(Pillow.new("RGBA", whole.size, "white"), whole).convert("RGB")
    smaller = min(flat.size) >= size
    return np.asarray(ImageOps.fit(flat, (size, size), Pillow.Resampling.BOX if smaller else Pillow.Resampling.BICUBIC))
