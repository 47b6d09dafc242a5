"""Names of classes, as numbers that a model knows them by. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from ...authoring import Bound, Component
from ...errors import PortError, WeightsError, nearest

INDEX = "model_index.json"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ClassNamesConfig:
    """names: of class 0, class 1 and so on, several for one class parted by commas; empty where the index has them."""

    names: tuple[str, ...] = ()


class ClassNames(Component, version=1):
    """The names that a repository gives its classes, in `id2label` of its model_index.json, as facebook/DiT-XL-2-* do.

    Several names of one class are parted by commas there ("tench, Tinca tinca"), and each of them is known. Where a name
    stands for two classes, the later one has it, as in the library. A number is known too, with and without names.
    """

    Config = ClassNamesConfig
    config_file = "class_names.json?"
    files = (f"{INDEX}?",)

    def __init__(self, config: ClassNamesConfig, names: Mapping[str, int] | None = None) -> None:
        """names: the number of each; those of the config where None."""
        self.config = config
        self.names = dict(names) if names is not None else parted(dict(enumerate(config.names)))

    @classmethod
    def from_files(cls, config: ClassNamesConfig, files: Mapping[str, Path]) -> Self:
        """Names of the config, else of the index. Raises WeightsError where the index gives none that can be read."""
        if config.names or INDEX not in files:
            return cls(config)
        try:
            with files[INDEX].open("rb") as file:
                told: Any = json.loads(file.read(MAX_BYTES)).get("id2label") or {}
            return cls(config, parted({int(number): name for number, name in told.items()}))
        except (ValueError, AttributeError, RecursionError):
            raise WeightsError(
                f"{INDEX}: id2label is no table of names by number", hint='such as {"207": "golden retriever"}'
            ) from None

    def __call__(self, name: str) -> list[Annotated[int, Bound(ge=0)]]:
        """The class of a name, as a list of one number, for `condition` of a model.

        name: one of the names, or a number. Raises PortError for any other text.
        """
        text = name.strip()
        if text in self.names:
            return [self.names[text]]
        if text.isascii() and text.isdigit():
            return [int(text)]
        near = nearest(text, list(self.names))
        known = f"{len(self.names)} names are known, such as {', '.join(list(self.names)[:3])}" if self.names else ""
        raise PortError(
            "name",
            f"{name!r} is no name of a class",
            hint=f"did you mean {near!r}?" if near else known or "give a number",
        )


def parted(told: Mapping[int, str]) -> dict[str, int]:
    """The number of each name; those of one class are parted by commas."""
    return {name.strip(): number for number, names in told.items() for name in names.split(",") if name.strip()}
