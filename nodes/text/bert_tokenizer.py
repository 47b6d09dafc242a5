"""Text to token ids by BERT's word pieces. Imports neither torch nor tokenizers at module level."""

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
    TOKENIZER_FILE,
    Frame,
    Pieces,
    add_tokens,
    added_tokens,
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
class BertTokenizerConfig:
    """The fields of a published tokenizer_config.json that change ids, as special_tokens_map.json corrects them.

    model_max_length: L, the tokens of a padded text with its start and end; 77 for latent diffusion, whose repository
    says 512. do_lower_case: letters become lower case. strip_accents: and lose their accents; None: where they become
    lower case. tokenize_chinese_chars: an ideograph is a word. cls_token, sep_token: the start and the end.
    pad_token: fills the rest. unk_token: a word that has no pieces. Padding and cutting are at the right.
    """

    model_max_length: Annotated[int, Bound(ge=1)] = 512
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    cls_token: str = "[CLS]"
    sep_token: str = "[SEP]"
    pad_token: str = "[PAD]"
    unk_token: str = "[UNK]"
    do_basic_tokenize: Literal[True] = True
    never_split: None = None
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"


class BertTokenizer(Component, version=1):
    """Word pieces (Devlin et al. 2019, arXiv:1810.04805, section 3), as the text encoder of latent diffusion reads them.

    A row is the start token, at most L - 2 tokens of text, the end token, and padding. The name of a special token in a
    text is read as ordinary text, where transformers would take it for the token. Weights that know few things list them
    in names.json beside the vocabulary (see vocabulary.py); a text without any gives a note.
    """

    Config = BertTokenizerConfig
    config_file = "tokenizer_config.json? special_tokens_map.json"
    files = ("tokenizer.json vocab.txt", "added_tokens.json?", "names.json?")
    published = ("BertTokenizer", "BertTokenizerFast")
    metadata: Mapping[str, Any] = {"tokenizer_class": "BertTokenizer"}
    ignored = IGNORED | {"mask_token"}

    def __init__(self, config: BertTokenizerConfig, pieces: tokenizers.Tokenizer, names: Names | None = None) -> None:
        """pieces: see `backend`. Raises WeightsError where a special token is not in the vocabulary."""
        self.config = config
        self.pieces = pieces
        self.names = names
        token_id(pieces.token_to_id, config.unk_token, "unknown")
        start = token_id(pieces.token_to_id, config.cls_token, "start")
        end = token_id(pieces.token_to_id, config.sep_token, "end")
        pad = token_id(pieces.token_to_id, config.pad_token, "padding")
        self.frame = Frame(config.model_max_length, pad, (start,), (end,))

    @classmethod
    def from_config(cls, config: BertTokenizerConfig) -> Self:
        """Not possible: a config says nothing of the vocabulary."""
        raise WeightsError("a BertTokenizer needs its vocabulary", hint="give it weights: a folder with vocab.txt")

    @classmethod
    def from_files(cls, config: BertTokenizerConfig, files: Mapping[str, Path]) -> Self:
        """From tokenizer.json, or else from vocab.txt. Raises WeightsError where they are damaged or of another
        tokenizer.
        """
        from tokenizers import models

        check_sizes(files)
        data: dict[str, Any] = {}
        if TOKENIZER_FILE in files:
            data = read_tokenizer_json(files[TOKENIZER_FILE], "WordPiece", "BERT")
            vocab = data["model"].get("vocab")
        else:
            vocab = built(lambda: models.WordPiece.read_file(str(files["vocab.txt"])))
        pieces = built(lambda: backend(config, vocab))
        add_tokens(pieces, added_tokens(data, files))
        names = read_names(files["names.json"]) if "names.json" in files else None
        return cls(config, pieces, names)

    def save_files(self, folder: Path) -> None:
        """Writes tokenizer.json, and names.json where there are names."""
        from tokenizers import processors

        start, end = self.config.cls_token, self.config.sep_token
        ids = [(start, self.frame.start[0]), (end, self.frame.end[0])]
        self.pieces.post_processor = processors.TemplateProcessing(single=[start, "$A", end], special_tokens=ids)
        save_backend(self.pieces, folder)
        if self.names is not None:
            (folder / "names.json").write_text(self.names.to_json(), encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self.pieces.get_vocab_size())

    def __call__(self, text: str) -> Annotated[Tokens, "1 model_max_length", Fact(vocabulary="wordpiece")]:
        """Ids and mask [1, L] of one text, on the device of the run; the mask is True from the start to the end token.

        A longer text is cut after L - 2 tokens, and a note says where; so one does where the weights know no word of it.
        Raises PortError for text that is not Unicode.
        """
        tokens = self.batch([text])
        if self.names is not None and (unknown := self.names.unknown(text)):
            note(unknown)
        return tokens

    def batch(self, texts: list[str]) -> Annotated[Tokens, "B model_max_length", Fact(vocabulary="wordpiece")]:
        """Ids and mask [B, L] of several texts, each as by itself."""
        return self.frame.tokens(texts, self._pieces)

    def _pieces(self, text: str) -> Pieces:
        """The ids of a text, all of them."""
        return encode(self.pieces, text)


def backend(config: BertTokenizerConfig, vocab: dict[str, int]) -> tokenizers.Tokenizer:
    """BERT's word pieces with this vocabulary."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=config.unk_token))
    pieces.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.tokenize_chinese_chars,
        strip_accents=config.strip_accents,
        lowercase=config.do_lower_case,
    )
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece(prefix="##")
    pieces.encode_special_tokens = True
    return pieces
