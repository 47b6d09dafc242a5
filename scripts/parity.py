"""Writes docs/parity.md: how far each part's numbers are from its peer's, as the tests just found them.

    python scripts/parity.py

Runs the tests that compare (they call `tests.parity.agree`), and makes a table of what these report. Fails, and leaves
the page alone, where a test fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parity.md"

HEAD = """# Parity

How far each part's numbers are from those of another implementation, in fp32 on the CPU. Small models of each
published layout are given random weights by the peer's own class (none zero), saved as the peer saves them, and loaded
here; or the weights and the expected numbers are those that the original code gave. A difference is the largest over
the output, divided by the output's largest magnitude; the row shows the largest of the comparisons that it counts.

This page is written by `python scripts/parity.py` from the run of the tests that it names. Peers: {peers}.

"""


def comparing() -> list[str]:
    """The files of tests that compare: those of peers, and whichever import what does it."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    uses = re.compile(r"^from \S*\b(parity|library) import ", re.MULTILINE)
    return [str(path) for path in tests if path.parent.name == "peers" or uses.search(path.read_text(encoding="utf-8"))]


def measured(log: Path) -> list[dict[str, str | float]]:
    """Runs the comparisons, and gives what each reported. Exits where a test fails."""
    environment = {**os.environ, "PARITY_LOG": str(log)}
    command = [sys.executable, "-m", "pytest", "-q", *comparing()]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit("a test failed; docs/parity.md is left as it was")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def page(found: list[dict[str, str | float]]) -> str:
    """The page: a row for each part, peer and test, with the worst of what it compared."""
    rows: dict[tuple[str, str, str], list[dict[str, str | float]]] = {}
    for one in found:
        rows.setdefault((str(one["part"]), str(one["peer"]), str(one["test"]).partition("[")[0]), []).append(one)
    lines = ["| part | peer | compared | largest difference | tolerance | test |", "|" + " --- |" * 6]
    for (part, peer, test), group in sorted(rows.items()):
        worst = max(group, key=lambda one: float(one["difference"]) / float(one["tolerance"]))
        forms = len({one["what"] for one in group})
        compared = f"{len(group)} output{'s' * (len(group) > 1)}" + (f" of {forms} forms" if forms > 1 else "")
        difference, tolerance = f"{worst['difference']:.1e}", f"{worst['tolerance']:.0e}"
        lines.append(f"| {part} | {peer} | {compared} | {difference} | {tolerance} | `{test}` |")
    peers = ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "torch"))
    return HEAD.format(peers=peers) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(measured(Path(folder) / "parity.jsonl")), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
