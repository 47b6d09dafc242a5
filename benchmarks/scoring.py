"""How the demo's pictures are scored: nearest drawings, copying, colours, and pairs never seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]  # float32 [N, H, W, 3] in [0, 1]


@dataclass(frozen=True)
class Drawings:
    """The images of a split, and what each shows."""

    pixels: Pixels
    names: list[str]
    styles: list[str]
    colours: list[str]
    texts: list[str]

    def where(self, keep: Sequence[bool]) -> Drawings:
        """Those drawings alone."""
        index = [i for i, kept in enumerate(keep) if kept]
        lists = ([words[i] for i in index] for words in (self.names, self.styles, self.colours, self.texts))
        return Drawings(self.pixels[index], *lists)


def load(folder: Path) -> Drawings:
    """A split of the data set that scripts/build_emoji.py writes."""
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    pixels = [np.asarray(Image.open(folder / row["file_name"]).convert("RGB")) for row in rows]
    lists = ([row[key] for row in rows] for key in ("name", "style", "colour", "text"))
    return Drawings(np.stack(pixels).astype(np.float32) / 255, *lists)


def distances(a: Pixels, b: Pixels) -> Pixels:
    """Root mean squared difference of the pixels of each of `a` and each of `b`, [N, M]."""
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squared, 0) / x.shape[1]))


def names_right(pictures: Pixels, names: Sequence[str], drawings: Drawings) -> NDArray[np.bool_]:
    """Whether the nearest of all drawings has the name that was asked for, for each picture."""
    nearest = distances(pictures, drawings.pixels).argmin(axis=1)
    return np.array([drawings.names[i] == name for i, name in zip(nearest, names, strict=True)])


def styles_apart(drawings: Drawings) -> dict[str, float]:
    """The same score for real drawings: those of each style, against those of all other styles."""
    scores = {}
    for style in sorted(set(drawings.styles)):
        own = drawings.where([other == style for other in drawings.styles])
        others = drawings.where([other != style for other in drawings.styles])
        scores[style] = float(names_right(own.pixels, own.names, others).mean())
    return scores


def copied(pictures: Pixels, names: Sequence[str], drawings: Drawings) -> NDArray[np.bool_]:
    """Whether a picture is nearer to some training drawing than any two styles of its name are to one another."""
    nearest = distances(pictures, drawings.pixels).min(axis=1)
    limits = {}
    for name in set(names):
        same = drawings.where([other == name for other in drawings.names]).pixels
        between = distances(same, same)[np.triu_indices(len(same), 1)]
        limits[name] = float(between.min()) if len(between) else 0.0
    return np.array([near < limits[name] for near, name in zip(nearest, names, strict=True)])


def hues(rgb: Pixels) -> Pixels:
    """The hue of colours [N, 3], as a place on the unit circle [N, 2]."""
    angle = np.arctan2(np.sqrt(3) * (rgb[:, 1] - rgb[:, 2]), 2 * rgb[:, 0] - rgb[:, 1] - rgb[:, 2])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def main_colour(picture: Pixels, palette: dict[str, tuple[int, int, int]]) -> str:
    """The word of the palette whose hue most of a picture's ink has: pixels that are neither white, grey nor black."""
    pixels = picture.reshape(-1, 3)
    high, low = pixels.max(1), pixels.min(1)
    ink = pixels[(high - low > 0.2) & (high > 0.2)]
    if not len(ink):
        return "none"
    targets = np.array(list(palette.values()), np.float32) / 255
    nearest = (hues(ink) @ hues(targets).T).argmax(1)
    return list(palette)[int(np.bincount(nearest, minlength=len(palette)).argmax())]


def psnr(a: Pixels, b: Pixels) -> Pixels:
    """Peak signal-to-noise ratio of each pair, dB."""
    return np.asarray(-10 * np.log10(np.maximum(((a - b) ** 2).mean((1, 2, 3)), 1e-10)))


def ssim(a: Pixels, b: Pixels) -> Pixels:
    """Structural similarity of each pair on grey, windows of 8 x 8 (Wang et al. 2004, eq. 13)."""
    grey = np.array([0.299, 0.587, 0.114], np.float32)

    def windows(x: Pixels) -> Pixels:
        return np.lib.stride_tricks.sliding_window_view(x @ grey, (8, 8), (1, 2))[:, ::2, ::2]

    x, y = windows(a), windows(b)
    mean_x, mean_y = x.mean((-1, -2)), y.mean((-1, -2))
    var_x, var_y = x.var((-1, -2)), y.var((-1, -2))
    both = (x * y).mean((-1, -2)) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return np.asarray((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2)))


def sheet(pictures: Pixels, columns: int, gap: int = 4) -> Image.Image:
    """Pictures side by side on white."""
    count, height, width = pictures.shape[:3]
    rows = -(-count // columns)
    out = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, picture in enumerate((pictures * 255).round().clip(0, 255).astype(np.uint8)):
        place = (gap + i % columns * (width + gap), gap + i // columns * (height + gap))
        out.paste(Image.fromarray(picture), place)
    return out
