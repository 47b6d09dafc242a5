"""Training: what stops and goes on is the same curve, what is cut short loses nothing, and every option does its work."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffgraph.builder import Graph
from diffgraph.errors import CheckFailed, DiffgraphError, InputError, Interrupted, RunError, StoreError
from diffgraph.running.run import Event
from diffgraph.session import Options
from diffgraph.training.samples import Sampler, running_mean
from diffgraph.training.train import train
from diffgraph.training.trainer import Trainer

from ..engine.lab import Lab
from .conftest import GRAPHS

HEAD = """
diffgraph: 1
name: tiny
inputs:
  data:  {type: folder}
  steps: {type: int, default: 12, min: 1}
  rate:  {type: float, default: 0.01}
nodes:
  unet:
    node: UNet2D
    sample_size: 8
    block_out_channels: [16]
    norm_num_groups: 4
    layers_per_block: 1
    down_block_types: [DownBlock2D]
    up_block_types: [UpBlock2D]
    add_attention: false
    dropout: 0.2
  scheduler:  {node: DDPMScheduler}
  timesteps:  {call: $scheduler.random_timesteps, rng: $batch.rng}
  noise:      {node: GaussianNoise, shape: $unet.sample_shape, rng: $timesteps.rng}
  noisy:      {call: $scheduler.add_noise, sample: $batch.image, noise: $noise.sample, timestep: $timesteps.timestep}
  prediction: {call: $unet, sample: $noisy, timestep: $timesteps.timestep}
  target:     {call: $scheduler.target, sample: $batch.image, noise: $noise.sample, timestep: $timesteps.timestep}
  loss:       {node: SquaredError, prediction: $prediction, target: $target}
train:
  data: {node: ImageFolder, folder: $data, size: 8, batch: 4, flip: true, as: batch}
  update: {unet: .}
  loss: $loss
  steps: $steps
"""
USUAL = "learning_rate: $rate\nema: 0.9\ncheckpoint: 3\n"
CPU = Options(device="cpu")


def document(folder: Path, settings: str = USUAL) -> Graph:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    rate = "  rate:  {type: float, default: 0.01}\n"
    head = HEAD if "$rate" in settings else HEAD.replace(rate, "")
    path.write_text(head + textwrap.indent(textwrap.dedent(settings), "  "))
    return Graph.load(path)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "diffusion_pytorch_model.safetensors")


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A training of 12 steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train(document(folder), {"data": data}, out=folder / "out", options=CPU)


def is_whole(out: Path, whole: Path) -> bool:
    """Whether a training ended as the undisturbed one did, to the bit."""
    assert losses(out) == losses(whole)
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []
    return same(weights(out), weights(whole)) and same(
        load_file(out / "checkpoint/state.safetensors"), load_file(whole / "checkpoint/state.safetensors")
    )


class Stop:
    """A listener that raises after so many steps."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def __call__(self, event: Event) -> None:
        if event.kind == "step" and event.path == "train" and event.number == self.step:
            raise self.error


# --- stopping and going on -------------------------------------------------------------------------------------------


