"""What the author of a node package writes to say how original checkpoints are converted: `Original` and what it gives.

A module-level `Original` of a node package is found as node types are. Its `convert` looks at the names and shapes of a
checkpoint alone and tells the parts: their configs, and which tensor of the file is which of theirs. The engine reads,
checks and writes (converting.py). This module imports neither torch nor the rest of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError, WeightsError


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a tensor in which several are joined, in runs: [run 0: part 0, part 1, ...][run 1: part 0, ...].

    name: of the tensor in the file. number: which of the `parts`. runs: such as the heads of an attention layer.
    """

    name: str
    number: int
    parts: int
    runs: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a converted system.

    name: as options and an index have it. node: the type that reads it. config: as published. tensors: of a model, what
    the file has for each name that the type reads. source: for a part that the file does not hold, such as a tokenizer,
    the address of what does; `config` is then laid over its config. library: of the class that an index names. folder:
    where its files go, below the output, and other parts' too; the name where None.
    """

    name: str
    node: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str | Rows] = field(default_factory=dict)
    source: str = ""
    library: str = "diffusers"
    folder: str | None = None

    @property
    def place(self) -> str:
        """Where its files go, below the output."""
        return self.name if self.folder is None else self.folder


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a checkpoint becomes.

    title: what it is, one line; files that are converted together are of one title. parts: in the order in which they
    are written. run: the arguments of `diffgraph run` for what was made, FOLDER in place of the folder. index: the
    model_index.json without its parts; empty where the layout has none. unused: patterns of the tensors that no part
    needs; all others must have a place. licence: of the published weights, as the Hub calls it. note: what was chosen.
    """

    title: str
    parts: Sequence[Part]
    run: str
    index: Mapping[str, Any] = field(default_factory=dict)
    unused: Sequence[str] = ()
    licence: str = ""
    note: str = ""


class Checkpoint:
    """The tensors of a file, or of a part of it, by names; iterating gives the names.

    settings: what the user told because no tensor does. averaged: moving averages of the weights are taken where the
    file has them.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        settings: Mapping[str, Any] | None = None,
        averaged: bool = True,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """shapes: by the file's names. names: the file's name for each of this part's; the same where None."""
        self._shapes, self.settings, self.averaged = shapes, dict(settings or {}), averaged
        self.names = dict(names) if names is not None else {name: name for name in shapes}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises WeightsError where there is none of this name."""
        if name not in self.names:
            raise WeightsError(f"there is no tensor {name} in what else looks like such a checkpoint")
        return self._shapes[self.names[name]]

    def count(self, pattern: str) -> int:
        """The first number for which there is no tensor `pattern.format(number)`."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number

    def below(self, prefix: str) -> Checkpoint:
        """The tensors whose names begin so, without that beginning."""
        return self.under({name.removeprefix(prefix): name for name in self if name.startswith(prefix)})

    def under(self, names: Mapping[str, str]) -> Checkpoint:
        """Tensors by other names. names: this part's name for each of the new ones."""
        theirs = {new: self.names[old] for new, old in names.items()}
        return Checkpoint(self._shapes, settings=self.settings, averaged=self.averaged, names=theirs)

    def setting(self, name: str, default: Any) -> Any:
        """What the user told for a setting, of the default's type, or the default. Raises InputError for another type."""
        value = self.settings.get(name, default)
        if default is not None and type(value) is not type(default):
            raise InputError(f"--set {name}={value}: such as {name}={default} is wanted")
        return value


@dataclass(frozen=True, slots=True)
class Original:
    """A form of checkpoint that is known by the names of its tensors.

    name: of the system. keys: patterns; each is found in some name. Of several originals that fit, the one with the most
    keys is meant. convert: what such a checkpoint becomes; raises WeightsError or InputError. None: it is known, and is
    not converted. instead: what to do then. settings: what the user may tell, by name, with what it is.
    """

    name: str
    keys: tuple[str, ...]
    convert: Callable[[Checkpoint], Conversion] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    instead: str = ""
