"""Texts, and a component that holds words. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from diffgraph.authoring import Bound, Component, Fact, File, node, static
from diffgraph.errors import WeightsError


@node("Upper", version=1)
def upper(text: str) -> str:
    """The text in capitals."""
    return text.upper()


@node("Join", version=1)
def join(texts: list[str], between: str = " ") -> str:
    """Texts one after the other."""
    return between.join(texts)


@node("Words", version=1)
def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


@node("Length", version=1)
def length(text: str) -> int:
    """How many characters a text has."""
    return len(text)


@node("FileSize", version=1)
def file_size(file: File) -> int:
    """The size of a file in bytes."""
    return len(file.data)


@dataclass(frozen=True)
class FormatterConfig:
    """template: has `{}` where the text goes. width: of the result, filled with blanks."""

    template: str
    width: Annotated[int, Bound(ge=0, le=200)] = 0
    side: Literal["left", "right"] = "left"


class Formatter(Component, version=1):
    """Puts a text into a template."""

    Config = FormatterConfig
    attributes: ClassVar[Mapping[str, str]] = {"twice": "2*width"}

    def __init__(self, config: FormatterConfig) -> None:
        self.config = config

    @static
    def label(self) -> str:
        """The template without its gap, known while planning."""
        return self.config.template.replace("{}", "")

    def __call__(self, text: str) -> str:
        """The text in the template."""
        whole = self.config.template.replace("{}", text)
        return whole.ljust(self.config.width) if self.config.side == "left" else whole.rjust(self.config.width)


@dataclass(frozen=True)
class LexiconConfig:
    """language: of the words."""

    language: str = "en"


class Lexicon(Component, version=1):
    """Numbers for words, read from the lines of `words.txt`."""

    Config = LexiconConfig
    config_file = "lexicon.json?"
    files = ("words.txt",)
    facts: ClassVar[Mapping[str, str]] = {"language": "$language"}

    def __init__(self, config: LexiconConfig) -> None:
        self.config = config
        self.words: list[str] = []

    @classmethod
    def from_files(cls, config: LexiconConfig, files: Mapping[str, Path]) -> Self:
        """Reads the words. Raises WeightsError for an empty file."""
        lexicon = cls(config)
        lexicon.words = files["words.txt"].read_text().split()
        if not lexicon.words:
            raise WeightsError("words.txt: holds no words")
        return lexicon

    def save_files(self, folder: Path) -> None:
        """Writes `words.txt`."""
        (folder / "words.txt").write_text("\n".join(self.words))

    def __call__(self, text: str) -> Annotated[list[int], Fact(language="$language")]:
        """The number of each word of a text, -1 for one that is not known."""
        return [self.words.index(word) if word in self.words else -1 for word in text.split()]

    def spell(self, numbers: Annotated[list[int], Fact(language="$language")]) -> str:
        """The words of these numbers."""
        return " ".join(self.words[number] if number >= 0 else "?" for number in numbers)
