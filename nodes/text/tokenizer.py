"""Text to token ids by byte-level BPE, as GPT-2 and GLIDE have it. Imports neither torch nor tokenizers at module
level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from ...authoring import Bound, Component, Fact, note
from ...errors import WeightsError
from ..kinds import Tokens
from .encoding import (
    IGNORED,
    MAX_LENGTH,
    TOKENIZER_FILE,
    Frame,
    Pieces,
    built,
    check_sizes,
    encode,
    read_tokenizer_json,
    save_backend,
    token_id,
)
from .vocabulary import Names, read_names

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class TokenizerConfig:
    """The fields of a published tokenizer_config.json that change ids; the defaults are GLIDE's.

    model_max_length: L, the tokens of a padded text. do_lower_case: the text is lower-cased first. add_prefix_space: as
    if a space came first. eos_token: the end-of-text token. pad_token: fills the rest; None: the end-of-text token
    does. No start or end token is added, and padding and cutting are at the right: that is all this tokenizer does.
    """

    model_max_length: Annotated[int, Bound(ge=1, le=MAX_LENGTH)] = 128
    do_lower_case: bool = True
    add_prefix_space: bool = False
    eos_token: str = "<|endoftext|>"
    pad_token: str | None = None
    add_bos_token: Literal[False] = False
    add_eos_token: Literal[False] = False
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"


class Tokenizer(Component, version=1):
    """Byte-level byte-pair encoding (Radford et al. 2019, section 2.2), padded to a fixed length as GLIDE does.

    Every text has ids, since bytes do. The name of a special token in a text is read as ordinary text. Weights that
    know few things list them in names.json beside the vocabulary (see vocabulary.py); a text without any gives a note.
    """

    Config = TokenizerConfig
    config_file = "tokenizer_config.json? special_tokens_map.json"
    files = ("tokenizer.json vocab.json", "merges.txt?", "names.json?")
    published = ("GPT2Tokenizer", "GPT2TokenizerFast")
    metadata: Mapping[str, Any] = {"tokenizer_class": "GPT2Tokenizer"}
    ignored = IGNORED | {"bos_token", "unk_token"}

    def __init__(self, config: TokenizerConfig, bpe: tokenizers.Tokenizer, names: Names | None = None) -> None:
        """bpe: a byte-level BPE of the `tokenizers` package. Raises WeightsError where it has no padding token."""
        from tokenizers import pre_tokenizers

        self.config = config
        self.bpe = bpe
        self.names = names
        bpe.no_padding()
        bpe.no_truncation()
        bpe.encode_special_tokens = True
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.add_prefix_space)
        pad = config.pad_token if config.pad_token is not None else config.eos_token
        self.pad_id = token_id(bpe.token_to_id, pad, "padding")
        self.frame = Frame(config.model_max_length, self.pad_id)

    @classmethod
    def from_config(cls, config: TokenizerConfig) -> Self:
        """Not possible: a config says nothing of the vocabulary."""
        raise WeightsError("a Tokenizer needs its vocabulary", hint="give it weights: a folder with tokenizer.json")

    @classmethod
    def from_files(cls, config: TokenizerConfig, files: Mapping[str, Path]) -> Self:
        """From tokenizer.json, or else from vocab.json and merges.txt. Raises WeightsError where they are damaged."""
        import tokenizers
        from tokenizers import models

        check_sizes(files)
        if TOKENIZER_FILE in files:
            path = files[TOKENIZER_FILE]
            read_tokenizer_json(path, "BPE", "GPT-2")
            bpe = built(lambda: tokenizers.Tokenizer.from_file(str(path)))
        elif "merges.txt" in files:
            pair = str(files["vocab.json"]), str(files["merges.txt"])
            bpe = built(lambda: tokenizers.Tokenizer(models.BPE.from_file(*pair)))
        else:
            raise WeightsError("vocab.json is there without merges.txt; a BPE vocabulary is both")
        if bpe.pre_tokenizer is not None and type(bpe.pre_tokenizer).__name__ != "ByteLevel":
            raise WeightsError(
                f"tokenizer.json splits texts by {type(bpe.pre_tokenizer).__name__}, not by bytes as GPT-2"
            )
        if bpe.model.end_of_word_suffix or bpe.token_to_id("a</w>") is not None:
            raise WeightsError("tokens of the vocabulary end words with '</w>', as CLIP's do, not GPT-2's")
        return cls(config, bpe, read_names(files["names.json"]) if "names.json" in files else None)

    def save_files(self, folder: Path) -> None:
        """Writes tokenizer.json, and names.json where there are names."""
        save_backend(self.bpe, folder)
        if self.names is not None:
            (folder / "names.json").write_text(self.names.to_json(), encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self.bpe.get_vocab_size())

    def __call__(self, text: str) -> Annotated[Tokens, "1 model_max_length", Fact(vocabulary="byte-bpe")]:
        """Ids and mask [1, L] of one text, on the device of the run. An empty text is all padding.

        A longer text is cut after L tokens, and a note says where; so one does where the weights know no word of it.
        Raises PortError for text that is not Unicode.
        """
        tokens = self.batch([text])
        if self.names is not None and (unknown := self.names.unknown(text)):
            note(unknown)
        return tokens

    def batch(self, texts: list[str]) -> Annotated[Tokens, "B model_max_length", Fact(vocabulary="byte-bpe")]:
        """Ids and mask [B, L] of several texts, each as by itself."""
        return self.frame.tokens(texts, self._pieces)

    def _pieces(self, text: str) -> Pieces:
        """The ids of a text, all of them."""
        return encode(self.bpe, text.lower() if self.config.do_lower_case else text)
