"""The data of a training graph: a folder of images with captions, as numbered batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np

from ..authoring import Bound, Component, Fact, note
from ..errors import InputError, PortError
from .draw import seeded
from .images import read_points
from .kinds import CLEAN, Image, Rng

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class Batch(NamedTuple):
    """What one training step sees. `image` [B, 3, H, W]; `text`: B captions; `rng`: a fresh stream an image."""

    image: Annotated[Image, "batch 3 size size", Fact(space="pixel"), CLEAN]
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
    the images. held_out: the share of images that no step sees, kept for validation; which ones they are depends on
    their names alone. broken: what becomes of images that cannot be read: "refuse" stops at them, "skip" leaves them
    out with a note. seed: of the order, of what is dropped and mirrored, and of the streams.
    """

    size: Annotated[int, Bound(ge=1, le=4096)] = 64
    batch: Annotated[int, Bound(ge=1, le=65536)] = 32
    caption_dropout: Annotated[float, Bound(ge=0, le=1)] = 0.0
    flip: bool = False
    held_out: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    broken: Literal["refuse", "skip"] = "refuse"
    seed: Annotated[int, Bound(ge=0)] = 0


class ImageFolder(Component, version=2):
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
        self.kept: Sequence[int] = ()  # the rows that are held out

    @classmethod
    def open(cls, config: ImageFolderConfig, folder: Path) -> Self:
        """Reads the folder. Raises InputError that names what is missing or broken, up to five files at once, where
        nothing is left to train on, and where captions are to be dropped and there are none.
        """
        listed = read_metadata(folder) if (folder / METADATA).is_file() else list_images(folder)
        data = cls(config)
        data.pixels = np.empty((len(listed), config.size, config.size, 3), dtype=np.uint8)
        rows: list[Row] = []
        broken = []
        for row in listed:
            try:
                data.pixels[len(rows)] = read_image(row.file, config.size)
            except InputError as error:
                where = f"{METADATA}:{row.line}: " if row.line else ""
                broken.append(f"{where}{row.file.name}: {error.message}")
            else:
                rows.append(row)
        if broken:
            shown = "\n  ".join(islice(broken, 5)) + ("\n  ..." if len(broken) > 5 else "")
            told = f"{len(broken)} of {len(listed)} images of {folder} cannot be read"
            if config.broken == "refuse":
                hint = f"repair them, take their lines out of {METADATA}, or leave them out with `broken: skip`"
                raise InputError(f"data: {told}\n  {shown}", hint=hint)
            note(f"{told}, and are left out\n  {shown}")
        data.pixels, data.texts = data.pixels[: len(rows)], [row.text for row in rows]
        if config.caption_dropout and not any(data.texts):
            told = f"data: {folder} has no captions, of which {config.caption_dropout:g} are to be dropped"
            raise InputError(told, hint=f"write a `text` for each image in {METADATA}, or set caption_dropout: 0")
        weights = np.array([row.weight for row in rows], dtype=np.float64)
        names = [row.file.relative_to(folder).as_posix() if row.weight else None for row in rows]
        data.kept = held_out(names, config.held_out)
        weights[list(data.kept)] = 0
        if not weights.any():
            why = "hold fewer out" if data.kept else "none of its images can be read"
            raise InputError(f"data: nothing of {folder} is left to train on", hint=why)
        data.shares = np.cumsum(weights) / weights.sum()
        return data

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, step: Annotated[int, Bound(ge=0)]) -> Batch:
        """Batch number `step`: images drawn by weight, with replacement, in [-1, 1].

        Raises PortError where no folder was opened, or step is negative.
        """
        self._check(step)
        config = self.config
        draw = np.random.default_rng([config.seed, step])
        chosen = np.searchsorted(self.shares, draw.random(config.batch), side="right").clip(max=len(self) - 1)
        silent = draw.random(config.batch) < config.caption_dropout
        mirrored = (draw.random(config.batch) < 0.5) & config.flip
        seeds = draw.integers(2**32, size=config.batch)
        pixels = np.where(mirrored[:, None, None, None], self.pixels[chosen][:, :, ::-1], self.pixels[chosen])
        text = ["" if drop else self.texts[row] for row, drop in zip(chosen, silent, strict=True)]
        return _batch(pixels, text, seeds)

    def held_out(self, number: Annotated[int, Bound(ge=0)]) -> Batch:
        """Batch number `number` of the images that no step sees: one after the other, as they are, with their captions and
        with streams that depend on the number alone. There are no more of them in it than are held out.

        Raises PortError where none are held out, no folder was opened, or the number is negative.
        """
        self._check(number)
        if not self.kept:
            raise PortError("held_out", "no images are held out", hint="set held_out, such as 0.05")
        size = min(self.config.batch, len(self.kept))
        chosen = [self.kept[(number * size + place) % len(self.kept)] for place in range(size)]
        seeds = np.random.default_rng([self.config.seed, number, 1]).integers(2**32, size=size)
        return _batch(self.pixels[chosen], [self.texts[row] for row in chosen], seeds)

    def _check(self, number: int) -> None:
        """Raises PortError where there is no batch of that number."""
        if self.pixels is None:
            raise PortError("data", "no folder was opened", hint="use ImageFolder.open(config, folder)")
        if number < 0:
            raise PortError("step", f"must be 0 or more, not {number}")


def _batch(pixels: Any, text: list[str], seeds: Any) -> Batch:
    """Points [B, size, size, 3] in 0..255 as images in [-1, 1], with captions and a stream of each seed."""
    import torch

    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1  # B 3 H W
    return Batch(image.contiguous(), text, seeded([int(seed) for seed in seeds]))


def held_out(names: Sequence[str | None], share: float) -> list[int]:
    """Which rows are held out, a share of the names but at least one: those whose digests are the smallest, so that the
    choice hangs neither on the order nor on a seed, and all rows of one name go together. None is never held out.
    """
    if not share:
        return []
    known = sorted({name for name in names if name is not None}, key=lambda n: hashlib.sha256(n.encode()).digest())
    chosen = set(known[: max(1, round(share * len(known)))])
    return [row for row, name in enumerate(names) if name in chosen]


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

    Read as an input of a graph is: turned as its EXIF says; grey, palette, CMYK and 16-bit pictures become RGB. Raises
    InputError where it is no picture, damaged, animated or too large.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        missing = not file.exists()
        reason = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise InputError(reason) from None
    flat = Pillow.fromarray(read_points(data))
    smaller = min(flat.size) >= size
    return np.asarray(ImageOps.fit(flat, (size, size), Pillow.Resampling.BOX if smaller else Pillow.Resampling.BICUBIC))
