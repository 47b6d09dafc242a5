"""Where the packages lie, and the index of nodes that a wheel ships. Everything else is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = {"diffgraph": "diffgraph", "diffgraph.nodes": "nodes", "diffgraph.graphs": "graphs"}


def packages() -> list[str]:
    """Every package below the three folders, by its installed name."""
    found = []
    for name, folder in FOLDERS.items():
        skip = ["nodes*", "graphs*", "__pycache__*", "*.__pycache__*"] if name == "diffgraph" else ["*__pycache__*"]
        found += [name, *(f"{name}.{inner}" for inner in find_namespace_packages(folder, exclude=skip))]
    return found


class BuildWithIndex(build_py):
    """Adds nodes/index.json, so that the first command after an installation need not import every node.

    Needs torch in the environment that builds (`python -m build --no-isolation`); else the index is made at first use.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        out = Path(self.build_lib) / "diffgraph" / "nodes" / "index.json"
        made = subprocess.run([sys.executable, "-m", "diffgraph.index", str(out.absolute())], check=False)
        if made.returncode != 0:
            print("the index of nodes is left out: torch is not installed where this wheel is built")


setup(packages=packages(), cmdclass={"build_py": BuildWithIndex})
