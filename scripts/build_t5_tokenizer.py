"""Makes a small vocabulary of sentence pieces from the captions of a data set, as T5Tokenizer reads it.

    python scripts/build_t5_tokenizer.py data/emoji/train FOLDER [--length 16]

Writes FOLDER/tokenizer.json, a unigram model (Kudo 2018, arXiv:1804.10959) with T5's numbers for padding, end and
unknown, and FOLDER/tokenizer_config.json. Its pieces are the words of the captions, with the logarithm of their share,
and all letters, rarer than any word, in which it spells the others: a few hundred words are too few to cut into parts.
"""

from __future__ import annotations

import argparse
import json
import math
import string
from collections import Counter
from pathlib import Path

from diffgraph.nodes.data import METADATA, read_metadata

SPECIAL = ("<pad>", "</s>", "<unk>")
BLANK = "▁"


def vocabulary(captions: list[str]) -> list[tuple[str, float]]:
    """Pieces and their scores, the frequent ones first."""
    words = Counter(word for caption in captions for word in caption.split())
    total = sum(words.values())
    scored = [(BLANK + word, math.log(count / total)) for word, count in words.most_common() if len(word) > 1]
    rare = math.log(0.1 / total)
    letters = [(letter, rare) for letter in (BLANK, *string.ascii_lowercase, *string.digits)]
    return [*((name, 0.0) for name in SPECIAL), *scored, *letters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help=f"a folder with {METADATA}")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--length", type=int, default=16, help="tokens of a padded caption, its end among them")
    given = parser.parse_args()
    pieces = vocabulary([row.text.lower() for row in read_metadata(given.data)])
    model = {"type": "Unigram", "unk_id": SPECIAL.index("<unk>"), "vocab": pieces, "byte_fallback": False}
    blank = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    whole = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, blank]},
        "model": model,
    }
    given.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (given.folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": given.length}
    (given.folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    print(f"{len(pieces)} pieces")


if __name__ == "__main__":
    main()
