"""DiT against the reference numbers of the authors' network, shrunk and filled by rule (tests/fill.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffgraph import Graph
from diffgraph.errors import CheckFailed, InputError, PortError, WeightsError
from diffgraph.nodes.kinds import Prediction
from diffgraph.nodes.models.dit import DiT, DiTCondition, DiTConfig
from diffgraph.weights.config import fields_of, parse_config

from ..fill import filled, noise, randomise, wave
from ..parity import agree

SMALL = DiTConfig(
    num_attention_heads=4, attention_head_dim=12, out_channels=8, num_layers=2, sample_size=8, num_embeds_ada_norm=10
)
PLAIN = replace(SMALL, out_channels=None, in_channels=3, patch_size=1, sample_size=5, attention_bias=False)
COARSE = replace(SMALL, patch_size=4, num_layers=3, norm_eps=1e-6, freq_shift=0)
ALL = [SMALL, PLAIN, COARSE]

PUBLISHED: dict[str, Any] = {  # as facebook/DiT-XL-2-256 has it
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}


def read(published: dict[str, Any]) -> DiTConfig:
    values = parse_config(fields_of(DiTConfig), published, ignored=DiT.ignored, where="config.json")
    return DiTConfig(**values)


def random(config: DiTConfig) -> DiT:
    model = DiT(config).eval()
    randomise(model)
    return model


def original_shapes(width: int, depth: int, classes: int, channels: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' own network, with patches of 2 x 2 and a variance."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, channels, 2, 2),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.2.weight": (width, width),
        "final_layer.linear.weight": (8 * channels, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
    }
    for number in range(depth):
        for name, shape in (
            ("attn.qkv", (3 * width, width)),
            ("attn.proj", (width, width)),
            ("mlp.fc1", (4 * width, width)),
            ("mlp.fc2", (width, 4 * width)),
            ("adaLN_modulation.1", (6 * width, width)),
        ):
            shapes[f"blocks.{number}.{name}.weight"] = shape
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items() if "weight" in name}
    return shapes | {"y_embedder.embedding_table.weight": (classes + 1, width)}


def from_original(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """The authors' tensors under the published names: time and class are copied into each block."""
    names = {"x_embedder.proj": "pos_embed.proj", "final_layer.linear": "proj_out_2"}
    names["final_layer.adaLN_modulation.1"] = "proj_out_1"
    out = {}
    for kind in ("weight", "bias"):
        out |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for theirs, ours in names.items()}
        for number in range(depth):
            block, new = f"blocks.{number}", f"transformer_blocks.{number}"
            for theirs, ours in (
                ("t_embedder.mlp.0", "norm1.emb.timestep_embedder.linear_1"),
                ("t_embedder.mlp.2", "norm1.emb.timestep_embedder.linear_2"),
                (f"{block}.adaLN_modulation.1", "norm1.linear"),
                (f"{block}.attn.proj", "attn1.to_out.0"),
                (f"{block}.mlp.fc1", "ff.net.0.proj"),
                (f"{block}.mlp.fc2", "ff.net.2"),
            ):
                out[f"{new}.{ours}.{kind}"] = state[f"{theirs}.{kind}"]
            for letter, part in zip("qkv", state[f"{block}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"{new}.attn1.to_{letter}.{kind}"] = part
            table = "norm1.emb.class_embedder.embedding_table.weight"
            out[f"{new}.{table}"] = state["y_embedder.embedding_table.weight"]
    return out


@torch.no_grad()
def test_reference_numbers() -> None:
    shapes = original_shapes(48, 2, 10, 4, 16)
    assert len(shapes) == 32
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 107_456
    state = {name: filled(name, number, shapes[name]) for number, name in enumerate(sorted(shapes))}
    model = DiT(replace(SMALL, norm_eps=1e-6, freq_shift=0)).eval()
    model.load_state_dict(from_original(state, 2))
    flat = torch.cat(tuple(model(wave(1, 4, 8, 8), 37, model.condition([3]))), dim=1).flatten()  # type: ignore[arg-type]
    found = torch.stack([*flat[[0, 1, 2, 256, 511]], flat.mean(), flat.std()])
    expected = torch.tensor([0.12908, -1.87878, 0.1362, 0.30562, 0.91583, 0.028559, 0.816721])
    agree("DiT", "the authors' code, its published numbers", found, expected, tolerance=1e-5)


@torch.no_grad()
def test_table_of_positions() -> None:
    """The columns come first, sines before cosines: numbers of the authors' own table."""
    model = DiT(SMALL)
    for parameter in model.pos_embed.parameters():
        parameter.zero_()
    table = model.pos_embed(noise(1, 4, 8, 8))[0]
    assert table.shape == (16, 48)
    assert table[1, :4].tolist() == pytest.approx([0.84147, 0.44767, 0.21378, 0.09983], abs=1e-5)  # column 1, row 0
    torch.testing.assert_close(table[1, 24:], table[0, 24:])
    torch.testing.assert_close(table[4, 24:], table[1, :24])  # column 0, row 1
    torch.testing.assert_close(table[4, :24], table[0, :24])


@pytest.mark.parametrize("size", [32, 64])
def test_published_sizes_and_names(size: int) -> None:
    """DiT-XL/2 for 256 and for 512 pixels: what is said of the file, and one name of each pattern."""
    with torch.device("meta"):
        model = DiT(read(PUBLISHED | {"sample_size": size}))
    state = model.state_dict()
    assert len(state) == 538
    assert sum(tensor.numel() for tensor in state.values()) == 749_826_464
    assert not list(model.buffers())
    assert model.sample_shape == [4, size, size]
    once = 27 * (1152 * (256 + 1152 + 1001) + 2 * 1152)  # of time and classes, what the original does not hold again
    assert sum(tensor.numel() for tensor in state.values()) - once == 675_129_632 - 256 * 1152
    block = "transformer_blocks.27"
    shapes = {
        "pos_embed.proj.weight": (1152, 4, 2, 2),
        "pos_embed.proj.bias": (1152,),
        f"{block}.norm1.emb.timestep_embedder.linear_1.weight": (1152, 256),
        f"{block}.norm1.emb.timestep_embedder.linear_2.bias": (1152,),
        f"{block}.norm1.emb.class_embedder.embedding_table.weight": (1001, 1152),
        f"{block}.norm1.linear.weight": (6912, 1152),
        f"{block}.attn1.to_q.weight": (1152, 1152),
        f"{block}.attn1.to_k.bias": (1152,),
        f"{block}.attn1.to_out.0.weight": (1152, 1152),
        f"{block}.ff.net.0.proj.weight": (4608, 1152),
        f"{block}.ff.net.2.weight": (1152, 4608),
        "proj_out_1.weight": (2304, 1152),
        "proj_out_2.weight": (32, 1152),
        "proj_out_2.bias": (32,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@torch.no_grad()
def test_a_table_of_positions_in_the_file_is_passed_over(tmp_path: Path) -> None:
    model = random(SMALL)
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"pos_embed.pos_embed": noise(1, 16, 48)}, file)
    again = DiT.from_pretrained(tmp_path)
    sample = noise(1, 4, 8, 8)
    assert torch.equal(again(sample, 3, again.condition([1])).value, model(sample, 3, model.condition([1])).value)


@pytest.mark.parametrize("config", ALL)
def test_every_parameter_matters(config: DiTConfig) -> None:
    """Each but the bias of keys, which softmax takes out; of the tables the rows that are asked for."""
    model = random(config).double()
    sample = noise(2, *model.sample_shape).double()
    prediction = model(sample, 37, model.condition([3, config.num_embeds_ada_norm]))
    sum(part.square().mean() for part in prediction if part is not None).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert all(name.endswith(".to_k.bias") for name in idle)
    for block in model.transformer_blocks:
        table = block.norm1.emb.class_embedder["embedding_table"].weight.grad
        assert table.abs().amax(dim=1).nonzero().flatten().tolist() == [3, config.num_embeds_ada_norm]


@torch.no_grad()
def test_every_choice_matters() -> None:
    """With the same weights, another value of an option that adds none gives another prediction."""
    state, sample = random(SMALL).state_dict(), noise(1, 4, 8, 8)
    values = []
    for change in ({}, {"norm_eps": 0.1}, {"freq_shift": 0.0}, {"num_attention_heads": 8, "attention_head_dim": 6}):
        model = DiT(replace(SMALL, **change)).eval()  # type: ignore[arg-type]
        model.load_state_dict(state)
        values.append(model(sample, 37, model.condition([3])).value)
    for number, value in enumerate(values):
        assert not any(torch.allclose(value, other, rtol=1e-3, atol=1e-4) for other in values[:number])


@pytest.mark.parametrize("config", ALL)
@torch.no_grad()
def test_four_rows_equal_four_singles(config: DiTConfig) -> None:
    model, time, label = random(config), torch.tensor([0, 37, 500, 999]), [0, 9, 3, config.num_embeds_ada_norm]
    sample = noise(4, *model.sample_shape)
    together = model(sample, time, model.condition(label))
    for row in range(4):
        single = model(sample[row : row + 1], int(time[row]), model.condition(label[row : row + 1]))
        for one, all_ in zip(single, together, strict=True):
            if one is not None:
                torch.testing.assert_close(one, all_[row : row + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_no_label_is_the_class_of_none() -> None:
    model, sample = random(SMALL), noise(1, 4, 8, 8)
    none, last = model.condition(), model.condition([10])
    assert isinstance(none, DiTCondition)
    assert torch.equal(none.classes, last.classes)
    assert not torch.allclose(model(sample, 37, none).value, model(sample, 37, model.condition([3])).value)


@torch.no_grad()
def test_a_learned_variance_is_the_second_half() -> None:
    model, sample = random(SMALL), noise(2, 4, 8, 8)
    prediction = model(sample, 37, model.condition([1, 2]))
    assert isinstance(prediction, Prediction)
    assert prediction.value.shape == sample.shape
    assert prediction.variance is not None
    assert prediction.variance.shape == sample.shape
    assert random(PLAIN)(noise(1, 3, 5, 5), 37, random(PLAIN).condition()).variance is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype, tolerance: float) -> None:
    """The tolerance is some ten roundings, against the largest value; the prediction keeps the sample's dtype."""
    model, sample = random(SMALL), noise(2, 4, 8, 8)
    condition = model.condition([1, 2])
    exact = model(sample, 37, condition).value
    model.to(dtype)
    value = model(sample, 37, model.condition([1, 2])).value
    assert value.dtype == torch.float32
    assert float((value - exact).abs().max() / exact.abs().max()) < tolerance
    assert torch.isfinite(model(100 * sample, 37, condition).value).all()
    assert model(sample.to(dtype), 37, condition).value.dtype == dtype


@torch.no_grad()
def test_inputs_are_left_alone() -> None:
    model, sample, time = random(SMALL), noise(2, 4, 8, 8), torch.tensor([1, 2])
    condition = model.condition([1, 2])
    kept = sample.clone(), time.clone(), condition.classes.clone()
    model(sample, time, condition)
    assert all(torch.equal(*pair) for pair in zip((sample, time, condition.classes), kept, strict=True))


def test_dropout_only_while_training() -> None:
    model, sample = random(replace(SMALL, dropout=0.5)), noise(2, 4, 8, 8)
    told = model.condition([1, 2])
    assert torch.equal(model(sample, 3, told).value, model(sample, 3, told).value)
    model.train()
    assert not torch.equal(model(sample, 3, told).value, model(sample, 3, told).value)


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    """Gates and the output begin at zero; a few steps of training lower the loss."""
    torch.manual_seed(0)
    model, sample, target = DiT(SMALL), noise(4, 4, 8, 8), noise(4, 4, 8, 8, seed=5)
    assert not model(sample, 3, model.condition([0] * 4)).value.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = (model(sample, 3, model.condition([0, 1, 2, 3])).value - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 6}, "out_channels: 6, but the sample has 4"),
        ({"attention_head_dim": 3, "num_attention_heads": 2}, "their product, 6, is not a multiple of 4"),
        ({"sample_size": 9}, "sample_size: 9 is not a multiple of patch_size, 2"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_type", "ada_norm_single"),
        ("norm_type", "layer_norm"),
        ("activation_fn", "geglu"),
        ("norm_elementwise_affine", True),
        ("upcast_attention", True),
        ("num_vector_embeds", 4097),
        ("cross_attention_dim", 1152),
        ("caption_channels", 4096),
        ("interpolation_scale", 2),
        ("only_cross_attention", True),
        ("double_self_attention", True),
        ("attention_type", "gated"),
        ("num_embeds_ada_norm", None),
        ("patch_size", None),
        ("freq_shift", 128),
        ("joint_attention_dim", 4096),
    ],
)
def test_published_values_that_are_refused_by_name(key: str, value: object) -> None:
    """Of PixArt, VQ-Diffusion and other networks of the same older class."""
    with pytest.raises(WeightsError, match=key):
        read(PUBLISHED | {key: value})


@pytest.mark.parametrize(
    ("changes", "port", "message"),
    [
        ({"sample": noise(2, 4, 16, 16)}, "sample", r"\[2, 4, 16, 16\]; this model takes \[B, 4, 8, 8\]"),
        ({"sample": noise(2, 4, 8, 8).long()}, "sample", "torch.int64"),
        ({"sample": noise(2, 4, 8, 8).to("meta")}, "sample", "is on meta, the model on cpu"),
        ({"timestep": -1}, "timestep", "0 or more, not -1"),
        ({"timestep": torch.tensor([1, 2, 3])}, "timestep", r"shape \[3\]"),
        ({"condition": None}, "condition", "is a NoneType"),
        ({"condition": DiTCondition(noise(2, 3, 48))}, "condition", "is of another network"),
        ({"condition": DiTCondition(noise(1, 2, 48))}, "condition", "has 1 rows, the sample 2"),
        ({"condition": DiTCondition(noise(2, 2, 48).to("meta"))}, "condition", "is on meta"),
    ],
)
def test_wrong_inputs_are_refused(changes: dict[str, Any], port: str, message: str) -> None:
    model = DiT(SMALL)
    given = {"sample": noise(2, 4, 8, 8), "timestep": 37, "condition": model.condition([1, 2]), **changes}
    with pytest.raises(PortError, match=message) as error:
        model(**given)
    assert error.value.port == port


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([11], "11 is no class; known: 0 to 9, and 10 for none"),
        ([1, -1], "-1 is no class"),
        ([1.0], "1.0 is no class"),
        ([True], "True is no class"),
        ([], "must be a list of classes"),
        (3, "not 3"),
    ],
)
def test_labels_that_are_refused(label: Any, message: str) -> None:
    with pytest.raises(PortError, match=message) as error:
        DiT(SMALL).condition(label)
    assert error.value.port == "label"


