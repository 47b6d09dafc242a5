"""What all tests share: a cache folder of their own, one thread, and the packages of nodes below tests/packages."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "tests" / "packages"

# Before anything of the engine is imported: node packages are found, and the index is kept, in child processes too.
_cache = tempfile.TemporaryDirectory(prefix="diffgraph-tests-")
os.environ["DIFFGRAPH_CACHE_DIR"] = _cache.name
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(PACKAGES))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background would hand "ignored" on to children


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One after the other where published checkpoints are loaded, which fill the memory; else as many as there are cores."""
    return 0 if config.option.markexpr == "hub" else None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """torch on one thread; the cache folder goes at the end."""
    import torch

    torch.set_num_threads(1)
    yield
    _cache.cleanup()
