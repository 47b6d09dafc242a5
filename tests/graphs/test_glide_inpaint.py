"""Inpainting and image to image with GLIDE: beside the algorithm written by hand, from the command line, and the demo."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed
from diffgraph.nodes.images import read_image
from diffgraph.nodes.models.unet_glide import UNetGLIDE
from diffgraph.nodes.text.tokenizer import Tokenizer
from diffgraph.session import Options

from ..engine.lab import Lab
from ..parity import agree
from .conftest import GRAPHS, Cli
from .test_glide import FAST27, cosine_levels, linear_levels

INPAINT, IMG2IMG = GRAPHS / "glide_inpaint.yaml", GRAPHS / "glide_img2img.yaml"
EXAMPLES = GRAPHS / "examples"
CPU = Options(device="cpu")
FEW: dict[str, Any] = {"steps": "6", "upsampler_steps": "4", "prompt": "a cat", "negative_prompt": "blur"}
TEXTS = ("a cat", "blur")
# How a network of epsilon, untrained, answers to another order of sums: after all steps, of images in [-1, 1].
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the large size, and a mask over its right half and a corner, on the grid of the small one."""
    folder = tmp_path_factory.mktemp("scene")
    pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "image.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.paste(255, (0, 12, 4, 16))
    mask.save(folder / "mask.png")
    return folder


def run(tmp_path: Path, weights: Path, scene: Path, **given: Any) -> dict[str, Any]:
    """The outputs of a run of inpainting, and what `show` names besides."""
    show, lab = given.pop("show", ()), Lab(tmp_path)
    files = {"image": scene / "image.png", "mask": scene / "mask.png", "weights": weights}
    return lab.prepare(INPAINT, CPU, show=show, **FEW | files | given).run([lab.events.append])


# --- by hand ---------------------------------------------------------------------------------------------------------


