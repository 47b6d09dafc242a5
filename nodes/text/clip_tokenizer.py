"""Text to token ids by CLIP's lower-cased byte-pair encoding. Imports neither torch nor tokenizers at module level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from ...authoring import Bound, Component, Fact
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

if TYPE_CHECKING:
    import tokenizers

# A word, one digit, or a run of other signs; the endings of English verbs by themselves (the reference's pattern).
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORD_END = "</w>"


@dataclass(frozen=True)
class CLIPTokenizerConfig:
    """The fields of a published tokenizer_config.json that change ids, as special_tokens_map.json corrects them.

    model_max_length: L, the tokens of a padded text with its start and end. bos_token, eos_token: the start and the
    end. pad_token: fills the rest; the end token for CLIP L/14, "!" for the OpenCLIP models. unk_token: for what the
    vocabulary lacks; one of all bytes lacks nothing. CLIP always lower-cases, pads and cuts at the right.
    """

    model_max_length: Annotated[int, Bound(ge=1)] = 77
    bos_token: str = "<|startoftext|>"
    eos_token: str = "<|endoftext|>"
    pad_token: str = "<|endoftext|>"
    unk_token: str = "<|endoftext|>"
    do_lower_case: Literal[True] = True
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"


class CLIPTokenizer(Component, version=1):
    """Byte-pair encoding of lower-cased words (Radford et al. 2021, arXiv:2103.00020, section 2.4), as transformers 5
    reads such a vocabulary: text is brought to NFC, runs of white space become one blank, and letters lower case.

    A row is the start token, at most L - 2 tokens of text, the end token, and padding. The name of a special token in a
    text is read as ordinary text, where transformers would end the prompt there, or, as Stable Diffusion 2 pads with "!",
    take every "!" for padding. Tokens that somebody added for words of their own are read as such.
    """

    Config = CLIPTokenizerConfig
    config_file = "tokenizer_config.json? special_tokens_map.json"
    files = ("tokenizer.json vocab.json", "merges.txt?", "added_tokens.json?")
    published = ("CLIPTokenizer", "CLIPTokenizerFast")
    metadata: Mapping[str, Any] = {"tokenizer_class": "CLIPTokenizer"}
    ignored = IGNORED | {"add_prefix_space"}

    def __init__(self, config: CLIPTokenizerConfig, bpe: tokenizers.Tokenizer) -> None:
        """bpe: see `backend`. Raises WeightsError where a special token is not in the vocabulary."""
        self.config = config
        self.bpe = bpe
        start = token_id(bpe.token_to_id, config.bos_token, "start")
        end = token_id(bpe.token_to_id, config.eos_token, "end")
        pad = token_id(bpe.token_to_id, config.pad_token, "padding")
        self.frame = Frame(config.model_max_length, pad, (start,), (end,))

    @classmethod
    def from_config(cls, config: CLIPTokenizerConfig) -> Self:
        """Not possible: a config says nothing of the vocabulary."""
        raise WeightsError("a CLIPTokenizer needs its vocabulary", hint="give it weights: a folder with vocab.json")

    @classmethod
    def from_files(cls, config: CLIPTokenizerConfig, files: Mapping[str, Path]) -> Self:
        """From tokenizer.json, or else from vocab.json and merges.txt. Raises WeightsError where they are damaged or
        of another tokenizer.
        """
        from tokenizers import models

        check_sizes(files)
        data: dict[str, Any] = {}
        if TOKENIZER_FILE in files:
            data = read_tokenizer_json(files[TOKENIZER_FILE], "BPE", "CLIP")
            vocab, merges = data["model"].get("vocab"), data["model"].get("merges") or []
        elif "merges.txt" in files:
            vocab, merges = built(lambda: models.BPE.read_file(str(files["vocab.json"]), str(files["merges.txt"])))
        else:
            raise WeightsError("vocab.json is there without merges.txt; a BPE vocabulary is both")
        bpe = built(lambda: backend(config, vocab, merges))
        if not any(piece.endswith(WORD_END) for piece in vocab):
            raise WeightsError(f"no token of the vocabulary ends a word with {WORD_END!r}, as CLIP's do")
        add_tokens(bpe, added_tokens(data, files))
        return cls(config, bpe)

    def save_files(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        from tokenizers import processors

        start, end = (self.config.bos_token, self.frame.start[0]), (self.config.eos_token, self.frame.end[0])
        self.bpe.post_processor = processors.RobertaProcessing(end, start, False, False)
        save_backend(self.bpe, folder)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self.bpe.get_vocab_size())

    def __call__(self, text: str) -> Annotated[Tokens, "1 model_max_length", Fact(vocabulary="clip-bpe")]:
        """Ids and mask [1, L] of one text, on the device of the run; the mask is True from the start to the end token.

        A longer text is cut after L - 2 tokens, and a note says where. Raises PortError for text that is not Unicode.
        """
        return self.batch([text])

    def batch(self, texts: list[str]) -> Annotated[Tokens, "B model_max_length", Fact(vocabulary="clip-bpe")]:
        """Ids and mask [B, L] of several texts, each as by itself."""
        return self.frame.tokens(texts, self._pieces)

    def _pieces(self, text: str) -> Pieces:
        """The ids of a text, all of them."""
        return encode(self.bpe, text)


def backend(config: CLIPTokenizerConfig, vocab: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
    """CLIP's byte-pair encoding with this vocabulary. merges: pairs, or the two words of one with a blank between."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pairs: Any = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    model = models.BPE(vocab, pairs, unk_token=config.unk_token, end_of_word_suffix=WORD_END)
    bpe = tokenizers.Tokenizer(model)
    blanks = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.encode_special_tokens = True
    return bpe