def test_the_loss_and_what_is_written(whole: Path, tmp_path: Path) -> None:
    assert sorted(p.name for p in whole.iterdir() if p.name != "loss.png") == [
        "checkpoint", "config.json", "diffusion_pytorch_model.safetensors", "log.jsonl", "scheduler_config.json",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {line["learning_rate"] for line in lines} == {0.01}
    assert sum(losses(whole)[-4:]) < 0.8 * sum(losses(whole)[:4])
    image = Lab(tmp_path).run(GRAPHS / "ddpm.yaml", CPU, weights=whole, steps=3)["image"]
    assert image.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_interrupted_and_resumed_is_the_same_curve(step: int, whole: Path, data: Path, tmp_path: Path) -> None:
    graph = document(tmp_path)
    with pytest.raises(Interrupted, match=f"interrupted at step {step} of 12"):
        train(graph, {"data": data}, out=tmp_path / "out", options=CPU, listeners=[Stop(step, KeyboardInterrupt())])
    heard: list[Event] = []
    out = train(graph, {"data": data}, out=tmp_path / "out", options=CPU, listeners=[heard.append])
    assert heard[0].text == f"resumed at step {step}"
    assert is_whole(out, whole)


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(whole: Path, data: Path, tmp_path: Path) -> None:
    graph, given = document(tmp_path), {"data": data}
    trainer = Trainer(graph, given, out=tmp_path / "out", options=CPU)
    update = trainer.optimizer.step

    def interrupted(*args: Any) -> Any:
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return update(*args)

    trainer.optimizer.step = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(Interrupted, match="interrupted at step 5"):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert is_whole(train(graph, given, out=tmp_path / "out", options=CPU), whole)


def test_kill_9_goes_on_from_the_last_checkpoint(whole: Path, data: Path, tmp_path: Path) -> None:
    graph, out = document(tmp_path), tmp_path / "out"
    script = textwrap.dedent(f"""
        import os, signal, torch
        from pathlib import Path
        from diffgraph import Graph, Options
        from diffgraph.training.train import train
        torch.set_num_threads(1)
        def stop(event):
            if event.kind == "step" and event.path == "train" and event.number == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        train(Graph.load("{tmp_path}/tiny.yaml"), {{"data": "{data}"}}, out=Path("{out}"), options=Options("cpu"),
              listeners=[stop])
    """)
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(losses(out)) == 8
    heard: list[Event] = []
    train(graph, {"data": data}, out=out, options=CPU, listeners=[heard.append])
    assert heard[0].text == "resumed at step 6"
    assert is_whole(out, whole)


@pytest.mark.parametrize("state", ["draft", "between"])
def test_killed_while_a_checkpoint_is_put_into_place(state: str, whole: Path, data: Path, tmp_path: Path) -> None:
    """What lies there then: half a draft, or the old one under another name and no new one."""
    graph, out = document(tmp_path), tmp_path / "out"
    with pytest.raises(Interrupted):
        train(graph, {"data": data}, out=out, options=CPU, listeners=[Stop(5, KeyboardInterrupt())])
    shutil.copytree(out / "checkpoint", out / ".checkpoint.new")
    (out / ".checkpoint.new" / "state.safetensors").write_bytes(b"half of it")
    if state == "between":
        (out / "checkpoint").rename(out / ".checkpoint.old")
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    assert is_whole(train(graph, {"data": data}, out=out, options=CPU), whole)


def test_a_damaged_checkpoint_is_named(whole: Path, data: Path, tmp_path: Path) -> None:
    graph = document(tmp_path)
    for number, (name, content) in enumerate(
        [("state.safetensors", b"x"), ("state.json", b"{"), ("state.json", b"[]"), ("state.safetensors", None)]
    ):
        out = tmp_path / str(number)
        shutil.copytree(whole, out)
        if content is None:
            (out / "checkpoint" / name).unlink()
        else:
            (out / "checkpoint" / name).write_bytes(content)
        with pytest.raises(StoreError, match="checkpoint is damaged") as caught:
            train(graph, {"data": data}, out=out, options=CPU)
        assert caught.value.hint == "--no-resume starts anew"
    assert is_whole(train(graph, {"data": data}, out=out, options=CPU, resume=False), whole)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loss", "gradient", "weights"])
def test_nan_stops_and_the_last_good_checkpoint_stays(where: str, whole: Path, data: Path, tmp_path: Path) -> None:
    graph, out = document(tmp_path), tmp_path / "out"
    trainer = Trainer(graph, {"data": data}, out=out, options=CPU)
    parameter = next(iter(trainer.parameters.values()))
    step, loss = trainer.optimizer.step, trainer._loss

    def spoiled_step(*args: Any) -> Any:
        step(*args)
        if trainer.step == 5:
            parameter.data[0] = torch.inf

    if where == "loss":
        trainer._loss = lambda batch: loss(batch) * (torch.nan if trainer.step == 5 else 1)  # type: ignore[method-assign]
    elif where == "gradient":
        parameter.register_hook(lambda grad: grad * (torch.nan if trainer.step == 5 else 1))
    else:
        trainer.optimizer.step = spoiled_step  # type: ignore[method-assign, assignment]
    message = {"loss": "the loss is nan at step 6", "gradient": "norm of the gradient is nan at step 6"}
    with pytest.raises(RunError, match=message.get(where, "the weights are no longer finite")) as caught:
        trainer.run()
    assert "lower the learning rate, or set optimizer.clip" in (caught.value.hint or "")
    kept = load_file(out / "checkpoint/state.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert json.loads((out / "checkpoint/state.json").read_text())["step"] == 3
    assert is_whole(train(graph, {"data": data}, out=out, options=CPU), whole)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Every write beyond this size fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_checkpoint_before(whole: Path, data: Path, tmp_path: Path) -> None:
    graph, out = document(tmp_path), tmp_path / "out"
    with pytest.raises(Interrupted):
        train(graph, {"data": data}, out=out, options=CPU, listeners=[Stop(4, KeyboardInterrupt())])
    before = (out / "checkpoint/state.safetensors").read_bytes()
    with no_file_above(8192), pytest.raises(StoreError, match="the checkpoint cannot be written") as caught:
        train(graph, {"data": data}, out=out, options=CPU)
    assert "the one before is kept" in (caught.value.hint or "")
    assert (out / "checkpoint/state.safetensors").read_bytes() == before
    assert is_whole(train(graph, {"data": data}, out=out, options=CPU), whole)


def test_a_disk_that_fills_between_checkpoint_and_weights(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, out = document(tmp_path), tmp_path / "out"
    trainer = Trainer(graph, {"data": data}, out=out, options=CPU)

    def full(self: Any, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(trainer.parts["unet"].get()), "save_pretrained", full)
    with pytest.raises(StoreError, match=r"the weights cannot be written: .*No space left") as caught:
        trainer.run()
    assert "the checkpoint of step 3 is whole" in (caught.value.hint or "")
    monkeypatch.undo()
    assert is_whole(train(graph, {"data": data}, out=out, options=CPU), whole)


def test_a_folder_that_cannot_be_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/out cannot be made"):
        train(document(tmp_path), {"data": data}, out=tmp_path / "file" / "out", options=CPU)


def test_parts_are_saved_where_the_graph_says(data: Path, tmp_path: Path) -> None:
    """`save` names the folder of a part without weights, and writes a part that is not trained as it is."""
    graph = document(tmp_path, "ema: 0.9\nsave: {scheduler: parts/scheduler, still: parts/still}\n")
    text = (tmp_path / "tiny.yaml").read_text()
    still = text[text.index("    node: UNet2D") : text.index("  scheduler:")]
    added = f"  still:\n{still}    init_seed: 5\n  other:      {{call: $still, sample: $noisy, timestep: $timesteps.timestep}}\n"
    added += "  twice:      {node: SquaredError, prediction: $other, target: $target}\n"
    added += "  both:       {node: AddLoss, loss: $loss, other: $twice}\n"
    (tmp_path / "tiny.yaml").write_text(
        text.replace("train:\n", f"{added}train:\n").replace("loss: $loss\n  st", "loss: $both\n  st")
    )
    graph = Graph.load(tmp_path / "tiny.yaml")
    out = train(graph, {"data": data, "steps": 2}, out=tmp_path / "out", options=CPU)
    assert not (out / "scheduler_config.json").exists()
    assert (out / "parts/scheduler/scheduler_config.json").is_file()
    first = load_file(out / "parts/still/diffusion_pytorch_model.safetensors")
    assert not same(first, weights(out))
    again = train(graph, {"data": data, "steps": 3}, out=tmp_path / "again", options=CPU)
    assert same(first, load_file(again / "parts/still/diffusion_pytorch_model.safetensors"))


# --- another training ------------------------------------------------------------------------------------------------


@pytest.fixture
def started(data: Path, tmp_path: Path) -> Path:
    """The folder of a training that was interrupted after three steps."""
    with pytest.raises(Interrupted):
        train(
            document(tmp_path), {"data": data}, out=tmp_path / "out", options=CPU, listeners=[Stop(3, Interrupted(""))]
        )
    return tmp_path / "out"


def test_other_data_is_refused(started: Path, make_data: Callable[[int], Path], data: Path, tmp_path: Path) -> None:
    graph = document(tmp_path)
    with pytest.raises(InputError, match="the number of rows of data was 32 and is 31") as caught:
        train(graph, {"data": make_data(31)}, out=started, options=CPU)
    assert caught.value.hint == "give another --out, or --no-resume to start anew"
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for picture in other.glob("*.png"):
        Image.new("RGB", (8, 8), "black").save(picture)
    with pytest.raises(InputError, match="the data differs"):
        train(graph, {"data": other}, out=started, options=CPU)


def test_another_graph_or_recipe_is_refused(started: Path, data: Path, tmp_path: Path) -> None:
    for given, sets, settings, message in (
        ({"rate": 0.02}, {}, USUAL, "learning_rate was 0.01 and is 0.02"),
        ({}, {"unet.dropout": 0.1}, USUAL, "the graph differs"),
        ({}, {}, USUAL + "optimizer: SGD", "optimizer was 'AdamW' and is 'SGD'"),
        ({}, {}, USUAL.replace("0.9", "0.99"), "ema was 0.9 and is 0.99"),
        ({"steps": 2}, {}, USUAL, "is of step 3, beyond the 2 that are asked for"),
    ):
        with pytest.raises(InputError, match=message):
            train(document(tmp_path, settings), {"data": data} | given, out=started, options=CPU, sets=sets)
    with pytest.raises(InputError, match="the dtype was 'float32' and is 'bfloat16'"):
        train(document(tmp_path), {"data": data}, out=started, options=Options("cpu", "bf16"))


def test_a_constant_rate_can_be_prolonged(whole: Path, data: Path, tmp_path: Path) -> None:
    """Six steps and then six more, by another default in the document, are twelve; checkpoints may come more often."""
    out = tmp_path / "out"
    train(document(tmp_path), {"data": data, "steps": 6}, out=out, options=CPU)
    train(document(tmp_path, USUAL.replace("checkpoint: 3", "checkpoint: 5")), {"data": data}, out=out, options=CPU)
    assert is_whole(out, whole)


def test_a_cosine_cannot(data: Path, tmp_path: Path) -> None:
    cosine = "learning_rate: {top: $rate, schedule: cosine, warmup: 2}\n"
    graph, out = document(tmp_path, cosine), tmp_path / "out"
    train(graph, {"data": data, "steps": 4}, out=out, options=CPU)
    rates = [json.loads(line)["learning_rate"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.01 * 0.5, 0.01 * 0.853553, 0.01 * 0.5, 0.01 * 0.146447], rel=1e-5)
    with pytest.raises(InputError, match="steps was 4 and is 8") as caught:
        train(graph, {"data": data, "steps": 8}, out=out, options=CPU)
    assert "only a constant learning rate can be prolonged" in (caught.value.hint or "")


# --- data ------------------------------------------------------------------------------------------------------------


def test_broken_and_missing_pictures_are_named(make_data: Callable[[int], Path], tmp_path: Path) -> None:
    folder = make_data(5)
    (folder / "01.png").write_bytes(b"not a picture")
    (folder / "02.png").unlink()
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:70])
    with pytest.raises(InputError, match="3 of 5 images") as caught:
        train(document(tmp_path), {"data": folder}, out=tmp_path / "out", options=CPU)
    message = str(caught.value)
    for line, name in ((2, "01.png"), (3, "02.png"), (4, "03.png")):
        assert f"metadata.jsonl:{line}: {name}: " in message
    assert "there is no such file" in message
    assert not (tmp_path / "out").exists()


def test_broken_and_missing_pictures_are_left_out_by_option(make_data: Callable[[int], Path], tmp_path: Path) -> None:
    folder = make_data(6)
    (folder / "01.png").write_bytes(b"not a picture")
    (folder / "02.png").unlink()
    heard: list[Event] = []
    given = {"data": folder, "steps": 2}
    train(
        document(tmp_path), given, out=tmp_path / "out", options=CPU, sets={"batch.broken": "skip"},
        listeners=[heard.append],
    )  # fmt: skip
    note = next(event.text for event in heard if event.kind == "note")
    assert f"2 of 6 images of {folder} cannot be read, and are left out" in note
    assert "metadata.jsonl:2: 01.png: this is no picture" in note
    assert "metadata.jsonl:3: 02.png: there is no such file" in note
    assert len(losses(tmp_path / "out")) == 2
    with pytest.raises(DiffgraphError, match="broken"):
        train(document(tmp_path), given, out=tmp_path / "no", options=CPU, sets={"batch.broken": "ignore"})


def test_no_data(tmp_path: Path) -> None:
    graph = document(tmp_path)
    with pytest.raises(DiffgraphError, match=r"there is no folder .*nowhere"):
        train(graph, {"data": tmp_path / "nowhere"}, out=tmp_path / "out", options=CPU)
    with pytest.raises(CheckFailed, match=r"the input data \(folder\) is missing"):
        train(graph, {}, out=tmp_path / "out", options=CPU)


# --- options ---------------------------------------------------------------------------------------------------------


def trainer_of(tmp_path: Path, data: Path, settings: str, **given: Any) -> Trainer:
    options = given.pop("options", CPU)
    return Trainer(document(tmp_path, settings), {"data": data, **given}, out=tmp_path / "out", options=options)


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def gradients(trainer: Trainer, *batches: int) -> dict[str, torch.Tensor]:
    """The mean gradient of the loss of some batches, worked out beside the trainer."""
    total = {name: torch.zeros_like(p) for name, p in trainer.parameters.items()}
    for number in batches:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            found = torch.autograd.grad(trainer._loss(trainer.data(number)), list(trainer.parameters.values()))
        for name, grad in zip(total, found, strict=True):
            total[name] += grad / len(batches)
    return total


def test_accumulate_is_the_mean_of_several_batches(data: Path, tmp_path: Path) -> None:
    sgd = "optimizer: {name: SGD, betas: [0, 0], accumulate: 3}\nlearning_rate: 0.5\n"
    trainer = trainer_of(tmp_path, data, sgd, steps=2)
    expected: list[dict[str, torch.Tensor]] = []

    def foresee(step: int) -> None:
        grad = gradients(trainer, 3 * step, 3 * step + 1, 3 * step + 2)
        expected.append({name: p.detach() - 0.5 * grad[name] for name, p in trainer.parameters.items()})

    def compare(event: Event) -> None:
        if event.kind == "step" and event.path == "train":
            for name, p in trainer.parameters.items():
                torch.testing.assert_close(p.detach(), expected[-1][name], rtol=1e-5, atol=1e-6)
            foresee(event.number)

    foresee(0)
    trainer.listeners = (compare,)
    trainer.run()
    assert len(expected) == 3


@pytest.mark.parametrize("clip", [0.001, 1000.0])
def test_clip_bounds_the_norm_of_the_gradient(clip: float, data: Path, tmp_path: Path) -> None:
    sgd = f"optimizer: {{name: SGD, betas: [0, 0], clip: {clip}}}\nlearning_rate: 0.5\n"
    trainer = trainer_of(tmp_path, data, sgd, steps=1)
    before, grad = copies(trainer.parameters), gradients(trainer, 0)
    norm = torch.cat([g.flatten() for g in grad.values()]).norm()
    assert 0.01 < norm < 100
    trainer.run()
    for name, p in trainer.parameters.items():
        expected = before[name] - 0.5 * grad[name] * min(1.0, clip / float(norm))
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_moving_average_is_what_is_written(data: Path, tmp_path: Path) -> None:
    """a <- d a + (1 - d) w with d = min(0.6, (1 + n) / (10 + n)), from the first weights."""
    trainer = trainer_of(tmp_path, data, "learning_rate: 0.05\nema: 0.6\n", steps=5)
    average = copies(trainer.parameters)

    def follow(event: Event) -> None:
        if event.kind == "step" and event.path == "train":
            step = event.number - 1
            decay = min(0.6, (1 + step) / (10 + step))
            for name, p in trainer.parameters.items():
                average[name] = decay * average[name] + (1 - decay) * p.detach()

    trainer.listeners = (follow,)
    trainer.run()
    written = weights(tmp_path / "out")
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, average[f"unet.{name}"])
        assert not torch.equal(tensor, trainer.parameters[f"unet.{name}"])
    trainer = trainer_of(tmp_path / "plain", data, "learning_rate: 0.05\n", steps=5)
    trainer.run()
    assert same(weights(tmp_path / "plain/out"), {k[5:]: p.detach() for k, p in trainer.parameters.items()})


