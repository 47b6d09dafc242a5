"""The tokenizers beside those of transformers, on 500 texts and vocabularies trained here in each published form."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers

from diffgraph.nodes.text.bert_tokenizer import BertTokenizer
from diffgraph.nodes.text.clip_tokenizer import CLIPTokenizer
from diffgraph.nodes.text.t5_tokenizer import T5Tokenizer

from ..nodes.test_tokenizers import CORPUS, END, FORMS, NAMES, START, sentence_pieces, write_clip
from .test_tokenizer import ODD

Peers: Any = transformers
LENGTH = 77

MORE = [
    "\x85", "a\x85b", "a\u00a0b\u2003c\u3000d", "\u200bzero\u200cwidth\u200d", "\ufeffmark", "a\u2028b\u2029c",
    "\t\t \n\n  \r\n x", "   leading", "trailing   ", "caf\u00e9 cafe\u0301 CAFÉ", "ﬃ ﬁ ŉ ǆ ß ẞ", "ΑΣ ας ΣΣ", "İstanbul ıI",
    "한국어 텍스트 ᄒ", "नमस्ते दुनिया", "ไทย", "中文，标点。「引号」", "日本語とEnglish混じり", "½ ² ³ ① Ⅷ ㎏ ﷺ", "👍🏽 🇩🇪 ❤️ 👨\u200d👩\u200d👧",
    "Zalgo: z\u0351\u0369a\u0353l\u0342g\u0324o", "\x00", "\x01\x02\x7f\x80\x9f", "\ufffd\ufffe\uffff", "\U0010ffff \ue000",
    "don't DON'T they'RE we've I'm you'll he'd it's 's' ''ll", "1234567890 3,141.59 1e-5 0xFF", "a_b-c/d\\e|f~g`h^i",
    "!!!???...—–…“”‘’«»", "▁▁ ▁a b▁", "</w> ##ing @@ Ġ Ċ", "http://x.org/?q=1&r=[2]#top", "(a:1.3) [b] {c} <d>", "\u202eltr\u202c",
    "x" * 150, "word " * 100, "日" * 120, "Supercalifragilisticexpialidocious " * 12,
]  # fmt: skip


def texts() -> list[str]:
    """500 texts: odd ones, words of the corpus in any order and case, and characters of every plane."""
    draw = random.Random(0)
    words = " ".join(CORPUS).split()
    ranges = [(32, 127), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE80), (0x2000, 0x2E00), (0x3040, 0x3100),
              (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0x1F300, 0x1FA00)]  # fmt: skip
    found = [text for text in (*ODD, *MORE) if not any(name in text for names in NAMES.values() for name in names)]
    while len(found) < 500:
        chosen = [draw.choice((str, str.upper, str.title))(draw.choice(words)) for _ in range(draw.randint(1, 30))]
        strange = [
            "".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randint(1, 6))) for _ in range(9)
        ]
        pieces = (chosen, strange, chosen + strange)[len(found) % 3]
        draw.shuffle(pieces)
        found.append(draw.choice((" ", "  ", ", ", "\n", "")).join(pieces))
    return found


@pytest.fixture(scope="module", params=FORMS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A class and a folder with its vocabulary, in each form."""
    cls, write = FORMS[request.param]
    folder = tmp_path_factory.mktemp("vocabulary")
    write(folder, request.param.split()[1])
    return cls, folder


def peer(cls: Any, folder: Path, **options: Any) -> Any:
    return getattr(Peers, cls.published[0]).from_pretrained(folder, **options)


def agree(ours: Any, theirs: Any, cases: list[str]) -> None:
    """Ids and mask of every text, padded and cut as in a pipeline."""
    for text in cases:
        wanted = theirs(text, max_length=LENGTH, truncation=True, padding="max_length")
        got = ours(text)
        assert got.ids[0].tolist() == wanted["input_ids"], repr(text)
        assert got.mask[0].tolist() == [bool(real) for real in wanted["attention_mask"]], repr(text)


def test_ids_are_those_of_transformers(written: tuple[Any, Path]) -> None:
    cls, folder = written
    cases = texts()
    assert len(cases) == len(set(cases)) == 500
    agree(cls.from_pretrained(folder, model_max_length=LENGTH), peer(cls, folder), cases)


