"""Text to token ids by T5's sentence pieces. Imports neither torch, tokenizers nor sentencepiece at module level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ...authoring import Bound, Component, Fact, note
from ...errors import WeightsError
from ..kinds import Tokens
from .encoding import (
    IGNORED,
    SPECIAL_FILE,
    TOKENIZER_FILE,
    Frame,
    added_tokens,
    check_sizes,
    read_tokenizer_json,
    token_id,
)
from .sentence_pieces import SentencePieces, Unigram
from .vocabulary import Names, read_names


@dataclass(frozen=True)
class T5TokenizerConfig:
    """The fields of a published tokenizer_config.json that change ids, as special_tokens_map.json corrects them.

    model_max_length: L, the tokens of a padded text with its end; 77 for DeepFloyd IF, whose repository says 512.
    eos_token: the end. pad_token: fills the rest. unk_token: what the vocabulary lacks. Padding and cutting are at the
    right.
    """

    model_max_length: Annotated[int, Bound(ge=1)] = 512
    eos_token: str = "</s>"
    pad_token: str = "<pad>"
    unk_token: str = "<unk>"
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"


class T5Tokenizer(Component, version=1):
    """Sentence pieces by a unigram model (Kudo 2018, arXiv:1804.10959), as T5 reads them (Raffel et al. 2020,
    arXiv:1910.10683, section 2.2).

    A row is at most L - 1 tokens of text, the end token, and padding. The name of a special token in a text is read as
    ordinary text, where transformers would take it for the token. Weights that know few things list them in names.json
    beside the vocabulary (see vocabulary.py); a text without any gives a note.
    """

    Config = T5TokenizerConfig
    config_file = "tokenizer_config.json? special_tokens_map.json"
    files = ("tokenizer.json spiece.model", "added_tokens.json?", "names.json?")
    published = ("T5Tokenizer", "T5TokenizerFast")
    metadata: Mapping[str, Any] = {"tokenizer_class": "T5Tokenizer"}
    ignored = IGNORED | {"add_prefix_space", "extra_ids", "legacy", "sp_model_kwargs", "unk_id"}

    def __init__(
        self, config: T5TokenizerConfig, vocabulary: Unigram | SentencePieces, names: Names | None = None
    ) -> None:
        """Raises WeightsError where a special token is not in the vocabulary."""
        self.config = config
        self.vocabulary = vocabulary
        self.names = names
        end = token_id(vocabulary.find, config.eos_token, "end")
        pad = token_id(vocabulary.find, config.pad_token, "padding")
        self.frame = Frame(config.model_max_length, pad, end=(end,))

    @classmethod
    def from_config(cls, config: T5TokenizerConfig) -> Self:
        """Not possible: a config says nothing of the vocabulary."""
        raise WeightsError("a T5Tokenizer needs its vocabulary", hint="give it weights: a folder with spiece.model")

    @classmethod
    def from_files(cls, config: T5TokenizerConfig, files: Mapping[str, Path]) -> Self:
        """From tokenizer.json, or else from spiece.model. Raises WeightsError where they are damaged or of another
        tokenizer.
        """
        check_sizes(files)
        names = read_names(files["names.json"]) if "names.json" in files else None
        if TOKENIZER_FILE in files:
            data = read_tokenizer_json(files[TOKENIZER_FILE], "Unigram", "T5")
            special = {config.eos_token, config.pad_token, config.unk_token}
            return cls(config, Unigram(data, special, added_tokens(data, files)), names)
        return cls(config, SentencePieces(files["spiece.model"].read_bytes()), names)

    def save_files(self, folder: Path) -> None:
        """Writes tokenizer.json, or spiece.model, whichever was read, and names.json where there are names."""
        self.vocabulary.save(folder)
        if self.names is not None:
            (folder / "names.json").write_text(self.names.to_json(), encoding="utf-8")
        (folder / SPECIAL_FILE).unlink(missing_ok=True)  # its names are in the config from now on

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self.vocabulary.size

    def __call__(self, text: str) -> Annotated[Tokens, "1 model_max_length", Fact(vocabulary="sentencepiece")]:
        """Ids and mask [1, L] of one text, on the device of the run; the mask is True up to the end token.

        A longer text is cut after L - 1 tokens, and a note says where; so one does where the weights know no word of
        it. Raises PortError for text that is not Unicode.
        """
        tokens = self.batch([text])
        if self.names is not None and (unknown := self.names.unknown(text)):
            note(unknown)
        return tokens

    def batch(self, texts: list[str]) -> Annotated[Tokens, "B model_max_length", Fact(vocabulary="sentencepiece")]:
        """Ids and mask [B, L] of several texts, each as by itself."""
        return self.frame.tokens(texts, self.vocabulary.pieces)
