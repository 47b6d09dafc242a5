"""Every block of code in the documents runs, in order, in a folder of its own for each document.

    yaml, python, toml    a first line `# name.yaml` writes the block to that file. Other YAML is quoted from a shipped
                          graph, word for word; other Python runs, and `print(x)  # 3` must print 3
    console               each `$ command` runs; what follows it is what it prints, with `...` for any text. A command
                          fails only where it is shown what it says then
    bash                  commands that want published weights or hours: each is read to the end, and not run
    text                  is neither a command nor code

Repositories of the Hub that a document names are tiny ones with the parts of the published ones, on a server on loopback.
`pip install FOLDER` is stood in for: the package goes to a folder that Python looks into. What installs and checks
this project is left out: it runs already.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffgraph.cli import main
from diffgraph.index import packages
from diffgraph.results import default_results
from diffgraph.weights import hub as hub_module

from .commands import read_commands
from .hub import users_hub
from .hub_server import TOKEN
from .parts import save_clip, save_ddpm, save_dit

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```([a-z]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.(?:yaml|py|toml))\n")
OWN_CHECKS = ("pytest", "ruff", "mypy", ".ci/run")
CODE = re.compile(r"^\s*(\$ |diffgraph |pip |python |import |from .+ import |def |class )", re.MULTILINE)
SHELL = set("$|&;<>*`")  # a command with one of these is run by a shell
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


CIRCLE = """diffgraph: 1
name: circle
inputs:
  seed: {type: int, default: 0}
  steps: {type: Steps, default: 2}
nodes:
  unet: {node: UNet2D, weights: hf://org/small}
  scheduler: {node: DDPMScheduler, weights: hf://org/small}
  rng: {node: Rng, seed: $seed, batch: 1}
  sampled: {graph: pkg://diffgraph/samplers/plain.yaml, model: $unet, scheduler: $scheduler, steps: $steps, rng: $rng}
outputs: {image: $sampled.sample}
"""


def small_church(folder: Path) -> None:
    """As google/ddpm-church-256."""
    save_ddpm(folder)
    index(folder, "DDPMPipeline", {"unet": "UNet2DModel", "scheduler": "DDPMScheduler"})


def small_stable_diffusion(folder: Path) -> None:
    """As stable-diffusion-v1-5/stable-diffusion-v1-5."""
    save_clip(folder, 4)
    parts = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "PNDMScheduler"}
    index(folder, "StableDiffusionPipeline", parts, text_encoder="CLIPTextModel", tokenizer="CLIPTokenizer")


def small_dit(folder: Path) -> None:
    """As facebook/DiT-XL-2-256."""
    save_dit(folder)


def small_weights(folder: Path) -> None:
    """A U-Net and its scheduler."""
    save_ddpm(folder)


def small_circle(folder: Path) -> None:
    """A graph that runs the weights of org/small."""
    (folder / "graphs").mkdir()
    (folder / "graphs" / "circle.yaml").write_text(CIRCLE)


def index(folder: Path, pipeline: str, parts: dict[str, str], **texts: str) -> None:
    """Writes which parts a repository has: those of diffusers, and those of transformers."""
    named = {name: ["diffusers", cls] for name, cls in parts.items()}
    named |= {name: ["transformers", cls] for name, cls in texts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **named}))


PUBLISHED: dict[str, Callable[[Path], None]] = {
    "google/ddpm-church-256": small_church,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": small_stable_diffusion,
    "facebook/DiT-XL-2-256": small_dit,
    "org/small": small_weights,
    "org/large": small_weights,
    "org/circle": small_circle,
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line that it begins at."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(found[2], textwrap.dedent(found[3]), text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's own beside it, `photos`, `diffgraph` as a command, and a place for packages."""
    work, tools, site, read = (tmp_path / name for name in ("work", "bin", "site", "read"))
    for folder in (work, tools, site, read):
        folder.mkdir()
    for name in ("graphs", "scripts", "benchmarks"):
        (work / name).symlink_to(ROOT / name)
    make_photos(work / "photos")
    for name in ("diffgraph", "python"):
        script = tools / name
        module = " -m diffgraph" if name == "diffgraph" else ""
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        script.chmod(0o755)
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(work))
    return work


@pytest.fixture(autouse=True)
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's Hub, with the repositories that the document names."""
    text = request.getfixturevalue("document").read_text(encoding="utf-8")
    named = [name for name in PUBLISHED if f"hf://{name}" in text]
    if not named:
        yield
        return
    with users_hub(tmp_path, monkeypatch) as server:
        for name in named:
            folder = tmp_path / "published" / name
            folder.mkdir(parents=True)
            PUBLISHED[name](folder)
            files = (path for path in folder.rglob("*") if path.is_file())
            server.commit(name, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run(document: Path, place: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(document):
        where = f"{document.relative_to(ROOT)}:{block.line}"
        named = NAMED.match(block.text)
        if block.language in ("yaml", "python", "toml") and named:
            file = place / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text[named.end() :], encoding="utf-8")
        elif block.language == "yaml":
            assert quoted(block.text), f"{where}: is not part of a shipped graph"
        elif block.language == "python":
            run_python(block.text, names, where)
        elif block.language == "console":
            run_console(block.text, place, where)
        elif block.language == "bash":
            read_commands(block.text, place.parent / "read", small_stable_diffusion)
        else:
            assert block.language == "text", f"{where}: a block of {block.language or 'no language'} is not tested"
            assert not CODE.search(block.text), f"{where}: holds a command or code, which is not tested"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{target} is not there"


def make_photos(folder: Path) -> None:
    """Stands for the reader's pictures: some squares, with captions."""
    from PIL import Image

    folder.mkdir()
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "black")):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": f"{colour} square"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def quoted(text: str) -> bool:
    """Whether a block is, but for its indentation and comments, part of a shipped graph."""

    def lines(whole: str) -> str:
        bare = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in whole.splitlines())
        return "\n".join(line for line in bare if line)

    return any(lines(text) in lines(path.read_text(encoding="utf-8")) for path in (ROOT / "graphs").rglob("*.yaml"))


