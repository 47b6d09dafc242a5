"""The text encoders beside transformers' and diffusers' own: the same published files, the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from diffgraph.nodes.kinds import TextEmbeds, Tokens
from diffgraph.nodes.models.clip_text import CLIPText
from diffgraph.nodes.models.ldm_bert import LDMBert
from diffgraph.nodes.models.t5_encoder import T5Encoder, bucket

from ..fill import randomise
from ..nodes.test_text_encoders import BASE, L14, OPEN_H, SMALL_BERT, SMALL_CLIP, SMALL_T5
from ..parity import agree

CLIP: Any = CLIPTextModel
Projected: Any = CLIPTextModelWithProjection
T5: Any = T5EncoderModel
WholeT5: Any = T5ForConditionalGeneration
Bert: Any = LDMBertModel

# What the published configs say, over sizes that are small.
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")
CLIPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "L/14": (CLIP, SMALL_CLIP | {key: value for key, value in L14.items() if key not in SIZES}),
    "L/14 with projection": (Projected, SMALL_CLIP | {"eos_token_id": 49}),
    "OpenCLIP H": (CLIP, SMALL_CLIP | {key: value for key, value in OPEN_H.items() if key not in SIZES}),
    "OpenCLIP with projection": (Projected, SMALL_CLIP | {"hidden_act": "gelu", "num_hidden_layers": 3}),
}
T5S: dict[str, dict[str, Any]] = {
    "v1.1": SMALL_T5,
    "original": SMALL_T5 | {"feed_forward_proj": "relu"},
    "other buckets": SMALL_T5 | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "d_kv": 8},
}


def given(length: int, vocabulary: int, rows: int = 3) -> Tokens:
    """Texts of several lengths, each with a start, an end (the largest id) and padding."""
    ids = torch.randint(2, vocabulary - 2, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids).bool()
    for row, end in enumerate(range(length - 1, length - 1 - 2 * rows, -2)):
        ids[row, 0], ids[row, end], ids[row, end + 1 :], mask[row, end + 1 :] = vocabulary - 2, vocabulary - 1, 0, False
    return Tokens(ids, mask)


def saved(peer: Any, folder: Path, **how: Any) -> Any:
    """The peer with random weights, none zero, and what it publishes."""
    randomise(peer)
    peer.save_pretrained(folder, **how)
    return peer.eval()


def config_of(peer: str, config: dict[str, Any]) -> Any:
    makers: dict[str, Any] = {"clip": CLIPTextConfig, "t5": T5Config, "bert": LDMBertConfig}
    return makers[peer](**config)


@pytest.mark.parametrize("name", CLIPS)
@torch.no_grad()
def test_clip(name: str, tmp_path: Path) -> None:
    maker, config = CLIPS[name]
    peer = saved(maker(config_of("clip", config)), tmp_path / "theirs")
    model = CLIPText.from_pretrained(tmp_path / "theirs")
    tokens = given(8, 50)
    theirs = peer(tokens.ids, output_hidden_states=True)
    ours = model(tokens)
    pooled = theirs.text_embeds if maker is Projected else theirs.pooler_output
    label = f"transformers {maker.__name__}"
    agree("CLIPText", label, ours.hidden, theirs.last_hidden_state, what=name)
    agree("CLIPText", label, ours.pooled, pooled, what=f"{name}, pooled")
    norm = (peer.text_model if maker is Projected else peer).final_layer_norm
    agree("CLIPText", label, model(tokens, skip=1).hidden, norm(theirs.hidden_states[-2]), what=f"{name}, skip 1")

    model.save_pretrained(tmp_path / "ours")
    back, info = maker.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(back(tokens.ids).last_hidden_state, theirs.last_hidden_state)
    ours_config, theirs_config = (json.loads((tmp_path / at / "config.json").read_text()) for at in ("ours", "theirs"))
    assert ours_config == theirs_config


@pytest.mark.parametrize("name", T5S)
@torch.no_grad()
def test_t5(name: str, tmp_path: Path) -> None:
    """Where a text is; what comes out for its padding means nothing, and is the same all the same."""
    peer = saved(T5(config_of("t5", T5S[name])), tmp_path / "theirs")
    model = T5Encoder.from_pretrained(tmp_path / "theirs")
    for length in (8, 150):
        tokens = given(length, 50)
        theirs = peer(tokens.ids, attention_mask=tokens.mask).last_hidden_state
        agree("T5Encoder", "transformers T5EncoderModel", model(tokens).hidden, theirs, what=name)

    model.save_pretrained(tmp_path / "ours")
    back, info = T5.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(back(tokens.ids, attention_mask=tokens.mask).last_hidden_state, theirs)
    ours_config, theirs_config = (json.loads((tmp_path / at / "config.json").read_text()) for at in ("ours", "theirs"))
    assert ours_config == theirs_config


@torch.no_grad()
def test_t5_in_shards(tmp_path: Path) -> None:
    peer = saved(T5(config_of("t5", SMALL_T5)), tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    tokens = given(8, 50)
    theirs = peer(tokens.ids, attention_mask=tokens.mask).last_hidden_state
    ours = T5Encoder.from_pretrained(tmp_path)(tokens).hidden
    agree("T5Encoder", "transformers T5EncoderModel", ours, theirs, what="shards")


@torch.no_grad()
def test_the_encoder_of_a_whole_t5(tmp_path: Path) -> None:
    """google/t5-v1_1-* are published with their decoders; what we save of them is an encoder."""
    peer = saved(WholeT5(config_of("t5", SMALL_T5 | {"tie_word_embeddings": False})), tmp_path / "theirs")
    model = T5Encoder.from_pretrained(tmp_path / "theirs")
    tokens = given(8, 50)
    theirs = peer.encoder(tokens.ids, attention_mask=tokens.mask).last_hidden_state
    agree("T5Encoder", "transformers T5ForConditionalGeneration", model(tokens).hidden, theirs, what="of a whole T5")
    model.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["T5EncoderModel"]
    back = T5.from_pretrained(tmp_path / "ours")
    assert torch.equal(back(tokens.ids, attention_mask=tokens.mask).last_hidden_state, theirs)


def test_buckets_are_the_peers() -> None:
    """At every distance up to 2000, for the published numbers of buckets."""
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(-2000, 2001)
    theirs = T5Attention._relative_position_bucket(places, num_buckets=32, max_distance=128)
    assert [bucket(place, 32, 128) for place in places.tolist()] == theirs.tolist()


@torch.no_grad()
def test_ldm_bert(tmp_path: Path) -> None:
    peer = saved(
        Bert(config_of("bert", SMALL_BERT | {"encoder_attention_heads": 3, "head_dim": 8})), tmp_path / "theirs"
    )
    model = LDMBert.from_pretrained(tmp_path / "theirs")
    tokens = given(7, 40)
    theirs = peer(tokens.ids, return_dict=True).last_hidden_state
    agree("LDMBert", "diffusers LDMBertModel", model(tokens).hidden, theirs)

    model.save_pretrained(tmp_path / "ours")
    back, info = Bert.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(back(tokens.ids, return_dict=True).last_hidden_state, theirs)
    ours_config, theirs_config = (json.loads((tmp_path / at / "config.json").read_text()) for at in ("ours", "theirs"))
    assert ours_config == theirs_config


PAIRS: dict[str, tuple[Any, Any, Tokens]] = {
    "CLIPText": (lambda: CLIP(config_of("clip", CLIPS["L/14"][1])), CLIPText, given(8, 50)),
    "T5Encoder": (lambda: T5(config_of("t5", SMALL_T5)), T5Encoder, given(8, 50)),
    "LDMBert": (lambda: Bert(config_of("bert", SMALL_BERT)), LDMBert, given(7, 40)),
}


def hidden(model: Any, tokens: Tokens) -> Any:
    """Of ours, or of the peer, which is told of padding only where ours looks at it."""
    if isinstance(model, CLIPText | T5Encoder | LDMBert):
        out: TextEmbeds = model(tokens)
        return out.hidden
    mask = {"attention_mask": tokens.mask} if isinstance(model, T5EncoderModel) else {}
    return model(tokens.ids, return_dict=True, **mask).last_hidden_state


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_the_peers(name: str, tmp_path: Path) -> None:
    """One backward pass: the gradient of every tensor, to 1e-5 of the largest of any."""
    make, ours, tokens = PAIRS[name]
    peer = saved(make(), tmp_path)
    model = ours.from_pretrained(tmp_path)
    for part in (peer, model):
        hidden(part, tokens)[tokens.mask].square().mean().backward()
    expected = {key.removeprefix("text_model."): p.grad for key, p in peer.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in expected.values() if grad is not None)
    for key, p in model.named_parameters():
        theirs = expected[key.removeprefix("text_model.")]
        assert (p.grad is None) == (theirs is None), key
        assert theirs is None or (p.grad - theirs).abs().max() <= 1e-5 * largest, key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_half_precision_as_near_as_the_peers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Ours is no further from fp32 than 1.2 times the peer's."""
    make, ours, tokens = PAIRS[name]
    peer = saved(make(), tmp_path)
    exact = hidden(peer, tokens)
    theirs = (hidden(type(peer).from_pretrained(tmp_path, dtype=dtype), tokens).float() - exact).abs().mean()
    error = (hidden(ours.from_pretrained(tmp_path, dtype=dtype), tokens).float() - exact).abs().mean()
    assert error <= 1.2 * theirs


def test_a_published_t5_config_is_read() -> None:
    """google/t5-v1_1-base, with all that such files say besides."""
    from diffgraph.weights.config import fields_of, parse_config

    published = T5Config(**BASE, is_encoder_decoder=True).to_dict() | {"architectures": ["T5ForConditionalGeneration"]}
    values = parse_config(fields_of(T5Encoder.Config), published, ignored=T5Encoder.ignored, where="config.json")
    assert values["d_ff"] == 2048
