"""The tokenizers of CLIP, BERT and T5: rows, cutting, files and refusals, on vocabularies trained here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, trainers

from diffgraph.authoring import Target, running_notes, running_target
from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, PortError, WeightsError
from diffgraph.nodes.text.bert_tokenizer import BertTokenizer
from diffgraph.nodes.text.clip_tokenizer import CLIPTokenizer
from diffgraph.nodes.text.t5_tokenizer import T5Tokenizer
from diffgraph.nodes.text.tokenizer import Tokenizer

from .test_text_encoders import SMALL_BERT, SMALL_CLIP, SMALL_T5

CORPUS = [
    "a red apple on a table", "the green dog runs", "an oil painting of a corgi", "it's 2 o'clock", "naïve café, Œuvre!",
    "Привет мир", "こんにちは 世界", "hello, world! 123 3.14", "ﬁne Ⅳ ½", "they're we'll I'd",
] * 10  # fmt: skip
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's form: all bytes, all bytes at the end of a word, the merges, and the two special tokens at the end."""
    bpe = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=450, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges


def write_clip(folder: Path, form: str) -> None:
    """Either published form: the one that transformers 5 writes, or that of 2022."""
    vocab, merges = clip_vocabulary()
    if form == "tokenizer.json":
        model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix="</w>")
        whole = tokenizers.Tokenizer(model)
        whole.add_special_tokens([START, END])
        whole.save(str(folder / form))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        lines = "\n".join(" ".join(pair) for pair in merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")


def write_bert(folder: Path, form: str) -> None:
    pieces = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    )
    if form == "tokenizer.json":
        pieces.save(str(folder / form))
    else:
        pieces.model.save(str(folder))
        assert (folder / "vocab.txt").read_text(encoding="utf-8").startswith("[PAD]\n[UNK]\n[CLS]")


def sentence_pieces() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=150, hard_vocab_limit=False, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


def write_t5(folder: Path, form: str) -> None:
    """The same pieces in both forms."""
    if form == "tokenizer.json":
        from transformers import T5Tokenizer as Theirs

        (folder / "spiece.model").write_bytes(sentence_pieces())
        Theirs.from_pretrained(folder).save_pretrained(folder)
        (folder / "spiece.model").unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / form).write_bytes(sentence_pieces())


FORMS: dict[str, tuple[Any, Any]] = {
    "clip tokenizer.json": (CLIPTokenizer, write_clip),
    "clip vocab.json": (CLIPTokenizer, write_clip),
    "bert tokenizer.json": (BertTokenizer, write_bert),
    "bert vocab.txt": (BertTokenizer, write_bert),
    "t5 tokenizer.json": (T5Tokenizer, write_t5),
    "t5 spiece.model": (T5Tokenizer, write_t5),
}


