"""Pictures that are no pictures, given on the command line: one clear error each, and nothing is written."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffgraph.builder import Graph
from diffgraph.errors import InputError

from ..engine.lab import Lab
from .conftest import GRAPHS, Cli

TEXT = """
diffgraph: 1
name: shrink
inputs:
  image: {type: Image, help: a picture}
  size: {type: int, default: 4, min: 1}
nodes:
  small: {node: Resize, image: $image, height: $size, width: $size, mode: area}
outputs: {image: $small}
"""


def png(picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    (picture or Image.new("RGB", (16, 16), (255, 0, 0))).save(buffer, "PNG", **options)
    return buffer.getvalue()


def noise() -> Image.Image:
    return Image.frombytes("RGB", (16, 16), bytes(random.Random(0).randbytes(768)))


def with_size(width: int, height: int) -> bytes:
    """A PNG whose header says another size than its pixels have."""
    data = png()
    body = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + body + struct.pack(">I", zlib.crc32(b"IHDR" + body)) + data[33:]


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return png(frames[0], save_all=True, append_images=frames[1:])


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "this is no picture that can be read"),
    "text": (lambda: b"not a picture", "this is no picture that can be read"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is no picture that can be read"),
    "signature alone": (lambda: b"\x89PNG\r\n\x1a\n", "damaged|no picture"),
    "truncated": (lambda: png(noise())[:500], "the picture is damaged"),
    "pixels damaged": (lambda: png().replace(png()[45:49], b"\0\0\0\0"), "the picture is damaged"),
    "taller than its pixels": (lambda: with_size(16, 4000), "the picture is damaged: it ends before its last row"),
    "200 Mpx": (lambda: with_size(20000, 10000), "at most 67,108,864 pixels are read"),
    "4 Gpx": (lambda: with_size(2**31 - 1, 2**31 - 1), "at most 67,108,864 pixels are read"),
    "no width": (lambda: with_size(0, 16), "damaged|at most|no picture"),
    "animated": (animated, "the picture is animated"),
    "tiff": (lambda: b"II*\0" + bytes(100), "this is no picture that can be read"),
    "a graph": (lambda: TEXT.encode(), "this is no picture that can be read"),
}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "shrink.yaml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error(name: str, graph: Path, cli: Cli, tmp_path: Path) -> None:
    make, message = BAD[name]
    (tmp_path / "bad.png").write_bytes(make())
    out = tmp_path / "out"
    out.mkdir()
    done = cli("run", graph, "--image", tmp_path / "bad.png", "-o", f"{out}/")
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "bad.png" in line]
    assert len(lines) == 1
    assert lines[0].startswith("diffgraph: image: bad.png: ")
    done.says(message)
    assert len(done.stderr.splitlines()) <= 2
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "image: there is no file .*missing.png"),
        ("picture.pn", "did you mean .*picture.png"),
        ("folder", "image: .*folder is a folder, not a file"),
        ("/dev/zero", "image: /dev/zero is a device, not a file"),
        ("nul\0.png", "cannot be read"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
    ids=["missing", "misspelt", "folder", "device", "nul", "long"],
)
def test_no_file(name: str, message: str, graph: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(png())
    (tmp_path / "folder").mkdir()
    done = cli("run", graph, "--image", name if name.startswith("/") else f"{tmp_path}/{name}", "-o", f"{tmp_path}/")
    assert done.exit_code == 2
    done.says(message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(graph: Path, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    path.chmod(0)
    done = cli("run", graph, "--image", path)
    assert done.exit_code == 2
    done.says("image: .*picture.png cannot be read: Permission denied")


def test_a_bad_picture_among_others(cli: Cli, tmp_path: Path) -> None:
    """Lists of pictures: the bad one is named by its place."""
    graph = tmp_path / "all.yaml"
    graph.write_text("""
diffgraph: 1
inputs: {images: {type: "list[Image]"}}
nodes:
  small:
    map: $images
    as: one
    nodes: {resized: {node: Resize, image: $one, height: 4, width: 4}}
    outputs: {image: $resized}
