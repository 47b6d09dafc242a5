"""The things that a model knows by name, where these are few: what a prompt outside of them is answered with.

Such weights have a `names.json`, `{"names": ["alarm clock", "apple"], "colours": ["red"]}`: what they draw, and in any
other list words that they know besides. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path

from ...errors import WeightsError

MAX_FILE_BYTES = 2**20
MAX_WORDS = 32  # of a prompt, that are compared
SHOWN = 60  # characters of a prompt, in the note
SMALL_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "into", "is", "of", "on", "or", "the", "to", "with", "without")
)


@dataclass(frozen=True)
class Names:
    """What weights know. lists: "names" and what else names.json holds. place: the file, for the note."""

    lists: Mapping[str, tuple[str, ...]]
    place: Path | None = None

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word that is known."""
        return frozenset(word for texts in self.lists.values() for text in texts for word in words_of(text))

    def unknown(self, text: str) -> str | None:
        """What to tell the user of a text of which no word is known; None where one is, or it has none."""
        words = words_of(text)
        if not words or any(form in self.words for word in words for form in singular(word)):
            return None
        shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        names = self.lists["names"]
        where = f"; {self.place} lists them" if self.place is not None else ""
        return (
            f'these weights know no word of "{shown}": they know {len(names)} names, the nearest is '
            f'"{self.nearest(words)}"{where}; open prompts need published weights'
        )

    def nearest(self, words: list[str]) -> str:
        """The name that looks most like one of these words."""

        def likeness(name: str) -> float:
            parts = [name, *words_of(name)]
            return max(SequenceMatcher(None, part, word).ratio() for part in parts for word in words[:MAX_WORDS])

        return max(self.lists["names"], key=likeness)

    def to_json(self) -> str:
        """The content of names.json."""
        return json.dumps({key: list(texts) for key, texts in self.lists.items()}, indent=1, ensure_ascii=False) + "\n"


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without those that name nothing."""
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in SMALL_WORDS]


def singular(word: str) -> tuple[str, ...]:
    """A word, and what it may be the plural of."""
    return word, word.removesuffix("s"), word.removesuffix("es")


def read_names(path: Path) -> Names:
    """Reads names.json. Raises WeightsError where it is too large, damaged, or lists no names."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise WeightsError(f"names.json is larger than {MAX_FILE_BYTES >> 20} MiB, so it lists no names")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"names.json cannot be read: {error}") from None
    lists = data if isinstance(data, dict) else {}
    for texts in lists.values():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise WeightsError("names.json holds something else than lists of texts")
    if not lists.get("names"):
        raise WeightsError('names.json lists no names: it is {"names": [...]}')
    return Names({key: tuple(texts) for key, texts in lists.items()}, path)
