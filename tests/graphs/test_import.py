"""Published repositories as graphs: each kind of pipeline, saved by the library with small random weights, imported, and
run beside the library's own, which loads the same folder, from the same seeds.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, HubError, WeightsError
from diffgraph.importing import imported
from diffgraph.language.writing import document_plain
from diffgraph.registry import registry
from diffgraph.session import Options
from diffgraph.weights.folders import open_folder

from ..engine.lab import Lab
from ..hub import users_hub
from ..hub_server import HubServer
from ..library import SEED, Library, compare, pictures, theirs
from .conftest import GRAPHS, Cli
from .test_ddpm import write_ddpm
from .test_imagen import published as write_imagen
from .test_ldm import built, write_celebahq, write_openimages, write_text2im
from .test_stable_diffusion import write_pipeline

CPU = Options(device="cpu")
PROMPT = {"prompt": "a green dog", "negative_prompt": "a red apple"}
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the library's own, of NumPy


def rewrite(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None leaves one out."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


# --- repositories -----------------------------------------------------------------------------------------------------


def ddpm(folder: Path) -> Path:
    write_ddpm(folder)
    return folder


def pixels(cls: str) -> Callable[[Path], Path]:
    """A repository of the same U-Net under another class of pipeline, which makes its own scheduler."""

    def write(folder: Path) -> Path:
        pipeline = write_ddpm(folder / "first")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class has moved
            pipeline.unet.conv_out.weight.mul_(0.2)
            getattr(Library, cls)(pipeline.unet, pipeline.scheduler).save_pretrained(folder / "parts")
        rewrite(folder / "parts/model_index.json", scheduler=["diffusers", "DDPMScheduler"])
        return folder / "parts"

    return write


def in_parts(write: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """A repository that is written into a folder `parts`."""

    def into(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        return folder / "parts"

    return into


def whole(write: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def into(folder: Path) -> Path:
        write(folder)
        return folder

    return into


def stable_diffusion(variant: str, task: str = "", channels: int = 4, scheduler: str = "") -> Callable[[Path], Path]:
    """A Stable Diffusion of this version and task; scheduler: its class, which the index names, if not as published."""

    def write(folder: Path) -> Path:
        write_pipeline(folder, variant, f"StableDiffusion{task}Pipeline", channels)
        parts = folder / "parts"
        named = scheduler or json.loads((parts / "scheduler/scheduler_config.json").read_text())["_class_name"]
        rewrite(parts / "model_index.json", scheduler=["diffusers", named])
        return parts

    return write


def imagen_if(stage: str) -> Callable[[Path], Path]:
    """A stage of DeepFloyd IF that predicts little: the library's tables in fp32 are off by 7e-4 at the last step."""

    def write(folder: Path) -> Path:
        both = folder.with_name("if")
        if not both.exists():
            for name, pipeline in zip(("first", "second"), write_imagen("IF-I-M", "IF-II-M", both), strict=True):
                pipeline.unet.conv_out.weight.data *= 0.05
                pipeline.unet.save_pretrained(both / name / "unet")
        return both / stage

    return write


def dit(folder: Path) -> Path:
    """A repository as facebook/DiT-XL-2-256."""
    transformer = Library.DiTTransformer2DModel(
        sample_size=8, num_layers=2, num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8
    )
    autoencoder = Library.AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, norm_num_groups=8,
    )  # fmt: skip
    names = {"0": "tench, Tinca tinca", "1": "goldfish, Carassius auratus", "207": "golden retriever"}
    Library.DiTPipeline(
        built(transformer, 1), built(autoencoder, 2), Library.DDIMScheduler(clip_sample=False), id2label=names
    ).save_pretrained(folder)
    rewrite(folder / "model_index.json", id2label=names)
    return folder


REPOSITORIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": ddpm,
    "ddim": pixels("DDIMPipeline"),
    "pndm": pixels("PNDMPipeline"),
    "ldm": in_parts(write_text2im),
    "ldm_unconditional": whole(write_celebahq),
    "ldm_super_resolution": whole(write_openimages),
    "stable_diffusion_1": stable_diffusion("v1-5"),
    "stable_diffusion_2": stable_diffusion("v2-1"),
    "stable_diffusion_euler": stable_diffusion("v1-5", scheduler="EulerAncestralDiscreteScheduler"),
    "img2img_1": stable_diffusion("v1-5", "Img2Img"),
    "img2img_2": stable_diffusion("v2-1", "Img2Img"),
    "inpaint_1": stable_diffusion("v1-5", "Inpaint", 9),
    "inpaint_2": stable_diffusion("v2-1-base", "Inpaint", 9),
    "inpaint_any": stable_diffusion("v1-5", "Inpaint", 4, "DDIMScheduler"),
    "if_base": imagen_if("first"),
    "if_upsampler": imagen_if("second"),
    "dit": dit,
}
GUIDED: dict[str, Any] = {"steps": 6, "guidance_scale": 7.5, **PROMPT}
OURS: dict[str, dict[str, Any]] = {  # what each graph is given, besides seeds and pictures
    "ddpm": {"steps": 20},
    "ddim": {"steps": 20},
    "pndm": {"steps": 20},
    "ldm": {"steps": 8, "prompt": "a green dog", "guidance_scale": 4.0},
    "ldm_unconditional": {"steps": 8},
    "ldm_super_resolution": {"steps": 8, "size": 32},
    **dict.fromkeys(("stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_euler"), GUIDED),
    **dict.fromkeys(("img2img_1", "img2img_2"), GUIDED | {"strength": 0.7}),
    **dict.fromkeys(("inpaint_1", "inpaint_2", "inpaint_any"), GUIDED),
    "if_base": {"steps": 10, **PROMPT},
    "if_upsampler": {"steps": 10, **PROMPT},
    "dit": {"steps": 8, "label": "golden retriever"},
}
PICTURES: dict[str, int] = {  # sizes of the pictures that they are given
    "ldm_super_resolution": 32, "if_upsampler": 16,
    **dict.fromkeys(("img2img_1", "img2img_2", "inpaint_1", "inpaint_2", "inpaint_any"), 16),
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of repositories by name, each made once."""
    made: dict[str, Path] = {}
    place = tmp_path_factory.mktemp("published")

    def find(name: str) -> Path:
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                made[name] = REPOSITORIES[name](place / name)
        return made[name]

    return find


# --- the same pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_librarys_pictures(name: str, repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    """Imported into a document; in memory it is the same graph."""
    folder = repository(name)
    document = folder.parent / f"{name}.yaml"
    done = cli("import", folder, "-o", document)
    assert done.exit_code == 0, done.stderr
    given = OURS[name] | pictures(tmp_path, PICTURES.get(name), masked=name.startswith("inpaint"))
    images = Lab(tmp_path).run(document, CPU, seed=SEED, **given)["image"]
    expected = theirs(folder, given)
    compare(folder, images, expected, name)
    written, held = (document_plain(Graph.load(place).document) for place in (document, folder))
    assert written["nodes"] == held["nodes"]


def test_every_pipeline_that_is_known_is_tried(repository: Callable[[str], Path]) -> None:
    tried = {json.loads((repository(name) / "model_index.json").read_text())["_class_name"] for name in REPOSITORIES}
    renamed = {"LatentDiffusionPipeline", "LatentDiffusionUncondPipeline"}  # of 2022
    ours = {cls for cls, pipeline in registry().pipelines.items() if pipeline.function.startswith("diffgraph.nodes.")}
    assert ours == tried | renamed


@pytest.mark.parametrize("name", ["ddpm", "ddim", "pndm", "ldm", "ldm_unconditional", "ldm_super_resolution", "dit"])
def test_the_defaults_are_those_of_the_librarys_call(name: str, repository: Callable[[str], Path]) -> None:
    check_defaults(repository(name))


@pytest.mark.parametrize("name", ["stable_diffusion_1", "img2img_1", "inpaint_1", "if_base", "if_upsampler"])
def test_the_defaults_of_guided_ones(name: str, repository: Callable[[str], Path]) -> None:
    check_defaults(repository(name))


def check_defaults(folder: Path) -> None:
    import inspect

    index = json.loads((folder / "model_index.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = inspect.signature(getattr(Library, index["_class_name"]).__call__).parameters
    inputs = Graph.load(folder).document.inputs
    names = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale", "noise_level": "noise_level"}
    if "Inpaint" not in index["_class_name"]:
        names["strength"] = "strength"
    for theirs_, ours in names.items():
        if theirs_ in call:
            default = call[theirs_].default
            assert inputs[ours].default == (100 if default is None else default)  # None: a hundred, in the body


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_graph_of_our_parts_with_its_own_scheduler(repository: Callable[[str], Path], cli: Cli) -> None:
    done = cli("import", repository("stable_diffusion_euler"))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("# StableDiffusionPipeline, imported by diffgraph from ")
    assert "  scheduler: {node: EulerAncestralScheduler, weights: $weights/scheduler}\n" in done.stdout
    assert "    graph: pkg://diffgraph/samplers/guided.yaml\n" in done.stdout
    assert "variants" not in done.stdout


def test_a_written_graph_can_be_varied(repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    document = repository("stable_diffusion_1").parent / "varied.yaml"
    assert cli("import", repository("stable_diffusion_1"), "-o", document).exit_code == 0
    few = ["--prompt", "a cat", "--steps", "2", "--device", "cpu", "--set", "scheduler.node=DDIMScheduler"]
    done = cli("run", document, *few, "-o", tmp_path / "cat.png")
    assert done.exit_code == 0, done.stderr
    done = cli("import", repository("stable_diffusion_2"), "-o", document)
    done.says("is there already, with other content")
    assert done.exit_code == 2


def test_another_pipeline_for_the_same_parts(repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    """As the library makes one of the other's parts."""
    folder = repository("stable_diffusion_1")
    document = folder.parent / "from-a-picture.yaml"
    done = cli("import", folder, "--pipeline", "StableDiffusionImg2ImgPipeline", "-o", document)
    assert done.exit_code == 0, done.stderr
    assert set(Graph.load(document).document.inputs) >= {"image", "strength"}
    done = cli("import", folder, "--pipeline", "StableDiffusionXLPipeline")
    done.says("there is no graph for StableDiffusionXLPipeline")
    done = cli("import", folder, "--pipeline", "DDPMPipeline")
    assert done.exit_code == 2
    done.says("DDPMPipeline: unet is a UNet2DConditionModel, which UNet2D does not read")


def test_weights_of_a_package(cli: Cli, tmp_path: Path) -> None:
    done = cli("import", "pkg://diffgraph/weights/ddpm-demo", "-o", tmp_path / "demo.yaml")
    assert done.exit_code == 0, done.stderr
    options = ["--steps", "2", "--device", "cpu", "-o", tmp_path / "demo.png"]
    assert cli("run", tmp_path / "demo.yaml", *options).exit_code == 0


def test_a_folder_elsewhere_is_given_at_each_run(repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    """A document names nothing outside of its own folder."""
    folder, document = repository("ddpm"), tmp_path / "mine.yaml"
    done = cli("import", folder, "-o", document)
    assert done.exit_code == 0, done.stderr
    done.says(re.escape(f"run it with --weights {folder}"))
    assert str(folder) not in document.read_text()
    few = ["--steps", "2", "--device", "cpu", "-o", tmp_path / "one.png"]
    cli("run", document, *few).says("the input weights .weights. is missing")
    assert cli("run", document, *few, "--weights", folder).exit_code == 0


def test_a_document_beside_the_index(repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    """In the repository's folder itself."""
    for name in ("dit", "ddpm"):
        folder = tmp_path / name
        shutil.copytree(repository(name), folder)
        assert cli("import", folder, "-o", folder / "graph.yaml").exit_code == 0
        few = ["--steps", "2", "--device", "cpu", "-o", tmp_path / "one.png"]
        done = cli("run", folder / "graph.yaml", *few, *(["--label", "1"] if name == "dit" else []))
        assert done.exit_code == 0, done.stderr


def test_a_folder_is_run_as_it_is(
    repository: Callable[[str], Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture carries the graph; it is made again where the folder is given again."""
    monkeypatch.chdir(tmp_path)
    folder = repository("dit")
    done = cli("run", folder, "--help")
    assert "--label TEXT" in done.stdout
    done = cli("run", folder, "--label", "tench", "--steps", "2", "--device", "cpu")
    assert (done.exit_code, done.stdout) == (0, "dit-0.png\n"), done.stderr
    first = Path("dit-0.png").read_bytes()
    done = cli("run", "dit-0.png", "--no-cache", "--device", "cpu", "-o", "again.png")
    done.says("give --weights")
    done = cli("run", "dit-0.png", "--no-cache", "--device", "cpu", "-o", "again.png", "--weights", folder)
    assert done.exit_code == 0, done.stderr
    assert Path("again.png").read_bytes() == first
    cli("run", folder, "--label", "goldfsh").says("did you mean 'goldfish'?")


def test_parts_that_the_graph_does_without_are_named(
    repository: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    rewrite(folder / "model_index.json", safety_checker=checker)
    done = cli("import", folder, "--json")
    assert json.loads(done.stdout)["left_out"] == ["safety_checker (StableDiffusionSafetyChecker)"]
    done = cli("import", folder)
    assert "# left out: safety_checker (StableDiffusionSafetyChecker)\n" in done.stdout
    done.says("note: left out, since the graph does without: safety_checker")


def test_configs_of_2022_are_mended_as_the_library_mends_them(
    repository: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    """Its Stable Diffusion begins a step later, clips no latents, and skips Runge-Kutta steps, whatever the config says."""
    for name, scheduler in (("stable_diffusion_1", "DDIMScheduler"), ("inpaint_1", "PNDMScheduler")):
        folder = tmp_path / name / "parts"
        shutil.copytree(repository(name), folder)
        rewrite(folder / "model_index.json", scheduler=["diffusers", scheduler])
        config = {"steps_offset": 0, "clip_sample": None, "skip_prk_steps": None, "_class_name": scheduler}
        rewrite(folder / "scheduler/scheduler_config.json", **config)
        document = tmp_path / name / "old.yaml"
        assert cli("import", folder, "-o", document).exit_code == 0
        given = OURS[name] | pictures(tmp_path, PICTURES.get(name), masked=name.startswith("inpaint"))
        images = Lab(tmp_path).run(document, CPU, seed=SEED, **given)["image"]
        compare(folder, images, theirs(folder, given), f"{scheduler}, a config of 2022")


def test_a_scale_that_the_library_does_not_use_is_refused(repository: Callable[[str], Path], tmp_path: Path) -> None:
    """Its super-resolution decodes latents as they are, whatever the config of the autoencoder says."""
    folder = tmp_path / "parts"
    shutil.copytree(repository("ldm_super_resolution"), folder)
    rewrite(folder / "vqvae/config.json", scaling_factor=0.18215)
    assert "scaling_factor is 0.18215, which this pipeline does not use" in refusal(folder)


def test_a_network_of_2022_that_says_half_of_its_size(repository: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    for version, size in (("0.6.0", 64), ("0.8.1.dev0", 64), ("0.9.0", None), ("0.42.1", None)):
        rewrite(folder / "unet/config.json", _diffusers_version=version, sample_size=32)
        given = Graph.load(folder).document.nodes["unet"].args.get("sample_size")
        assert (given.value if given is not None else None) == size  # type: ignore[union-attr]


# --- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with users_hub(tmp_path, monkeypatch) as running:
        yield running


def upload(server: HubServer, name: str, folder: Path, more: dict[str, bytes] | None = None) -> str:
    """Commits a folder, with what a graph needs none of, as published repositories have it."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    unet = "unet/" if (folder / "unet").is_dir() else ""
    files |= {
        f"{unet}diffusion_pytorch_model.bin": b"no",
        f"{unet}diffusion_flax_model.msgpack": b"no",
        "README.md": b"x",
    }
    return server.commit(name, files | (more or {}))


def fetched(server: HubServer) -> set[str]:
    """The files that were fetched since the last time."""
    paths = {seen.path for seen in server.requests if seen.method == "GET" and "/api/" not in seen.path}
    server.requests.clear()
    return {re.sub(r"^/(?:large/)?[^/]+/[^/]+/(?:resolve/)?[^/]+/", "", path) for path in paths}


CONFIGS = {
    "ldm": {
        "model_index.json", "unet/config.json", "vqvae/config.json", "bert/config.json", "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    },
    "stable_diffusion_1": {
        "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
        "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json",
    },
    "ddpm": {"model_index.json", "config.json", "scheduler_config.json"},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_from_the_hub_only_configs_are_read(
    name: str, server: HubServer, repository: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    """And a run fetches the weights that it needs, in one form alone."""
    upload(server, "org/parts", repository(name))
    document = tmp_path / "mine.yaml"
    done = cli("import", "org/parts", "-o", document)
    assert done.exit_code == 0, done.stderr
    assert fetched(server) <= CONFIGS[name] | {"tokenizer/special_tokens_map.json"}
    assert "default: hf://org/parts" in document.read_text()
    given = OURS[name]
    images = Lab(tmp_path).run(document, CPU, seed=SEED, **given)["image"]
    ran = fetched(server)
    assert any(path.endswith(".safetensors") for path in ran)
    assert not any(path.endswith((".bin", ".msgpack", "README.md")) for path in ran)
    expected = theirs(repository(name), given)
    compare(repository(name), images, expected, "from the Hub")


def test_a_repository_of_the_hub_is_run_by_its_address(
    server: HubServer, repository: Callable[[str], Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python and as a command; the picture carries the commit, and is made again from it."""
    commit = upload(server, "CompVis/ldm-tiny", repository("ldm"), {"v1-inference.yaml": b"model: {target: ldm.X}\n"})
    monkeypatch.chdir(tmp_path)
    given = {"prompt": "a green dog", "steps": 2}
    image = Graph.load("hf://CompVis/ldm-tiny")(options=CPU, **given).image
    options = ["--prompt", "a green dog", "--steps", "2", "--device", "cpu"]
    done = cli("run", "hf://CompVis/ldm-tiny", *options)
    assert (done.exit_code, done.stdout) == (0, "ldm-tiny-0.png\n"), done.stderr
    with Image.open("ldm-tiny-0.png") as made:
        assert made.tobytes() == image.pil().tobytes()
        carried = json.loads(made.info["diffgraph"])
    assert f"hf://CompVis/ldm-tiny@{commit}" in carried["documents"][carried["main"]]
    server.commit("CompVis/ldm-tiny", {"README.md": b"all is gone"})
    done = cli("run", "ldm-tiny-0.png", "--no-cache", "--device", "cpu", "-o", "again.png")
    assert done.exit_code == 0, done.stderr
    assert Path("again.png").read_bytes() == Path("ldm-tiny-0.png").read_bytes()
    done = cli("import", f"hf://CompVis/ldm-tiny@{commit}")
    assert f"default: hf://CompVis/ldm-tiny@{commit}" in done.stdout


def test_a_graph_of_ours_beside_the_index_is_what_is_run(server: HubServer, repository: Callable[[str], Path]) -> None:
    text = (GRAPHS / "ddpm.yaml").read_bytes().replace(b"samplers/", b"pkg://diffgraph/samplers/")
    upload(server, "org/both", repository("ddpm"), {"ours.yaml": text})
    assert Graph.load("hf://org/both").name == "ddpm"
    upload(server, "org/parts", repository("ddpm"))
    assert Graph.load("hf://org/parts").name == "parts"


def test_offline_it_is_what_is_on_this_machine(
    server: HubServer, repository: Callable[[str], Path], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(server, "org/parts", repository("ddpm"))
    assert cli("import", "org/parts").exit_code == 0
    server.requests.clear()
    from diffgraph.weights import hub

    hub.default_hub.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = cli("import", "org/parts")
    assert done.exit_code == 0, done.stderr
    assert server.count() == 0
    with pytest.raises(HubError):
        Graph.load("hf://org/other")


def test_what_was_pulled_runs_offline(
    server: HubServer, repository: Callable[[str], Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the repository's address, without a request."""
    from diffgraph.weights import hub

    upload(server, "org/parts", repository("dit"))
    monkeypatch.chdir(tmp_path)
    done = cli("pull", "hf://org/parts")
    assert done.exit_code == 0, done.stderr
    server.requests.clear()
    hub.default_hub.cache_clear()
    done = cli("run", "hf://org/parts", "--label", "tench", "--steps", "2", "--device", "cpu", "--offline")
    assert done.exit_code == 0, done.stderr
    assert server.count() == 0


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    """What is said of a repository, whichever way it is taken."""
    said = []
    for take in (lambda: Graph.load(folder), lambda: imported(open_folder(str(folder)), name="x", weights="x")):
        with pytest.raises(WeightsError) as caught:
            take()
        said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


@pytest.mark.parametrize(
    ("file", "changes", "place"),
    [
        ("model_index.json", {"unet": ["my_module", "UNet"]}, "model_index.json: unet names code"),
        ("model_index.json", {"unet": ["modeling_x.py", "UNet"]}, "model_index.json: unet names code"),
        ("model_index.json", {"unet": ["diffusers", "models.UNet"]}, "model_index.json: unet names code"),
        ("model_index.json", {"vae": ["../x", "UNet"]}, "model_index.json: vae names code"),
        ("model_index.json", {"safety_checker": ["checker", "X"]}, "model_index.json: safety_checker names code"),
        ("model_index.json", {"_class_name": ["pipeline", "Mine"]}, "model_index.json: _class_name names code"),
        ("model_index.json", {"trust_remote_code": True}, "model_index.json: trust_remote_code names code"),
        ("model_index.json", {"custom": {"auto_map": {"A": "b.C"}}}, "model_index.json: custom.auto_map names code"),
        (
            "text_encoder/config.json",
            {"auto_map": {"AutoModel": "m.X"}},
            "text_encoder/config.json: auto_map names code",
        ),
        ("tokenizer/tokenizer_config.json", {"auto_map": {}}, "tokenizer_config.json: auto_map names code"),
        ("unet/config.json", {"trust_remote_code": True}, "unet/config.json: trust_remote_code names code"),
        ("scheduler/scheduler_config.json", {"auto_map": {"X": "y"}}, "scheduler_config.json: auto_map names code"),
    ],
)
def test_what_names_code_is_refused_where_it_stands(
    file: str, changes: dict[str, Any], place: str, repository: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    canary = tmp_path / "ran"
    for name in ("my_module", "modeling_x", "pipeline", "checker", "unet/my_module", "text_encoder/m"):
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    rewrite(folder / file, **changes)
    assert place in refusal(folder)
    done = cli("import", folder)
    assert done.exit_code == 2
    done.says(re.escape(place))
    assert not canary.exists()


def test_a_module_in_the_folder_of_a_part_is_refused(repository: Callable[[str], Path], tmp_path: Path) -> None:
    """Under the name of a library, which would be taken for it."""
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    (folder / "unet/diffusers.py").write_text("raise SystemExit\n")
    assert "model_index.json: unet names code" in refusal(folder)


def test_other_pipelines_say_what_is_missing(repository: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    rewrite(folder / "model_index.json", _class_name="WuerstchenDecoderPipeline", vqgan=["wuerstchen", "PaellaVQModel"])
    said = refusal(folder)
    assert "no graph for WuerstchenDecoderPipeline, and no node type reads vqgan (PaellaVQModel)" in said
    assert "those that can be imported: DDIMPipeline, DDPMPipeline, DiTPipeline" in said
    rewrite(folder / "model_index.json", _class_name="StableDiffusionControlNetPipeline", vqgan=None)
    assert "no graph for StableDiffusionControlNetPipeline, though node types read all of its parts" in refusal(folder)


def test_parts_that_are_missing_or_unknown(repository: Callable[[str], Path], cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(repository("stable_diffusion_1"), folder)
    rewrite(
        folder / "model_index.json", text_encoder=[None, None], scheduler=["diffusers", "DPMSolverSinglestepScheduler"]
    )  # fmt: skip
    said = refusal(folder)
    assert "StableDiffusionPipeline: has no text_encoder, no node type reads scheduler (DPMSolverSinglestep" in said
    shutil.rmtree(folder)
    shutil.copytree(repository("stable_diffusion_1"), folder)
    rewrite(folder / "unet/config.json", addition_embed_type="text_time", unheard=1)
    done = cli("import", folder, "-o", tmp_path / "x.yaml")
    assert done.exit_code == 2
    done.says("addition_embed_type: .text_time. is not permitted")
    done.says("unknown key .unheard.")
    assert not (tmp_path / "x.yaml").exists()
    shutil.rmtree(folder / "vae")
    assert "vae" in refusal(folder)


def test_what_is_no_repository(cli: Cli, tmp_path: Path) -> None:
    for name, content in (
        ("empty", None),
        ("list", "[]"),
        ("bad", "{"),
        ("nothing", "{}"),
        ("text", '{"_class_name": 1}'),
    ):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "model_index.json").write_text(content)
        done = cli("import", tmp_path / name)
        assert done.exit_code == 2, name
        done.says("model_index.json|_class_name")
    done = cli("import", tmp_path / "nowhere")
    assert done.exit_code == 2
    done.says("there is no such folder")


def test_weights_of_another_repository_are_refused_by_the_check(
    repository: Callable[[str], Path], cli: Cli, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailed, match="wants AutoencoderKL|VQModel"):
        Lab(tmp_path).prepare(Graph.load(repository("ldm_unconditional")), CPU, weights=str(repository("ldm")))


# --- the graphs that are here for it ------------------------------------------------------------------------------------


def test_classes_by_name_and_by_number(repository: Callable[[str], Path], tmp_path: Path) -> None:
    from diffgraph.errors import PortError
    from diffgraph.nodes.text.class_names import ClassNames, ClassNamesConfig

    names = ClassNames.from_pretrained(repository("dit"))
    assert names("golden retriever") == names(" 207 ") == [207]
    assert names("Tinca tinca") == names("tench") == [0]
    with pytest.raises(PortError, match="no name of a class"):
        names("dragon")
    own = ClassNames(ClassNamesConfig(names=("cat, kitten", "dog")))
    assert (own("kitten"), own("dog")) == ([0], [1])
    own.save_pretrained(tmp_path)
    assert ClassNames.from_pretrained(tmp_path)("dog") == [1]
    bare = ClassNames(ClassNamesConfig())
    with pytest.raises(PortError, match="give a number"):
        bare("dog")
    (tmp_path / "class_names.json").unlink()
    (tmp_path / "model_index.json").write_text('{"id2label": {"a": "b"}}')
    with pytest.raises(WeightsError, match="id2label"):
        ClassNames.from_pretrained(tmp_path)


def test_the_second_stage_alone_is_the_second_of_both(repository: Callable[[str], Path], tmp_path: Path) -> None:
    """The graph of one stage has the defaults of that of both."""
    both = Graph.load(GRAPHS / "imagen_if.yaml").document.inputs
    alone = Graph.load(GRAPHS / "imagen_if_upsampler.yaml").document.inputs
    base = Graph.load(GRAPHS / "imagen_if_base.yaml").document.inputs
    assert (alone["steps"].default, base["steps"].default) == (both["upsampler_steps"].default, both["steps"].default)
    assert alone["guidance_scale"].default == both["upsampler_guidance_scale"].default
    assert base["guidance_scale"].default == both["guidance_scale"].default
    assert alone["noise_level"].default == both["noise_level"].default