outputs: {images: $small.image}
""")
    for name, content in (("a.png", png()), ("b.png", b"nothing")):
        (tmp_path / name).write_bytes(content)
    good, bad = f"{tmp_path}/a.png", f"{tmp_path}/b.png"
    done = cli("run", graph, "--images", good, "--images", bad, "-o", f"{tmp_path}/")
    assert done.exit_code == 2
    done.says(r"images\[1\]: b.png: this is no picture")
    done = cli("run", graph, "--images", good, "--images", good, "-o", f"{tmp_path}/out.png")
    assert (done.exit_code, done.stdout.split()) == (
        0,
        [f"{tmp_path}/out-0.png", *(f"{tmp_path}/out-{part}.png" for part in ("1", "sheet"))],
    )


def test_a_good_one_goes_through(graph: Path, cli: Cli, tmp_path: Path) -> None:
    """A JPEG under the name of a PNG, with transparency or 16 bits or grey: judged by content."""
    buffer = BytesIO()
    Image.new("L", (32, 32), 255).save(buffer, "JPEG")
    (tmp_path / "grey.png").write_bytes(buffer.getvalue())
    done = cli("run", graph, "--image", tmp_path / "grey.png", "-o", f"{tmp_path}/out.png")
    assert (done.exit_code, done.stdout.strip()) == (0, f"{tmp_path}/out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (4, 4)
        assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_a_result_with_nan_names_the_node(cli: Cli, tmp_path: Path) -> None:
    """Nothing is written, nothing stored: the second try says the same."""
    (tmp_path / "nan.py").write_text(
        "import torch\nfrom typing import Annotated\nfrom diffgraph.authoring import node\n"
        "from diffgraph.nodes.kinds import Image\n\n@node('Spoil', version=1)\n"
        "def spoil(image: Annotated[Image, 'B C H W']) -> Annotated[Image, 'B C H W']:\n"
        "    '''Makes a NaN.'''\n    return image / image.new_zeros(()) * 0\n"
    )
    graph = tmp_path / "spoiled.yaml"
    more = "  spoiled: {node: Spoil, image: $small}\n  after: {node: Quantize, image: $spoiled}\n"
    graph.write_text(TEXT.replace("outputs: {image: $small}", more + "outputs: {image: $after}"))
    (tmp_path / "a.png").write_bytes(png())
    for _ in range(2):
        done = cli(
            "run", graph, "--nodes", tmp_path / "nan.py", "--image", tmp_path / "a.png", "-o", f"{tmp_path}/o.png"
        )
        assert done.exit_code == 1
        done.says(r"spoiled.yaml:\d+:\d+  spoiled made a result with NaN in it; nothing was stored")
        assert not (tmp_path / "o.png").exists()


def test_in_python_too(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"image: bad.png: this is no picture"):
        Graph.load(graph)(image=tmp_path / "bad.png")
    assert Graph.load(graph)(image=torch.zeros(1, 3, 8, 8)).image.shape == (1, 3, 4, 4)


def test_sizes_are_known_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    """The check sees the size of a file, from its head alone: a mask that does not fit is an error of the graph."""
    graph = tmp_path / "erased.yaml"
    graph.write_text("""
    diffgraph: 1
    inputs: {image: {type: Image}, mask: {type: Mask}}
    nodes:
      rest: {node: Erase, image: $image, mask: $mask}
    outputs: {image: $rest}
    """)
    for name, size in (("image", (8, 6)), ("right", (8, 6)), ("wrong", (6, 8))):
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    given = ["--image", f"{tmp_path}/image.png", "-o", f"{tmp_path}/out.png"]
    done = cli("run", graph, *given, "--mask", f"{tmp_path}/wrong.png")
    assert done.exit_code == 2
    done.says(r"erased.yaml:5:\d+  rest.mask: expected shape \[M, 1, 6, 8\], got \[1, 1, 8, 6\]")
    assert cli("run", graph, *given, "--mask", f"{tmp_path}/right.png").exit_code == 0


TAKING = {  # systems that take a picture, with the fixture of their tiny parts, and the size of what they make
    "stable_diffusion_img2img": ("clip_parts", 16), "glide_img2img": ("glide_parts", 16),
    "ldm_super_resolution": ("super_resolution_parts", 16),
}  # fmt: skip


def of_all_sorts(folder: Path) -> dict[str, Path]:
    """Pictures that are right, however odd."""
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    sixteen = Image.frombytes("I;16", (9, 9), bytes(range(162)))
    moved = {"turned.jpg": {"exif": exif}}
    pictures = {
        "odd.png": Image.new("RGB", (37, 21), "teal"), "one.png": Image.new("RGB", (1, 1), "red"),
        "thin.png": Image.new("RGB", (1, 300)), "flat.png": Image.new("RGB", (500, 2)),
        "cmyk.jpg": Image.new("CMYK", (20, 20), (0, 200, 100, 0)), "sixteen.png": sixteen,
        "turned.jpg": Image.new("RGB", (30, 20), "navy"), "clear.png": Image.new("RGBA", (12, 12), (0, 0, 0, 0)),
        "grey.png": Image.new("LA", (12, 12), (5, 128)), "palette.gif": Image.new("P", (12, 12), 3),
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(folder / name, **moved.get(name, {}))
    return {name: folder / name for name in pictures}


@pytest.mark.parametrize("name", TAKING)
def test_every_system_takes_pictures_of_all_sorts(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """They are brought to the size of the model; one that is animated is refused."""
    parts, size = TAKING[name]
    given: dict[str, Any] = {"weights": request.getfixturevalue(parts), "steps": "2" if "glide" in name else 2}
    inputs = load_document(name).inputs
    given |= {"prompt": "a cat"} if "prompt" in inputs else {}
    given |= {"size": 8} if "size" in inputs else {}
    given |= {"upsampler_steps": "2"} if "upsampler_steps" in inputs else {}
    lab = Lab(tmp_path)
    for what, path in of_all_sorts(tmp_path).items():
        image: Any = lab.run(GRAPHS / f"{name}.yaml", **given, image=path)["image"]
        assert image.shape == (1, 3, size, size), what
        assert image.isfinite().all(), what
    (tmp_path / "moving.png").write_bytes(animated())
    with pytest.raises(InputError, match="image: moving.png: the picture is animated"):
        lab.run(GRAPHS / f"{name}.yaml", **given, image=tmp_path / "moving.png")


def load_document(name: str) -> Any:
    """The document of a shipped graph."""
    return Graph.load(GRAPHS / f"{name}.yaml").document
