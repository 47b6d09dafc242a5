"""Training: runs a graph that yields a loss, step by step, and updates the weights of the components that it names.

Everything that a step draws depends on its number alone (the data gives batch `step`), so a training that was stopped and
resumed has the loss curve of one that was not. Checkpoints are whole or absent.

    train(Graph.load("train/glide"), {"data": "emoji"}, out=Path("runs/glide"))
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .builder import Graph
from .components import GivenAddress, Handle, Opener
from .errors import CheckFailed, DiffgraphError, InputError, Interrupted, RunError, StoreError
from .graph import Train
from .guards import to_target
from .inputs import apply_sets, resolve_inputs
from .plan import Planner, select
from .run import Event, Listener, Runner
from .session import Options, Session, check_device

if TYPE_CHECKING:
    import torch

OPTIMIZERS = ("AdamW", "Adam", "SGD")


@dataclass(frozen=True)
class Recipe:
    """How weights are updated. learning_rate: at the top, reached after `warmup` steps; then constant, or falling as a cosine to 0."""

    steps: int
    optimizer: str = "AdamW"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    schedule: str = "constant"
    ema: float | None = None
    checkpoint: int = 1000

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1))
        return rate * 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else rate

    def decay(self, step: int) -> float:
        """The decay of the moving average after a step, smaller at first."""
        return min(self.ema or 0.0, (1 + step) / (10 + step))


def read_recipe(train: Train, values: Mapping[str, Any], steps: int | None = None) -> Recipe:
    """The recipe of a document's `train` section. Raises CheckFailed with all that is wrong in it."""
    settings = {key: _resolved(value, values) for key, value in train.settings.items()}
    problems: list[DiffgraphError] = []
    out: dict[str, Any] = {}

    def take(key: str, value: Any, allowed: Callable[[Any], bool], want: str) -> None:
        if isinstance(value, bool) or not allowed(value):
            problems.append(InputError(f"train.{key}: expected {want}, got {value!r}"))
        else:
            out[key.rpartition(".")[2]] = value

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and math.isfinite(value) and value >= 0

    def count(value: Any) -> bool:
        return isinstance(value, int) and value >= 1

    take("steps", steps if steps is not None else settings.get("steps"), count, "a whole number from 1")
    if "checkpoint" in settings:
        take("checkpoint", settings["checkpoint"], count, "a whole number from 1")
    if "ema" in settings:
        take("ema", settings["ema"], lambda v: number(v) and v < 1, "a number from 0 to below 1")
    rate = settings.get("learning_rate", {})
    for key, value in (rate if isinstance(rate, dict) else {"top": rate}).items():
        if key == "top":
            take("learning_rate", value, lambda v: number(v) and v > 0, "a number above 0")
        elif key == "warmup":
            take("learning_rate.warmup", value, lambda v: isinstance(v, int) and v >= 0, "a whole number")
        elif key == "schedule":
            take("learning_rate.schedule", value, lambda v: v in ("constant", "cosine"), "constant or cosine")
        else:
            problems.append(InputError(f"train.learning_rate: unknown key {key!r}", hint="top, warmup, schedule"))
    optimizer = settings.get("optimizer", {})
    for key, value in (optimizer if isinstance(optimizer, dict) else {"name": optimizer}).items():
        if key == "name":
            take("optimizer", value, lambda v: v in OPTIMIZERS, " or ".join(OPTIMIZERS))
        elif key == "betas":
            take("optimizer.betas", value, lambda v: isinstance(v, list) and len(v) == 2 and all(map(number, v)), "two numbers")
        elif key in ("weight_decay", "clip"):
            take(f"optimizer.{key}", value, number, "a number from 0")
        elif key == "accumulate":
            take("optimizer.accumulate", value, count, "a whole number from 1")
        else:
            problems.append(InputError(f"train.optimizer: unknown key {key!r}", hint="name, betas, weight_decay, clip, accumulate"))
    if problems:
        raise CheckFailed(problems)
    if "betas" in out:
        out["betas"] = tuple(out["betas"])
    return Recipe(**out)


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(inner, values) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in values:
            raise InputError(f"train: there is no input {value}")
        return values[value[1:]]
    return value


