"""Weights in local folders: addresses, layouts, configs, loading, saving, and files that lie."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph.authoring import Bound, Component
from diffgraph.errors import DiffgraphError, InputError, WeightsError
from diffgraph.language.sources import graphs_folder
from diffgraph.weights import digests, tensors
from diffgraph.weights.addresses import missing_folder, package_path, parse_address
from diffgraph.weights.config import FieldSpec, fields_of, parse_config
from diffgraph.weights.loading import init_module, load_module, open_folder
from diffgraph.weights.tensors import TensorSpec, renamed


@dataclass(frozen=True)
class TinyConfig:
    width: Annotated[int, Bound(ge=1)] = 4
    act: Literal["silu", "gelu"] = "silu"
    heads: int | tuple[int, ...] = 2
    scale: Annotated[float, Bound(gt=0)] = 1.0
    floor: float = float("-inf")
    note: str | None = None


class Tiny(torch.nn.Module, Component, version=1):
    """A linear layer, a convolution, a tied table and a counter."""

    Config = TinyConfig
    published = ("TinyModel", "OldTinyModel")
    files = ("diffusion_pytorch_model",)
    keys: ClassVar[tuple[tuple[str, str], ...]] = ((r"^query\.", "linear."), (r".*position_ids$", ""))
    ignored = frozenset({"dropout"})

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = torch.nn.Linear(config.width, config.width)
        self.conv = torch.nn.Conv2d(config.width, 3, 1)
        self.table = torch.nn.Embedding(5, config.width)
        self.head = torch.nn.Linear(config.width, 5, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))


@dataclass(frozen=True)
class WordsConfig:
    lower: bool = True


class Words(Component, version=1):
    """A tokenizer of one file."""

    Config = WordsConfig
    published = ("WordsTokenizer",)
    config_file = "tokenizer_config.json"
    files = ("words.json words.txt", "extra.txt?")

    def __init__(self, config: WordsConfig, words: list[str]) -> None:
        self.config, self.words = config, words

    @classmethod
    def from_files(cls, config: WordsConfig, files: Any) -> Words:
        return cls(config, next(iter(files.values())).read_text().split())

    def save_files(self, folder: Path) -> None:
        (folder / "words.txt").write_text(" ".join(self.words))


@dataclass(frozen=True)
class PlanConfig:
    steps: int = 10


class AnyPlan(Component, version=1):
    """Reads the config of any class, as schedulers do."""

    Config = PlanConfig
    config_file = "scheduler_config.json"
    ignored = frozenset({"beta"})

    def __init__(self, config: PlanConfig) -> None:
        self.config = config


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_known", {})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    init_module(Tiny, TinyConfig(), 0).save_pretrained(folder)
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def write(folder: Path, tensors: dict[str, torch.Tensor], name: str = "diffusion_pytorch_model.safetensors") -> None:
    save_file(tensors, folder / name)


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | changes))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffgraphError) as caught:
        call()
    return str(caught.value)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "root", "revision", "path"),
    [
        ("hf://google/church-256", "google/church-256", None, ""),
        ("hf://org/repo@v1.0/unet", "org/repo", "v1.0", "unet"),
        ("hf://org/repo@refs/pr/3/unet/a", "org/repo", "refs/pr/3", "unet/a"),
        ("hf://org/repo@feature%2Fx/", "org/repo", "feature/x", ""),
    ],
)
def test_hub_address(text: str, root: str, revision: str | None, path: str) -> None:
    address = parse_address(text)
    assert (address.scheme, address.root, address.revision, address.path) == ("hf", root, revision, path)
    assert parse_address(address.canonical) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "a\0b", "hf://repo", "hf://org/../x", "hf://org/repo/../x", "hf://org/repo/a//b", "hf://org/repo/a\\b",
        "hf://datasets/org/repo", "hf://org/re po", "hf://org/repo@a%2F..%2Fb", "https://huggingface.co/org/repo",
        "pkg://os.path/x", "pkg://diffgraph/../errors.py", "pkg://no_such_package_here/x", "ftp://x/y", "hf://org/a--b",
    ],
)  # fmt: skip
def test_address_refused(text: str) -> None:
    with pytest.raises(WeightsError):
        open_folder(text)


def test_web_page_is_told_apart() -> None:
    assert "hf://org/repo" in refusal(lambda: parse_address("https://huggingface.co/org/repo/tree/main"))


def test_sub_address() -> None:
    address = parse_address("hf://org/repo@v1") / "unet"
    assert (address.path, str(address), address.above.path) == ("unet", "hf://org/repo@v1/unet", "")
    with pytest.raises(WeightsError):
        address / "../x"


def test_package_address_is_the_graphs_folder() -> None:
    assert package_path("pkg://diffgraph/weights").samefile(graphs_folder() / "weights")
    assert package_path("pkg://torch/nn").name == "nn"


def test_package_address_imports_nothing() -> None:
    code = (
        "import sys; from diffgraph.weights.addresses import package_path; package_path('pkg://sympy/core');"
        "print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_confined_address(tmp_path: Path) -> None:
    (tmp_path / "document" / "weights").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    base = tmp_path / "document"
    (base / "link").symlink_to(tmp_path / "secret")
    assert parse_address("weights", base=base, confined=True).folder == base / "weights"
    for text in ("../secret", str(tmp_path / "secret"), "weights/../../secret", "~/x", "link", "C:\\x", "link/deeper"):
        with pytest.raises(WeightsError):
            parse_address(text, base=base, confined=True)
    assert open_folder(parse_address("link", base=base)).names() == []


def test_file_that_links_out_of_a_document(saved: Path, tmp_path: Path) -> None:
    base = tmp_path / "document"
    (base / "w").mkdir(parents=True)
    (base / "w" / "config.json").symlink_to(saved / "config.json")
    folder = open_folder(parse_address("w", base=base, confined=True))
    assert "leads out of" in refusal(lambda: folder.config("config.json"))
    assert open_folder(str(base / "w")).config("config.json")


# --- configs --------------------------------------------------------------------------------------------------------


def test_fields_survive_json() -> None:
    fields = fields_of(TinyConfig)
    for spec in fields.values():
        assert FieldSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert fields["heads"].accept([1, 2]) == (1, 2)
    assert fields["scale"].accept(2) == 2.0


@pytest.mark.parametrize(
    ("published", "words"),
    [
        ({"widht": 4}, ["widht", "near: width"]),
        ({"act": "relu"}, ["act", '"relu"', '"silu", "gelu"']),
        ({"width": 0}, ["width", "at least 1"]),
        ({"width": True}, ["width", "true"]),
        ({"width": 4.5}, ["width"]),
        ({"scale": float("inf")}, ["scale", "finite"]),
        ({"floor": float("nan")}, ["floor"]),
        ({"heads": [1, "a"]}, ["heads", "a whole number or a list"]),
        ({"note": 3, "act": 1}, ["note", "act"]),
        ({"auto_map": {"AutoModel": "evil.Model"}}, ["auto_map"]),
    ],
)
def test_config_refused(published: dict[str, Any], words: list[str]) -> None:
    message = refusal(lambda: parse_config(fields_of(TinyConfig), published, where="x/config.json"))
    assert message.startswith("x/config.json: ")
    for word in words:
        assert word in message


def test_config_defaults_and_metadata() -> None:
    values = parse_config(fields_of(TinyConfig), {"_name": 1, "width": 8, "dropout": 0}, ignored={"dropout"}, where="")
    assert TinyConfig(**values) == TinyConfig(width=8)


def test_config_field_of_a_type_that_json_has_not() -> None:
    @dataclass(frozen=True)
    class Odd:
        table: dict[str, int]

    with pytest.raises(TypeError, match="table"):
        fields_of(Odd)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"a": 1, "a": 2}', "\xff", "[" * 100_000, '{"a": "' + "x" * (1 << 20) + '"}']
)
def test_damaged_config(saved: Path, text: str) -> None:
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(lambda: Tiny.from_pretrained(saved))


def test_override_of_a_config() -> None:
    assert "did you mean steps" in refusal(lambda: AnyPlan.from_pretrained(Path(__file__).parent, step=3))


# --- loading and saving ---------------------------------------------------------------------------------------------


def test_round_trip(saved: Path) -> None:
    first = init_module(Tiny, TinyConfig(), 0)
    second = Tiny.from_pretrained(saved)
    assert second.config == first.config
    assert not second.training
    assert second.head.weight is second.table.weight
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert all(parameter.requires_grad for parameter in second.parameters())
    assert sorted(entry.name for entry in saved.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert json.loads((saved / "config.json").read_text())["_class_name"] == "TinyModel"


def test_initial_values_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, third = (init_module(Tiny, TinyConfig(), seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, third.linear.weight)


def test_weights_are_mapped_and_private(saved: Path) -> None:
    before = (saved / "diffusion_pytorch_model.safetensors").read_bytes()
    module = Tiny.from_pretrained(saved)
    with torch.no_grad():
        module.linear.weight.add_(1)
    assert (saved / "diffusion_pytorch_model.safetensors").read_bytes() == before
    module.save_pretrained(saved)
    assert torch.equal(Tiny.from_pretrained(saved).linear.weight, module.linear.weight)


def test_metadata_is_kept(saved: Path, tmp_path: Path) -> None:
    edit(saved, _class_name="OldTinyModel", _diffusers_version="0.0.4", dropout=0.1, torch_dtype="float16")
    Tiny.from_pretrained(saved, scale=2.0).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["_diffusers_version"] == "0.0.4"
    assert config["_class_name"] == "TinyModel"
    assert (config["dropout"], config["torch_dtype"], config["scale"]) == (0.1, "float32", 2.0)


def test_dtype(saved: Path, tmp_path: Path) -> None:
    half = Tiny.from_pretrained(saved, dtype="fp16")
    assert half.linear.weight.dtype == torch.float16
    assert half.count.dtype == torch.int64
    Tiny.from_pretrained(saved).save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert state(tmp_path / "half")["linear.weight"].dtype == torch.bfloat16
    assert Tiny.from_pretrained(tmp_path / "half").linear.weight.dtype == torch.float32
    files = open_folder(str(tmp_path / "half")).find(*Tiny.files)
    assert load_module(Tiny, TinyConfig(), files).linear.weight.dtype == torch.bfloat16
    assert "int8" in refusal(lambda: Tiny.from_pretrained(saved, dtype="int8"))


def test_names_counted_from_the_end() -> None:
    """Where the original counts levels from the other end."""
    names = ["up.0.conv", "up.2.conv", "up.1.conv.7", "down.9", "gone.1"]
    specs = {name: TensorSpec(Path("f"), name, "F32", (2,)) for name in names}
    keys = ((r"^gone.*", ""), (r"^up\.(\d)\.", r"blocks.{last-\1}."), (r"\.conv$", ".weight"))
    assert list(renamed(specs, keys, "here")) == ["blocks.2.weight", "blocks.0.weight", "blocks.1.conv.7", "down.9"]
    one = {"up.0.conv": specs["up.0.conv"]}
    assert list(renamed(one, keys, "here")) == ["blocks.0.weight"]


def test_old_key_names_and_shapes(saved: Path) -> None:
    old = state(saved)
    old["query.weight"], old["query.bias"] = old.pop("linear.weight")[:, :, None, None], old.pop("linear.bias")
    old["conv.weight"] = old["conv.weight"][:, :, 0, 0].contiguous()
    old["text.position_ids"] = torch.arange(3)
    write(saved, old)
    assert torch.equal(Tiny.from_pretrained(saved).linear.weight, old["query.weight"][:, :, 0, 0])


def test_tied_tensor_under_its_other_name(saved: Path) -> None:
    tensors = state(saved)
    tensors["head.weight"] = tensors.pop("table.weight")
    write(saved, tensors)
    module = Tiny.from_pretrained(saved)
    assert module.table.weight is module.head.weight


def test_shards(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SHARD_BYTES", 100)
    module = Tiny.from_pretrained(saved)
    module.save_pretrained(saved)
    names = sorted(entry.name for entry in saved.iterdir())
    assert "diffusion_pytorch_model.safetensors" not in names
    assert "diffusion_pytorch_model.safetensors.index.json" in names
    assert torch.equal(Tiny.from_pretrained(saved).table.weight, module.table.weight)
    folder = open_folder(str(saved))
    shards = folder.resolve(*Tiny.files)
    assert len(shards) == len(names) - 2 > 1
    assert folder.size(shards) == sum((saved / shard).stat().st_size for shard in shards)
    (saved / shards[0]).unlink()
    assert f"1 of {len(shards)} shards are missing: {shards[0]}" in refusal(lambda: Tiny.from_pretrained(saved))
    monkeypatch.undo()
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    module.save_pretrained(saved)
    assert sorted(entry.name for entry in saved.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_index_that_names_files_elsewhere(saved: Path) -> None:
    (saved / "diffusion_pytorch_model.safetensors").unlink()
    index = saved / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"linear.weight": "../../etc/passwd"}}))
    assert "not the name of a shard" in refusal(lambda: Tiny.from_pretrained(saved))
    index.write_text(json.dumps({"metadata": {}}))
    assert "weight_map" in refusal(lambda: Tiny.from_pretrained(saved))


def test_variants(saved: Path) -> None:
    half = Tiny.from_pretrained(saved)
    with torch.no_grad():
        half.linear.weight.fill_(0.5)
    write(
        saved,
        {**state(saved), "linear.weight": half.linear.weight.detach()},
        "diffusion_pytorch_model.fp16.safetensors",
    )
    assert Tiny.from_pretrained(saved, variant="fp16").linear.weight[0, 0] == 0.5
    assert Tiny.from_pretrained(saved).linear.weight[0, 0] != 0.5
    (saved / "diffusion_pytorch_model.safetensors").unlink()
    assert Tiny.from_pretrained(saved).linear.weight[0, 0] == 0.5  # the only one that there is
    assert "in the variant bf16" in refusal(lambda: Tiny.from_pretrained(saved, variant="bf16"))


def test_component_without_tensors(tmp_path: Path) -> None:
    Words(WordsConfig(), ["a", "b"]).save_pretrained(tmp_path / "words")
    again = Words.from_pretrained(tmp_path / "words", lower=False)
    assert (again.words, again.config.lower) == (["a", "b"], False)
    (tmp_path / "words" / "words.json").write_text("c d")
    assert Words.from_pretrained(tmp_path / "words").words == ["c", "d"]
    assert "neither dtype nor device" in refusal(lambda: Words.from_pretrained(tmp_path / "words", dtype="fp16"))
    for name in ("words.txt", "words.json"):
        (tmp_path / "words" / name).unlink()
    message = refusal(lambda: Words.from_pretrained(tmp_path / "words"))
    assert "there is no words.json or words.txt; there is: tokenizer_config.json" in message


def test_config_that_may_be_missing(tmp_path: Path) -> None:
    class Loose(Words):
        config_file = "tokenizer_config.json?"

    Loose(WordsConfig(lower=False), ["a"]).save_pretrained(tmp_path)
    assert not Loose.from_pretrained(tmp_path).config.lower
    edit(tmp_path, "tokenizer_config.json", _class_name="Other")
    assert "this is an Other" in refusal(lambda: Loose.from_pretrained(tmp_path))
    (tmp_path / "tokenizer_config.json").unlink()
    assert Loose.from_pretrained(tmp_path).config.lower


# --- layouts --------------------------------------------------------------------------------------------------------


def pipeline(saved: Path, tmp_path: Path, **parts: str) -> Path:
    root = tmp_path / "pipeline"
    root.mkdir()
    index = {"_class_name": "TinyPipeline", **{part: ["peer", name] for part, name in parts.items()}, "scale": 3}
    (root / "model_index.json").write_text(json.dumps(index))
    for part in parts:
        (root / part).mkdir()
        for entry in saved.iterdir():
            (root / part / entry.name).write_bytes(entry.read_bytes())
    (root / "scheduler").mkdir(exist_ok=True)
    (root / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "OtherPlan", "steps": 5, "beta": 0}')
    return root


def test_component_of_a_pipeline_by_class(saved: Path, tmp_path: Path) -> None:
    root = pipeline(saved, tmp_path, model="TinyModel", vae="OtherModel", scheduler="OtherPlan")
    assert Tiny.from_pretrained(root).config == TinyConfig()
    assert AnyPlan.from_pretrained(root).config.steps == 5
    assert (open_folder(str(root)) / "model").sibling("scheduler_config.json") == {
        "_class_name": "OtherPlan", "steps": 5, "beta": 0,
    }  # fmt: skip
    assert open_folder(str(root / "model")).sibling("scheduler_config.json") is not None
    message = refusal(lambda: Words.from_pretrained(root))
    assert "this is a TinyPipeline with model (TinyModel), vae (OtherModel)" in message
    assert "Words wants WordsTokenizer" in message


def test_config_of_another_part(tmp_path: Path) -> None:
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({"part": part}))
    unet = open_folder(str(tmp_path / "unet"))
    assert unet.sibling("vqvae/config.json", "vae/config.json") == {"part": "vae"}
    assert unet.sibling("vqvae/config.json") is None
    assert not unet.indexed
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "P"}))
    assert unet.indexed
    assert open_folder(str(tmp_path)).sibling("vae/config.json") == {"part": "vae"}


def test_component_of_a_pipeline_that_holds_two(saved: Path, tmp_path: Path) -> None:
    root = pipeline(saved, tmp_path, first="TinyModel", second="TinyModel")
    message = refusal(lambda: Tiny.from_pretrained(root))
    assert "first, second" in message
    assert f"name one: {root}/first" in message
    assert Tiny.from_pretrained(root, subfolder="second")


def test_files_beside_the_index(saved: Path, tmp_path: Path) -> None:
    (saved / "model_index.json").write_text(
        '{"_class_name": "P", "unet": ["peer", "TinyModel"], "scheduler": ["peer", "S"]}'
    )
    (saved / "scheduler_config.json").write_text('{"_class_name": "S", "steps": 7}')
    assert Tiny.from_pretrained(saved)
    assert Tiny.from_pretrained(saved / "unet")
    assert Tiny.from_pretrained(saved, subfolder="unet")
    assert AnyPlan.from_pretrained(saved).config.steps == 7
    assert (open_folder(str(saved / "unet")).component("Tiny", "config.json", Tiny.published)[0]).sibling(
        "scheduler_config.json"
    )
    assert "no such folder" in refusal(lambda: Tiny.from_pretrained(saved / "unett"))


def test_wrong_class(saved: Path) -> None:
    edit(saved, _class_name="OtherModel")
    assert "this is an OtherModel; Tiny wants TinyModel or OldTinyModel" in refusal(lambda: Tiny.from_pretrained(saved))


def test_missing_folder(saved: Path) -> None:
    assert f"did you mean {saved}" in refusal(lambda: Tiny.from_pretrained(saved.with_name("tinny")))
    assert "is a file" in refusal(lambda: Tiny.from_pretrained(saved / "config.json"))
    (saved / "config.json").unlink()
    message = refusal(lambda: Tiny.from_pretrained(saved))
    assert "there is no config.json; there is: diffusion_pytorch_model.safetensors" in message


def test_relative_name_that_is_no_repository(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent.parent)
    assert "did you mean" in refusal(lambda: Tiny.from_pretrained(f"{saved.parent.name}/tinny"))
    assert "takes no revision" in refusal(lambda: Tiny.from_pretrained(saved, revision="main"))
    for text, hub in (("nobody/nothing/unet", True), ("nobody:/nothing", False), (f"{saved.parent.name}/zzzzz", False)):
        told = str(missing_folder(Path.cwd() / text, text))
        assert (f"of the Hub it is hf://{text}" in told) == hub


# --- files that lie -------------------------------------------------------------------------------------------------


def raw(path: Path, header: dict[str, Any] | bytes, body: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize(
    ("header", "body", "words"),
    [
        (b"", b"", "header is damaged"),
        (b"{", b"", "header is damaged"),
        (b"[1]", b"", "header is damaged"),
        (b"\xff\xfe", b"", "header is damaged"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"", "was cut"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"abcd", "does not fit"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"abcd", "is damaged"),
        ({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, b"abcd", "is damaged"),
        ({"a": 3}, b"abcd", "is damaged"),
        ({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"abcd", "X9"),
        ({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd", "1 left over: ../../x [1]"),
        ({"a\x1b[31m": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd", "a\\x1b[31m [1]"),
        ({"linear.weight": {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 0]}}, b"", "of another shape"),
        ({"linear.weight": {"dtype": "I32", "shape": [4, 4], "data_offsets": [0, 64]}}, b"x" * 64, "is I32 [4, 4]"),
    ],
)
def test_lying_header(saved: Path, header: dict[str, Any] | bytes, body: bytes, words: str) -> None:
    raw(saved / "diffusion_pytorch_model.safetensors", header, body)
    message = refusal(lambda: Tiny.from_pretrained(saved))
    assert words in message
    assert message.isprintable() or "\x1b" not in message


def test_overlapping_tensors(saved: Path) -> None:
    model = {name: list(tensor.shape) for name, tensor in state(saved).items() if tensor.is_floating_point()}
    size = max(4 * torch.Size(shape).numel() for shape in model.values())
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * torch.Size(shape).numel()]}
        for name, shape in model.items()
    }
    header["count"] = {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}
    raw(saved / "diffusion_pytorch_model.safetensors", header, bytes(size))
    assert "tiny: " in refusal(lambda: Tiny.from_pretrained(saved))


def test_truncated_file(saved: Path) -> None:
    path = saved / "diffusion_pytorch_model.safetensors"
    for length in (0, 5, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        assert "diffusion_pytorch_model.safetensors" in refusal(lambda: Tiny.from_pretrained(saved))
        init_module(Tiny, TinyConfig(), 0).save_pretrained(saved)


def test_other_model(saved: Path) -> None:
    edit(saved, width=6)
    message = refusal(lambda: Tiny.from_pretrained(saved))
    assert "weights of another model" in message
    assert "4 of another shape: linear.weight is F32 [4, 4], the model's is [6, 6]" in message
    tensors = state(saved)
    del tensors["conv.bias"]
    write(saved, tensors | {f"extra.{n}": torch.zeros(1) for n in range(9)})
    message = refusal(lambda: Tiny.from_pretrained(saved))
    assert "1 missing: conv.bias [3]" in message
    assert "9 left over: extra.0 [1]" in message
    assert "and 4 more" in message


def test_two_names_of_one_tensor(saved: Path) -> None:
    tensors = state(saved)
    write(saved, tensors | {"query.bias": tensors["linear.bias"].clone()})
    assert "two names of one tensor" in refusal(lambda: Tiny.from_pretrained(saved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_is_named(saved: Path, dtype: torch.dtype) -> None:
    tensors = state(saved)
    tensors["conv.bias"] = torch.tensor([1.0, float("nan"), 2.0], dtype=dtype)
    tensors["linear.bias"] = torch.tensor([1.0, float("inf"), 2.0, float("-inf")], dtype=dtype)  # infinite is no NaN
    write(saved, tensors)
    assert "conv.bias holds NaN" in refusal(lambda: Tiny.from_pretrained(saved))
    tensors["conv.bias"] = torch.zeros(3)
    write(saved, tensors)
    assert Tiny.from_pretrained(saved)


@pytest.mark.parametrize("length", [0x480, 0x5080])
def test_a_header_whose_length_begins_as_a_pickle_does(saved: Path, length: int) -> None:
    path = saved / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + size].rstrip()
    assert len(header) <= length
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + data[8 + size :])
    assert Tiny.from_pretrained(saved)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_under_another_name(saved: Path, legacy: bool) -> None:
    torch.save(state(saved), saved / "x.bin", _use_new_zipfile_serialization=not legacy)
    (saved / "x.bin").rename(saved / "diffusion_pytorch_model.safetensors")
    assert "is a pickle under another name" in refusal(lambda: Tiny.from_pretrained(saved))


def test_unreadable_and_unwritable(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be made" in refusal(lambda: Tiny.from_pretrained(saved).save_pretrained(tmp_path / "file" / "x"))
    (saved / "diffusion_pytorch_model.safetensors").unlink()
    (saved / "diffusion_pytorch_model.safetensors").mkdir()
    assert "cannot be written" in refusal(lambda: init_module(Tiny, TinyConfig(), 0).save_pretrained(saved))
    assert not [entry for entry in saved.iterdir() if entry.name.endswith(".tmp")]


def test_buffer_that_no_file_holds(saved: Path) -> None:
    class Cached(Tiny):
        def __init__(self, config: TinyConfig) -> None:
            super().__init__(config)
            self.register_buffer("cache", torch.zeros(2), persistent=False)

    with pytest.raises(TypeError, match="cache"):
        Cached.from_pretrained(saved)


# --- pickles --------------------------------------------------------------------------------------------------------


def pickled(folder: Path, value: Any, **options: Any) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    torch.save(value, folder / "diffusion_pytorch_model.bin", **options)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_is_converted_once(saved: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tiny.from_pretrained(saved)
    pickled(saved, module.state_dict(), _use_new_zipfile_serialization=not legacy)  # tied: two names, one storage
    assert torch.equal(Tiny.from_pretrained(saved).table.weight, module.table.weight)
    monkeypatch.setattr(subprocess, "run", None)
    assert torch.equal(Tiny.from_pretrained(saved).table.weight, module.table.weight)


class Canary:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("canary",)


def test_hostile_pickles(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = state(saved)
    pickled(saved, {**tensors, "x": Canary()})
    assert "posix.mkdir" in refusal(lambda: Tiny.from_pretrained(saved))
    (saved / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    assert "the pickle is refused" in refusal(lambda: Tiny.from_pretrained(saved))
    pickled(saved, {**tensors, "linear.weight": torch.zeros(1).expand(2**15, 2**15)})
    assert "larger than what is stored" in refusal(lambda: Tiny.from_pretrained(saved))
    pickled(saved, {"state_dict": tensors, "optimizer": {}})
    assert "flat dictionary" in refusal(lambda: Tiny.from_pretrained(saved))
    assert not (tmp_path / "canary").exists()
    assert not list((tmp_path / "cache" / "converted").glob("*"))


def test_pickle_that_unpacks_to_more(saved: Path) -> None:
    pickled(saved, {"linear.weight": torch.zeros(2**22)})
    path = saved / "diffusion_pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    assert path.stat().st_size < 2**20
    assert "more than it holds" in refusal(lambda: Tiny.from_pretrained(saved))


def test_safetensors_named_bin(saved: Path) -> None:
    (saved / "diffusion_pytorch_model.safetensors").rename(saved / "diffusion_pytorch_model.bin")
    assert Tiny.from_pretrained(saved)


# --- digests --------------------------------------------------------------------------------------------------------


def test_digest_is_of_contents_and_remembered(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(str(saved))
    names = folder.resolve(*Tiny.files)
    time.sleep(0.1)
    digest = folder.digest(names)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / names[0]).write_bytes((saved / names[0]).read_bytes())
    assert open_folder(str(copy)).digest(names) == digest
    real, read = hashlib.file_digest, []

    def counted(file: Any, name: str) -> Any:
        read.append(file)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    digests._known.clear()  # as in a new process
    assert folder.digest(names) == digest
    assert not read
    edit(saved, width=4)
    assert folder.digest(names) == digest
    assert not read
    tensors = state(saved)
    tensors["linear.bias"] = tensors["linear.bias"] + 1
    times = (saved / names[0]).stat()
    write(saved, tensors)
    os.utime(saved / names[0], ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    assert folder.digest(names) != digest
    assert len(read) == 1


def test_reading_configs_needs_no_torch(saved: Path) -> None:
    code = f"""
import sys
from diffgraph.weights.config import FieldSpec, ValueType
from diffgraph.weights.loading import open_folder, read_config

folder = open_folder({str(saved)!r})
fields = {{"width": FieldSpec("width", ValueType("int"), 1)}}
read = read_config(folder, "Tiny", fields, ignored={{"act", "heads", "scale", "floor", "note"}})
folder.digest(folder.resolve("diffusion_pytorch_model"))
print(read.values, "torch" in sys.modules, "huggingface_hub" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'width': 4} False False"


def test_unknown_override_is_an_input_error(saved: Path) -> None:
    with pytest.raises(InputError, match="no config field 'widht'"):
        Tiny.from_pretrained(saved, widht=3)
