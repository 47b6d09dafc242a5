"""Prompts that no one trained for: every system with a text makes a picture of them, and says what it could not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffgraph.errors import RunError

from ..engine.lab import Lab
from .conftest import GRAPHS, Cli

SYSTEMS = {  # with the fixture of their tiny parts
    "glide_base": "glide_parts", "ldm": "ldm_parts", "stable_diffusion": "clip_parts", "imagen_base": "imagen_parts",
}  # fmt: skip
PROMPTS = {
    "empty": "",
    "blank": " \t\n ",
    "Japanese": "赤いりんご",
    "Russian": "красное яблоко",
    "Arabic": "تفاحة حمراء",
    "Hindi": "लाल सेब",
    "emoji": "🍎 👩‍👩‍👧‍👦",
    "marks": "a\u0301\u0300\u0323" * 20,
    "direction": "\u202egnirts\u202c",
    "controls": "red\x00\x07\x1b[31m apple\x7f",
    "markup": "[red]apple[/] <|endoftext|> $prompt {x} %s \\n",
    "long": "red apple " * 3000,
    "one long word": "x" * 20000,
}
CUT = {  # what is longer than the tiny text encoders take: T5's take 512 tokens; to words and pieces a long word is one
    "glide_base": ("long", "one long word"), "stable_diffusion": ("long", "one long word"), "ldm": ("long",),
    "imagen_base": ("long",),
}  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_any_prompt_makes_a_picture(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lab, weights = Lab(tmp_path), request.getfixturevalue(SYSTEMS[name])
    for what, prompt in PROMPTS.items():
        image: Any = lab.run(GRAPHS / f"{name}.yaml", prompt=prompt, steps=2, weights=weights)["image"]
        assert image.isfinite().all(), what
        assert image.shape[:2] == (1, 3), what
        notes = [text for text in lab.said if "cut" in text or "tokens" in text]
        if what in CUT[name]:
            assert notes, f"{name}: nothing is said of {what}"
            assert all(len(text) < 400 for text in notes), what
        if what in ("empty", "blank"):
            assert notes == [], what
    with pytest.raises(RunError, match="half a surrogate pair, which is no Unicode text"):
        lab.run(GRAPHS / f"{name}.yaml", prompt="red \ud800 apple", steps=2, weights=weights)


@pytest.mark.parametrize(("name", "fewer"), [("imagen", ["--upsampler-steps", "2"]), ("ldm", [])])
def test_a_demo_offline_and_what_it_says_of_an_unknown_prompt(
    name: str, fewer: list[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "3", *fewer, "--device", "cpu", "--no-cache", "--offline"]
    done = cli("run", name, "--prompt", "Red apple", "--seed", "4", *few)
    assert (done.exit_code, done.stdout) == (0, f"{name}-4.png\n"), done.stderr
    assert "know no word" not in done.stderr
    with Image.open(f"{name}-4.png") as picture:
        assert picture.size == (64, 64)
    done = cli("run", name, "--prompt", "xyzzy", *few)
    assert (done.exit_code, done.stdout) == (0, f"{name}-0.png\n"), done.stderr
    done.says("know no word of .xyzzy.: they know 144 names")


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("what", ["empty", "Japanese", "controls", "long"])
def test_on_the_command_line(name: str, what: str, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The file says what the prompt was, and the picture can be made again from it."""
    prompt, weights = PROMPTS[what].replace("\x00", ""), request.getfixturevalue(SYSTEMS[name])  # no argument holds it
    once = ["--steps", "2", "--device", "cpu", "--weights", weights]
    done = cli("run", GRAPHS / f"{name}.yaml", "--prompt", prompt, *once, "-o", tmp_path / "a.png")
    assert done.exit_code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000
    done = cli("run", tmp_path / "a.png", *once, "--no-cache", "-o", tmp_path / "b.png")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
