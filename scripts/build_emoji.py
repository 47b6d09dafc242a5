"""Builds the demo's data set: emoji drawings by name, from six open sets, plain and recoloured, 64 x 64 RGB on white.

    python scripts/build_emoji.py FOLDER [--all]    (needs npm and `pip install -e ".[train]"`)

The set has 144 names, with --all 312. Writes FOLDER/train, FOLDER/unseen and FOLDER/plain, each a folder of PNG files with a `metadata.jsonl` of
{file_name, text, name, style, colour, weight}, the Hub's image-folder convention. `unseen` holds the pairs of a colour
and an object that training never sees, `plain` the drawings of three styles as they are. Drawings and their licences:

    noto, noto-v1        Google            Apache-2.0
    fluent-emoji-flat    Microsoft         MIT
    twemoji              Twitter, jdecked  CC-BY-4.0
    emojione             EmojiTwo          CC-BY-4.0
    fxemoji              Mozilla           Apache-2.0, artwork CC-BY-4.0
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STYLES = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "twemoji": "1.2.5",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
}
PLAIN = ("noto", "noto-v1", "fluent-emoji-flat")
FLAT = ("fluent-emoji-flat",)
COLOURS = {
    "red": (222, 38, 38),
    "orange": (250, 134, 16),
    "yellow": (248, 208, 24),
    "green": (52, 160, 58),
    "blue": (38, 98, 224),
    "purple": (128, 50, 176),
    "pink": (250, 112, 182),
}

# A caption, and the icons that draw it, the first one that a set has; hyphens do not count. None: the caption itself.
NAMES: dict[str, str] = {
    # animals
    "bear": "bear-face bear", "bee": "honeybee", "bird": "", "butterfly": "", "cat": "cat-face cat",
    "chick": "front-facing-baby-chick frontfacingchick", "cow": "cow-face", "crab": "", "dog": "dog-face dog",
    "dolphin": "", "duck": "", "elephant": "", "fish": "", "fox": "fox-face fox", "frog": "frog-face frog",
    "ladybug": "lady-beetle", "lion": "lion-face lion", "monkey": "monkey-face", "mouse": "mouse-face mouse",
    "octopus": "", "owl": "", "panda": "panda-face panda", "penguin": "", "pig": "pig-face pig",
    "rabbit": "rabbit-face bunny", "snail": "", "snake": "", "spider": "", "tiger": "tiger-face tiger", "turtle": "",
    "unicorn": "unicorn-face unicorn", "whale": "",
    # plants, weather, sky
    "cactus": "", "cloud": "", "clover": "four-leaf-clover", "crescent moon": "", "fire": "",
    "lightning": "high-voltage", "mountain": "snow-capped-mountain snow-mountains", "mushroom": "", "palm tree": "",
    "pine tree": "evergreen-tree evergreen", "rainbow": "", "raindrop": "droplet", "rose": "", "snowflake": "",
    "snowman": "snowman-without-snow", "star": "", "sun": "sun-with-face", "sunflower": "", "tree": "deciduous-tree",
    "volcano": "",
    # food
    "avocado": "", "banana": "", "beer": "beer-mug", "burger": "hamburger", "cake": "birthday-cake", "carrot": "",
    "cheese": "cheese-wedge", "cherries": "", "coffee": "hot-beverage", "cookie": "",
    "corn": "ear-of-corn ear-of-maize", "doughnut": "", "egg": "", "eggplant": "eggplant aubergine",
    "french fries": "", "grapes": "", "green apple": "", "ice cream": "soft-ice-cream", "lemon": "", "lollipop": "",
    "peach": "", "pear": "", "pepper": "hot-pepper chili-pepper", "pineapple": "", "pizza": "pizza slice-of-pizza",
    "popcorn": "", "red apple": "", "strawberry": "", "watermelon": "", "wine": "wine-glass",
    # vehicles and places
    "airplane": "", "ambulance": "", "bicycle": "", "bus": "", "car": "automobile", "helicopter": "",
    "house": "house house-building", "rocket": "", "sailboat": "", "tractor": "",
    "train": "locomotive steam-locomotive",
    # things
    "alarm clock": "", "alien": "", "anchor": "", "backpack": "backpack school-satchel", "balloon": "",
    "basketball": "", "bell": "", "bomb": "", "book": "closed-book", "boot": "womans-boot boot", "camera": "",
    "candle": "", "crown": "", "diamond": "gem-stone gem", "door": "", "dress": "", "eye": "", "footprints": "",
    "ghost": "", "gift": "wrapped-gift present", "guitar": "", "hammer": "", "hat": "top-hat",
    "headphones": "headphone", "heart": "red-heart", "hourglass": "hourglass-not-done hourglass-done hourglass",
    "jeans": "", "key": "", "light bulb": "", "lips": "mouth", "lock": "locked lock",
    "magnifying glass": "magnifying-glass-tilted-left left-magnifying-glass", "money bag": "", "musical note": "",
    "pencil": "", "phone": "mobile-phone cellphone", "pumpkin": "jack-o-lantern", "ring": "",
    "robot": "robot robot-face", "saxophone": "", "scissors": "scissors black-scissors",
    "shirt": "t-shirt mans-shirt", "shoe": "running-shoe mens-runner", "skull": "", "soccer ball": "",
    "sunglasses": "sunglasses dark-sunglasses", "sword": "dagger dagger-knife", "television": "", "trophy": "",
    "umbrella": "umbrella-with-rain-drops", "wrench": "",
}  # fmt: skip

# The larger set (--all) has these besides.
MORE_NAMES: dict[str, str] = {
    "ant": "", "bat": "", "camel": "two-hump-camel", "chicken": "", "crocodile": "", "deer": "", "dragon": "",
    "eagle": "", "goat": "", "gorilla": "", "hamster": "hamster hamster-face", "horse": "horse-face", "koala": "",
    "lizard": "", "ox": "", "parrot": "", "peacock": "", "poodle": "", "rhinoceros": "", "rooster": "",
    "scorpion": "", "shark": "", "sheep": "ewe sheep", "sloth": "", "squid": "", "swan": "", "tropical fish": "",
    "turkey": "", "wolf": "wolf wolf-face", "zebra": "", "flamingo": "", "giraffe": "", "hedgehog": "",
    "hippo": "hippopotamus", "kangaroo": "", "t-rex": "t-rex", "blossom": "", "bouquet": "", "christmas tree": "",
    "hibiscus": "", "maple leaf": "", "seedling": "", "tornado": "", "tulip": "", "water wave": "", "full moon": "",
    "rain cloud": "cloud-with-rain", "storm cloud": "cloud-with-lightning", "shell": "spiral-shell",
    "globe": "globe-showing-americas", "bacon": "", "baguette": "baguette-bread", "bread": "", "burrito": "",
    "candy": "", "chicken leg": "poultry-leg", "cocktail": "cocktail-glass", "croissant": "", "cucumber": "",
    "fried shrimp": "", "honey pot": "", "hot dog": "hot-dog", "kiwi": "kiwi-fruit", "melon": "",
    "milk": "glass-of-milk", "pancakes": "", "potato": "", "salad": "green-salad", "spaghetti": "", "sushi": "",
    "taco": "", "tomato": "", "sandwich": "", "pretzel": "", "cupcake": "", "broccoli": "", "waffle": "",
    "bullet train": "", "canoe": "", "castle": "", "church": "", "circus tent": "", "factory": "", "fire engine": "",
    "motorcycle": "", "police car": "", "racing car": "", "satellite": "", "ship": "", "tent": "", "tram": "tram-car",
    "mosque": "", "american football": "", "artist palette": "", "axe": "", "baseball": "", "bathtub": "",
    "battery": "", "bed": "", "bow and arrow": "bow-and-arrow", "bowling": "", "boxing glove": "", "briefcase": "",
    "broom": "", "bucket": "", "coin": "", "computer": "desktop-computer", "crystal ball": "", "die": "game-die",
    "drum": "", "ear": "", "envelope": "", "floppy disk": "", "fuel pump": "", "game pad": "video-game", "gear": "",
    "glasses": "", "handbag": "", "high heel": "high-heeled-shoe", "lantern": "red-paper-lantern",
    "laptop": "laptop laptop-computer", "lipstick": "", "magnet": "", "mailbox": "closed-mailbox-with-raised-flag",
    "megaphone": "", "microscope": "", "moai": "", "nose": "", "paintbrush": "", "piano": "musical-keyboard",
    "pill": "", "ping pong": "", "pistol": "pistol water-pistol", "pushpin": "", "radio": "", "ribbon": "",
    "sandal": "womans-sandal", "scarf": "", "screwdriver": "", "shield": "", "shopping cart": "", "socks": "",
    "speaker": "speaker-high-volume", "speech balloon": "", "spider web": "", "spoon": "", "syringe": "",
    "teddy bear": "", "telephone": "", "telescope": "", "tennis": "", "thermometer": "", "ticket": "",
    "tie": "necktie", "toilet": "", "tooth": "", "traffic light": "vertical-traffic-light", "trumpet": "",
    "violin": "", "watch": "", "brain": "", "bone": "", "purse": "", "dart board": "direct-hit", "poo": "pile-of-poo",
    "santa": "santa-claus", "broken heart": "", "flashlight": "",
}  # fmt: skip

# Drawings that show something else than the other styles do.
APART = {
    ("basketball", "noto-v1"), ("basketball", "emojione"), ("basketball", "fxemoji"), ("bird", "fxemoji"),
    ("mountain", "emojione"), ("rainbow", "noto-v1"), ("rose", "noto-v1"), ("sunglasses", "fxemoji"),
    ("bat", "fxemoji"), ("computer", "fxemoji"), ("die", "fxemoji"), ("ship", "fxemoji"), ("tennis", "emojione"),
    ("tent", "emojione"), ("tent", "fxemoji"), ("tornado", "fxemoji"), ("tram", "fxemoji"),
}  # fmt: skip

# Colour and object together are never seen in training; each word is, with others.
UNSEEN = {
    "red": "frog banana turtle whale key pear bell",
    "orange": "mouse snake book dress snowman butterfly airplane",
    "yellow": "pig rabbit heart snail whale grapes rose",
    "green": "dog heart car bear guitar house umbrella",
    "blue": "lion strawberry tiger pumpkin crab carrot mushroom fox",
    "purple": "cat frog star bus chick shoe corn",
    "pink": "rocket cactus car elephant penguin tree lemon",
}
RECOLOURED = 0.1  # how often a recoloured drawing is seen for each time that the plain one is
UNSEEN_PAIRS = tuple(f"{colour} {noun}" for colour, nouns in UNSEEN.items() for noun in nouns.split())


@dataclass(frozen=True)
class Drawing:
    name: str
    style: str
    pixels: np.ndarray  # uint8 [64, 64, 4], straight alpha


def icons(style: str, folder: Path) -> dict[str, Any]:
    """The icon set of a style, fetched from npm."""
    package = f"@iconify-json/{style}@{STYLES[style]}"
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(folder / f"iconify-json-{style}-{STYLES[style]}.tgz") as archive:
        member = archive.extractfile("package/icons.json")
        if member is None:
            raise SystemExit(f"{package}: no icons.json inside")
        return dict(json.load(member))


def svg(found: dict[str, Any], wanted: str) -> str | None:
    """The first of the wanted icons that a set has, as an SVG document."""
    by_name = {name.replace("-", ""): name for name in [*found.get("aliases", {}), *found["icons"]]}
    for word in wanted.split():
        name = by_name.get(word.replace("-", ""))
        while name in found.get("aliases", {}):
            name = found["aliases"][name]["parent"]
        if name is not None:
            icon = found["icons"][name]
            keys = (("left", 0), ("top", 0), ("width", 16), ("height", 16))
            box = " ".join(str(icon.get(key, found.get(key, default))) for key, default in keys)
            spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'
    return None


def render(document: str, size: int = 64) -> np.ndarray:
    """An SVG as straight RGBA, drawn eight times larger, fitted to a square with a margin of 3%, and averaged down."""
    import resvg_py

    data = bytes(resvg_py.svg_to_bytes(svg_string=document, width=8 * size))
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA").convert("RGBa"), dtype=np.float32)
    rows, columns = np.nonzero(image[..., 3] > 8)
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = image.shape[:2]
    inner = size - 4
    scale = inner / max(height, width)
    fitted = Image.fromarray(image.astype(np.uint8), "RGBa").resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
    )
    out = Image.new("RGBa", (size, size))
    out.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return np.asarray(out.convert("RGBA"))


def on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def recolour(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Maps lightness onto black - colour - white, so that the drawing's middle lightness becomes the colour itself."""
    rgb, alpha = pixels[..., :3].astype(np.float32) / 255, pixels[..., 3:]
    light = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    middle = float(np.clip(np.median(light[alpha[..., 0] > 128]), 0.3, 0.8))
    target = np.array(COLOURS[colour], np.float32) / 255
    below = (light / middle)[..., None] * target
    above = target + (((light - middle) / (1 - middle))[..., None]) * (1 - target)
    mapped = np.where((light <= middle)[..., None], below, above)
    return np.concatenate([np.round(mapped * 255).clip(0, 255).astype(np.uint8), alpha], axis=-1)


