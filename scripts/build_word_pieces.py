"""Makes a word-piece vocabulary from the captions of a data set, for a text encoder that is trained with it.

python scripts/build_word_pieces.py data/emoji/train graphs/weights/ldm-demo/tokenizer --length 16
"""

from __future__ import annotations

import argparse
import json
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffgraph.nodes.text.bert_tokenizer import BertTokenizer, BertTokenizerConfig, backend

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # padding has the id 0, as in BERT


def word_pieces(captions: Sequence[str], length: int) -> BertTokenizer:
    """A tokenizer that reads each word of the captions as one piece, the commonest first, and others letter by letter.

    Its rows have `length` ids.
    """
    words = Counter(word for caption in captions for word in caption.lower().split())
    letters = sorted({*string.ascii_lowercase, *string.digits, *"".join(words)})
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word, _ in sorted(words.items(), key=lambda entry: (-entry[1], entry[0])) if len(word) > 1]
    config = BertTokenizerConfig(model_max_length=length)
    return BertTokenizer(config, backend(config, {piece: number for number, piece in enumerate(pieces)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with metadata.jsonl")
    parser.add_argument("folder", type=Path, help="where the tokenizer goes")
    parser.add_argument("--length", type=int, default=16, help="of a row of ids")
    given = parser.parse_args()
    lines = (given.data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = word_pieces([json.loads(line)["text"] for line in lines], given.length)
    given.folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(given.folder)
    print(f"{tokenizer.vocab_size} word pieces")


if __name__ == "__main__":
    main()
