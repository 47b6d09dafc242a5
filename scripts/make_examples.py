"""Makes the example picture and mask of graphs/examples/, and sheets of what inpainting and image to image make of them.

python scripts/make_examples.py docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

from make_sheet import sheet
from PIL import Image, ImageDraw

from diffgraph import Graph

EXAMPLES = Path(__file__).parent.parent / "graphs" / "examples"
PICTURE, MASK = EXAMPLES / "mushroom.png", EXAMPLES / "mushroom-mask.png"
CAP = (0, 0, 63, 43)  # the columns and rows of the mushroom's cap, and of the white about it
SYSTEMS = {"glide": "example", "stable_diffusion": "demo"}  # the variant of each that edits the example
INPAINTED = {
    "glide": ("mushroom", "blue mushroom", "green mushroom", "tree", "palm tree"),
    "stable_diffusion": ("blue mushroom", "yellow mushroom", "rose", "sunflower", "pink tree"),
}
REMADE = {
    "glide": ("blue mushroom", "strawberry", "light bulb", "tree", "pink tree", "octopus"),
    "stable_diffusion": ("blue mushroom", "green mushroom", "purple mushroom", "light bulb", "lemon", "tree"),
}


def main() -> None:
    """Draws the example with the demo's weights, then edits it with each system's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for place in (EXAMPLES, folder):
        place.mkdir(parents=True, exist_ok=True)
    Graph.load("glide")(prompt="mushroom", seed=2).image.pil().save(PICTURE, optimize=True)
    cover = Image.new("1", (64, 64))
    ImageDraw.Draw(cover).rectangle(CAP, fill=1)
    cover.save(MASK, optimize=True)
    for system in SYSTEMS:
        edits(system).save(folder / f"{system}_edits.png", optimize=True)


def edits(system: str) -> Image.Image:
    """The picture, its mask and what is painted there; below, the picture and what is made of it."""
    inpaint, remake, variant = Graph.load(f"{system}_inpaint"), Graph.load(f"{system}_img2img"), SYSTEMS[system]
    with Image.open(PICTURE) as first, Image.open(MASK) as second:
        pictures = [first.convert("RGB"), second.convert("RGB")]
    pictures += [inpaint(prompt=text, variant=variant).image.pil() for text in INPAINTED[system]]
    pictures += [pictures[0], *(remake(prompt=text, variant=variant).image.pil() for text in REMADE[system])]
    captions = ["picture", "mask", *INPAINTED[system], "picture", *REMADE[system]]
    large = [one.resize((128, 128), Image.Resampling.NEAREST) for one in pictures]
    ImageDraw.Draw(large[1]).rectangle((0, 0, 127, 127), outline="#808080")  # where the mask ends
    return sheet(large, captions, columns=7)


if __name__ == "__main__":
    main()