@pytest.fixture(scope="module", params=FORMS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A class and a folder with its vocabulary, in each form."""
    cls, write = FORMS[request.param]
    folder = tmp_path_factory.mktemp("vocabulary")
    write(folder, request.param.split()[1])
    return cls, folder


@pytest.fixture
def notes() -> Any:
    heard: list[str] = []
    token = running_notes.set(heard.append)
    yield heard
    running_notes.reset(token)


def read(row: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return row[mask].tolist()


def test_a_row(written: tuple[Any, Path]) -> None:
    """Start (but for T5), text, end, padding; the mask is True up to the end."""
    cls, folder = written
    tokenizer = cls.from_pretrained(folder, model_max_length=20)
    tokens = tokenizer("a red dog")
    frame = tokenizer.frame
    assert tokens.ids.shape == tokens.mask.shape == (1, 20)
    assert tokens.ids.dtype == torch.int64 and tokens.mask.dtype == torch.bool
    known = read(tokens.ids[0], tokens.mask[0])
    assert tuple(known[: len(frame.start)]) == frame.start and known[-1:] == list(frame.end)
    assert tokens.mask[0].tolist() == [True] * len(known) + [False] * (20 - len(known))
    assert tokens.ids[0, len(known) :].tolist() == [frame.pad] * (20 - len(known))
    assert 3 < len(known) < 20
    assert max(known) < tokenizer.vocab_size
    empty = tokenizer("")
    assert read(empty.ids[0], empty.mask[0]) == [*frame.start, *frame.end]


def test_a_batch_is_its_texts(written: tuple[Any, Path]) -> None:
    cls, folder = written
    tokenizer = cls.from_pretrained(folder, model_max_length=16)
    texts = ["a red apple", "", "the green dog runs"]
    together = tokenizer.batch(texts)
    for row, text in enumerate(texts):
        assert torch.equal(together.ids[row], tokenizer(text).ids[0])
        assert torch.equal(together.mask[row], tokenizer(text).mask[0])
    assert tokenizer.batch([]).ids.shape == (0, 16)


def test_a_long_text_is_cut_with_a_note(written: tuple[Any, Path], notes: list[str]) -> None:
    """What is counted is the text's own tokens; what is quoted is what is not read."""
    cls, folder = written
    tokenizer = cls.from_pretrained(folder, model_max_length=9)
    room = 9 - len(tokenizer.frame.start) - len(tokenizer.frame.end)
    text = "the green dog runs over the table " + "and on " * 40
    tokens = tokenizer(text)
    assert tokens.mask.all()
    assert tokens.ids[0, -1] == tokenizer.frame.end[0]
    assert len(notes) == 1
    assert notes[0].startswith(f'prompt cut after {room} tokens: "')
    assert notes[0].endswith('…" is not read')
    assert len(notes[0]) < 120
    notes.clear()
    assert not tokenizer("a").mask.all()
    assert notes == []


def test_the_note_says_where(written: tuple[Any, Path], notes: list[str]) -> None:
    cls, folder = written
    text = "the green zzz 日本 quince"
    tokenizer = cls.from_pretrained(folder, model_max_length=7)
    longer = cls.from_pretrained(folder, model_max_length=60)
    kept = tokenizer(text)
    assert text.endswith(notes[0].split('"')[1].lstrip())

    def inner(tokens: Any) -> list[int]:
        return read(tokens.ids[0], tokens.mask[0])[len(tokenizer.frame.start) : -1]

    assert inner(longer(text))[: len(inner(kept))] == inner(kept)
    assert len(notes) == 1


def test_tokens_are_made_where_the_run_is(written: tuple[Any, Path]) -> None:
    cls, folder = written
    token = running_target.set(Target("meta"))
    try:
        tokens = cls.from_pretrained(folder)("a red apple")
    finally:
        running_target.reset(token)
    assert {tokens.ids.device.type, tokens.mask.device.type} == {"meta"}


@pytest.mark.parametrize("text", ["\0", "日本語", "🙂🙂", "e\u0301", "\u202e", "\t\n  ", "a" * 5000, "\ufffd"])
def test_any_text_has_a_row(written: tuple[Any, Path], text: str) -> None:
    cls, folder = written
    assert cls.from_pretrained(folder)(text).mask.any()


def test_half_a_surrogate_pair(written: tuple[Any, Path]) -> None:
    cls, folder = written
    with pytest.raises(PortError, match="text: holds half a surrogate pair"):
        cls.from_pretrained(folder)("a \ud83d b")


NAMES = {
    CLIPTokenizer: [START, END], BertTokenizer: ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"],
    T5Tokenizer: ["</s>", "<pad>", "<unk>", "<extra_id_0>"],
}  # fmt: skip


def test_the_name_of_a_special_token_is_text(written: tuple[Any, Path]) -> None:
    """Nobody ends or blanks a prompt by writing the name of a token into it."""
    cls, folder = written
    tokenizer = cls.from_pretrained(folder)
    special = {*tokenizer.frame.start, *tokenizer.frame.end, tokenizer.frame.pad}
    for name in NAMES[cls]:
        for text in (name, f"dog {name} cat", f"dog{name}cat"):
            tokens = tokenizer(text)
            ids = read(tokens.ids[0], tokens.mask[0])[len(tokenizer.frame.start) : -1]
            assert ids and not special & set(ids), text


def test_saving(written: tuple[Any, Path], tmp_path: Path) -> None:
    """The same ids, and the same bytes when saved once more; an older file of special tokens goes."""
    cls, folder = written
    tokenizer = cls.from_pretrained(folder, model_max_length=20)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "gone"}')
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == cls.published[0]
    assert config["model_max_length"] == 20
    again = cls.from_pretrained(tmp_path)
    assert again.config == tokenizer.config
    assert again.vocab_size == tokenizer.vocab_size
    for text in ("an oil painting", "", "½ café 日本"):
        assert torch.equal(again(text).ids, tokenizer(text).ids)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def record(content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": content, "normalized": True, **flags}


def test_the_files_of_stable_diffusion(tmp_path: Path) -> None:
    """The config writes tokens as records; version 2's other file says that padding is by "!"."""
    write_clip(tmp_path, "vocab.json")
    config = {
        "add_prefix_space": False, "bos_token": record(START), "do_lower_case": True, "eos_token": record(END),
        "errors": "replace", "model_max_length": 77, "name_or_path": "openai/clip-vit-large-patch14",
        "pad_token": END, "special_tokens_map_file": "./special_tokens_map.json", "tokenizer_class": "CLIPTokenizer",
        "unk_token": record(END),
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    end = clip_vocabulary()[0][END]
    assert tokenizer.frame.pad == end
    assert tokenizer("dog").ids.shape == (1, 77)
    special = {"bos_token": record(START), "eos_token": record(END), "pad_token": "!", "unk_token": record(END)}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    tokens = CLIPTokenizer.from_pretrained(tmp_path)("dog")
    assert set(tokens.ids[~tokens.mask].tolist()) == {clip_vocabulary()[0]["!"]}
    assert CLIPTokenizer.from_pretrained(tmp_path, pad_token=END).frame.pad == end
    (tmp_path / "tokenizer_config.json").unlink()
    assert CLIPTokenizer.from_pretrained(tmp_path).frame.pad == clip_vocabulary()[0]["!"]


@pytest.mark.parametrize("form", ["added_tokens.json", "tokenizer.json"])
def test_tokens_that_somebody_added(form: str, tmp_path: Path) -> None:
    """Textual inversion teaches new words; they are tokens of their own wherever they stand."""
    size = len(clip_vocabulary()[0])
    if form == "added_tokens.json":
        write_clip(tmp_path, "vocab.json")
        (tmp_path / form).write_text(json.dumps({"<cat-toy>": size, "<second>": size + 1}))
    else:
        write_clip(tmp_path, form)
        whole = tokenizers.Tokenizer.from_file(str(tmp_path / form))
        whole.add_tokens(["<cat-toy>", "<second>"])
        whole.save(str(tmp_path / form))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab_size == size + 2
    assert tokenizer("a <cat-toy>dog <second>").ids[0].tolist().count(size) == 1
    tokenizer.save_pretrained(tmp_path / "again")
    again = CLIPTokenizer.from_pretrained(tmp_path / "again")
    assert torch.equal(again("a <cat-toy> dog").ids, tokenizer("a <cat-toy> dog").ids)
    if form == "added_tokens.json":
        (tmp_path / form).write_text(json.dumps({"<cat-toy>": size + 7}))
        with pytest.raises(WeightsError, match="cannot have the id"):
            CLIPTokenizer.from_pretrained(tmp_path)
        (tmp_path / form).write_text(json.dumps({"<cat-toy>": "x"}))
        with pytest.raises(WeightsError, match="an added token has no id"):
            CLIPTokenizer.from_pretrained(tmp_path)


def test_added_words_of_t5(tmp_path: Path) -> None:
    write_t5(tmp_path, "tokenizer.json")
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    whole.add_tokens(["<cat-toy>"])
    whole.save(str(tmp_path / "tokenizer.json"))
    tokenizer = T5Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab_size == whole.get_vocab_size()
    assert tokenizer("a <cat-toy>").ids[0].tolist().count(tokenizer.vocab_size - 1) == 1


def test_other_words_of_bert(tmp_path: Path) -> None:
    """Case, accents and ideographs as the config says."""
    write_bert(tmp_path, "vocab.txt")

    def ids(text: str, **config: Any) -> list[int]:
        tokens = BertTokenizer.from_pretrained(tmp_path, **config)(text)
        return read(tokens.ids[0], tokens.mask[0])

    assert ids("NAÏVE Café") == ids("naive cafe")
    assert ids("NAÏVE Café", do_lower_case=False) != ids("naive cafe")
    assert ids("café", strip_accents=False) != ids("cafe")
    assert ids("世界", tokenize_chinese_chars=False) != ids("世界")


@pytest.mark.parametrize("cls", [CLIPTokenizer, BertTokenizer, T5Tokenizer])
def test_a_vocabulary_is_needed(cls: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="needs its vocabulary"):
        cls.from_config(cls.Config())
    (tmp_path / "README.md").write_text("")
    with pytest.raises(WeightsError, match=r"there is no .*tokenizer\.json"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("cls", "files", "message"),
    [
        (CLIPTokenizer, {"vocab.json": "{}"}, "without merges.txt"),
        (CLIPTokenizer, {"vocab.json": "{", "merges.txt": ""}, "cannot be read"),
        (CLIPTokenizer, {"vocab.json": "[1]", "merges.txt": ""}, "cannot be read"),
        (CLIPTokenizer, {"vocab.json": '{"a": 0}', "merges.txt": "x y"}, "cannot be read"),
        (CLIPTokenizer, {"vocab.json": '{"a": 0}', "merges.txt": ""}, "ends a word with '</w>'"),
        (CLIPTokenizer, {"vocab.json": '{"a</w>": 0}', "merges.txt": ""}, "no start token '<|startoftext|>'"),
        (CLIPTokenizer, {"tokenizer.json": "{"}, "cannot be read"),
        (CLIPTokenizer, {"tokenizer.json": "[]"}, "is no JSON object"),
        (CLIPTokenizer, {"tokenizer.json": "{}"}, "has no model"),
        (CLIPTokenizer, {"tokenizer.json": '{"model": {"type": "BPE"}}'}, "cannot be read"),
        (CLIPTokenizer, {"tokenizer.json": '{"model": {"type": "BPE", "vocab": {"a": "b"}}}'}, "cannot be read"),
        (CLIPTokenizer, {"tokenizer.json": '{"model": {"type": "BPE", "vocab": {}, "merges": [3]}}'}, "cannot be read"),
        (CLIPTokenizer, {"tokenizer.json": '{"model": {"type": "Unigram"}}'}, "holds Unigram, not the BPE of CLIP"),
        (CLIPTokenizer, {"tokenizer.json": '{"model": {"type": "BPE", "dropout": 0.5}}'}, "at random"),
        (BertTokenizer, {"vocab.txt": ""}, "no unknown token"),
        (BertTokenizer, {"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n"}, "no padding token"),
        (BertTokenizer, {"tokenizer.json": '{"model": {"type": "BPE"}}'}, "holds BPE, not the WordPiece of BERT"),
        (BertTokenizer, {"tokenizer.json": '{"model": {"type": "WordPiece", "vocab": 3}}'}, "cannot be read"),
        (T5Tokenizer, {"spiece.model": ""}, "holds no pieces"),
        (T5Tokenizer, {"spiece.model": "abc"}, "cannot be read"),
        (T5Tokenizer, {"tokenizer.json": '{"model": {"type": "Unigram", "vocab": [["a"]]}}'}, "cannot be read"),
        (T5Tokenizer, {"tokenizer.json": '{"model": {"type": "Unigram", "vocab": [], "unk_id": 0}}'}, "cannot be read"),
        (T5Tokenizer, {"tokenizer.json": '{"model": {"unk_id": 0, "vocab": [["a", -1.0]]}}'}, "no end token '</s>'"),
        (T5Tokenizer, {"tokenizer.json": '{"model": {"merges": []}}'}, "holds BPE, not the Unigram of T5"),
    ],
)  # fmt: skip
def test_damaged_files(cls: Any, files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=message.replace("|", r"\|")):
        cls.from_pretrained(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    for cls, name in ((CLIPTokenizer, "tokenizer.json"), (BertTokenizer, "vocab.txt"), (T5Tokenizer, "spiece.model")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"\xff\xfe\x00\x80" * 100)
        with pytest.raises(WeightsError, match="cannot be read"):
            cls.from_pretrained(folder)


def test_a_huge_file(tmp_path: Path) -> None:
    for cls, name in ((CLIPTokenizer, "tokenizer.json"), (BertTokenizer, "vocab.txt"), (T5Tokenizer, "spiece.model")):
        folder = tmp_path / name
        folder.mkdir()
        with (folder / name).open("wb") as file:
            file.truncate(65 * 2**20)
        with pytest.raises(WeightsError, match=f"{name} is larger than 64 MiB"):
            cls.from_pretrained(folder)


@pytest.mark.parametrize("cls", [Tokenizer, CLIPTokenizer, BertTokenizer, T5Tokenizer])
def test_another_tokenizers_folder_is_refused(cls: Any, tmp_path: Path) -> None:
    """By the class that its config names."""
    for other in (Tokenizer, CLIPTokenizer, BertTokenizer, T5Tokenizer):
        if other is not cls:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": other.published[1]}))
            wants = " or ".join(cls.published)
            with pytest.raises(WeightsError, match=f"this is a {other.published[1]}; {cls.__name__} wants {wants}"):
                cls.from_pretrained(tmp_path)


def test_the_vocabulary_of_gpt2_is_not_clips(tmp_path: Path) -> None:
    """Without a config that names the class, the pieces tell."""
    from .test_tokenizer import trained

    trained().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match="ends a word"):
        CLIPTokenizer.from_pretrained(tmp_path)
    write_clip(tmp_path, "vocab.json")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="CLIP"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("cls", "published", "message"),
    [
        (CLIPTokenizer, {"do_lower_case": False}, "do_lower_case"),
        (CLIPTokenizer, {"padding_side": "left"}, "padding_side"),
        (CLIPTokenizer, {"strip_accents": True}, "unknown key"),
        (CLIPTokenizer, {"model_max_length": 2}, "2 is no length that a text is padded to"),
        (T5Tokenizer, {"model_max_length": 1000000000000000019884624838656}, "say model_max_length: the length"),
        (BertTokenizer, {"do_basic_tokenize": False}, "do_basic_tokenize"),
        (BertTokenizer, {"never_split": ["x"]}, "never_split"),
        (T5Tokenizer, {"truncation_side": "left"}, "truncation_side"),
        (T5Tokenizer, {"eos_token": "<end>"}, "no end token '<end>'"),
    ],
)
def test_configs_that_mean_something_else_are_refused(
    cls: Any, published: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write = {CLIPTokenizer: write_clip, BertTokenizer: write_bert, T5Tokenizer: write_t5}[cls]
    form = {CLIPTokenizer: "vocab.json", BertTokenizer: "vocab.txt", T5Tokenizer: "spiece.model"}[cls]
    write(tmp_path, form)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(published))
    with pytest.raises(WeightsError, match=message):
        cls.from_pretrained(tmp_path)


def test_modules_import_none_of_their_packages() -> None:
    """So that a plan, a check and --help need no torch."""
    code = (
        "import sys\n"
        "from diffgraph.nodes.text import bert_tokenizer, clip_tokenizer, t5_tokenizer, tokenizer\n"
        "print(sorted({'torch', 'tokenizers', 'sentencepiece', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


PARTS: dict[str, tuple[str, str, Any]] = {
    "CLIPTokenizer": ("CLIPText", "clip-bpe", SMALL_CLIP | {"max_position_embeddings": 77}),
    "BertTokenizer": ("LDMBert", "wordpiece", SMALL_BERT | {"max_position_embeddings": 77}),
    "T5Tokenizer": ("T5Encoder", "sentencepiece", SMALL_T5),
}


def encoded(tokenizer: str, encoder: str, length: int) -> Graph:
    """A graph in which one tokenizer's text meets one encoder."""
    config = "".join(f", {key}: {json.dumps(value)}" for key, value in PARTS[encoder][2].items())
    return Graph.from_text(
        f"""
diffgraph: 1
name: text
inputs: {{prompt: {{type: text}}}}
nodes:
  tokenizer: {{node: {tokenizer}, model_max_length: {length}}}
  encoder:   {{node: {PARTS[encoder][0]}{config}}}
  tokens:    {{call: $tokenizer, text: $prompt}}
  text:      {{call: $encoder, tokens: $tokens}}
outputs: {{hidden: $text.hidden}}
"""
    )


@pytest.mark.parametrize("encoder", PARTS)
@pytest.mark.parametrize("tokenizer", [*PARTS, "Tokenizer"])
def test_tokens_of_one_kind_into_an_encoder_of_another(tokenizer: str, encoder: str) -> None:
    """An error of the check, before anything is downloaded."""
    graph = encoded(tokenizer, encoder, 77)
    if tokenizer == encoder:
        graph.check()
        return
    given = "byte-bpe" if tokenizer == "Tokenizer" else PARTS[tokenizer][1]
    with pytest.raises(CheckFailed, match=f"text.tokens: expected vocabulary {PARTS[encoder][1]}, got {given}"):
        graph.check()


def test_a_length_that_the_encoder_does_not_take() -> None:
    for encoder in ("CLIPTokenizer", "BertTokenizer"):
        with pytest.raises(CheckFailed, match=r"text.tokens: expected shape \[B, 77\], got \[1, 64\]"):
            encoded(encoder, encoder, 64).check()
    encoded("T5Tokenizer", "T5Tokenizer", 64).check()


def test_a_graph_of_tokenizer_and_encoder(tmp_path: Path) -> None:
    """Run from files, with the length of the document over the published one."""
    from diffgraph.nodes.models.clip_text import CLIPText, CLIPTextConfig

    (tmp_path / "tokenizer").mkdir()
    write_clip(tmp_path / "tokenizer", "vocab.json")
    vocab = clip_vocabulary()[0]
    sizes = SMALL_CLIP | {"vocab_size": len(vocab), "eos_token_id": vocab[END]}
    model = CLIPText(CLIPTextConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "graph.yaml").write_text(
        """
diffgraph: 1
name: text
inputs: {prompt: {type: text}}
nodes:
  tokenizer: {node: CLIPTokenizer, weights: tokenizer, model_max_length: 8}
  encoder:   {node: CLIPText, weights: text_encoder}
  tokens:    {call: $tokenizer, text: $prompt}
  text:      {call: $encoder, tokens: $tokens, skip: 1}
outputs: {hidden: $text.hidden, pooled: $text.pooled}
"""
    )
    result = Graph.load(tmp_path / "graph.yaml")(prompt="a red apple")
    expected = model(CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=8)("a red apple"), skip=1)
    assert torch.equal(result.hidden, expected.hidden)
    assert torch.equal(result.pooled, expected.pooled)
