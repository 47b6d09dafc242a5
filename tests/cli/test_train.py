"""`diffgraph train`: the command around the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import SUM, Command, write

SMALL = """
    diffgraph: 1
    name: tiny
    summary: Trains a model of tiny pictures
    inputs:
      data: {type: folder, help: images}
      steps: {type: int, default: 4, min: 1}
    nodes:
      unet:
        node: UNet2D
        sample_size: 8
        block_out_channels: [8, 8]
        norm_num_groups: 4
        layers_per_block: 1
        down_block_types: [DownBlock2D, DownBlock2D]
        up_block_types: [UpBlock2D, UpBlock2D]
        add_attention: false
      scheduler: {node: DDPMScheduler}
      drawn: {call: $scheduler.random_timesteps, rng: $batch.rng}
      noise: {node: GaussianNoise, shape: $unet.sample_shape, rng: $drawn.rng}
      noisy: {call: $scheduler.add_noise, sample: $batch.image, noise: $noise.sample, timestep: $drawn.timestep}
      scaled: {node: arith.Pass, value: $noisy}
      prediction: {call: $unet, sample: $scaled, timestep: $drawn.timestep}
      target: {call: $scheduler.target, sample: $batch.image, noise: $noise.sample, timestep: $drawn.timestep}
      weight: {call: $scheduler.loss_weight, timestep: $drawn.timestep, weighting: constant}
      loss: {node: SquaredError, prediction: $prediction, target: $target, weight: $weight}
    train:
      data: {node: ImageFolder, folder: $data, size: 8, batch: 2, as: batch}
      update: {unet: unet}
      loss: $loss
      steps: $steps
      checkpoint: 2
"""


@pytest.fixture
def tiny(folder: Path) -> Path:
    Path("images").mkdir()
    lines = []
    for number in range(4):
        Image.new("RGB", (8, 8), (number * 60, 0, 0)).save(f"images/{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": "a square"}))
    Path("images/metadata.jsonl").write_text("\n".join(lines))
    return write("tiny.yaml", SMALL)


def steps(folder: str) -> list[int]:
    return [json.loads(line)["step"] for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def test_training_writes_weights_and_goes_on_where_it_was(dg: Command, tiny: Path) -> None:
    done = dg("train", "tiny.yaml", "--data", "images", "--steps", "2", "--device", "cpu")
    assert (done.code, done.out) == (0, "runs/tiny\n"), done.err
    assert steps("runs/tiny") == [1, 2]
    assert list(Path("runs/tiny/unet").glob("*.safetensors"))
    done = dg("train", "tiny.yaml", "--data", "images", "--steps", "2", "--out", "here", "--json")
    assert done.data["folder"] == "here"


def test_what_is_found_before_the_training(dg: Command, tiny: Path) -> None:
    write("sum.yaml", SUM)
    done = dg("train", "sum.yaml")
    assert done.code == 2
    assert "sum.yaml has no `train` section" in done.err
    done = dg("train", "tiny.yaml")
    assert done.code == 2
    assert "the input data (folder) is missing\n  give --data: images" in done.err
    assert dg("train", "tiny.yaml", "--data", "nowhere").code == 2
    assert not Path("runs").exists()


def test_help_of_a_training_graph(dg: Command, tiny: Path) -> None:
    text = " ".join(dg("train", "tiny.yaml", "--help").out.split())
    assert "--data FOLDER images [required]" in text
    assert "--steps INT [default: 4; from 1]" in text
    assert "--resume / --no-resume" in text
    assert dg("train", "train/glide", "--help").code == 0