class Trainer:
    """One training: its data, its program, what it updates, and its folder.

    The folder holds `log.jsonl` (step, loss, learning rate), `checkpoint/` (all that resuming needs), and one folder for each
    component of `update`, in the published layout, with the moving average of the weights.
    """

    def __init__(
        self, graph: Graph, given: Mapping[str, Any], *, out: Path, options: Options | None = None, variant: str | None = None,
        sets: Mapping[str, Any] | None = None, steps: int | None = None, listeners: Sequence[Listener] = (),
    ) -> None:  # fmt: skip
        import torch

        document = graph.document
        if document.train is None:
            raise InputError(f"{graph.source.label} is not a training graph: it has no `train:`", hint="`diffgraph graphs` lists those that are")
        self.out, self.listeners, self.source = out, tuple(listeners), graph.source
        session = Session(options or Options())
        values, variant_sets = resolve_inputs(document, given, session.registry, variant, source=graph.source)
        document = apply_sets(apply_sets(document, variant_sets), sets or {}, user=True)
        train = document.train
        assert train is not None
        opener = Opener()
        problems, _ = session.check(document, graph.source, graph.loader, values, opener)
        if problems:
            raise CheckFailed(problems)
        self.train, self.values = train, values
        self.recipe = read_recipe(train, values, steps)
        self.settings = session.settings()
        self.precision = self.settings.dtype
        check_device(self.settings.device)
        planner = Planner(session.registry, graph.loader, opener, _full_precision(self.settings))
        names = planner.inputs(values)
        self._batch = planner.slot("@batch")
        names[train.data.as_name] = self._batch
        self.data = self._open_data(planner, session, names)
        outputs = planner.scope(document, graph.source, names, "")
        outputs = {"loss": planner.bind(train.loss, names), **outputs}
        self.program = select(planner, outputs, lambda key: False, store=False)
        self.runner = Runner(self.program, target=_target(self.settings.device), keep=True)
        self.parts: dict[str, Handle] = {}
        for name in train.update:
            handle = names[name]
            assert isinstance(handle, Handle)
            self.parts[name] = handle
        for handle in planner.handles.values():
            module = handle.get() if handle.kind.trainable else None
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(handle in self.parts.values())
                module.train(handle in self.parts.values())
        self.parameters = {
            f"{name}.{key}": p for name, handle in self.parts.items() for key, p in handle.get().named_parameters()
        }
        self.average = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.optimizer = self._make_optimizer()
        self.step = 0
        self.identity = self._identity(graph)

    def _open_data(self, planner: Planner, session: Session, names: Mapping[str, Any]) -> Callable[[int], Any]:
        node = self.train.data
        kind = session.registry.nodes[node.target_text]
        config, folder = {}, None
        for name, arg in node.args.items():
            value = planner.bind(arg, names).value  # type: ignore[union-attr]
            if name == "folder":
                folder = value
            else:
                config[name] = kind.config[name].accept(value)
        cls = kind.load()
        defaults = {name: spec.default for name, spec in kind.config.items() if not spec.required}
        return cls.open(cls.Config(**{**defaults, **config}), Path(str(folder)))  # type: ignore[no-any-return]

    def _make_optimizer(self) -> torch.optim.Optimizer:
        import torch

        recipe, parameters = self.recipe, list(self.parameters.values())
        if recipe.optimizer == "SGD":
            return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.betas[0], weight_decay=recipe.weight_decay)
        adam = torch.optim.AdamW if recipe.optimizer == "AdamW" else torch.optim.Adam
        return adam(parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)

    def _identity(self, graph: Graph) -> dict[str, Any]:
        """What a checkpoint must share with the training that resumes it."""
        plain = {k: v for k, v in self.values.items() if not isinstance(v, GivenAddress)}
        data = hashlib.sha256()
        for text in getattr(self.data, "texts", ()):
            data.update(text.encode() + b"\n")
        return {"graph": graph.hash(), "inputs": json.loads(json.dumps(plain, default=str)), "data": data.hexdigest(), "rows": len(self.data)}  # type: ignore[arg-type]

    # --- steps

    def run(self, *, resume: bool = True) -> Path:
        """Trains to the last step; returns the folder. Raises RunError where the loss is not finite, Interrupted."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.out} cannot be made: {error.strerror}") from None
        if resume and (self.out / "checkpoint" / "state.json").is_file():
            self._restore()
        else:
            (self.out / "log.jsonl").unlink(missing_ok=True)
        total = self.recipe.steps
        try:
            while self.step < total:
                started = time.perf_counter()
                loss = self._step()
                self._log(loss)
                self._emit(Event("step", "train", self.step, total, time.perf_counter() - started, f"{loss:.4f}"))
                if self.step % self.recipe.checkpoint == 0 and self.step < total:
                    self._save()
        except (KeyboardInterrupt, Interrupted):
            self._save()
            raise Interrupted(f"interrupted at step {self.step} of {total}", hint="the same command goes on from there") from None
        self._save()
        return self.out

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _step(self) -> float:
        """One update. Dropout, and whatever else draws from torch's own generator, depends on the step's number alone."""
        import torch

        recipe, total = self.recipe, 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        for part in range(recipe.accumulate):
            number = self.step * recipe.accumulate + part
            torch.manual_seed(number)
            batch = to_target(self.data(number), self.runner.target, dtype=False)
            loss = self._loss(batch) / recipe.accumulate
            if not bool(torch.isfinite(loss)):
                raise RunError(
                    f"the loss is {float(loss)} at step {self.step}", node="train.loss",
                    hint=f"the last good checkpoint is kept in {self.out}; lower the learning rate, or set optimizer.clip",
                )  # fmt: skip
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.ema is not None:
            with torch.no_grad():
                values = [p.detach() for p in self.parameters.values()]
                torch._foreach_lerp_(list(self.average.values()), values, 1 - recipe.decay(self.step))
        self.step += 1
        return total

    def _loss(self, batch: Any) -> torch.Tensor:
        import torch

        device = self.settings.device.split(":")[0]
        with torch.autocast(device, getattr(torch, self.precision), enabled=self.precision != "float32"):
            outputs = self.runner.run({self._batch.index: batch}, grad=True)
        loss: torch.Tensor = outputs["loss"].float().mean()
        return loss

    # --- files

    def _log(self, loss: float) -> None:
        entry = {"step": self.step, "loss": loss, "learning_rate": self.recipe.rate(self.step - 1)}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def losses(self) -> list[dict[str, Any]]:
        """What was logged, a step an entry."""
        path = self.out / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def _save(self) -> None:
        """Writes the checkpoint, then the weights; each is moved into place when it is whole. Raises StoreError."""
        from safetensors.torch import save_file

        tensors = {f"weights/{key}": p.detach().cpu().contiguous() for key, p in self.parameters.items()}
        tensors |= {f"average/{key}": p.cpu().contiguous() for key, p in self.average.items()}
        state = self.optimizer.state_dict()["state"]
        for number, entry in state.items():
            tensors |= {f"optimizer/{number}/{key}": t.detach().cpu().contiguous() for key, t in entry.items() if t is not None}
        draft = self.out / f".checkpoint.{os.getpid()}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            save_file(tensors, draft / "state.safetensors")
            (draft / "state.json").write_text(json.dumps({"step": self.step, "identity": self.identity}))
            _replace(draft, self.out / "checkpoint")
            for name, folder in self.train.update.items():
                self._save_part(name, self.out / folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise StoreError(f"the checkpoint cannot be written to {self.out}: {error.strerror}", hint="the one before is kept") from None
        self._emit(Event("note", text=f"checkpoint at step {self.step}"))

    def _save_part(self, name: str, folder: Path) -> None:
        """The moving average of one component, as `run` loads it, with the files of the components around it."""
        import torch

        module = self.parts[name].get()
        kept = {key: p.detach().clone() for key, p in module.named_parameters()}
        with torch.no_grad():
            if self.recipe.ema is not None:
                for key, p in module.named_parameters():
                    p.copy_(self.average[f"{name}.{key}"])
            module.save_pretrained(folder)
            for key, p in module.named_parameters():
                p.copy_(kept[key])
        for handle in self.runner.program.units:
            for other in handle.handles:
                if other is not self.parts[name] and not other.kind.trainable:
                    other.get().save_pretrained(folder)

    def _restore(self) -> None:
        """Goes on from the checkpoint. Raises InputError where it is of another graph or other data."""
        import torch
        from safetensors.torch import load_file

        folder = self.out / "checkpoint"
        try:
            state = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "state.safetensors")
        except Exception as error:
            raise StoreError(f"{folder} is damaged: {error}", hint="--no-resume starts anew") from None
        for key, what in (("graph", "graph"), ("inputs", "inputs"), ("data", "captions of the data"), ("rows", "number of images")):
            if state["identity"].get(key) != self.identity[key]:
                raise InputError(
                    f"{folder} is of another training: the {what} differ", hint="give another --out, or --no-resume to start anew"
                )
        with torch.no_grad():
            for key, p in self.parameters.items():
                p.copy_(tensors[f"weights/{key}"])
                self.average[key].copy_(tensors[f"average/{key}"])
        groups = self.optimizer.state_dict()
        entries: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                entries.setdefault(int(number), {})[name] = tensor
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups["param_groups"]})
        self.step = state["step"]
        lines = (self.out / "log.jsonl").read_text().splitlines()[: self.step]
        (self.out / "log.jsonl").write_text("".join(line + "\n" for line in lines))
        self._emit(Event("note", text=f"resumed at step {self.step}"))


def _replace(draft: Path, place: Path) -> None:
    """Puts a folder into place: at every moment one of the two is whole under its name or beside it."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    draft.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _full_precision(settings: Any) -> Any:
    from dataclasses import replace

    return replace(settings, dtype="float32")


def _target(device: str) -> Any:
    from .authoring import Target

    return Target(device, "float32")


def train(
    graph: Graph, given: Mapping[str, Any], *, out: Path, options: Options | None = None, variant: str | None = None,
    sets: Mapping[str, Any] | None = None, steps: int | None = None, resume: bool = True, listeners: Sequence[Listener] = (),
) -> Path:  # fmt: skip
    """Trains what the graph's `train` section says, and writes weights, checkpoints, the log, a loss plot and samples to `out`.

    Raises CheckFailed, InputError, RunError where the loss is not finite, StoreError, Interrupted.
    """
    from .samples import Sampler

    trainer = Trainer(graph, given, out=out, options=options, variant=variant, sets=sets, steps=steps, listeners=listeners)
    sampler = Sampler(trainer, options)
    trainer.listeners = (*trainer.listeners, sampler)
    return trainer.run(resume=resume)


__all__ = ["Recipe", "Trainer", "read_recipe", "train"]
