"""T5's sentence pieces in both of their published forms. Imports neither torch, tokenizers nor sentencepiece at module
level.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import WeightsError
from .encoding import TOKENIZER_FILE, Pieces, add_tokens, built, encode, no_unicode

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

BLANK = "▁"  # stands for a blank in pieces
SENTINEL = re.compile(r"<extra_id_\d+>")  # stands for what is left out, while T5 is trained


class Unigram:
    """Sentence pieces as tokenizer.json has them, by the tokenizers package."""

    def __init__(self, data: Mapping[str, Any], special: set[str], added: list[dict[str, Any]]) -> None:
        """data: of tokenizer.json. special: pieces that no text has. added: tokens of words of somebody's own.

        Raises WeightsError where the pieces are damaged.
        """
        self.data = data
        pieces = built(lambda: [(str(piece), float(score)) for piece, score in data["model"]["vocab"]])
        self.ids = {piece: number for number, (piece, _) in enumerate(pieces)}
        special = special | {entry["content"] for entry in added if entry.get("special")}
        # A name with a blank is in no word, so that the model never finds a special piece in a text.
        hidden = [(f"{p} " if p in special or SENTINEL.fullmatch(p) else p, score) for p, score in pieces]
        self.backend = built(lambda: unigram(data, hidden))
        plain = [entry for entry in added if not entry.get("special")]
        add_tokens(self.backend, plain)
        self.ids.update((entry["content"], entry["id"]) for entry in plain)

    @property
    def size(self) -> int:
        return len(self.ids)

    def find(self, token: str) -> int | None:
        return self.ids.get(token)

    def pieces(self, text: str) -> Pieces:
        return encode(self.backend, text)

    def save(self, folder: Path) -> None:
        text = json.dumps(self.data, indent=2, ensure_ascii=False)
        (folder / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")


def unigram(data: Mapping[str, Any], pieces: list[tuple[str, float]]) -> tokenizers.Tokenizer:
    """T5's unigram model of these pieces: words between white space, each after the sign of a blank."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    model = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=data["model"].get("unk_id"), byte_fallback=False))
    normalizer = data.get("normalizer") or {}
    for part in normalizer.get("normalizers", [normalizer]):
        if part.get("type") == "Precompiled":
            model.normalizer = normalizers.Precompiled(base64.b64decode(part["precompiled_charsmap"]))
    blank = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="always", split=True)
    model.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), blank])
    return model


class SentencePieces:
    """Sentence pieces as spiece.model has them, by the sentencepiece package."""

    def __init__(self, data: bytes) -> None:
        """Raises WeightsError where the model is damaged."""
        import sentencepiece

        self.data = data
        self.processor: sentencepiece.SentencePieceProcessor = built(
            lambda: sentencepiece.SentencePieceProcessor(model_proto=data)
        )
        if not data or not self.size:
            raise WeightsError("the vocabulary cannot be read: spiece.model holds no pieces")

    @property
    def size(self) -> int:
        return int(self.processor.get_piece_size())

    def find(self, token: str) -> int | None:
        found = int(self.processor.piece_to_id(token))
        return found if self.processor.id_to_piece(found) == token else None

    def pieces(self, text: str) -> Pieces:
        try:
            text.encode()
        except UnicodeError:
            raise no_unicode() from None
        # The one white space that the model's own normalisation leaves, while the tokenizers package splits there.
        text = text.replace("\x85", " ")

        def rest(number: int) -> str:
            pieces: list[str] = self.processor.encode(text, out_type=str)
            return "".join(pieces[number:]).replace(BLANK, " ")

        return Pieces(self.processor.encode(text), rest)

    def save(self, folder: Path) -> None:
        (folder / "spiece.model").write_bytes(self.data)