def test_settings_by_the_command_line(data: Path, tmp_path: Path) -> None:
    """`--set train.KEY`, also of one that the document writes in short."""
    sets = {"train.optimizer.accumulate": 2, "train.learning_rate.warmup": 3, "train.ema": 0.5, "train.validate": 1}
    document(tmp_path, "learning_rate: $rate\noptimizer: SGD\n")
    graph = Graph.load(tmp_path / "tiny.yaml")
    trainer = Trainer(graph, {"data": data}, out=tmp_path / "out", options=CPU, sets=sets | HELD_OUT)
    recipe = trainer.recipe
    assert (recipe.optimizer, recipe.accumulate, recipe.warmup, recipe.ema, recipe.validate) == ("SGD", 2, 3, 0.5, 1)
    assert recipe.learning_rate == 0.01
    for key, value, message in (
        ("train.optimiser", "SGD", "a training has no setting 'optimiser'"),
        ("train.loss", "$x", "a training has no setting 'loss'"),
        ("train.ema", 2, "train.ema: expected a number from 0 to below 1, got 2"),
        ("train.optimizer.speed", 2, "train.optimizer: unknown key 'speed'"),
        ("train.ema.steps", 2, "train.ema: expected a number"),
    ):
        with pytest.raises(DiffgraphError, match=message):
            Trainer(graph, {"data": data}, out=tmp_path / "out", options=CPU, sets={key: value})