class Original:
    """The published demo of inpainting, in its own terms: a mask of 1 is kept, and both stages keep it so."""

    def __init__(self, folder: Path, scene: Path, *, ddim: bool) -> None:
        self.base, self.upsampler = (UNetGLIDE.from_pretrained(folder / name) for name in ("base", "upsampler"))
        self.tokenizer, self.ddim = Tokenizer.from_pretrained(folder / "base"), ddim
        self.large = read_image((scene / "image.png").read_bytes())
        self.small = F.interpolate(self.large, (8, 8), mode="bicubic", antialias=True).clamp(-1, 1)
        self.small_kept = torch.ones(1, 1, 8, 8)
        self.small_kept[..., 4:] = 0
        self.small_kept[..., 6:, :2] = 0
        self.large_kept = F.interpolate(self.small_kept, (16, 16), mode="nearest")

    def told(self, network: UNetGLIDE, text: str, image: Tensor, kept: Tensor, low_res: Tensor | None) -> Any:
        """A condition whose channels beside the sample are put together here: the rest, the mask, the small image."""
        told = network.condition(self.tokenizer(text), image=image, mask=1 - kept, low_res=low_res)
        beside = [image * kept, kept]
        if low_res is not None:
            beside.append(F.interpolate(low_res, image.shape[2:], mode="bilinear", align_corners=False))
        return told._replace(hint=torch.cat(beside, dim=1))

    def loop(
        self, network: UNetGLIDE, conditions: list[Any], scale: float, x: Tensor, image: Tensor, kept: Tensor,
        timesteps: list[int], levels: Any, generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Both samplers of the original: the known part goes into x_0, then x_0 is clipped, then the step is taken."""
        for i in reversed(range(len(timesteps))):
            said = [network(x, timesteps[i], condition) for condition in conditions]
            epsilon = said[-1].value + scale * (said[0].value - said[-1].value)
            level, before = levels[i], levels[i - 1] if i else 1.0
            clean = (x - math.sqrt(1 - level) * epsilon) / math.sqrt(level)
            clean = (clean * (1 - kept) + image * kept).clamp(-1, 1)
            if self.ddim:
                epsilon = (x - math.sqrt(level) * clean) / math.sqrt(1 - level)
                x = math.sqrt(before) * clean + math.sqrt(1 - before) * epsilon
                continue
            beta = 1 - level / before  # of the respaced process
            posterior = beta * (1 - before) / (1 - level)
            x = (
                math.sqrt(before) * beta / (1 - level) * clean + math.sqrt(1 - beta) * (1 - before) / (1 - level) * x
            )  # arXiv:2006.11239, eq. 7
            if i:
                share = (said[0].variance + 1) / 2  # arXiv:2102.09672, eq. 15
                deviation = (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()
                x = x + deviation * torch.randn(x.shape, generator=generator)
        return x

    @torch.no_grad()
    def __call__(self, seed: int, scale: float, steps: list[int]) -> tuple[Tensor, Tensor]:
        """The small image, from these timesteps, and the large one."""
        generator = torch.Generator().manual_seed(seed)
        told = [self.told(self.base, text, self.small, self.small_kept, None) for text in TEXTS]
        x = torch.randn((1, 3, 8, 8), generator=generator)
        levels = cosine_levels()[steps]
        small = self.loop(self.base, told, scale, x, self.small, self.small_kept, steps, levels, generator)
        low_res = ((small + 1) * 127.5).round() / 127.5 - 1
        hint = self.told(self.upsampler, TEXTS[0], self.large, self.large_kept, low_res)
        x = 0.997 * torch.randn((1, 3, 16, 16), generator=generator)
        levels = linear_levels()[FAST27]
        large = self.loop(self.upsampler, [hint], 1.0, x, self.large, self.large_kept, FAST27, levels, generator)
        return small, large


@pytest.mark.parametrize(
    ("ddim", "steps", "scale"), [(False, 100, 5.0), (True, 25, 5.0), (False, 10, 1.0), (True, 10, 1.0)]
)
def test_the_original_step_for_step(
    glide_inpaint_parts: Path, scene: Path, tmp_path: Path, ddim: bool, steps: int, scale: float
) -> None:
    """Its 100 steps or fewer, and 27, with networks that are shown the mask and the rest of the picture."""
    sets = {}
    if ddim:
        for name in ("small_steps", "large_steps"):
            sets |= {f"{name}.node": "DDIMScheduler", f"{name}.use_clipped_model_output": True}
    found = run(
        tmp_path, glide_inpaint_parts, scene, variant="openai", seed=3, guidance_scale=scale, sets=sets,
        steps=steps, upsampler_steps="fast27", show=("small.sample",),
    )  # fmt: skip
    listed = [round(i * 999 / (steps - 1)) for i in range(steps)]
    small, large = Original(glide_inpaint_parts, scene, ddim=ddim)(3, scale, listed)
    what = f"{'DDIM' if ddim else 'ancestral'}, guidance {scale:g}"
    peer = "the algorithm by hand"
    agree("glide_inpaint", peer, found["small.sample"], small, tolerance=TOLERANCE, what=f"{what}, 64 pixels")
    agree("glide_inpaint", peer, found["image"], large, tolerance=TOLERANCE, what=f"{what}, 256 pixels")
    assert large.std() > 0.1


def test_the_picture_is_made_small_as_the_original_does(scene: Path, tmp_path: Path, glide_inpaint_parts: Path) -> None:
    """Bicubic, as Pillow does it: within 1.5 of its 255 levels, since Pillow rounds after each direction."""
    found = run(tmp_path, glide_inpaint_parts, scene, show=("small_image", "small_mask", "large_mask"))
    with Image.open(scene / "image.png") as picture:
        theirs = picture.resize((8, 8), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(theirs)).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(found["small_image"], expected, rtol=0, atol=1.5 / 127.5)
    assert torch.equal(F.interpolate(found["small_mask"], (16, 16)), found["large_mask"])


# --- what is kept, and what counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["glide_inpaint_parts", "glide_parts"])
def test_what_is_not_repainted_stays_to_a_rounding_error(
    parts: str, scene: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With networks made for inpainting, and with others; the rest is another one for each seed."""
    found = run(
        tmp_path, request.getfixturevalue(parts), scene, num_images=2, show=("large_mask", "large_image"),
        sets={"large_steps.node": "DDPMScheduler"},
    )  # fmt: skip
    kept = 1 - found["large_mask"]
    given = found["large_image"].expand(2, -1, -1, -1)
    assert found["image"].shape == (2, 3, 16, 16)
    torch.testing.assert_close(found["image"] * kept, given * kept, rtol=0, atol=1e-6)
    painted = (found["image"] - given) * found["large_mask"]
    assert (painted[0] - painted[1]).abs().max() > 0.1
    assert painted.abs().amax(dim=(1, 2, 3)).min() > 0.1


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a dog"}, "negative prompt": {"negative_prompt": ""}, "seed": {"seed": 1},
    "steps": {"steps": "7"}, "upsampler steps": {"upsampler_steps": "5"}, "guidance": {"guidance_scale": 2.0},
}  # fmt: skip
WIRES: dict[str, str | float] = {  # another value of the same kind that is at hand
    "told.text.tokens": "$no_tokens", "told.no_text.tokens": "$tokens", "low_res.image": "$small_image",
    "hinted.hint.tokens": "$each_no", "hinted.hint.low_res": "$small_image", "large.noise_scale": 0.9,
    "large.guidance_scale": 3.0, "small_mask.image": "$large_image", "large_mask.mask": "$small_mask",
    "large_mask.image": "$large_image", "large_image.image": "$small_image",
    "small.condition": "$told.no_text", "small.uncondition": "$told.text", "small.mask": "$large_mask",
    "small.scheduler": "$large_steps", "small.model": "$upsampler", "small.image": "$large_image",
    "large.scheduler": "$small_steps", "large.condition": "$hinted.no_hint",
    "large.mask": "$small_mask", "large.rng": "$rng", "large.image": "$low_res", "each.value": "$no_tokens",
    "hinted.shown.value": "$small_image", "hinted.covered.value": "$small_mask",
}  # fmt: skip


