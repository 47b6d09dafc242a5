"""The tokenizer's padding, cutting and refusals, on a vocabulary trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

from diffgraph.authoring import Target, running_notes, running_target
from diffgraph.errors import PortError, WeightsError
from diffgraph.nodes.text.tokenizer import Tokenizer, TokenizerConfig
from diffgraph.weights.config import fields_of, parse_config

CORPUS = ["a red apple on a table", "the green dog runs", "an oil painting of a corgi", "it's 2 o'clock"] * 10


def trained(end: str = "<|endoftext|>") -> tokenizers.Tokenizer:
    """A byte-level BPE of some 300 ids in GPT-2's manner."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    return bpe


def from_folder(folder: Path, **config: Any) -> Tokenizer:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    files = {name: folder / name for name in names if (folder / name).is_file()}
    return Tokenizer.from_files(TokenizerConfig(**config), files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vocabulary")
    trained().save(str(place / "tokenizer.json"))
    return place


def test_padding(folder: Path) -> None:
    """No start, no end; the end-of-text token fills the rest, where the mask is False."""
    tokenizer = from_folder(folder, model_max_length=12)
    tokens = tokenizer("a red dog")
    count = int(tokens.mask.sum())
    assert tokens.ids.shape == tokens.mask.shape == (1, 12)
    assert tokens.ids.dtype == torch.int64
    assert tokens.mask.dtype == torch.bool
    assert 0 < count < 12
    assert tokens.mask[0].tolist() == [True] * count + [False] * (12 - count)
    assert tokens.ids[0, count:].tolist() == [tokenizer.pad_id] * (12 - count)


def test_an_empty_text_is_all_padding(folder: Path) -> None:
    tokenizer = from_folder(folder)
    tokens = tokenizer("")
    assert tokens.ids.tolist() == [[tokenizer.pad_id] * 128]
    assert not tokens.mask.any()


def test_lower_case(folder: Path) -> None:
    tokenizer = from_folder(folder)
    assert torch.equal(tokenizer("A Red APPLE").ids, tokenizer("a red apple").ids)
    as_it_is = from_folder(folder, do_lower_case=False)
    assert not torch.equal(as_it_is("A Red APPLE").ids, as_it_is("a red apple").ids)


def test_prefix_space(folder: Path) -> None:
    spaced = from_folder(folder, add_prefix_space=True)
    assert torch.equal(spaced("dog").ids, from_folder(folder)(" dog").ids)


def test_the_end_token_in_a_text_is_text(folder: Path) -> None:
    """Nobody ends a prompt by writing the name of a token into it; and GLIDE reads it so, too."""
    tokenizer = from_folder(folder)
    tokens = tokenizer("dog<|endoftext|>cat")
    assert tokenizer.pad_id not in tokens.ids[tokens.mask].tolist()


def test_a_long_text_is_cut_with_a_note(folder: Path) -> None:
    tokenizer = from_folder(folder, model_max_length=4)
    notes: list[str] = []
    token = running_notes.set(notes.append)
    try:
        tokens = tokenizer("the green dog runs over the Table " + "and on " * 40)
        assert tokens.mask.all()
        assert len(notes) == 1
        assert notes[0].startswith('prompt cut after 4 tokens: " ')
        assert notes[0].endswith('…" is not read')
        assert len(notes[0]) < 120
        notes.clear()
        assert tokenizer("the").mask.any()
        assert notes == []
    finally:
        running_notes.reset(token)
    assert tokenizer("the green dog runs over the table").ids.shape == (1, 4)  # nobody listens


def test_the_note_says_where(folder: Path) -> None:
    """What is quoted is what was cut: both parts together are the text."""
    tokenizer = from_folder(folder, model_max_length=3)
    notes: list[str] = []
    token = running_notes.set(notes.append)
    try:
        kept = tokenizer("a red dog 日本 runs").ids[0].tolist()
    finally:
        running_notes.reset(token)
    rest = notes[0].split('"')[1]
    longer = from_folder(folder)
    joined = kept + longer(rest).ids[longer(rest).mask].tolist()
    whole = longer("a red dog 日本 runs")
    assert joined == whole.ids[whole.mask].tolist()


def test_a_batch_is_its_texts(folder: Path) -> None:
    tokenizer = from_folder(folder, model_max_length=16)
    texts = ["a red apple", "", "the green dog runs"]
    together = tokenizer.batch(texts)
    assert together.ids.shape == (3, 16)
    for row, text in enumerate(texts):
        assert torch.equal(together.ids[row], tokenizer(text).ids[0])
        assert torch.equal(together.mask[row], tokenizer(text).mask[0])
    assert tokenizer.batch([]).ids.shape == (0, 16)


def test_tokens_are_made_where_the_run_is(folder: Path) -> None:
    token = running_target.set(Target("meta"))
    try:
        tokens = from_folder(folder)("a red apple")
    finally:
        running_target.reset(token)
    assert {tokens.ids.device.type, tokens.mask.device.type} == {"meta"}


@pytest.mark.parametrize("text", ["\0", "日本語", "🙂🙂", "e\u0301", "\u202e", "\t\n  ", "a" * 5000])
def test_any_text_has_ids(folder: Path, text: str) -> None:
    assert from_folder(folder)(text).mask.any()


def test_half_a_surrogate_pair(folder: Path) -> None:
    with pytest.raises(PortError, match="no Unicode text"):
        from_folder(folder)("a \ud83d b")


def test_other_padding(folder: Path) -> None:
    assert from_folder(folder, pad_token="!").pad_id == trained().token_to_id("!")
    assert from_folder(folder, eos_token="!").pad_id == trained().token_to_id("!")
    with pytest.raises(WeightsError, match="no padding token"):
        from_folder(folder, pad_token="<pad>")


def test_saving(folder: Path, tmp_path: Path) -> None:
    tokenizer = from_folder(folder, model_max_length=20)
    tokenizer.save_files(tmp_path)
    again = from_folder(tmp_path, model_max_length=20)
    assert torch.equal(again("an oil painting").ids, tokenizer("an oil painting").ids)
    assert again.vocab_size == tokenizer.vocab_size == trained().get_vocab_size()
    first = (tmp_path / "tokenizer.json").read_bytes()
    again.save_files(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == first


def test_it_needs_a_vocabulary() -> None:
    with pytest.raises(WeightsError, match="needs its vocabulary"):
        Tokenizer.from_config(TokenizerConfig())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": "{"}, "cannot be read"),
        ({"tokenizer.json": ""}, "cannot be read"),
        ({"vocab.json": "{}"}, "without merges.txt"),
        ({"vocab.json": "[1]", "merges.txt": "a b"}, "cannot be read"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "x y"}, "cannot be read"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "no padding token"),
    ],
)
def test_damaged_files(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=message):
        from_folder(tmp_path)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    with pytest.raises(WeightsError, match="WordLevel"):
        from_folder(tmp_path)
    whole = json.loads(trained().to_str())
    path.write_text(json.dumps(whole | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(WeightsError, match="Whitespace"):
        from_folder(tmp_path)
    path.write_text(json.dumps(whole | {"model": whole["model"] | {"dropout": 0.5}}))
    with pytest.raises(WeightsError, match="at random"):
        from_folder(tmp_path)


def test_what_a_file_pads_and_cuts_is_not_used(tmp_path: Path, folder: Path) -> None:
    bpe = trained()
    bpe.enable_truncation(2)
    bpe.enable_padding(length=5)
    bpe.save(str(tmp_path / "tokenizer.json"))
    assert torch.equal(from_folder(tmp_path)("the green dog").ids, from_folder(folder)("the green dog").ids)


@pytest.mark.parametrize(
    "published",
    [
        {"add_bos_token": True},
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"model_max_length": 1000000000000000019884624838656},
        {"model_max_length": 0},
        {"strip_accents": True},
    ],
)
def test_configs_that_mean_something_else_are_refused(published: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        parse_config(fields_of(TokenizerConfig), published, ignored=Tokenizer.ignored, where="tokenizer_config.json")


def test_from_pretrained_and_back(folder: Path, tmp_path: Path) -> None:
    """Saving writes the vocabulary and the config, in the published words."""
    tokenizer = from_folder(folder, model_max_length=20)
    tokenizer.save_pretrained(tmp_path)
    published = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert published["tokenizer_class"] == "GPT2Tokenizer"
    assert published["model_max_length"] == 20
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.config == tokenizer.config
    assert torch.equal(again("a red dog").ids, tokenizer("a red dog").ids)
