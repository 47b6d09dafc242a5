"""Files are written whole or not at all, and none is lost."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffgraph.cli import output
from diffgraph.cli.output import write_beside, write_over
from diffgraph.errors import StoreError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_beside_never_over(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert write_beside(path, b"one") == path
    assert write_beside(path, b"one") == path
    assert write_beside(path, b"two") == tmp_path / "a-1.png"
    assert write_beside(path, b"three") == tmp_path / "a-2.png"
    assert write_beside(path, b"two") == tmp_path / "a-1.png"
    assert names(tmp_path) == ["a-1.png", "a-2.png", "a.png"]


def test_beside_a_folder_and_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a-1.png").symlink_to(tmp_path / "nowhere")
    assert write_beside(tmp_path / "a.png", b"x") == tmp_path / "a-2.png"
    assert not (tmp_path / "nowhere").exists()


def test_many_at_once_each_keep_their_own(tmp_path: Path) -> None:
    contents = [b"%d" % (number % 8) for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda data: write_beside(tmp_path / "a.png", data), contents))
    assert [path.read_bytes() for path in paths] == contents
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert write_beside(tmp_path / "a.png", b"one") == tmp_path / "a.png"
    assert write_beside(tmp_path / "a.png", b"two") == tmp_path / "a-1.png"
    assert names(tmp_path) == ["a-1.png", "a.png"]


def test_over_replaces_and_follows_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(path)
    assert write_over(tmp_path / "link.png", b"new") == tmp_path / "link.png"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png", "link.png"]


def test_what_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "link", full)
    for write in (write_over, write_beside):
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            write(tmp_path / "a.png", b"new")
    assert names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_a_thousand_names_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_candidates", lambda path: iter([path]))
    write_beside(tmp_path / "a.png", b"one")
    with pytest.raises(StoreError, match="are taken"):
        write_beside(tmp_path / "a.png", b"two")
