"""Makes the example picture and mask of graphs/examples/, and the sheet of what inpainting and image to image make of it.

python scripts/make_examples.py docs/images/glide_edits.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make_sheet import sheet
from PIL import Image, ImageDraw

from diffgraph import Graph

EXAMPLES = Path(__file__).parent.parent / "graphs" / "examples"
CAP = (0, 0, 63, 38)  # the columns and rows of the mushroom's cap, and of the white about it
INPAINTED = ("mushroom", "blue mushroom", "green mushroom", "tree", "palm tree")
REMADE = ("blue mushroom", "umbrella", "light bulb", "tree", "pink tree", "octopus")


def main() -> None:
    """Draws the example with the demo's weights, then edits it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    EXAMPLES.mkdir(exist_ok=True)
    picture, mask = EXAMPLES / "mushroom.png", EXAMPLES / "mushroom-mask.png"
    Graph.load("glide")(prompt="mushroom", seed=0).image.pil().save(picture, optimize=True)
    cover = Image.new("1", (64, 64))
    ImageDraw.Draw(cover).rectangle(CAP, fill=1)
    cover.save(mask, optimize=True)

    inpaint, remake = Graph.load("glide_inpaint"), Graph.load("glide_img2img")
    with Image.open(picture) as first, Image.open(mask) as second:
        pictures = [first.convert("RGB"), second.convert("RGB")]
    pictures += [inpaint(prompt=text, image=picture, mask=mask).image.pil() for text in INPAINTED]
    pictures += [pictures[0], *(remake(prompt=text, image=picture).image.pil() for text in REMADE)]
    captions = ["picture", "mask", *INPAINTED, "picture", *REMADE]
    large = [one.resize((128, 128), Image.Resampling.NEAREST) for one in pictures]
    ImageDraw.Draw(large[1]).rectangle((0, 0, 127, 127), outline="#808080")  # where the mask ends
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    sheet(large, captions, columns=7).save(arguments.file, optimize=True)


if __name__ == "__main__":
    main()
