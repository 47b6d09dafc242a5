"""What a prompt outside of the few names that weights know is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffgraph.authoring import running_notes
from diffgraph.errors import WeightsError
from diffgraph.nodes.text.bert_tokenizer import BertTokenizer
from diffgraph.nodes.text.t5_tokenizer import T5Tokenizer, T5TokenizerConfig
from diffgraph.nodes.text.tokenizer import Tokenizer, TokenizerConfig
from diffgraph.nodes.text.vocabulary import MAX_FILE_BYTES, Names, read_names

from .test_tokenizer import trained
from .test_tokenizers import write_bert, write_t5

NAMES = Names({"names": ("alarm clock", "apple", "house with garden"), "colours": ("red", "green")})


@pytest.mark.parametrize(
    "text",
    ["apple", "A RED Apple!", "two apples", "something green", "a clock", "", "  ", "of the", "?!", "xyzzy, apple"],
)
def test_a_known_word_says_nothing(text: str) -> None:
    assert NAMES.unknown(text) is None


@pytest.mark.parametrize(
    ("text", "near"), [("appel", "apple"), ("a hause", "house with garden"), ("xyzzy of the klock", "alarm clock")]
)
def test_no_known_word_is_told_with_the_nearest_name(text: str, near: str) -> None:
    told = NAMES.unknown(text)
    assert told == (
        f'these weights know no word of "{text}": they know 3 names, the nearest is "{near}"; '
        "open prompts need published weights"
    )


def test_a_small_word_in_a_name_does_not_make_every_prompt_known() -> None:
    assert NAMES.unknown("a castle with towers") is not None


def test_a_long_prompt_is_shown_in_part_and_compared_in_no_time() -> None:
    told = NAMES.unknown("qwerty " * 20_000)
    assert told is not None
    assert len(told) < 250


@pytest.mark.parametrize("cls", [Tokenizer, T5Tokenizer, BertTokenizer])
def test_the_tokenizer_notes_it_with_the_file_that_lists_all(cls: Any, tmp_path: Path) -> None:
    writers = {T5Tokenizer: write_t5, BertTokenizer: write_bert}
    if cls in writers:
        writers[cls](tmp_path, "tokenizer.json")
    else:
        trained().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "names.json").write_text(json.dumps({"names": ["apple", "dog"]}))
    files = {name: tmp_path / name for name in ("tokenizer.json", "names.json")}
    tokenizer = cls.from_files(cls.Config(), files)
    heard: list[str] = []
    token = running_notes.set(heard.append)
    try:
        tokenizer("a red apple")
        tokenizer("")
        tokenizer.batch(["xyzzy"])  # captions in training are not prompts
        assert heard == []
        tokenizer("a dagger")
    finally:
        running_notes.reset(token)
    (told,) = heard
    assert "2 names" in told
    assert 'nearest is "dog"' in told
    assert str(tmp_path / "names.json") in told


def test_names_survive_saving(tmp_path: Path) -> None:
    bpe = trained()
    written = Tokenizer(TokenizerConfig(), bpe, NAMES)
    written.save_pretrained(tmp_path)
    read = Tokenizer.from_pretrained(tmp_path)
    assert read.names is not None
    assert read.names.lists == NAMES.lists
    assert Tokenizer(TokenizerConfig(), bpe).names is None


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
def test_names_of_word_pieces_survive_saving(form: str, tmp_path: Path) -> None:
    write_bert(tmp_path, form)
    plain = BertTokenizer.from_pretrained(tmp_path)
    assert plain.names is None
    BertTokenizer(plain.config, plain.pieces, NAMES).save_pretrained(tmp_path / "named")
    read = BertTokenizer.from_pretrained(tmp_path / "named")
    assert read.names is not None
    assert read.names.lists == NAMES.lists
    assert read.batch(["a dog"]).ids.equal(plain.batch(["a dog"]).ids)


@pytest.mark.parametrize("form", ["tokenizer.json", "spiece.model"])
def test_names_of_sentence_pieces_survive_saving(form: str, tmp_path: Path) -> None:
    write_t5(tmp_path, form)
    plain = T5Tokenizer.from_pretrained(tmp_path)
    assert plain.names is None
    T5Tokenizer(T5TokenizerConfig(), plain.vocabulary, NAMES).save_pretrained(tmp_path / "named")
    read = T5Tokenizer.from_pretrained(tmp_path / "named")
    assert read.names is not None
    assert read.names.lists == NAMES.lists
    assert read.batch(["a dog"]).ids.equal(plain.batch(["a dog"]).ids)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1", "cannot be read"),
        ("[]", "lists no names"),
        ("{}", "lists no names"),
        ('{"names": []}', "lists no names"),
        ('{"names": [1]}', "something else"),
        ('{"names": "apple"}', "something else"),
        ('{"colours": ["red"]}', "lists no names"),
        ("[" * 100_000, "cannot be read"),
        (" " * (MAX_FILE_BYTES + 1), "larger"),
    ],
)
def test_a_file_that_lists_no_names_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(WeightsError, match=told):
        read_names(path)


def test_the_demo_knows_what_its_card_shows() -> None:
    from diffgraph.language.sources import graphs_folder

    path = graphs_folder() / "weights" / "glide-demo" / "base" / "names.json"
    names: Any = read_names(path)
    assert len(names.lists["names"]) >= 120
    assert names.unknown("red apple") is None
    assert names.unknown("Kubernetes") is not None
