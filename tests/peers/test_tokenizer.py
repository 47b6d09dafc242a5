"""The tokenizer beside transformers' GPT2Tokenizer, on vocabularies trained here."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import GPT2Tokenizer

from diffgraph.nodes.text.tokenizer import Tokenizer, TokenizerConfig
from diffgraph.weights.config import fields_of, parse_config, read_json

from ..nodes.test_tokenizer import CORPUS, from_folder, trained

ODD = [
    "",
    " ",
    "  two  blanks ",
    "\ttab\nline\r\n",
    "it's we're I'LL",
    "2 cats, 3.14 dogs & co!",
    "ÀÉÎõü",
    "straße ŒUVRE İI",
    "日本語のテキスト",
    "Привет мир",
    "مرحبا",
    "🙂👩\u200d👩\u200d👧\u200d👦",
    "e\u0301 \u202e \u200b",
    "\0\x01",
    "<pad> [MASK] {x}",
    "a" * 300,
]


def texts() -> list[str]:
    """500 texts: odd ones, words of the corpus in any order and case, and characters of every plane."""
    draw = random.Random(0)
    words = " ".join(CORPUS).split()
    planes = [chr(c) for c in (*range(32, 1500), *range(0x3040, 0x3100), *range(0x1F300, 0x1F340))]
    found = list(ODD)
    while len(found) < 500:
        if len(found) % 2:
            chosen = [draw.choice((str, str.upper, str.title))(draw.choice(words)) for _ in range(draw.randint(1, 30))]
            found.append(draw.choice((" ", "  ", ", ")).join(chosen))
        else:
            found.append("".join(draw.choice(planes) for _ in range(draw.randint(1, 40))))
    return found


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One vocabulary in both published forms."""
    place: Path = tmp_path_factory.mktemp("vocabulary")
    if request.param == "tokenizer.json":
        trained().save(str(place / "tokenizer.json"))
    else:
        trained().model.save(str(place))
        assert (place / "merges.txt").is_file()
    return place


@pytest.mark.parametrize("lower", [True, False])
def test_ids_are_those_of_transformers(folder: Path, lower: bool) -> None:
    theirs = GPT2Tokenizer.from_pretrained(folder, pad_token="<|endoftext|>")
    ours = from_folder(folder, model_max_length=128, do_lower_case=lower)
    for text in texts():
        wanted = theirs(
            text.lower() if lower else text, max_length=128, truncation=True, padding="max_length", return_tensors="pt"
        )
        got = ours(text)
        assert got.ids.tolist() == wanted["input_ids"].long().tolist(), repr(text)
        assert got.mask.tolist() == wanted["attention_mask"].bool().tolist(), repr(text)


def test_transformers_reads_what_is_saved(folder: Path, tmp_path: Path) -> None:
    ours = from_folder(folder, do_lower_case=False)
    ours.save_files(tmp_path)
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    for text in ODD[1:]:
        tokens = ours(text)
        assert theirs(text)["input_ids"][:128] == tokens.ids[tokens.mask].tolist()


def test_the_config_that_transformers_writes_is_read(folder: Path, tmp_path: Path) -> None:
    theirs = GPT2Tokenizer.from_pretrained(folder, pad_token="<|endoftext|>", model_max_length=77)
    theirs.save_pretrained(tmp_path)
    published = read_json(tmp_path / "tokenizer_config.json", "tokenizer_config.json")
    assert published["tokenizer_class"] in Tokenizer.published
    values = parse_config(
        fields_of(TokenizerConfig), published, ignored=Tokenizer.ignored, where="tokenizer_config.json"
    )
    assert values["model_max_length"] == 77
    assert from_folder(tmp_path, **values)("dog").ids.shape == (1, 77)