def test_bf16_computes_in_halves_and_keeps_whole_weights(whole: Path, data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, data, USUAL, options=Options("cpu", "bf16"))
    trainer.run()
    assert {p.dtype for p in weights(tmp_path / "out").values()} == {torch.float32}
    ours, full = losses(tmp_path / "out"), losses(whole)
    assert ours != full
    assert ours[:4] == pytest.approx(full[:4], rel=0.03)


FP16 = Options("cpu", "fp16")


def test_fp16_scales_the_loss_and_keeps_whole_weights(whole: Path, data: Path, tmp_path: Path) -> None:
    """Stopped in the middle, the scale goes on where it was."""
    trainer = trainer_of(tmp_path, data, USUAL, options=FP16)
    assert trainer.scaler.get_scale() == 65536
    trainer.run()
    out = tmp_path / "out"
    assert {p.dtype for p in weights(out).values()} == {torch.float32}
    assert losses(out) != losses(whole)
    assert losses(out)[:4] == pytest.approx(losses(whole)[:4], rel=0.01)
    graph = document(tmp_path / "again")
    with pytest.raises(Interrupted):
        train(graph, {"data": data}, out=tmp_path / "stopped", options=FP16, listeners=[Stop(7, KeyboardInterrupt())])
    assert is_whole(train(graph, {"data": data}, out=tmp_path / "stopped", options=FP16), out)