DOCUMENT = """
diffgraph: 1
name: classes
inputs:
  label: {type: int, default: 3, min: 0}
  num_images: {type: int, default: 2, min: 1}
nodes:
  dit: {node: DiT, num_attention_heads: 2, attention_head_dim: 4, num_layers: 1, sample_size: 4, num_embeds_ada_norm: 5}
  scheduler: {node: DDIMScheduler}
  class: {call: $dit.condition, label: [$label]}
  none: {call: $dit.condition}
  rng: {node: Rng, seed: 0, batch: $num_images}
  sampled:
    graph: pkg://diffgraph/samplers/guided.yaml
    model: $dit
    scheduler: $scheduler
    condition: $class
    uncondition: $none
    guidance_scale: 4.0
    steps: 2
    rng: $rng
outputs: {sample: $sampled.sample}
"""


def graph(tmp_path: Path, text: str) -> Graph:
    place = tmp_path / "classes.yaml"
    place.write_text(text)
    return Graph.load(place)


def test_in_a_graph(tmp_path: Path) -> None:
    """One class for all images, or one each; beside no class at all."""
    assert graph(tmp_path, DOCUMENT)(label=4).sample.shape == (2, 4, 4, 4)
    each = DOCUMENT.replace("[$label]", "[$label, 1]")
    assert graph(tmp_path, each)().sample.shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[$label]", "$label", "expected list of int, got 3"),
        ("[$label]", "[3.5]", "expected int, got 3.5"),
        ("[$label]", "[-1]", "-1 must be at least 0"),
        ("[$label]", "[red]", "expected int, got text 'red'"),
    ],
)
def test_what_the_check_refuses(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in DOCUMENT
    with pytest.raises((CheckFailed, InputError)) as raised:
        graph(tmp_path, DOCUMENT.replace(old, new)).check()
    assert said in str(raised.value)
