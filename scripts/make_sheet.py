"""Makes a sheet of pictures, one a prompt, with a shipped graph: the picture at the top of the README, and of systems.

python scripts/make_sheet.py docs/images/sheet.png
python scripts/make_sheet.py docs/images/imagen.png --graph imagen
python scripts/make_sheet.py sheet.png --weights runs/glide --seed 3 "blue whale" "green dog"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffgraph import Graph

PROMPTS = (
    "red apple", "strawberry", "lemon", "watermelon", "pineapple", "mushroom",
    "green dog", "pink rocket", "red frog", "purple cat", "yellow pig", "purple star",  # never seen in training
    "cat", "penguin", "owl", "bee", "octopus", "turtle",
    "sun", "rainbow", "cactus", "burger", "light bulb", "sailboat",
)  # fmt: skip
MARGIN, CAPTION = 6, 14


def sheet(pictures: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """Pictures of one size in rows, on white, each with its caption below."""
    width, height = pictures[0].width + 2 * MARGIN, pictures[0].height + 2 * MARGIN + CAPTION
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=10)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = number % columns * width, number // columns * height
        out.paste(picture, (left + MARGIN, top + MARGIN))
        middle = left + width / 2
        draw.text((middle, top + MARGIN + picture.height + 2), caption, fill="#404040", font=font, anchor="ma")
    return out


def main() -> None:
    """Runs the graph once for each prompt."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--graph", default="glide", help="any that takes a prompt and makes a picture")
    parser.add_argument("--weights", help="a folder, in place of the shipped ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=6)
    arguments = parser.parse_args()
    graph = Graph.load(arguments.graph)
    given = {"seed": arguments.seed} | ({"weights": arguments.weights} if arguments.weights else {})
    pictures = [graph(prompt=prompt, **given).image.pil() for prompt in arguments.prompts]
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures, list(arguments.prompts), arguments.columns).save(arguments.file, optimize=True)


if __name__ == "__main__":
    main()