def test_names_of_special_tokens_are_text_as_transformers_can_have_it(written: tuple[Any, Path]) -> None:
    """By its option split_special_tokens. T5's are compared with sentencepiece itself: transformers' own option
    leaves them in the pieces that a text may have.
    """
    cls, folder = written
    cases = [text for name in NAMES[cls] for text in (name, f"a {name} dog", f"dog{name}dog")]
    ours = cls.from_pretrained(folder, model_max_length=LENGTH)
    if cls is T5Tokenizer:
        original = sentencepiece.SentencePieceProcessor(model_proto=sentence_pieces())
        for text in cases:
            tokens = ours(text)
            assert tokens.ids[tokens.mask].tolist() == [*original.encode(text), 1], text
    else:
        agree(ours, peer(cls, folder, split_special_tokens=True), cases)


LONG_CLUSTER = "a" + "\u0301" * 50


@pytest.mark.parametrize("form", ["tokenizer.json", "spiece.model"])
def test_sentencepiece_itself_gives_these_ids(form: str, tmp_path: Path) -> None:
    """But for U+0085, where transformers sees white space, and but for a letter that with its accents takes six bytes
    or more: there spiece.model gives what sentencepiece gives, and tokenizer.json what transformers gives, which differ.
    """
    cls, folder = T5Tokenizer, tmp_path
    FORMS[f"t5 {form}"][1](folder, form)
    original = sentencepiece.SentencePieceProcessor(model_proto=sentence_pieces())
    ours = cls.from_pretrained(folder)
    for text in texts():
        tokens = ours(text)
        if "\x85" not in text:
            assert tokens.ids[tokens.mask].tolist() == [*original.encode(text)[:511], 1], repr(text)
    tokens = ours(LONG_CLUSTER)
    ids, theirs = tokens.ids[tokens.mask].tolist(), [*original.encode(LONG_CLUSTER), 1]
    peers = peer(cls, folder)(LONG_CLUSTER)["input_ids"]
    assert theirs != peers
    assert ids == (theirs if form == "spiece.model" else peers)


def test_transformers_reads_what_is_saved(written: tuple[Any, Path], tmp_path: Path) -> None:
    cls, folder = written
    ours = cls.from_pretrained(folder, model_max_length=LENGTH)
    ours.save_pretrained(tmp_path)
    theirs = peer(cls, tmp_path)
    assert theirs.model_max_length == LENGTH
    agree(ours, theirs, texts()[:100])


def test_what_transformers_saves_is_read(written: tuple[Any, Path], tmp_path: Path) -> None:
    cls, folder = written
    theirs = peer(cls, folder, model_max_length=LENGTH)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer_config.json").is_file()
    ours = cls.from_pretrained(tmp_path)
    assert ours.config.model_max_length == LENGTH
    agree(ours, theirs, texts()[:100])


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
    ],
)
def test_options_of_bert(options: dict[str, Any], tmp_path: Path) -> None:
    FORMS["bert vocab.txt"][1](tmp_path, "vocab.txt")
    ours = BertTokenizer.from_pretrained(tmp_path, model_max_length=LENGTH, **options)
    agree(ours, peer(BertTokenizer, tmp_path, **options), texts())


def test_padding_of_stable_diffusion_2(tmp_path: Path) -> None:
    """Where the config and special_tokens_map.json differ, the latter holds. A "!" in a text is text, as the original
    has it, where transformers takes it for padding.
    """
    write_clip(tmp_path, "vocab.json")
    (tmp_path / "tokenizer_config.json").write_text(f'{{"pad_token": "{END}", "model_max_length": {LENGTH}}}')
    (tmp_path / "special_tokens_map.json").write_text(
        f'{{"bos_token": {{"content": "{START}", "lstrip": false, "normalized": true, "rstrip": false, '
        f'"single_word": false}}, "eos_token": "{END}", "pad_token": "!"}}'
    )
    theirs = peer(CLIPTokenizer, tmp_path)
    assert theirs.pad_token == "!"
    agree(CLIPTokenizer.from_pretrained(tmp_path), theirs, [text for text in texts() if "!" not in text])


def test_words_that_somebody_added(tmp_path: Path) -> None:
    write_clip(tmp_path, "vocab.json")
    theirs = peer(CLIPTokenizer, tmp_path)
    theirs.add_tokens(["<cat-toy>", "<second>"])
    theirs.save_pretrained(tmp_path / "saved")
    ours = CLIPTokenizer.from_pretrained(tmp_path / "saved", model_max_length=LENGTH)
    agree(ours, theirs, ["a <cat-toy> dog", "<cat-toy><second>", "A<CAT-TOY>B", "x<second>."])
