"""The text encoders: golden numbers of the originals, published sizes, precision, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.errors import InputError, PortError, WeightsError
from diffgraph.nodes.kinds import TextEmbeds, Tokens
from diffgraph.nodes.models.clip_text import CLIPText, CLIPTextConfig
from diffgraph.nodes.models.ldm_bert import LDMBert, LDMBertConfig
from diffgraph.nodes.models.t5_encoder import T5Encoder, T5EncoderConfig, bucket
from diffgraph.weights.config import fields_of, parse_config
from diffgraph.weights.tensors import built_without_memory

from ..fill import fill, randomise
from ..parity import agree

ORIGINAL = "the original's published numbers"
PROJECTED = ("CLIPTextModelWithProjection",)

# The published configs, by the keys that differ from the defaults.
L14 = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "projection_dim": 768,
    "eos_token_id": 2,
}  # fmt: skip
OPEN_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23, "hidden_act": "gelu",
    "eos_token_id": 2,
}  # fmt: skip
BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "hidden_act": "gelu",
    "projection_dim": 1280,
}  # fmt: skip
V11 = {"feed_forward_proj": "gated-gelu"}
XXL = V11 | {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
XL = V11 | {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
LARGE = V11 | {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
BASE = V11 | {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}

# Shrunk, with the same flags.
SMALL_CLIP = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 8, "projection_dim": 24, "eos_token_id": 49,
}  # fmt: skip
SMALL_T5 = V11 | {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
SMALL_BERT = {
    "vocab_size": 40, "max_position_embeddings": 7, "encoder_layers": 2, "encoder_ffn_dim": 192, "d_model": 48,
}  # fmt: skip


def tokens(ids: list[list[int]], mask: list[list[int]] | None = None) -> Tokens:
    rows = torch.tensor(ids)
    return Tokens(rows, torch.ones_like(rows).bool() if mask is None else torch.tensor(mask).bool())


CLIP_TOKENS = tokens([[48, 3, 7, 11, 49, 49, 49, 49]])
T5_TOKENS = tokens([[5, 9, 3, 1, 0, 0]], [[1, 1, 1, 1, 0, 0]])
BERT_TOKENS = tokens([[1, 5, 9, 2, 0, 0, 0]])


def clip(**config: Any) -> CLIPText:
    return CLIPText(CLIPTextConfig(**(SMALL_CLIP | config))).eval()


def t5(**config: Any) -> T5Encoder:
    return T5Encoder(T5EncoderConfig(**(SMALL_T5 | config))).eval()


def bert(**config: Any) -> LDMBert:
    return LDMBert(LDMBertConfig(**(SMALL_BERT | config))).eval()


ENCODERS: dict[str, tuple[Any, Tokens]] = {
    "CLIPText": (clip, CLIP_TOKENS),
    "T5Encoder": (t5, T5_TOKENS),
    "LDMBert": (bert, BERT_TOKENS),
}


def golden(part: str, output: Tensor, elements: list[float], mean: float, std: float, what: str = "") -> None:
    """Elements 0, 1, 2, n/2, n-1, mean and standard deviation, to the five digits that are published."""
    flat = output.flatten()
    places = torch.tensor([0, 1, 2, len(flat) // 2, len(flat) - 1])
    agree(part, ORIGINAL, flat[places], torch.tensor(elements), tolerance=1e-5, what=what)
    assert flat.mean().item() == pytest.approx(mean, abs=2e-6)
    assert flat.std().item() == pytest.approx(std, abs=2e-6)


@torch.no_grad()
def test_clip_gives_the_originals_numbers() -> None:
    model = clip(architectures=PROJECTED)
    fill(model)
    assert sum(p.numel() for p in model.parameters()) == 17_696
    assert len(model.state_dict()) == 37
    hidden, mask, pooled = model(CLIP_TOKENS)
    assert pooled is not None and pooled.shape == (1, 24) and mask.all()
    golden(
        "CLIPText", hidden, [-0.06697, 0.97021, 0.73652, -1.34297, -0.49897], 0.001137, 1.015461, "last hidden state"
    )
    golden("CLIPText", pooled, [-0.11129, -1.15384, 0.15908, 0.75859, -0.80394], -0.161973, 0.838219, "projection")


@torch.no_grad()
def test_clip_skips_its_last_blocks() -> None:
    """The last but one state by the golden numbers, which are without the final norm."""
    model = clip(architectures=PROJECTED)
    fill(model)
    seen: list[Tensor] = []
    model.text_model.encoder.layers[0].register_forward_hook(lambda _, given, out: seen.append(out))
    last, skipped = model(CLIP_TOKENS), model(CLIP_TOKENS, skip=1)
    golden("CLIPText", seen[0], [-0.05576, 0.57349, 0.85694, -0.33553, -0.41031], 0.109661, 0.769543, "last but one")
    assert torch.equal(skipped.hidden, model.text_model.final_layer_norm(seen[0]))
    assert last.pooled is not None and torch.equal(last.pooled, skipped.pooled)
    for skip in (2, -1):
        with pytest.raises(PortError, match="skip: .*this encoder has 2 blocks"):
            model(CLIP_TOKENS, skip=skip)


@torch.no_grad()
def test_t5_gives_the_originals_numbers() -> None:
    """The fixture's shared table has the values of the encoder's name for it."""
    model = t5()
    model.shared = torch.nn.Embedding(50, 32)
    fill(model)
    model.shared = model.encoder.embed_tokens
    assert sum(p.numel() for p in model.parameters()) == 19_232
    assert len(model.state_dict()) == 22
    hidden, mask, pooled = model(T5_TOKENS)
    assert pooled is None and torch.equal(mask, T5_TOKENS.mask)
    golden("T5Encoder", hidden, [-0.2476, 0.63285, 0.03997, 0.31584, -1.58284], 0.107083, 0.982374)


def original_name(name: str) -> str:
    """The name of latent diffusion's checkpoint, without its prefix, for one of ours."""
    name = name.removeprefix("model.")
    for ours, theirs in (
        ("embed_tokens", "token_emb"),
        ("embed_positions", "pos_emb.emb"),
        ("layer_norm.", "norm."),
    ):
        if name.startswith(ours):
            return name.replace(ours, theirs)
    if not name.startswith("layers."):
        return name
    _, number, part, *rest = name.split(".")
    at = {"self_attn_layer_norm": (0, "0"), "self_attn": (0, "1"), "final_layer_norm": (1, "0")}
    at |= {"fc1": (1, "1.net.0.0"), "fc2": (1, "1.net.2")}
    half, inner = at[part]
    leaf = ".".join(rest).replace("out_proj", "to_out")
    for letter in "qkv":
        leaf = leaf.replace(f"{letter}_proj", f"to_{letter}")
    return f"attn_layers.layers.{2 * int(number) + half}.{inner}.{leaf}"