@pytest.fixture(scope="module")
def first(glide_inpaint_parts: Path, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The picture that the settings in FEW give."""
    image: Tensor = run(tmp_path_factory.mktemp("first"), glide_inpaint_parts, scene)["image"]
    return image


@pytest.mark.parametrize("what", CHANGES)
def test_each_input_counts(glide_inpaint_parts: Path, scene: Path, tmp_path: Path, first: Tensor, what: str) -> None:
    other = run(tmp_path, glide_inpaint_parts, scene, **CHANGES[what])["image"]
    assert (first - other).abs().max() > 1e-4


@pytest.mark.parametrize("wire", WIRES)
def test_each_wire_counts(glide_inpaint_parts: Path, scene: Path, tmp_path: Path, first: Tensor, wire: str) -> None:
    """A wrong wire is refused by the check, or makes another picture."""
    try:
        other = run(tmp_path, glide_inpaint_parts, scene, sets={wire: WIRES[wire]})["image"]
    except CheckFailed:
        return
    assert (first - other).abs().max() > 1e-4


def altered(scene: Path, folder: Path, columns: slice) -> Path:
    """The scene with other pixels in some columns of its picture."""
    folder.mkdir()
    with Image.open(scene / "image.png") as picture:
        pixels = np.array(picture)
    pixels[:, columns] = 255 - pixels[:, columns]
    Image.fromarray(pixels).save(folder / "image.png")
    (folder / "mask.png").write_bytes((scene / "mask.png").read_bytes())
    return folder


def test_what_is_repainted_is_not_seen_and_the_rest_is(
    glide_inpaint_parts: Path, scene: Path, tmp_path: Path, first: Tensor
) -> None:
    """Pixels under the mask, farther from its border than the bicubic filter reaches, change nothing at all."""
    hidden = altered(scene, tmp_path / "hidden", slice(12, 16))
    assert torch.equal(run(tmp_path, glide_inpaint_parts, hidden)["image"], first)
    seen = altered(scene, tmp_path / "seen", slice(4, 8))
    assert (run(tmp_path, glide_inpaint_parts, seen)["image"] - first)[..., 8:].abs().max() > 1e-3


def test_an_image_of_a_batch_is_that_of_its_own_seed(glide_inpaint_parts: Path, scene: Path, tmp_path: Path) -> None:
    batch = run(tmp_path, glide_inpaint_parts, scene, num_images=3, seed=11)["image"]
    for i in range(3):
        alone = run(tmp_path, glide_inpaint_parts, scene, seed=11 + i)["image"]
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-3)  # epsilon at t = 999 of the cosine


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 0.02), ("bf16", 0.15)])
def test_half_precision(
    glide_inpaint_parts: Path, scene: Path, tmp_path: Path, first: Tensor, dtype: str, tolerance: float
) -> None:
    """The weights are rounded to 11 and 8 bits; a few steps of each network keep the mean error in that order."""
    files = {"image": scene / "image.png", "mask": scene / "mask.png", "weights": glide_inpaint_parts}
    half = Lab(tmp_path).run(INPAINT, Options(device="cpu", dtype=dtype), **FEW | files)["image"]
    assert bool(half.isfinite().all())
    assert 0 < (half.float() - first).abs().mean() < tolerance


def test_only_what_is_asked_for_runs(glide_inpaint_parts: Path, scene: Path, tmp_path: Path) -> None:
    """The upsampler is not guided, so no text of what is not shown is read for it; nor are the other branches run."""
    lab = Lab(tmp_path)
    files = {"image": scene / "image.png", "mask": scene / "mask.png", "weights": glide_inpaint_parts}
    lab.run(INPAINT, CPU, **FEW | files)
    assert {"told.text", "told.no_text", "hinted.hint"} <= set(lab.ran)
    assert not {"told.alone", "told.no_alone", "hinted.no_hint", "hinted.plain", "hinted.no_plain"} & set(lab.ran)
    lab.run(INPAINT, CPU, seed=1, **FEW | files)
    assert not {"tokens", "no_tokens", "told.text", "told.no_text"} & set(lab.ran)


# --- bad input -------------------------------------------------------------------------------------------------------


def command(cli: Cli, tmp_path: Path, weights: Path, image: Path, mask: Path, **more: Any) -> Any:
    given = {"prompt": "a cat", "steps": 3, "upsampler-steps": 2} | more
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    files = ["--image", image, "--mask", mask, "--weights", weights]
    return cli("run", INPAINT, "--device", "cpu", "--no-cache", *files, *words, "-o", tmp_path / "out.png")


def test_a_mask_of_other_proportions_is_one_clear_error(
    glide_inpaint_parts: Path, scene: Path, cli: Cli, tmp_path: Path
) -> None:
    Image.new("L", (16, 10), 255).save(tmp_path / "mask.png")
    done = command(cli, tmp_path, glide_inpaint_parts, scene / "image.png", tmp_path / "mask.png")
    assert (done.exit_code, done.stdout) == (1, "")
    done.says(r"is 16 x 10, the picture that it lies on 16 x 16\n.*make them equally large")
    assert not (tmp_path / "out.png").exists()


def test_a_mask_of_another_size_is_brought_to_the_pictures(
    glide_inpaint_parts: Path, scene: Path, cli: Cli, tmp_path: Path
) -> None:
    with Image.open(scene / "mask.png") as mask:
        mask.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "mask.png")
    pictures = []
    for folder in (scene, tmp_path):
        done = command(cli, tmp_path, glide_inpaint_parts, scene / "image.png", folder / "mask.png")
        assert done.exit_code == 0, done.stderr
        pictures.append(read_image((tmp_path / "out.png").read_bytes()))
    assert torch.equal(*pictures)


def test_an_empty_mask_gives_the_picture_back_and_says_so(
    glide_inpaint_parts: Path, scene: Path, cli: Cli, tmp_path: Path
) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "black.png")
    done = command(cli, tmp_path, glide_inpaint_parts, scene / "image.png", tmp_path / "black.png")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("note: the mask has no white, so nothing is repainted") == 1
    given = read_image((scene / "image.png").read_bytes())
    assert torch.equal(read_image((tmp_path / "out.png").read_bytes()), given)


def test_a_full_mask_keeps_nothing(glide_inpaint_parts: Path, scene: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), "teal" if name == "first" else "white").save(tmp_path / name / "image.png")
        Image.new("L", (16, 16), 255).save(tmp_path / name / "mask.png")
    images = [run(tmp_path, glide_inpaint_parts, tmp_path / name)["image"] for name in ("first", "second")]
    assert torch.equal(*images)


@pytest.mark.parametrize("size", [(37, 21), (5, 3), (1, 1), (300, 17)])
def test_a_picture_of_an_odd_size(size: tuple[int, int], glide_inpaint_parts: Path, tmp_path: Path) -> None:
    """Its middle is brought to the size of the model, and so is that of its mask."""
    Image.new("RGB", size, "teal").save(tmp_path / "image.png")
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(tmp_path / "mask.png")
    found = run(tmp_path, glide_inpaint_parts, tmp_path, show=("large_image", "large_mask"))
    assert found["image"].shape == (1, 3, 16, 16)
    kept = 1 - found["large_mask"]
    torch.testing.assert_close(found["image"] * kept, found["large_image"] * kept, rtol=0, atol=1e-6)
    if size[0] > 16:
        assert found["large_mask"].mean() == pytest.approx(0.5, abs=0.1)


def test_a_picture_with_transparency_and_a_mask_of_it(glide_inpaint_parts: Path, cli: Cli, tmp_path: Path) -> None:
    """One file may be both: what is transparent is repainted."""
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 16, 8))
    picture.save(tmp_path / "both.png")
    done = command(cli, tmp_path, glide_inpaint_parts, tmp_path / "both.png", tmp_path / "both.png")
    assert done.exit_code == 0, done.stderr
    made = read_image((tmp_path / "out.png").read_bytes())
    assert made[:, :, 8:].eq(-1).all()
    assert not made[:, :, :8].eq(1).all()


def test_without_a_picture_or_a_mask(cli: Cli) -> None:
    done = cli("run", "glide_inpaint", "--prompt", "x")
    assert done.exit_code == 2
    done.says("the input image .* is missing")
    done.says("the input mask .* is missing")


# --- image to image --------------------------------------------------------------------------------------------------


def test_the_graph_is_checked_with_the_files_of_its_variants() -> None:
    """They are named, and not read for it."""
    Graph.load(INPAINT).check()


def test_a_strength_of_0_hands_the_small_picture_to_the_upsampler(
    glide_parts: Path, scene: Path, tmp_path: Path
) -> None:
    given = FEW | {"image": scene / "image.png", "weights": glide_parts, "show": ("fitted", "small.sample")}
    found = Lab(tmp_path).prepare(IMG2IMG, CPU, strength=0.0, **given).run([])
    assert torch.equal(found["small.sample"], found["fitted"])
    other = Lab(tmp_path).prepare(IMG2IMG, CPU, strength=0.5, **given).run([])
    assert not torch.equal(other["small.sample"], found["fitted"])


def test_a_strength_of_1_runs_all_steps_from_the_noised_picture(glide_parts: Path, scene: Path, tmp_path: Path) -> None:
    """So it differs from text to image by what is left of the picture at the first timestep."""
    given = FEW | {"weights": glide_parts}
    lab = Lab(tmp_path)
    lab.run(IMG2IMG, CPU, image=scene / "image.png", strength=1.0, **given)
    assert lab.ran.count("small.denoise.stepped") == 6
    lab.run(IMG2IMG, CPU, image=scene / "image.png", strength=0.5, **given)
    assert lab.ran.count("small.denoise.stepped") == 3


# --- the shipped weights and pictures --------------------------------------------------------------------------------


def colours(image: Tensor, rows: slice) -> Tensor:
    """The average red, green and blue of some rows of a picture where it is not white."""
    part = image[0, :, rows]
    drawn = part.mean(dim=0) < 0.6
    return part[:, drawn].mean(dim=1)


def test_the_example_of_inpainting(tmp_path: Path) -> None:
    """The cap of a mushroom becomes blue, and its stalk stays as it was."""
    lab = Lab(tmp_path)
    image = lab.run(INPAINT, CPU, variant="example")["image"]
    given = read_image((EXAMPLES / "mushroom.png").read_bytes())
    assert image.shape == given.shape
    torch.testing.assert_close(image[:, :, 44:], given[:, :, 44:], rtol=0, atol=1e-6)
    before, after = colours(given, slice(0, 44)), colours(image, slice(0, 44))
    assert before[0] - before[2] > 0.5
    assert after[2] - after[0] > 0.5


def test_the_example_of_image_to_image(tmp_path: Path) -> None:
    """Another thing in its place: nearer to the given picture than one that was drawn from noise alone."""
    lab, few = Lab(tmp_path), {"steps": 20, "upsampler_steps": 4}
    given = read_image((EXAMPLES / "mushroom.png").read_bytes())
    near = lab.run(IMG2IMG, CPU, variant="example", prompt="tree", strength=0.3, **few)["image"]
    far = lab.run(IMG2IMG, CPU, variant="example", prompt="tree", strength=1.0, **few)["image"]
    assert (near - given).abs().mean() < (far - given).abs().mean()
    assert (near - given).abs().mean() > 0.05


def test_the_examples_by_their_names_alone(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder; a prompt without a known word gets a note."""
    monkeypatch.chdir(tmp_path)
    few = ["--variant", "example", "--steps", "3", "--upsampler-steps", "2", "--device", "cpu"]
    done = cli("run", "glide_inpaint", *few)
    assert (done.exit_code, done.stdout) == (0, "glide_inpaint-0.png\n"), done.stderr
    done = cli("run", "glide_img2img", *few, "--prompt", "kubernetes")
    assert (done.exit_code, done.stdout) == (0, "glide_img2img-0.png\n"), done.stderr
    done.says('these weights know no word of "kubernetes"')
    done = cli("run", "glide_inpaint-0.png", "--device", "cpu", "-o", "again.png")
    assert done.exit_code == 2  # a picture does not open files of the user's by itself
    done.says("--image FILE")
    files = ["--image", EXAMPLES / "mushroom.png", "--mask", EXAMPLES / "mushroom-mask.png"]
    done = cli("run", "glide_inpaint-0.png", "--device", "cpu", *files, "-o", "again.png")
    assert done.exit_code == 0, done.stderr
    assert Path("again.png").read_bytes() == Path("glide_inpaint-0.png").read_bytes()
