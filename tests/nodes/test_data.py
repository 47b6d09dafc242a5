"""The image folder: what a batch holds, that a batch depends on its number alone, and how bad folders are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffgraph.authoring import running_notes
from diffgraph.errors import InputError, PortError
from diffgraph.nodes.data import ImageFolder, ImageFolderConfig, read_image
from diffgraph.nodes.draw import seeded

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rgb in COLOURS.items():
        Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{name}.png")
    write(tmp_path, [{"file_name": f"{name}.png", "text": name} for name in COLOURS])
    return tmp_path


def write(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder: Path, size: int = 4, batch: int = 16, **rest: float | str) -> ImageFolder:
    config = ImageFolderConfig(size=size, batch=batch, **rest)  # type: ignore[arg-type]
    return ImageFolder.open(config, folder)


def test_a_batch_holds_the_images_of_its_captions(folder: Path) -> None:
    batch = opened(folder)(0)
    assert batch.image.shape == (16, 3, 4, 4)
    assert batch.image.dtype == torch.float32
    assert len(batch.text) == len(batch.rng.states) == 16
    assert set(batch.text) == set(COLOURS)
    for image, text in zip(batch.image, batch.text, strict=True):
        expected = torch.tensor(COLOURS[text]).float() / 127.5 - 1
        assert torch.equal(image, expected[:, None, None].expand(3, 4, 4))


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    first, again, other = opened(folder), opened(folder), opened(folder, seed=1)
    first(0)
    assert first(5).text == again(5).text
    assert torch.equal(first(5).rng.states, again(5).rng.states)
    assert not torch.equal(first(5).rng.states, first(6).rng.states)
    assert first(5).text != other(5).text


def test_each_image_gets_a_stream_of_its_own(folder: Path) -> None:
    states = opened(folder)(0).rng.states
    assert states.shape == (16, seeded([0]).states.shape[1])
    assert len({bytes(state.numpy()) for state in states}) == 16


def test_captions_are_dropped_without_changing_the_images(folder: Path) -> None:
    kept, some, none = (opened(folder, batch=2000, caption_dropout=share)(3) for share in (0.0, 0.2, 1.0))
    assert torch.equal(kept.image, some.image)
    assert set(none.text) == {""}
    dropped = [text == "" for text in some.text]
    assert 0.15 < np.mean(dropped) < 0.25
    assert all(was == now for was, now, gone in zip(kept.text, some.text, dropped, strict=True) if not gone)


def test_weights_say_how_often_an_image_is_drawn(folder: Path) -> None:
    weights = {"red": 3, "green": 1, "blue": 0}
    write(folder, [{"file_name": f"{name}.png", "text": name, "weight": weights[name]} for name in COLOURS])
    text = opened(folder, batch=4000)(0).text
    assert "blue" not in text
    assert 0.7 < text.count("red") / len(text) < 0.8


def test_flip_mirrors_half_of_the_images(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, 0] = 255  # a white column at the left
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = opened(tmp_path, batch=400, flip=True)(0).image
    left, right = (image[:, 0, 0, 0] > 0), (image[:, 0, 0, 3] > 0)
    assert bool((left ^ right).all())
    assert 0.4 < right.float().mean().item() < 0.6


def test_a_folder_without_metadata_has_images_and_no_captions(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()
    data = opened(folder)
    assert len(data) == 3
    assert set(data(0).text) == {""}


def test_images_are_cropped_put_on_white_and_averaged(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 4), np.uint8)  # clear, with one opaque black quarter in the middle square
    pixels[:2, 2:4] = (0, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 2)[..., 0].tolist() == [[0, 255], [255, 255]]
    assert read_image(tmp_path / "a.png", 1)[0, 0, 0] == pytest.approx(191.25, abs=1)
    assert read_image(tmp_path / "a.png", 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "metadata.jsonl:1: is not JSON"),
        ("[1]", "metadata.jsonl:1: expected an object with a file_name"),
        ('{"text": "red"}', "metadata.jsonl:1: expected an object with a file_name"),
        ('{"file_name": "red.png", "text": 3}', "metadata.jsonl:1: text must be a text"),
        ('{"file_name": "red.png", "weight": -1}', "metadata.jsonl:1: weight must be a number"),
        ('{"file_name": "red.png", "weight": NaN}', "metadata.jsonl:1: weight must be a number"),
        ('{"file_name": "../red.png"}', "is not inside the folder"),
        ('{"file_name": "/etc/passwd"}', "is not inside the folder"),
        ('{"file_name": "red.png", "text": "a"}\n{"file_name": "red.png"}', "metadata.jsonl:2: has no text"),
        ('{"file_name": "red.png", "weight": 0}', "names no image with a weight above 0"),
        ("\n", "names no image"),
        ('{"file_name": "gone.png", "text": "a"}', "metadata.jsonl:1: gone.png: there is no such file"),
    ],
)
def test_bad_metadata_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match="data: ") as caught:
        opened(folder)
    assert message in str(caught.value)


def test_metadata_in_another_encoding_is_refused(folder: Path) -> None:
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="cannot be read"):
        opened(folder)


def test_all_broken_images_are_named_together(folder: Path) -> None:
    (folder / "red.png").write_bytes(b"")
    (folder / "blue.png").write_bytes((folder / "green.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"2 of 3 images") as caught:
        opened(folder)
    assert "metadata.jsonl:1: red.png" in str(caught.value)
    assert "metadata.jsonl:3: blue.png" in str(caught.value)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match=r"huge\.png: the picture is 9000 x 9000; at most 67,108,864 pixels are read"):
        opened(tmp_path)


def test_broken_images_are_left_out_where_that_is_wanted(folder: Path) -> None:
    """As if they had never been listed, and the user is told which."""
    (folder / "red.png").write_bytes(b"")
    told: list[str] = []
    listening = running_notes.set(told.append)
    try:
        data = opened(folder, broken="skip")
    finally:
        running_notes.reset(listening)
    assert len(told) == 1
    assert f"1 of 3 images of {folder} cannot be read, and are left out" in told[0]
    assert "metadata.jsonl:1: red.png: this is no picture that can be read" in told[0]
    write(folder, [{"file_name": f"{name}.png", "text": name} for name in ("green", "blue")])
    fresh = opened(folder)
    assert len(data) == len(fresh) == 2
    assert data(3).text == fresh(3).text
    assert torch.equal(data(3).image, fresh(3).image)
    for name in ("green", "blue"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(InputError, match="nothing of .* is left to train on"):
        opened(folder, broken="skip")


# --- rows that are held out


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """40 images, each grey of its own, with its number as the caption."""
    for number in range(40):
        Image.new("RGB", (4, 4), (6 * number,) * 3).save(tmp_path / f"{number:02}.png")
    write(tmp_path, [{"file_name": f"{number:02}.png", "text": str(number)} for number in range(40)])
    return tmp_path


def test_no_step_sees_what_is_held_out(many: Path) -> None:
    data = opened(many, batch=16, held_out=0.2)
    seen = {text for step in range(60) for text in data(step).text}
    apart = {text for number in range(2) for text in data.held_out(number).text}
    assert len(apart) == 8
    assert seen == {str(number) for number in range(40)} - apart
    assert len(data) == 40


def test_which_rows_are_held_out_depends_on_names_alone(many: Path) -> None:
    first = set(opened(many, held_out=0.2).held_out(0).text)
    assert set(opened(many, held_out=0.2, seed=9, batch=3, size=2).held_out(0).text) <= first
    lines = (many / "metadata.jsonl").read_text().splitlines()
    (many / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    assert set(opened(many, held_out=0.2).held_out(0).text) == first
    write(many, [json.loads(line) | {"text": "again"} for line in lines])
    both = "\n".join(lines) + "\n" + (many / "metadata.jsonl").read_text()  # each image with two captions
    (many / "metadata.jsonl").write_text(both)
    doubled = opened(many, held_out=0.2)
    assert {doubled.texts[row] for row in doubled.kept} == first | {"again"}
    assert len(doubled.kept) == 16


def test_a_batch_of_what_is_held_out_is_always_the_same(many: Path) -> None:
    data = opened(many, batch=6, held_out=0.2, flip=True, caption_dropout=1.0)
    first, again = data.held_out(1), opened(many, batch=6, held_out=0.2, flip=True, caption_dropout=1.0).held_out(1)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.rng.states, again.rng.states)
    assert not torch.equal(first.rng.states, data(1).rng.states)
    assert "" not in first.text
    for image, text in zip(first.image, first.text, strict=True):
        assert image[0, 0, 0] == pytest.approx(6 * int(text) / 127.5 - 1)
    assert len(data.held_out(0).text) == 6
    assert set(data.held_out(0).text) | set(first.text) == {data.texts[row] for row in data.kept}
    assert len(opened(many, batch=16, held_out=0.1).held_out(0).text) == 4  # no more than there are


def test_few_rows_and_rows_that_are_never_drawn(folder: Path) -> None:
    assert len(opened(folder, held_out=0.01).kept) == 1
    with pytest.raises(InputError, match="left to train on\n  hold fewer out"):
        opened(folder, held_out=0.9)
    weights = {"red": 1, "green": 1, "blue": 0}
    write(folder, [{"file_name": f"{name}.png", "text": name, "weight": weights[name]} for name in COLOURS])
    data = opened(folder, held_out=0.5)
    assert data.held_out(0).text[0] in ("red", "green")
    assert set(data(0).text) == {"red", "green"} - set(data.held_out(0).text)
    with pytest.raises(PortError, match="no images are held out"):
        opened(folder).held_out(0)
    with pytest.raises(PortError, match="must be 0 or more"):
        data.held_out(-1)


# --- pictures of all sorts


def corner(file: Path) -> tuple[int, ...]:
    """The upper left of a picture, read in its own size."""
    return tuple(int(value) for value in read_image(file, 8)[0, 0])


def test_pictures_of_all_sorts(tmp_path: Path) -> None:
    """As an input of a graph is read: what its EXIF, its profile of colours, its depth and its transparency say."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)
    turned = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 3  # stands on its head
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", 8)[7, 7].tolist() == [255, 0, 0]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert corner(tmp_path / "cmyk.jpg") == pytest.approx((255, 0, 0), abs=3)
    Image.fromarray(np.full((8, 8), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert corner(tmp_path / "deep.png") == (128, 128, 128)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert corner(tmp_path / "clear.png") == (255, 255, 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.gif")
    assert corner(tmp_path / "palette.gif") == (0, 0, 255)
    Image.new("L", (8, 8), 7).save(tmp_path / "grey.bmp")
    assert corner(tmp_path / "grey.bmp") == (7, 7, 7)
    assert len(opened(tmp_path)) == 6


def test_an_animated_picture_and_half_a_picture_are_named(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1500])
    (tmp_path / "text.jpg").write_text("nothing")
    with pytest.raises(InputError, match="3 of 3 images") as caught:
        opened(tmp_path)
    said = str(caught.value)
    assert "moving.gif: the picture is animated" in said
    assert "cut.png: the picture is damaged" in said
    assert "text.jpg: this is no picture that can be read" in said


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        opened(tmp_path / "none")
    with pytest.raises(InputError, match="neither metadata"):
        opened(tmp_path)


def test_captions_are_dropped_where_there_are_some(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()
    assert set(opened(folder)(0).text) == {""}
    with pytest.raises(InputError, match="has no captions, of which 0.12 are to be dropped") as caught:
        opened(folder, caption_dropout=0.12)
    assert "metadata.jsonl, or set caption_dropout: 0" in str(caught.value)


def test_a_batch_before_a_folder_and_a_negative_step(folder: Path) -> None:
    with pytest.raises(PortError, match="no folder was opened"):
        ImageFolder(ImageFolderConfig())(0)
    with pytest.raises(PortError, match="must be 0 or more"):
        opened(folder)(-1)