def run_python(text: str, names: dict[str, Any], where: str) -> None:
    """Runs a block; the comment behind a `print` says what it prints."""
    wanted = [line.split("  # ", 1)[1] for line in text.splitlines() if line.startswith("print(") and "  # " in line]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, where, "exec"), names)
    if wanted:
        assert printed.getvalue().splitlines() == wanted, where


def run_console(text: str, place: Path, where: str) -> None:
    """Runs each command of a block and compares what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            line, _, shown = shown.partition("\n")
            command = command[:-1] + line
        for step in command.split(" && "):
            code, said = run_command(step, place)
            assert code == 0 or shown.strip(), f"{where}: `{step}` failed:\n{said}"
        if shown.strip():
            pattern = ".*".join(re.escape(piece) for piece in plain(shown).split("..."))
            assert re.fullmatch(pattern, plain(said), re.DOTALL), f"{where}: `{command}` printed:\n{said}"


def plain(text: str) -> str:
    """Lines without what blanks they end in."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run_command(command: str, place: Path) -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    words = command.split()
    if words[:2] == ["pip", "install"]:
        if Path(words[-1]).is_dir() and words[-1] != ".":
            install(place / words[-1], place.parent / "site")
        return 0, ""
    if words[0] in OWN_CHECKS:
        return 0, ""
    if words[0] == "diffgraph" and not set(command) & SHELL:
        return run_here(shlex.split(command)[1:], place)
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def run_here(words: list[str], place: Path) -> tuple[int, str]:
    """Runs `diffgraph WORDS` in this process, since to start one takes seconds; nothing is known from those before."""
    for known in (default_results, hub_module.default_hub, packages):
        known.cache_clear()
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(place.parent)):
            del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))  # `--offline` sets it
        done = CliRunner().invoke(main, words, prog_name="diffgraph", terminal_width=98)  # as of 100 columns
    return done.exit_code, done.output


def install(project: Path, site: Path) -> None:
    """Puts a project of plain Python where Python finds it, as pip would, with its entry points."""
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package in project.glob("*/__init__.py"):
        shutil.copytree(package.parent, site / package.parent.name)
    info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    groups = about["entry-points"].items()
    points = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
    (info / "entry_points.txt").write_text("\n".join(points))