def test_an_overflow_of_fp16_skips_the_step_and_halves_the_scale(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, data, USUAL, options=FP16, steps=3)
    parameter = next(iter(trainer.parameters.values()))
    parameter.register_hook(lambda grad: grad * (torch.inf if trainer.step == 1 else 1))
    seen: list[tuple[float, torch.Tensor]] = []
    trainer.listeners = (lambda event: seen.append((trainer.scaler.get_scale(), parameter.detach().clone())),)
    trainer.run()
    assert [scale for scale, _ in seen[:3]] == [65536, 32768, 32768]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][1], seen[2][1])
    state = json.loads((tmp_path / "out/checkpoint/state.json").read_text())
    assert state["scaler"]["scale"] == 32768


def test_fp16_that_overflows_whatever_the_scale_stops(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, data, USUAL, options=FP16, steps=100)
    next(iter(trainer.parameters.values())).register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(RunError, match="the norm of the gradient is nan at step 17") as caught:
        trainer.run()
    assert "or use --dtype bf16" in (caught.value.hint or "")


def test_accumulated_batches_are_one_large_batch(data: Path, tmp_path: Path) -> None:
    """Three batches of 4 give the step that one of 12 with the same rows gives."""
    settings = "learning_rate: 0.05\n" + "optimizer: {name: SGD, betas: [0, 0], accumulate: N, clip: 1.0}\n"
    parts = trainer_of(tmp_path / "3", data, settings.replace("N", "3"), steps=2)
    large = trainer_of(tmp_path / "1", data, settings.replace("N", "1"), steps=2)
    source = parts.data

    def together(number: int) -> Any:
        first, *rest = (source(3 * number + part) for part in range(3))
        states = torch.cat([batch.rng.states for batch in (first, *rest)])
        image = torch.cat([batch.image for batch in (first, *rest)])
        return first._replace(image=image, text=first.text * 3, rng=first.rng._replace(states=states))

    large.data = together
    for trainer in (parts, large):
        for module in trainer.parts.values():
            module.get().eval()  # dropout draws for each batch
        trainer.run()
    for name, p in parts.parameters.items():
        torch.testing.assert_close(p, large.parameters[name], rtol=1e-4, atol=1e-6)
    assert losses(tmp_path / "3/out") == pytest.approx(losses(tmp_path / "1/out"), rel=1e-5)