@torch.no_grad()
def test_ldm_bert_gives_the_originals_numbers() -> None:
    model = bert()
    fill(model, {name: original_name(name) for name in model.state_dict()})
    assert sum(p.numel() for p in model.parameters()) == 238_744
    assert len(model.state_dict()) == 32
    hidden = model(BERT_TOKENS).hidden
    golden("LDMBert", hidden, [1.98872, -1.06527, -1.61191, 0.03255, -2.07316], 0.008469, 1.0271)


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        (CLIPTextConfig(**L14), 123_060_480, 196),
        (CLIPTextConfig(**L14, architectures=PROJECTED), 123_650_304, 197),
        (CLIPTextConfig(**OPEN_H), 340_387_840, 372),
        (CLIPTextConfig(**BIG_G, architectures=PROJECTED), 694_659_840, 517),
        (T5EncoderConfig(**XXL), 4_762_310_656, 220),
        (T5EncoderConfig(**XL), 1_223_527_424, 220),
        (T5EncoderConfig(**LARGE), 341_231_104, 220),
        (T5EncoderConfig(**BASE), 109_628_544, 112),
        (LDMBertConfig(), 581_994_042, 422),
    ],
    ids=["L/14", "L/14 projected", "OpenCLIP H", "OpenCLIP bigG", "T5 XXL", "T5 XL", "T5 large", "T5 base", "LDM-BERT"],
)
def test_published_sizes(config: Any, parameters: int, tensors: int) -> None:
    parts: dict[type, Any] = {CLIPTextConfig: CLIPText, T5EncoderConfig: T5Encoder, LDMBertConfig: LDMBert}
    model = built_without_memory(lambda: parts[type(config)](config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_names_of_tensors() -> None:
    """A few of each, with their shapes."""

    def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    names = shapes(clip(architectures=PROJECTED))
    assert names["text_model.embeddings.position_embedding.weight"] == (8, 32)
    assert names["text_model.encoder.layers.1.mlp.fc1.weight"] == (48, 32)
    assert names["text_projection.weight"] == (24, 32)
    names = shapes(t5())
    assert names["shared.weight"] == names["encoder.embed_tokens.weight"] == (50, 32)
    assert names["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == (32, 2)
    assert names["encoder.block.1.layer.1.DenseReluDense.wi_1.weight"] == (48, 32)
    assert "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" not in names
    names = shapes(bert())
    assert names["model.layers.1.self_attn.q_proj.weight"] == (512, 48)
    assert names["to_logits.weight"] == (40, 48)


@pytest.mark.parametrize(
    ("distance", "number"),
    [(0, 0), (-7, 7), (-8, 8), (-11, 8), (-12, 9), (-16, 10), (-23, 11), (-32, 12), (-64, 14), (-91, 15), (-4000, 15),
     (1, 17), (7, 23), (8, 24), (16, 26), (127, 31), (4000, 31)],
)  # fmt: skip
def test_buckets_of_distances(distance: int, number: int) -> None:
    """The table of the original, whose float arithmetic agrees at the powers themselves."""
    assert bucket(distance, 32, 128) == number


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_a_batch_is_its_texts(name: str) -> None:
    make, given = ENCODERS[name]
    model = make()
    randomise(model)
    other = Tokens(given.ids.roll(1, 1).where(given.mask, given.ids), given.mask)
    both = model(Tokens(torch.cat([given.ids, other.ids]), torch.cat([given.mask, other.mask])))
    for row, one in enumerate((given, other)):
        alone = model(one)
        torch.testing.assert_close(both.hidden[row : row + 1], alone.hidden, rtol=1e-5, atol=1e-5)
        assert torch.equal(both.mask[row : row + 1], one.mask)
        if alone.pooled is not None:
            torch.testing.assert_close(both.pooled[row : row + 1], alone.pooled, rtol=1e-5, atol=1e-5)
    assert model(Tokens(given.ids[:0], given.mask[:0])).hidden.shape[0] == 0


@torch.no_grad()
def test_what_sees_what() -> None:
    """CLIP sees what came before; T5 sees no padding; latent diffusion's encoder sees all."""
    model = clip()
    randomise(model)
    later = CLIP_TOKENS.ids.clone()
    later[0, 5:] = 3
    changed = model(Tokens(later, CLIP_TOKENS.mask))
    assert torch.equal(changed.hidden[:, :5], model(CLIP_TOKENS).hidden[:, :5])
    assert torch.equal(changed.pooled, model(CLIP_TOKENS).pooled)

    encoder = t5()
    randomise(encoder)
    short = encoder(Tokens(T5_TOKENS.ids[:, :4], T5_TOKENS.mask[:, :4])).hidden
    torch.testing.assert_close(encoder(T5_TOKENS).hidden[:, :4], short, rtol=1e-5, atol=1e-5)

    sees = bert()
    randomise(sees)
    padded = BERT_TOKENS.ids.clone()
    padded[0, -1] = 1
    assert not torch.allclose(sees(Tokens(padded, BERT_TOKENS.mask)).hidden[:, 0], sees(BERT_TOKENS).hidden[:, 0])


@torch.no_grad()
def test_a_text_of_padding_alone_is_finite() -> None:
    nothing = Tokens(torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.bool))
    model = t5()
    randomise(model)
    assert model(nothing).hidden.isfinite().all()
    assert model.half()(nothing).hidden.isfinite().all()


@torch.no_grad()
def test_t5_takes_texts_of_any_length() -> None:
    model = t5()
    randomise(model)
    assert model(tokens([[3] * 300])).hidden.shape == (1, 300, 32)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """On average within 2e-3 (fp16) and 2e-2 (bf16) of the output's scale."""
    make, given = ENCODERS[name]
    model = make()
    randomise(model)
    exact = model(given)
    half = model.to(dtype)(given)
    for ours, wanted in ((half.hidden, exact.hidden), (half.pooled, exact.pooled)):
        if wanted is not None:
            assert ours.dtype == dtype
            assert ours.isfinite().all()
            error = (ours.float() - wanted).abs().mean() / wanted.abs().max()
            assert error <= (2e-3 if dtype == torch.float16 else 2e-2)


@pytest.mark.parametrize("gate", ["gated-gelu", "relu"])
@torch.no_grad()
def test_t5_does_not_overflow_in_fp16(gate: str) -> None:
    """Feed-forward layers that give more than fp16 holds, as the published ones do; the result is near that of fp32."""
    model = t5(feed_forward_proj=gate)
    randomise(model)
    for block in model.encoder.block:
        block.get_submodule("layer.1.DenseReluDense.wo").weight.mul_(60_000)
    seen: list[float] = []
    model.encoder.final_layer_norm.register_forward_hook(lambda _, given, out: seen.append(given[0].abs().max().item()))
    exact = model(T5_TOKENS).hidden
    assert seen[0] > 65504
    half = model.half()(T5_TOKENS).hidden
    assert half.dtype == torch.float16
    assert (half.float() - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_is_trained(name: str) -> None:
    """But for two that change nothing: what all keys have in common, and the head that predicted words."""
    make, given = ENCODERS[name]
    model = make(architectures=PROJECTED) if name == "CLIPText" else make()
    randomise(model)
    out: TextEmbeds = model.train()(given)
    loss = out.hidden.square().sum() + (out.pooled.square().sum() if out.pooled is not None else 0)
    loss.backward()
    for key, parameter in model.named_parameters():
        if key.startswith("to_logits"):
            assert parameter.grad is None
        elif key.endswith("k_proj.bias"):
            assert parameter.grad is not None
        else:
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-4, key


@pytest.mark.parametrize(("name", "config"), [("T5Encoder", {"dropout_rate": 0.5}), ("LDMBert", {"dropout": 0.5}),
    ("LDMBert", {"dropout": 0.0, "attention_dropout": 0.5}), ("LDMBert", {"dropout": 0.0, "activation_dropout": 0.5}),
    ("CLIPText", {"attention_dropout": 0.5})])  # fmt: skip
@torch.no_grad()
def test_dropout_is_for_training(name: str, config: dict[str, Any]) -> None:
    make, given = ENCODERS[name]
    model = make(**config)
    randomise(model)
    assert torch.equal(model(given).hidden, model(given).hidden)
    model.train()
    assert not torch.equal(model(given).hidden, model(given).hidden)


def changed(given: Tokens, **parts: Tensor) -> Tokens:
    return given._replace(**parts)


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_that_do_not_fit(name: str) -> None:
    make, given = ENCODERS[name]
    model = make()
    wrong = [
        (changed(given, ids=given.ids[0]), "ids \\["),
        (changed(given, mask=given.mask[:, :3]), "for both"),
        (changed(given, ids=given.ids.int()), "expected torch.int64 and torch.bool"),
        (changed(given, mask=given.mask.long()), "expected torch.int64 and torch.bool"),
        (changed(given, ids=given.ids + 1000), "this encoder knows 0 to"),
        (changed(given, ids=given.ids - 100), "this encoder knows 0 to"),
    ]
    if name != "T5Encoder":
        wrong.append((Tokens(given.ids[:, :4], given.mask[:, :4]), f"takes \\[B, {given.ids.shape[1]}\\] for both"))
    for tokens_, message in wrong:
        with pytest.raises(PortError, match=message) as caught:
            model(tokens_)
        assert str(caught.value).startswith("tokens: ")


def test_a_text_without_its_end() -> None:
    with pytest.raises(PortError, match="no end token"):
        clip()(tokens([[48, 3, 7, 11, 3, 3, 3, 3]]))


@pytest.mark.parametrize(
    ("part", "published", "message"),
    [
        (CLIPText, {"hidden_act": "relu"}, "hidden_act"),
        (CLIPText, {"architectures": ["CLIPModel"]}, "architectures"),
        (CLIPText, {"num_attention_heads": 0}, "num_attention_heads"),
        (CLIPText, {"num_heads": 4}, "unknown key"),
        (T5Encoder, {"feed_forward_proj": "gated-silu"}, "feed_forward_proj"),
        (T5Encoder, {"dropout_rate": 1.5}, "dropout_rate"),
        (LDMBert, {"scale_embedding": True}, "scale_embedding"),
        (LDMBert, {"activation_function": "relu"}, "activation_function"),
        (LDMBert, {"encoder_layerdrop": 0.1}, "encoder_layerdrop"),
    ],
)
def test_configs_that_mean_something_else_are_refused(part: Any, published: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        parse_config(fields_of(part.Config), published, ignored=part.ignored, where="config.json")


def test_configs_that_contradict_themselves() -> None:
    with pytest.raises(InputError, match="hidden_size: 32 is not a multiple of 3"):
        clip(num_attention_heads=3)
    for wrong in ({"relative_attention_num_buckets": 30}, {"relative_attention_max_distance": 8}):
        with pytest.raises(InputError, match="relative_attention_num_buckets"):
            t5(**wrong)


@pytest.mark.parametrize("layout", ["new names", "with position_ids", "pickled"])
@torch.no_grad()
def test_published_layouts_of_clip(layout: str, tmp_path: Path) -> None:
    """Newer code has no `text_model.`; older files hold the numbers of the places; most of 2022 are pickles."""
    model = clip()
    randomise(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    if layout == "new names":
        save_file({name.removeprefix("text_model."): tensor for name, tensor in state.items()}, file)
    else:
        state["text_model.embeddings.position_ids"] = torch.arange(8)[None]
        if layout == "pickled":
            torch.save(state, tmp_path / "pytorch_model.bin")
            file.unlink()
        else:
            save_file(state, file)
    again = CLIPText.from_pretrained(tmp_path)
    assert torch.equal(again(CLIP_TOKENS).hidden, model(CLIP_TOKENS).hidden)


@torch.no_grad()
def test_tables_of_t5_by_either_name(tmp_path: Path) -> None:
    model = t5()
    randomise(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    assert "shared.weight" in state and "encoder.embed_tokens.weight" not in state
    table = state.pop("shared.weight")
    for names in (("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")):
        save_file(state | {name: table.clone() for name in names}, file)
        again = T5Encoder.from_pretrained(tmp_path)
        assert again.shared.weight is again.encoder.embed_tokens.weight
        assert torch.equal(again(T5_TOKENS).hidden, model(T5_TOKENS).hidden)


def test_saved_configs_name_their_class(tmp_path: Path) -> None:
    """As transformers writes them: `architectures`, and no `_class_name`."""
    for model, named in (
        (clip(), "CLIPTextModel"), (clip(architectures=PROJECTED), PROJECTED[0]), (t5(), "T5EncoderModel"),
        (bert(), "LDMBertModel"),
    ):  # fmt: skip
        model.save_pretrained(tmp_path / named)
        config = json.loads((tmp_path / named / "config.json").read_text())
        assert config["architectures"] == [named]
        assert "_class_name" not in config
        again = type(model).from_pretrained(tmp_path / named)
        assert again.config == model.config


def test_another_class_is_refused(tmp_path: Path) -> None:
    t5().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="this is a T5EncoderModel; CLIPText wants CLIPTextModel or"):
        CLIPText.from_pretrained(tmp_path)


def test_embeddings_of_ldm_bert_start_small() -> None:
    """As in the original: at the usual standard deviation of 1 positions drown the words, and training is slow."""
    with torch.random.fork_rng():
        model = bert(vocab_size=2000)
    for table in (model.model.embed_tokens, model.model.embed_positions):
        assert table.weight.std().item() == pytest.approx(0.02, rel=0.15)
