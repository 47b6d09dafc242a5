"""Colours, and how wide a text is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from unicodedata import east_asian_width
from zlib import crc32

from .scene import COMPONENT, PLAIN, UNKNOWN


@dataclass(frozen=True)
class Theme:
    """The colours of a drawing; `kinds` are for the kinds of wires."""

    paper: str
    ink: str
    faint: str
    box: str
    border: str
    frames: tuple[str, str]  # in turn, from the outside in
    component: str
    component_ink: str
    plain: str
    kinds: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1b2430", "#5d6877", "#ffffff", "#8792a2", ("#f3f5f8", "#e9edf3"), "#2f3b4c", "#ffffff", "#7b8594",
    ("#1d63c9", "#d9600a", "#178a3c", "#8b3fc6", "#c9293b", "#0a8a94", "#cf2c8a", "#7d7a0c", "#8a5a2b", "#4850d6",
     "#5a9a10", "#a4576a", "#2e9bd6", "#b5910a"),
)  # fmt: skip
DARK = Theme(
    "#14181f", "#e8ecf2", "#9aa5b4", "#242b36", "#5d6a7c", ("#1b212a", "#222a35"), "#c9d3e0", "#14181f", "#8c97a6",
    ("#6aa8ff", "#ff9d4d", "#58cc7b", "#c48bff", "#ff7a85", "#3fd0d8", "#ff7cc4", "#cfca4a", "#d3a473", "#949cff",
     "#a6de58", "#e0a0b0", "#9adfff", "#f4f1c1"),
)  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}
NAMED = 12  # the colours that a name may give; the others are for drawings of more kinds


def colours(kinds: Mapping[str, int], theme: Theme) -> dict[str, str]:
    """A colour for each kind: the one that its name gives wherever it is free, so that drawings look alike.

    kinds: with how many wires have it; the most frequent choose first.
    """
    found = {COMPONENT: theme.component, PLAIN: theme.plain, UNKNOWN: theme.plain}
    free = list(range(len(theme.kinds)))
    for kind in sorted(kinds.keys() - found.keys(), key=lambda name: (-kinds[name], name)):
        first = crc32(kind.encode()) % NAMED
        slot = min(free, key=lambda n: (n >= NAMED, (n - first) % NAMED)) if free else first
        found[kind] = theme.kinds[slot]
        if free:
            free.remove(slot)
    return found


# Widths of the letters from space to ~, in thousandths of the size, the most that Helvetica and the letters of Pillow need.
_WIDTHS = (
    "290 300 370 580 580 900 690 220 350 350 560 600 300 350 300 330 "
    "580 580 580 580 580 580 580 580 580 580 300 300 600 600 600 570 "
    "1020 690 690 730 730 680 630 790 740 300 550 690 580 870 740 790 "
    "690 790 730 690 630 740 690 960 690 690 630 310 330 300 580 570 "
    "350 570 620 530 620 570 310 620 600 250 260 530 250 860 600 590 "
    "620 620 360 520 320 600 530 790 530 530 520 360 280 360 600"
)
WIDTHS = tuple(int(word) / 1000 for word in _WIDTHS.split())


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is, and rather more than less."""
    total = 0.0
    for letter in text:
        place = ord(letter) - 32
        wide = 1.02 if east_asian_width(letter) in "WF" else 0.65
        total += WIDTHS[place] if 0 <= place < len(WIDTHS) else wide
    return total * size * (1.08 if bold else 1.0)


__all__ = ["DARK", "LIGHT", "THEMES", "Theme", "colours", "text_width"]
