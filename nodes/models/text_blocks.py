"""What the text encoders share: the checks of their tokens, and keys of published configs that change nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import PortError
from ..kinds import Tokens

# What transformers writes into every config: how texts are generated, how outputs are packed, how training began.
LIBRARY_KEYS = frozenset(
    (
        "add_cross_attention",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "init_std",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "n_positions",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_decoder_layers",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "top_k",
        "top_p",
        "torchscript",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    )
)


def checked_tokens(
    tokens: Tokens, vocabulary: int, device: torch.device, *, length: int | None
) -> tuple[Tensor, Tensor]:
    """The ids and the mask [B, L] of tokens, on this device.

    vocabulary: how many ids the encoder knows. length: what L must be, None is any. Raises PortError where the tokens
    have another shape or dtype, or an id that the encoder does not know.
    """
    ids, mask = tokens.ids, tokens.mask
    if ids.ndim != 2 or ids.shape[1] != (length or ids.shape[1] or 1) or mask.shape != ids.shape:
        wanted = f"[B, {length or 'L'}]"
        raise PortError(
            "tokens",
            f"ids {list(ids.shape)} and mask {list(mask.shape)}; this encoder takes {wanted} for both",
            hint=f"set model_max_length: {length} at the tokenizer" if length else "wire what a tokenizer gives",
        )
    if ids.dtype != torch.int64 or mask.dtype != torch.bool:
        raise PortError("tokens", f"ids are {ids.dtype} and mask {mask.dtype}; expected torch.int64 and torch.bool")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise PortError(
            "tokens",
            f"ids run from {int(ids.min())} to {int(ids.max())}; this encoder knows 0 to {vocabulary - 1}",
            hint="use the tokenizer of the encoder's own repository",
        )
    return ids.to(device), mask.to(device)
