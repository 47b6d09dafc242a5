"""Makes a byte-level BPE vocabulary from the captions of a data set, for a model that reads its own tokens (GLIDE).

python scripts/build_bpe.py data/emoji312/train runs/bpe --length 16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from diffgraph.nodes.text.tokenizer import Tokenizer

END = "<|endoftext|>"


def byte_pairs(captions: Sequence[str], size: int) -> Backend:
    """`size` tokens: the end of a text, the 256 bytes, then the pairs that the captions hold most often."""
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(sorted(set(captions)), trainer)
    return backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with metadata.jsonl")
    parser.add_argument("folder", type=Path, help="where the tokenizer goes")
    parser.add_argument("--size", type=int, default=896, help="of the vocabulary")
    parser.add_argument("--length", type=int, default=16, help="of a row of ids")
    given = parser.parse_args()
    lines = (given.data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    backend = byte_pairs([json.loads(line)["text"] for line in lines], given.size)
    given.folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(given.folder / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": given.length, "do_lower_case": True}
    config |= {"add_prefix_space": True, "eos_token": END, "add_bos_token": False, "add_eos_token": False}
    (given.folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    Tokenizer.from_pretrained(given.folder).save_pretrained(given.folder)
    print(f"{backend.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
