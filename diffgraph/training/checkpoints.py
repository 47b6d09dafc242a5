"""Checkpoints of a training: a folder that is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, StoreError

if TYPE_CHECKING:
    import torch

TENSORS, STATE = "state.safetensors", "state.json"
CHECKPOINT = "checkpoint"  # the path of the event that tells of a new one


def write_checkpoint(place: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint beside the one that is there, then puts it in its place. Raises StoreError; the one before
    is kept then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    draft, old = _draft(place), _old(place)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file(dict(tensors), draft / TENSORS)
        (draft / STATE).write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        draft.rename(place)
    except (OSError, SafetensorError) as error:
        settle(place)
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"the checkpoint cannot be written to {place}: {reason}",
            hint="the one before is kept: free some space, and the same command goes on from it",
        ) from None
    shutil.rmtree(old, ignore_errors=True)


def settle(place: Path) -> bool:
    """Tidies up after a write that was cut short, and says whether there is a checkpoint."""
    shutil.rmtree(_draft(place), ignore_errors=True)
    if not place.exists() and _old(place).exists():
        _old(place).rename(place)
    shutil.rmtree(_old(place), ignore_errors=True)
    return (place / STATE).is_file()


def read_checkpoint(place: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint. Raises StoreError where it is damaged."""
    from safetensors.torch import load_file

    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        if not isinstance(state["identity"], dict) or type(state["step"]) is not int:
            raise ValueError(f"{STATE} is not of a training")
        return load_file(place / TENSORS), state
    except Exception as error:
        raise damaged(place, str(error)) from None


def compare(place: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises InputError where a checkpoint is of another training than that of now, saying in what."""
    for what, value in now.items():
        before = earlier.get(what)
        if before == value:
            continue
        hint = "give another --out, or --no-resume to start anew"
        if isinstance(value, dict) and isinstance(before, dict):
            name = next(key for key in {**before, **value} if before.get(key) != value.get(key))
            change = f"{name} was {before.get(name)!r} and is {value.get(name)!r}"
            if what == "recipe" and name == "steps":
                hint = f"a cosine falls to 0 at the last step; only a constant learning rate can be prolonged; {hint}"
        elif isinstance(value, int | str) and len(str(value)) < 20:
            change = f"the {what} was {before!r} and is {value!r}"
        else:
            change = f"the {what} differ" if what == "weights" else f"the {what} differs"
        raise InputError(f"{place} is of another training: {change}", hint=hint)


def damaged(place: Path, why: str) -> StoreError:
    """The error for a checkpoint that cannot be read."""
    return StoreError(f"the checkpoint {place} is damaged: {why}", hint="--no-resume starts anew")


def _draft(place: Path) -> Path:
    return place.with_name(f".{place.name}.new")


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back to the end of the block. In another thread than the main one there is none to hold."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    held: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held and callable(handler):
        handler(*held[0])


__all__ = ["CHECKPOINT", "compare", "damaged", "read_checkpoint", "settle", "uninterrupted", "write_checkpoint"]
