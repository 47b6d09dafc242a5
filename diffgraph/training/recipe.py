"""How weights are updated: the settings of a document's `train` section, read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import CheckFailed, DiffgraphError, InputError
from ..language.graph import Train

OPTIMIZERS = ("AdamW", "Adam", "SGD")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Recipe:
    """How weights are updated.

    learning_rate: at the top, reached after `warmup` steps; then constant, or falling as a cosine to 0 at `steps`.
    betas: of Adam; the first is the momentum of SGD. clip: the largest norm of the gradient. accumulate: batches a
    step. ema: the decay of the moving average of the weights; None keeps none. checkpoint: steps from one to the next.
    validate: batches of rows held out that are looked at there; 0 for none.
    """

    steps: int
    optimizer: str = "AdamW"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    schedule: str = "constant"
    ema: float | None = None
    checkpoint: int = 1000
    validate: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1))
        return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else rate

    def decay(self, step: int) -> float:
        """The decay of the moving average after a step, smaller at first."""
        return min(self.ema or 0.0, (1 + step) / (10 + step))

    def identity(self) -> dict[str, Any]:
        """What two trainings must share for one to go on where the other stopped: all but how long, where that does
        not matter to the steps before.
        """
        free = {"checkpoint", "validate"} | ({"steps"} if self.schedule == "constant" else set())
        return {key: value for key, value in asdict(self).items() if key not in free}


class _Reader:
    """Takes settings one by one, and notes what is wrong with them."""

    def __init__(self, train: Train) -> None:
        self.place = train.place
        self.problems: list[DiffgraphError] = []
        self.out: dict[str, Any] = {}

    def take(self, key: str, field: str, value: Any, allowed: Callable[[Any], bool], want: str) -> None:
        if isinstance(value, bool) or not allowed(value):
            self.fault(f"train.{key}: expected {want}, got {value!r}")
        else:
            self.out[field] = value

    def fault(self, message: str, hint: str | None = None) -> None:
        self.problems.append(InputError(message, hint=hint, place=self.place))

    def unknown(self, section: str, key: str, *allowed: str) -> None:
        self.fault(f"train.{section}: unknown key {key!r}", "it has: " + ", ".join(allowed))

    def learning_rate(self, given: Any) -> None:
        for key, value in (given if isinstance(given, dict) else {"top": given}).items():
            if key == "top":
                self.take("learning_rate", "learning_rate", value, _positive, "a number above 0")
            elif key == "warmup":
                self.take("learning_rate.warmup", key, value, lambda v: v == 0 or _count(v), "a whole number from 0")
            elif key == "schedule":
                self.take("learning_rate.schedule", key, value, SCHEDULES.__contains__, " or ".join(SCHEDULES))
            else:
                self.unknown("learning_rate", key, "top", "warmup", "schedule")

    def optimizer(self, given: Any) -> None:
        for key, value in (given if isinstance(given, dict) else {"name": given}).items():
            if key == "name":
                self.take("optimizer", "optimizer", value, OPTIMIZERS.__contains__, " or ".join(OPTIMIZERS))
            elif key == "betas":
                self.take("optimizer.betas", "betas", value, _betas, "two numbers from 0 to below 1")
            elif key == "weight_decay":
                self.take("optimizer.weight_decay", key, value, lambda v: v == 0 or _positive(v), "a number from 0")
            elif key == "clip":
                self.take("optimizer.clip", key, value, _positive, "a number above 0")
            elif key == "accumulate":
                self.take("optimizer.accumulate", key, value, _count, "a whole number from 1")
            else:
                self.unknown("optimizer", key, "name", "betas", "weight_decay", "clip", "accumulate")


def read_recipe(train: Train, values: Mapping[str, Any], steps: int | None = None) -> Recipe:
    """The recipe of a document's `train` section, with the values of the inputs that it names. `steps` goes before it.

    Raises CheckFailed with all that is wrong in it.
    """
    reader = _Reader(train)
    settings = {key: _resolved(key, value, values, reader) for key, value in train.settings.items()}
    if reader.problems:
        raise CheckFailed(reader.problems)
    wanted = steps if steps is not None else settings.get("steps")
    reader.take("steps", "steps", wanted, _count, "a whole number from 1")
    if "checkpoint" in settings:
        reader.take("checkpoint", "checkpoint", settings["checkpoint"], _count, "a whole number from 1")
    if "validate" in settings:
        batches = settings["validate"]
        reader.take("validate", "validate", batches, lambda v: v == 0 or _count(v), "a whole number from 0")
    if settings.get("ema") is not None:
        reader.take("ema", "ema", settings["ema"], _share, "a number from 0 to below 1")
    reader.learning_rate(settings.get("learning_rate", {}))
    reader.optimizer(settings.get("optimizer", {}))
    if reader.problems:
        raise CheckFailed(reader.problems)
    out = reader.out
    return Recipe(**{**out, "betas": tuple(out["betas"])} if "betas" in out else out)


def _resolved(path: str, value: Any, values: Mapping[str, Any], reader: _Reader) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(f"{path}.{key}", inner, values, reader) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in values:
            reader.fault(f"train.{path}: there is no input {value}")
        return values.get(value[1:])
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _betas(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_share, value))


__all__ = ["OPTIMIZERS", "Recipe", "read_recipe"]
