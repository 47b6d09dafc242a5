"""What the tokenizers share: reading vocabularies, and texts as rows of ids of one length. Imports neither torch nor
tokenizers at module level.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...authoring import note, target
from ...errors import PortError, WeightsError
from ..kinds import Tokens

if TYPE_CHECKING:
    import tokenizers

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 2**20
MAX_LENGTH = 65536
SHOWN = 60  # characters of what was cut, in the note
TOKENIZER_FILE, SPECIAL_FILE = "tokenizer.json", "special_tokens_map.json"

# Keys of a published tokenizer_config.json that change no ids of a plain text. Added tokens are read from tokenizer.json
# and added_tokens.json, where the vocabulary is.
IGNORED = frozenset(
    {
        "added_tokens_decoder",
        "additional_special_tokens",
        "backend",
        "clean_up_tokenization_spaces",
        "errors",
        "extra_special_tokens",
        "is_local",
        "local_files_only",
        "name_or_path",
        "processor_class",
        "special_tokens_map_file",
        "split_special_tokens",
        "tokenizer_file",
    }
)


@dataclass(frozen=True)
class Pieces:
    """The ids of a text, and what is left of it from the piece of some number on, to be shown."""

    ids: list[int]
    rest: Callable[[int], str]


@dataclass(frozen=True)
class Frame:
    """How ids become a row: `start`, at most as many ids as there is room for, `end`, then `pad` up to `length`."""

    length: int
    pad: int
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.start) + len(self.end) < self.length <= MAX_LENGTH:
            raise WeightsError(
                f"model_max_length: {self.length} is no length that a text is padded to",
                hint="say model_max_length: the length that the text encoder takes, such as 77",
            )

    def tokens(self, texts: Sequence[str], encode: Callable[[str], Pieces]) -> Tokens:
        """Ids and mask [B, L] of texts, on the device of the run; the mask is True up to the end token.

        A text that is cut gives a note, which says where. `encode` raises PortError for text that is not Unicode.
        """
        import torch

        rows = [self.row(encode(text)) for text in texts]
        where = target().device
        ids = [row + [self.pad] * (self.length - len(row)) for row in rows]
        mask = [[place < len(row) for place in range(self.length)] for row in rows]
        return Tokens(
            torch.tensor(ids, dtype=torch.int64, device=where).reshape(-1, self.length),
            torch.tensor(mask, dtype=torch.bool, device=where).reshape(-1, self.length),
        )

    def row(self, pieces: Pieces) -> list[int]:
        """The ids of a text with start and end, at most L."""
        room = self.length - len(self.start) - len(self.end)
        if len(pieces.ids) > room:
            rest = pieces.rest(room)
            shown = rest if len(rest) <= SHOWN else rest[: SHOWN - 1] + "…"
            note(f'prompt cut after {room} tokens: "{shown}" is not read')
        return [*self.start, *pieces.ids[:room], *self.end]


def encode(backend: tokenizers.Tokenizer, text: str) -> Pieces:
    """The ids of a text, without start and end. Raises PortError for text that is not Unicode."""
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    except (TypeError, UnicodeError):
        raise no_unicode() from None
    return Pieces(encoding.ids, lambda number: text[encoding.offsets[number][0] :])


def no_unicode() -> PortError:
    """What is raised for a text that no tokenizer can read."""
    return PortError("text", "holds half a surrogate pair, which is no Unicode text")


def built(make: Callable[[], T]) -> T:
    """What `make` makes of files. Raises WeightsError where it fails for any reason: the packages have no errors of
    their own.
    """
    try:
        return make()
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"the vocabulary cannot be read: {error}") from None


def check_sizes(files: Mapping[str, Path]) -> None:
    """Raises WeightsError where a file is larger than any vocabulary."""
    for name, path in files.items():
        if path.stat().st_size > MAX_FILE_BYTES:
            raise WeightsError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB, so it is no vocabulary")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises WeightsError."""
    data = built(lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(data, dict):
        raise WeightsError(f"the vocabulary cannot be read: {path.name} is no JSON object")
    return data


def read_tokenizer_json(path: Path, wanted: str, whose: str) -> dict[str, Any]:
    """The content of tokenizer.json, of which "model" is of a kind. wanted: "BPE", "WordPiece" or "Unigram". whose: for
    the message. Raises WeightsError where it is damaged, of another kind, or leaves tokens to chance.
    """
    data = read_json(path)
    model = data.get("model")
    if not isinstance(model, dict):
        raise WeightsError(f"the vocabulary cannot be read: {path.name} has no model")
    kind = model.get("type") or _old_kind(model)
    if kind != wanted:
        raise WeightsError(f"{path.name} holds {kind}, not the {wanted} of {whose}")
    if model.get("dropout"):
        raise WeightsError(f"{path.name} drops merges at random, which is for training it only")
    return data


def _old_kind(model: Mapping[str, Any]) -> str:
    """The kind of a model in files of 2020, which do not name it."""
    marks = {"merges": "BPE", "max_input_chars_per_word": "WordPiece", "unk_id": "Unigram"}
    return next((kind for mark, kind in marks.items() if mark in model), "an unknown model")


def added_tokens(data: Mapping[str, Any], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The tokens that were added to a vocabulary after its training, as tokenizer.json and added_tokens.json have them,
    by id.
    """
    found = [entry for entry in data.get("added_tokens") or [] if isinstance(entry, dict)]
    if "added_tokens.json" in files:
        known = {entry.get("content") for entry in found}
        plain = read_json(files["added_tokens.json"])
        found += [{"id": id_, "content": token} for token, id_ in plain.items() if token not in known]
    if not all(isinstance(entry.get("id"), int) and isinstance(entry.get("content"), str) for entry in found):
        raise WeightsError("the vocabulary cannot be read: an added token has no id or no text")
    return sorted(found, key=lambda entry: entry["id"])


def add_tokens(backend: tokenizers.Tokenizer, added: Iterable[Mapping[str, Any]]) -> None:
    """Adds tokens to a vocabulary. A special one gets its id, but is not looked for in texts.

    Raises WeightsError where one cannot have the id that its file gives it.
    """
    from tokenizers import AddedToken

    for entry in added:
        flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip", "special")}
        token = AddedToken(entry["content"], normalized=bool(entry.get("normalized", True)), **flags)
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != entry["id"]:
            raise WeightsError(
                f"the added token {token.content!r} cannot have the id {entry['id']}: the vocabulary has "
                f"{backend.get_vocab_size()} ids"
            )


def token_id(find: Callable[[str], int | None], token: str, role: str) -> int:
    """The id of a token that the vocabulary must have. role: its part, for the message.

    Raises WeightsError where there is no such token.
    """
    found = find(token)
    if found is None:
        raise WeightsError(
            f"the vocabulary has no {role} token {token!r}, so it may be another tokenizer's",
            hint="name a token that it has in the config",
        )
    return found


def save_backend(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json. The names of the special tokens are in the config from now on, so that an older
    special_tokens_map.json goes.
    """
    (folder / TOKENIZER_FILE).write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    (folder / SPECIAL_FILE).unlink(missing_ok=True)
