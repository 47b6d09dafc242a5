"""Text to token ids by byte-level BPE, as GPT-2 and GLIDE have it. Imports neither torch nor tokenizers at module
level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from ...authoring import Bound, Component, Fact, note, target
from ...errors import PortError, WeightsError
from ..kinds import Tokens
from .vocabulary import Names, read_names

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 64 * 2**20
SHOWN = 60  # characters of what was cut, in the note


@dataclass(frozen=True)
class TokenizerConfig:
    """The fields of a published tokenizer_config.json that change ids; the defaults are GLIDE's.

    model_max_length: L, the tokens of a padded text. do_lower_case: the text is lower-cased first. add_prefix_space: as
    if a space came first. eos_token: the end-of-text token. pad_token: fills the rest; None: the end-of-text token
    does. No start or end token is added, and padding and cutting are at the right: that is all this tokenizer does.
    """

    model_max_length: Annotated[int, Bound(ge=1, le=65536)] = 128
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
    config_file = "tokenizer_config.json?"
    files = ("tokenizer.json vocab.json", "merges.txt?", "names.json?")
    published = ("GPT2Tokenizer", "GPT2TokenizerFast")
    metadata: Mapping[str, Any] = {"tokenizer_class": "GPT2Tokenizer"}
    ignored = frozenset(
        {
            "added_tokens_decoder",
            "backend",
            "bos_token",
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
            "unk_token",
        }
    )

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
        token = config.pad_token if config.pad_token is not None else config.eos_token
        pad_id = bpe.token_to_id(token)
        if pad_id is None:
            raise WeightsError(
                f"the vocabulary has no padding token {token!r}", hint="set pad_token to one that it has"
            )
        self.pad_id: int = pad_id

    @classmethod
    def from_config(cls, config: TokenizerConfig) -> Self:
        """Not possible: a config says nothing of the vocabulary."""
        raise WeightsError("a Tokenizer needs its vocabulary", hint="give it weights: a folder with tokenizer.json")

    @classmethod
    def from_files(cls, config: TokenizerConfig, files: Mapping[str, Path]) -> Self:
        """From tokenizer.json, or else from vocab.json and merges.txt. Raises WeightsError where they are damaged."""
        import tokenizers
        from tokenizers import models

        for name, path in files.items():
            if path.stat().st_size > MAX_FILE_BYTES:
                raise WeightsError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB, so it is no vocabulary")
        if "tokenizer.json" not in files and "merges.txt" not in files:
            raise WeightsError("vocab.json is there without merges.txt; a BPE vocabulary is both")
        try:
            if "tokenizer.json" in files:
                bpe = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
            else:
                pair = str(files["vocab.json"]), str(files["merges.txt"])
                bpe = tokenizers.Tokenizer(models.BPE.from_file(*pair))
        except Exception as error:  # the package raises plain Exception
            raise WeightsError(f"the vocabulary cannot be read: {error}") from None
        if not isinstance(bpe.model, models.BPE):
            raise WeightsError(f"tokenizer.json holds {type(bpe.model).__name__}, not the BPE of GPT-2")
        if bpe.model.dropout is not None:
            raise WeightsError("tokenizer.json drops merges at random, which is for training it only")
        if bpe.pre_tokenizer is not None and type(bpe.pre_tokenizer).__name__ != "ByteLevel":
            raise WeightsError(
                f"tokenizer.json splits texts by {type(bpe.pre_tokenizer).__name__}, not by bytes as GPT-2"
            )
        return cls(config, bpe, read_names(files["names.json"]) if "names.json" in files else None)

    def save_files(self, folder: Path) -> None:
        """Writes tokenizer.json, and names.json where there are names."""
        (folder / "tokenizer.json").write_text(self.bpe.to_str(pretty=True) + "\n", encoding="utf-8")
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
        import torch

        rows = [self._ids(text) for text in texts]
        length, where = self.config.model_max_length, target().device
        ids = [row + [self.pad_id] * (length - len(row)) for row in rows]
        mask = [[place < len(row) for place in range(length)] for row in rows]
        return Tokens(
            torch.tensor(ids, dtype=torch.int64, device=where).reshape(-1, length),
            torch.tensor(mask, dtype=torch.bool, device=where).reshape(-1, length),
        )

    def _ids(self, text: str) -> list[int]:
        """The ids of a text, at most L."""
        text = text.lower() if self.config.do_lower_case else text
        try:
            encoding = self.bpe.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError):
            raise PortError("text", "holds half a surrogate pair, which is no Unicode text") from None
        ids: list[int] = encoding.ids
        length = self.config.model_max_length
        if len(ids) > length:
            rest = text[encoding.offsets[length][0] :]
            shown = rest if len(rest) <= SHOWN else rest[: SHOWN - 1] + "…"
            note(f'prompt cut after {length} tokens: "{shown}" is not read')
        return ids[:length]
