"""Predicates and choices over plain values; they need no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from diffgraph.errors import PortError
from diffgraph.nodes.values import between, equal, item, negated


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [(1, 1, True), (1, 1.0, True), (1, 2, False), ("a", "a", True), ("a", "b", False), ([1, 2], [1, 2], True)],
)
def test_equal(first: Any, second: Any, answer: bool) -> None:
    assert equal(first, second) is answer


@pytest.mark.parametrize(("value", "answer"), [(2, True), (2.5, True), (3, True), (1.9, False), (3.1, False)])
def test_between(value: float, answer: bool) -> None:
    assert between(value, 2, 3) is answer


def test_not() -> None:
    assert negated(False) is True
    assert negated(True) is False


def test_item() -> None:
    assert [item(["a", "b", "c"], i) for i in (0, 2, -1, -3)] == ["a", "c", "c", "a"]
    for index in (3, -4):
        with pytest.raises(PortError, match="list of 3"):
            item(["a", "b", "c"], index)
    with pytest.raises(PortError, match="list of 0"):
        item([], 0)


TORCH_FREE = (
    "values tensors guidance random images draw kinds text.tokenizer "
    "schedulers.ddpm schedulers.ddim schedulers.discrete schedulers.noise_schedule"
)


def test_what_planning_needs_imports_no_torch() -> None:
    """These modules are imported while checking and planning; schedules are made there."""
    code = "\n".join(f"import diffgraph.nodes.{name}" for name in TORCH_FREE.split()) + (
        "\nfrom diffgraph.nodes.schedulers.ddpm import DDPMConfig, DDPMScheduler"
        "\nassert len(DDPMScheduler(DDPMConfig()).schedule('fast27')) == 27"
        "\nimport sys; print([m for m in ('torch', 'PIL', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
