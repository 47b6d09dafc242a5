"""The developing picture of a run: drawn on the terminal with half blocks, and written to a file that is replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .output import write_over

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

WIDEST = 67  # columns of a terminal: four pictures of 16 points and the gaps between them
MOST = 16  # pictures that are drawn
FILE_SIZE = 256  # points of the larger side in a file, which smaller pictures are enlarged to
UPPER, LOWER = "▀", "▄"  # of two points in one place; the other half is the background


def arranged(count: int, shape: tuple[int, int], room: tuple[int, int]) -> tuple[int, float]:
    """How many of some pictures stand in a row, and their scale, so that they are as large as there is room for; in as few
    rows as that leaves.

    shape: width and height of each; room: of all of them, with one point between two.
    """

    def scale(across: int) -> float:
        down = -(-count // across)
        most = min((room[0] - across + 1) / across / shape[0], (room[1] - down + 1) / down / shape[1])
        return float(int(most)) if most >= 1 else max(most, 1 / min(shape))

    across = max(range(1, count + 1), key=lambda across: (scale(across), across))
    return across, scale(across)


def fitted(pictures: Any, width: int, height: int) -> Image | None:
    """Pictures [B, H, W, 3] as one, RGBA, of at most so many points; None where there is no room for any.

    They are enlarged by whole numbers, so that their points stay square, and made smaller by averaging.
    """
    from PIL import Image

    shown = pictures[:MOST]
    if width < 4 or height < 4:
        return None
    across, scale = arranged(len(shown), (shown.shape[2], shown.shape[1]), (width, height))
    wide, high = max(1, int(shown.shape[2] * scale)), max(1, int(shown.shape[1] * scale))
    down = -(-len(shown) // across)
    whole = Image.new("RGBA", (across * (wide + 1) - 1, down * (high + 1) - 1))
    for number, picture in enumerate(shown):
        finer = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        one = Image.fromarray(picture).resize((wide, high), finer)
        whole.paste(one, (number % across * (wide + 1), number // across * (high + 1)))
    return whole


@dataclass(frozen=True)
class Drawing:
    """A picture in half blocks, a line two rows of points, for rich to print."""

    lines: Sequence[Sequence[Segment]]

    @classmethod
    def of(cls, picture: Image) -> Drawing:
        """The drawing of an RGBA picture; where it is transparent, the terminal's own background is seen."""
        import numpy
        from rich.color import Color
        from rich.segment import Segment
        from rich.style import Style

        rows = numpy.asarray(picture).tolist()
        rows += [[[0, 0, 0, 0]] * picture.width] * (picture.height % 2)
        lines = []
        for upper, lower in zip(rows[::2], rows[1::2], strict=True):
            line = [Segment("  ")]
            for points, run in groupby(zip(upper, lower, strict=True)):
                above, below = (Color.from_rgb(*point[:3]) if point[3] else None for point in points)
                width = len(list(run))
                if above is None:
                    line.append(Segment((LOWER if below is not None else " ") * width, Style(color=below)))
                else:
                    line.append(Segment(UPPER * width, Style(color=above, bgcolor=below)))
            lines.append(line)
        return cls(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for line in self.lines:
            yield from line
            yield Segment.line()


class PreviewFile:
    """A PNG that is replaced with each preview; whoever reads it finds a whole one."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for a name that is not of a PNG, or in a folder that is not there."""
        if path.suffix.lower() != ".png":
            raise InputError(f"--preview-file {path}: it is written as a PNG", hint="give a name that ends in .png")
        if not path.parent.is_dir():
            raise InputError(f"--preview-file {path}: there is no folder {path.parent}", hint="make it first")
        if path.is_dir():
            raise InputError(f"--preview-file {path} is a folder", hint=f"such as {path / 'preview.png'}")
        self.path = path

    def write(self, pictures: Any) -> None:
        """Replaces the file; several pictures are a sheet. Raises StoreError."""
        from PIL import Image

        from ..sheet import rows_of, sheet

        scale = max(1, FILE_SIZE // max(pictures.shape[1:3]))
        size = pictures.shape[2] * scale, pictures.shape[1] * scale
        files = []
        for picture in pictures:
            buffer = BytesIO()
            Image.fromarray(picture).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
            files.append(buffer.getvalue())
        write_over(self.path, files[0] if len(files) == 1 else sheet(rows_of(files)))


__all__ = ["WIDEST", "Drawing", "PreviewFile", "arranged", "fitted"]