# --- validation ------------------------------------------------------------------------------------------------------

VALIDATED = USUAL + "validate: 2\n"
HELD_OUT = {"batch.held_out": 0.25}


def held(out: Path) -> dict[int, float]:
    """The validation losses of a log, by step."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A training of 12 steps with a quarter of its rows held out."""
    folder = tmp_path_factory.mktemp("validated")
    return train(document(folder, VALIDATED), {"data": data}, out=folder / "out", options=CPU, sets=HELD_OUT)


def test_the_loss_of_rows_held_out_at_each_checkpoint(validated: Path, data: Path, tmp_path: Path) -> None:
    """That of the weights which are written, without dropout, on the same rows and noise each time."""
    assert list(held(validated)) == [3, 6, 9, 12]
    assert len(set(held(validated).values())) == 4
    graph = document(tmp_path, VALIDATED)
    trainer = Trainer(graph, {"data": data}, out=validated, options=CPU, sets=HELD_OUT)
    module = trainer.parts["unet"].get()
    module.load_state_dict(weights(validated))
    module.eval()
    with torch.no_grad():
        again = [float(trainer._loss(trainer.data.held_out(number))) for number in range(2)]  # type: ignore[attr-defined]
    assert held(validated)[12] == pytest.approx(sum(again) / 2, rel=1e-6)


