"""Follows docs/tutorial.md in a folder of its own, as its reader does, and keeps the pictures that the page shows.

python scripts/make_tutorial.py docs/images
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(yaml|python|console)\n(?:# (\S+)\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURES = {"symmetric-grid.png": "symmetric.png", "whole/symmetric-grid.png": "tutorial.png"}
FAILS = "check"  # the command that shows a mistake


def main() -> None:
    """Writes each named block to its file, and runs each command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("images", type=Path)
    images = parser.parse_args().images.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for language, file, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if file:
                (folder / file).write_text(text, encoding="utf-8")
            for command in re.findall(r"^\$ (.*)", text, re.MULTILINE) if language == "console" else ():
                print("$", command, flush=True)
                subprocess.run(["bash", "-c", command], cwd=folder, check=f"diffgraph {FAILS}" not in command)
        for made, kept in PICTURES.items():
            (images / kept).write_bytes((folder / made).read_bytes())


if __name__ == "__main__":
    main()
