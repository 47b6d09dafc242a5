"""Every faulty document gets its message: the table is faulty.txt, `--- name`, the document, `>>>`, what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DiffgraphError

TABLE = Path(__file__).with_name("faulty.txt")


def cases() -> list[tuple[str, str, str]]:
    """Name, document and message of each case."""
    found = []
    for block in TABLE.read_text(encoding="utf-8").split("--- ")[1:]:
        head, said = block.split(">>>\n")
        name, document = head.split("\n", 1)
        found.append((name, document, said.rstrip("\n")))
    return found


@pytest.mark.parametrize(("name", "document", "said"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_message(name: str, document: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("g.yaml").write_text(document)
    with pytest.raises(DiffgraphError) as raised:
        Graph.load("g.yaml").check()
    error = raised.value
    problems = error.problems if isinstance(error, CheckFailed) else [error]
    assert "\n".join(map(str, problems)) == said


def test_the_table_is_large_enough() -> None:
    names = [name for name, *_ in cases()]
    assert len(names) == len(set(names)) >= 40