def test_looking_at_rows_held_out_changes_no_step(validated: Path, data: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    out = train(
        document(tmp_path), {"data": data}, out=tmp_path / "out", options=CPU, sets=HELD_OUT, listeners=[heard.append]
    )
    steps = [json.loads(line) for line in (validated / "log.jsonl").read_text().splitlines()]
    assert losses(out) == [line["loss"] for line in steps if "loss" in line]
    assert same(weights(out), weights(validated))
    assert not any("validation" in event.text for event in heard)


class StopAt:
    """A listener that raises when the validation loss of a step is told, or when its step is."""

    def __init__(self, step: int, kind: str) -> None:
        self.step, self.kind = step, kind

    def __call__(self, event: Event) -> None:
        validated = event.text.startswith("validation loss") and event.text.endswith(f"at step {self.step}")
        told = validated if self.kind == "note" else event.number == self.step
        if event.kind == self.kind and told:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "kind"), [(6, "step"), (6, "note"), (8, "step"), (12, "step")])
def test_stopped_and_resumed_has_the_same_validation_losses(
    step: int, kind: str, validated: Path, data: Path, tmp_path: Path
) -> None:
    graph = document(tmp_path, VALIDATED)
    with pytest.raises(Interrupted):
        train(graph, {"data": data}, out=tmp_path / "out", options=CPU, sets=HELD_OUT, listeners=[StopAt(step, kind)])
    out = train(graph, {"data": data}, out=tmp_path / "out", options=CPU, sets=HELD_OUT)
    assert held(out) == held(validated)
    assert same(weights(out), weights(validated))
    assert (out / "log.jsonl").read_text() == (validated / "log.jsonl").read_text()


