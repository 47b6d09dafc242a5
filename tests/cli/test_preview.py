"""The developing picture: how it is laid out and drawn, the file that it is written to, and what stands against it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from diffgraph.cli.preview import Drawing, PreviewFile, arranged, fitted
from diffgraph.errors import InputError

from ..parts import save_ddpm
from .conftest import Command


@pytest.mark.parametrize(
    ("count", "size", "room", "expected"),
    [
        (1, (16, 16), (67, 50), (1, 3.0)),
        (2, (16, 16), (67, 50), (2, 2.0)),
        (4, (16, 16), (67, 50), (4, 1.0)),
        (4, (8, 8), (40, 40), (2, 2.0)),
        (1, (64, 64), (67, 32), (1, 0.5)),
        (3, (64, 64), (194, 80), (3, 1.0)),
        (1, (10, 40), (67, 20), (1, 0.5)),
    ],
)
def test_pictures_are_as_large_as_there_is_room(
    count: int, size: tuple[int, int], room: tuple[int, int], expected: tuple[int, float]
) -> None:
    assert arranged(count, size, room) == pytest.approx(expected)


def test_several_pictures_stand_side_by_side_with_a_gap() -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[0] = 255
    whole = fitted(pictures, 20, 20)
    assert whole is not None
    assert whole.size == (17, 8)
    assert whole.getpixel((0, 0)) == (255, 255, 255, 255)
    assert whole.getpixel((whole.width - 1, whole.height - 1)) == (0, 0, 0, 255)
    assert [whole.getpixel((x, 0))[3] for x in range(17)] == [255] * 8 + [0] + [255] * 8  # type: ignore[index]
    assert fitted(pictures, 3, 20) is None
    assert fitted(np.zeros((40, 2, 2, 3), np.uint8), 67, 50) is not None


def drawn(picture: Image.Image) -> str:
    file = StringIO()
    Console(force_terminal=True, color_system="truecolor", width=80, file=file).print(Drawing.of(picture))
    return file.getvalue()


def test_two_points_are_one_character() -> None:
    picture = Image.new("RGBA", (3, 3), (255, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 255, 255))
    picture.putpixel((0, 2), (0, 0, 0, 0))
    first, second = drawn(picture).splitlines()
    assert first == "  \x1b[38;2;255;0;0;48;2;255;0;0m▀▀\x1b[0m\x1b[38;2;0;0;255;48;2;255;0;0m▀\x1b[0m"
    assert second == "   \x1b[38;2;255;0;0m▀▀\x1b[0m"


def test_the_lower_half_alone() -> None:
    picture = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    picture.putpixel((1, 1), (0, 255, 0, 255))
    assert drawn(picture).splitlines() == ["   \x1b[38;2;0;255;0m▄\x1b[0m"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "now.png"
    file = PreviewFile(path)
    file.write(np.full((1, 16, 8, 3), 200, np.uint8))
    with Image.open(path) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((128, 256), (200, 200, 200))
    held = path.open("rb")
    file.write(np.full((3, 16, 16, 3), 100, np.uint8))
    with held, Image.open(held) as before, Image.open(path) as after:
        assert before.size == (128, 256)  # whoever reads the old one reads it to its end
        assert after.width > 512
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there.png").mkdir()
    for name, message in (("now.jpg", "as a PNG"), ("no/now.png", "there is no folder"), ("there.png", "is a folder")):
        with pytest.raises(InputError, match=message):
            PreviewFile(tmp_path / name)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(folder: Path) -> Path:
    return save_ddpm(folder / "weights")


def test_a_run_writes_its_preview(dg: Command, weights: Path) -> None:
    done = dg("run", "ddpm", "--weights", weights, "--steps", "3", "--preview-file", "now.png", "--device", "cpu")
    assert (done.code, done.out) == (0, "ddpm-0.png\n"), done.err
    with Image.open("now.png") as now, Image.open("ddpm-0.png") as end:
        first = np.asarray(now.resize(end.size, Image.Resampling.NEAREST)).astype(float)
        assert np.abs(first - np.asarray(end)).mean() < 12
    Path("now.png").unlink()
    done = dg("run", "ddpm", "--weights", weights, "--steps", "3", "--preview-file", "now.png", "--device", "cpu")
    assert (done.code, Path("now.png").exists()) == (0, False)  # nothing is computed, so nothing develops


def test_found_before_the_run(dg: Command, weights: Path) -> None:
    done = dg("run", "ddpm", "--weights", weights, "--steps", "3", "--preview-file", "gone/now.png")
    assert done.code == 2
    assert "--preview-file gone/now.png: there is no folder gone\n  make it first" in done.err
    assert not Path("ddpm-0.png").exists()


def test_a_file_that_fails_on_the_way_does_not_stop_the_run(
    dg: Command, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffgraph.errors import StoreError

    def full(self: PreviewFile, pictures: object) -> None:
        raise StoreError("now.png cannot be written: No space left on device")

    monkeypatch.setattr(PreviewFile, "write", full)
    done = dg("run", "ddpm", "--weights", weights, "--steps", "3", "--preview-file", "now.png", "--device", "cpu")
    assert (done.code, done.out) == (0, "ddpm-0.png\n")
    assert done.err == "warning: no previews: now.png cannot be written: No space left on device\n"


def test_without_a_terminal_it_says_what_to_do(dg: Command, weights: Path) -> None:
    done = dg("run", "ddpm", "--weights", weights, "--steps", "2", "--preview", "--device", "cpu")
    assert (done.code, done.out) == (0, "ddpm-0.png\n")
    assert done.err == "warning: --preview draws on a terminal alone; --preview-file writes a picture\n"