def drawings(folder: Path, names: dict[str, str]) -> list[Drawing]:
    out = []
    for style in STYLES:
        found = icons(style, folder)
        for name, wanted in names.items():
            document = None if (name, style) in APART else svg(found, wanted or name.replace(" ", "-"))
            if document is not None:
                out.append(Drawing(name, style, render(document)))
    return out


def variants(name: str, split: str) -> list[tuple[str, str, float]]:
    """(colour, caption, weight) of a drawing in a split; the plain drawing has no colour."""
    noun = name.removeprefix("red ").removeprefix("green ")
    out = [] if split == "unseen" else [("", name, 1.0)]
    if split != "plain" and name != "green apple":  # it is what recolouring the red one gives
        captions = [(colour, f"{colour} {noun}") for colour in COLOURS if f"{colour} {noun}" not in NAMES]
        out += [
            (colour, text, RECOLOURED) for colour, text in captions if (text in UNSEEN_PAIRS) == (split == "unseen")
        ]
    return out


def write(found: list[Drawing], split: str, folder: Path) -> int:
    """Writes the images and the metadata of a split; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for drawing in found:
        for colour, text, weight in variants(drawing.name, split):
            pixels = recolour(drawing.pixels, colour) if colour else drawing.pixels
            file_name = "-".join(filter(None, [colour, drawing.name.replace(" ", "_"), drawing.style])) + ".png"
            Image.fromarray(on_white(pixels)).save(folder / file_name)
            row = {"file_name": file_name, "text": text, "name": drawing.name, "style": drawing.style}
            lines.append(json.dumps({**row, "colour": colour, "weight": weight}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="the larger set of names")
    given = parser.parse_args()
    folder: Path = given.folder
    with tempfile.TemporaryDirectory() as scratch:
        found = drawings(Path(scratch), {**NAMES, **MORE_NAMES} if given.all else NAMES)
    names = {drawing.name for drawing in found}
    counts = {split: write(found, split, folder / split) for split in ("train", "unseen")}
    for split, styles in (("plain", PLAIN), ("flat", FLAT)):
        counts[split] = write([drawing for drawing in found if drawing.style in styles], "plain", folder / split)
    print(f"{folder}: {len(names)} names, {len(found)} drawings; images: {counts}")


if __name__ == "__main__":
    main()