def test_validation_is_told_and_plotted(data: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    out = train(
        document(tmp_path, VALIDATED), {"data": data, "steps": 3}, out=tmp_path / "out", options=CPU, sets=HELD_OUT,
        listeners=[heard.append],
    )  # fmt: skip
    assert f"validation loss {held(out)[3]:.4f} at step 3" in [event.text for event in heard]
    with Image.open(out / "loss.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6) or []}
    assert (194, 87, 26) in colours


def test_the_running_mean_keeps_up_with_a_loss_that_falls() -> None:
    falling = [3 / (step + 1) for step in range(300)]
    mean = running_mean(falling)
    assert mean[0] == 3
    assert all(value < smooth < 1.2 * value for value, smooth in zip(falling[20:], mean[20:], strict=True))
    assert running_mean([]) == []


def test_nothing_to_validate_on(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.validate: .*no images are held out") as caught:
        train(document(tmp_path, VALIDATED), {"data": data}, out=tmp_path / "out", options=CPU)
    assert "set held_out" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_a_validation_loss_that_is_nan_stops(data: Path, tmp_path: Path) -> None:
    """The weights may be finite, and yet overflow on other pictures."""
    trainer = Trainer(document(tmp_path, VALIDATED), {"data": data}, out=tmp_path / "out", options=CPU, sets=HELD_OUT)
    kept = trainer.data.held_out  # type: ignore[attr-defined]

    def spoiled(number: int) -> Any:
        batch = kept(number)
        return batch._replace(image=batch.image * (torch.nan if trainer.step == 6 else 1))

    trainer.data.held_out = spoiled  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="NaN"):
        trainer.run()
    assert json.loads((tmp_path / "out/checkpoint/state.json").read_text())["step"] == 3


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ("", {"steps": 0}, "steps: 0 must be at least 1"),
        ("", {"steps": 2.5}, "steps: .*2.5"),
        ("", {"steps": "many"}, "steps: .*many"),
        ("learning_rate: 0", {}, "train.learning_rate: expected a number above 0, got 0"),
        ("learning_rate: $rate", {"rate": -1.0}, "train.learning_rate: expected a number above 0, got -1.0"),
        ("learning_rate: $rate", {"rate": float("nan")}, "train.learning_rate: .* got nan|rate: nan"),
        ("learning_rate: fast", {}, "train.learning_rate: expected a number above 0, got 'fast'"),
        ("learning_rate: $speed", {}, r"train.learning_rate: there is no input \$speed"),
        ("learning_rate: {peak: 1}", {}, "train.learning_rate: unknown key 'peak'"),
        ("learning_rate: {warmup: -1}", {}, "train.learning_rate.warmup: expected a whole number from 0, got -1"),
        ("learning_rate: {schedule: linear}", {}, "expected constant or cosine, got 'linear'"),
        ("optimizer: Lion", {}, "train.optimizer: expected AdamW or Adam or SGD, got 'Lion'"),
        ("optimizer: {betas: [0.9, 1]}", {}, "train.optimizer.betas: expected two numbers from 0 to below 1"),
        ("optimizer: {betas: 0.9}", {}, "train.optimizer.betas: expected two numbers"),
        ("optimizer: {clip: 0}", {}, "train.optimizer.clip: expected a number above 0, got 0"),
        ("optimizer: {weight_decay: -1}", {}, "train.optimizer.weight_decay: expected a number from 0, got -1"),
        ("optimizer: {accumulate: 0}", {}, "train.optimizer.accumulate: expected a whole number from 1, got 0"),
        ("optimizer: {momentum: 0.9}", {}, "train.optimizer: unknown key 'momentum'"),
        ("ema: 1", {}, "train.ema: expected a number from 0 to below 1, got 1"),
        ("checkpoint: true", {}, "train.checkpoint: expected a whole number from 1, got True"),
        ("validate: -1", {}, "train.validate: expected a whole number from 0, got -1"),
        ("epochs: 3", {}, "'epochs'"),
        ("sample: yes", {}, "train.sample: expected a mapping with `graph`"),
        ("sample: {graph: pkg://diffgraph/ddpm.yaml, size: 3}", {}, "train.sample has no 'size'"),
        ("sample: {graph: pkg://diffgraph/ddpm.yaml, inputs: {stepz: 3}}", {}, "has no input 'stepz'"),
        ("sample: {graph: pkg://diffgraph/none.yaml}", {}, "none.yaml"),
    ],
)
def test_bad_settings_get_one_clear_error(
    settings: str, given: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DiffgraphError, match=message) as caught:
        train(document(tmp_path, settings + "\n"), {"data": data, **given}, out=tmp_path / "out", options=CPU)
    assert len(getattr(caught.value, "problems", [None])) == 1
    assert not (tmp_path / "out").exists()


def test_samples_and_a_plot_as_it_goes(data: Path, tmp_path: Path) -> None:
    """`sample` runs a graph with the weights of each checkpoint."""
    settings = USUAL + "sample: {graph: pkg://diffgraph/ddpm.yaml, inputs: {num_images: 3, steps: 2}}\n"
    out = train(document(tmp_path, settings), {"data": data, "steps": 5}, out=tmp_path / "out", options=CPU)
    assert sorted(p.name for p in out.glob("samples-*.png")) == ["samples-000003.png", "samples-000005.png"]
    with Image.open(out / "samples-000005.png") as sheet:
        assert sheet.size == (268, 268)  # three of 8 x 8, each enlarged to 128 x 128, two in a row
    with Image.open(out / "loss.png") as picture:
        assert picture.size == (960, 480)


def test_ctrl_c_draws_no_samples_and_stops_those_being_drawn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(sampler: Sampler, graph: Any) -> None:
        drawn.append(sampler.trainer.step)
        raise Interrupted("interrupted")

    monkeypatch.setattr(Sampler, "_sample", draw)
    settings = USUAL + "sample: {graph: pkg://diffgraph/ddpm.yaml, inputs: {steps: 2}}\n"
    with pytest.raises(Interrupted, match="interrupted at step 3 of 5"):
        train(document(tmp_path, settings), {"data": data, "steps": 5}, out=tmp_path / "out", options=CPU)
    assert drawn == [3]
    assert (tmp_path / "out" / "loss.png").is_file()


def test_a_training_does_not_take_long_to_stop(data: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a step's computation ends it there, and the step is done again when it is resumed."""
    trainer = trainer_of(tmp_path, data, USUAL)
    loss = trainer._loss

    def interrupted(batch: Any) -> torch.Tensor:
        if trainer.step == 4:
            raise KeyboardInterrupt
        return loss(batch)

    trainer._loss = interrupted  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(Interrupted, match="interrupted at step 4 of 12"):
        trainer.run()
    assert time.monotonic() - started < 30
    assert len(losses(tmp_path / "out")) == 4
