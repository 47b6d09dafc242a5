"""The trainer: runs a graph that yields a loss, step by step, and updates the weights of the components that it names.

Everything that a step draws depends on its number alone (the data gives batch `step`), so a training that was stopped
and resumed has the loss curve of one that was not. Checkpoints are whole or absent.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..authoring import Target, running_notes
from ..builder import Graph
from ..components import GivenAddress, Handle
from ..errors import CheckFailed, DiffgraphError, InputError, Interrupted, PortError, RunError, StoreError, WeightsError
from ..fetching import raise_problems
from ..hiding import secret_texts
from ..inputs import apply_sets, resolve_inputs
from ..language.graph import GraphDocument, arg_refs, node_refs
from ..planning.plan import Planner
from ..planning.selecting import select
from ..running.guards import to_target
from ..running.run import Event, Listener, Runner
from ..session import Options, Session, check_device
from ..telling import hide
from ..values import leaves
from .checkpoints import CHECKPOINT, compare, damaged, read_checkpoint, settle, uninterrupted, write_checkpoint
from .recipe import read_recipe

if TYPE_CHECKING:
    import torch


class Trainer:
    """One training: its data, its program, what it updates, and its folder.

    The folder holds `log.jsonl` (step, loss, learning rate; step, validation loss), `checkpoint/` (all that resuming
    needs), and one folder for each component of `update`, in the published layout, with the moving average of the
    weights. Components of `save` have folders too; those without weights that neither names, such as a scheduler, are
    written into each.
    """

    def __init__(
        self, graph: Graph, given: Mapping[str, Any], *, out: Path, options: Options | None = None,
        variant: str | None = None, sets: Mapping[str, Any] | None = None, steps: int | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:  # fmt: skip
        """Checks the graph, opens the data and loads the weights.

        steps: in place of what the document says. Raises CheckFailed with all mistakes, InputError, WeightsError.
        """
        import torch

        document = graph.document
        if document.train is None:
            what = f"{graph.source.label} is not a training graph: it has no `train:`"
            raise InputError(what, hint="`diffgraph graphs` lists those that are")
        self.out, self.listeners, self.source = out, tuple(listeners), graph.source
        session = Session(options or Options())
        values, variant_sets = resolve_inputs(document, given, session.registry, variant, source=graph.source)
        document = apply_sets(apply_sets(document, variant_sets), sets or {}, user=True)
        train = document.train
        assert train is not None
        opener = session.opener(graph.source)
        problems, _ = session.check(document, graph.source, graph.loader, values, opener)
        try:
            self.recipe = read_recipe(train, values, steps)
        except CheckFailed as failed:
            known = {problem.message for problem in problems}
            problems += [problem for problem in failed.problems if problem.message not in known]
        raise_problems(problems, opener, graph.source)
        self.train, self.values = train, values
        self._secrets = secret_texts(document, values)
        self.settings = session.settings()
        check_device(self.settings.device)
        planner = Planner(session.registry, graph.loader, opener, replace(self.settings, dtype="float32"))
        names = planner.inputs(values)
        self._batch = planner.slot("@batch")
        names[train.data.as_name] = self._batch
        self.data = self._open_data(planner, session, names)
        if self.recipe.validate:
            self._check_held_out()
        outputs = planner.scope(document, graph.source, names, "")
        outputs = {"loss": planner.bind(train.loss, names), **outputs}
        program = select(planner, outputs, lambda key: False, store=False)
        self.runner = Runner(program, target=Target(self.settings.device, "float32"), keep=True)
        self.parts: dict[str, Handle] = {}
        for name in train.update:
            handle = names[name]
            assert isinstance(handle, Handle)
            self.parts[name] = handle
        trained = [handle.key for handle in self.parts.values()]
        for handle in planner.handles.values():
            module = handle.get() if handle.kind.trainable else None
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(handle.key in trained)
                module.train(handle.key in trained)
        self.saved: list[tuple[str, Handle]] = []
        for name, folder in train.save.items():
            handle = names[name]
            assert isinstance(handle, Handle)
            self.saved.append((folder, handle))
        apart = {handle.key for _, handle in self.saved}
        self.beside = {h.key: h for h in planner.handles.values() if not h.kind.trainable and h.key not in apart}
        modules = {name: handle.get() for name, handle in self.parts.items()}
        self.parameters = {f"{name}.{key}": p for name, part in modules.items() for key, p in part.named_parameters()}
        self.buffers = {f"{name}.{key}": b for name, part in modules.items() for key, b in part.named_buffers()}
        ema = self.recipe.ema is not None
        self.average = {key: p.detach().clone() for key, p in self.parameters.items()} if ema else {}
        self.optimizer = self._make_optimizer()
        kind = self.settings.device.split(":")[0]
        self.scaler = torch.amp.GradScaler(kind, enabled=self.settings.dtype == "float16")
        self.step = 0
        self.stopping = False  # the user has stopped it: what is left is to write the checkpoint
        self.identity = self._identity(graph, document, planner)

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
        notes = running_notes.set(lambda text: self.emit(Event("note", text=text)))
        try:
            return cls.open(cls.Config(**{**defaults, **config}), Path(str(folder)))  # type: ignore[no-any-return]
        finally:
            running_notes.reset(notes)

    def _check_held_out(self) -> None:
        """Raises InputError where the data holds no rows out."""
        place, name = self.train.place, self.train.data.target_text
        if not hasattr(self.data, "held_out"):
            raise InputError(f"train.validate: {name} holds no rows out", hint="leave it out", place=place)
        try:
            self.data.held_out(0)
        except PortError as error:
            raise InputError(f"train.validate: {error.message}", hint=error.hint, place=place) from None

    def _make_optimizer(self) -> torch.optim.Optimizer:
        import torch

        recipe, parameters = self.recipe, list(self.parameters.values())
        rate, decay = recipe.learning_rate, recipe.weight_decay
        if recipe.optimizer == "SGD":
            return torch.optim.SGD(parameters, lr=rate, momentum=recipe.betas[0], weight_decay=decay)
        adam = torch.optim.AdamW if recipe.optimizer == "AdamW" else torch.optim.Adam
        return adam(parameters, lr=rate, betas=recipe.betas, weight_decay=decay)

    def _identity(self, graph: Graph, document: GraphDocument, planner: Planner) -> dict[str, Any]:
        """What a checkpoint must share with the training that resumes it, in words for a message."""
        assert document.train is not None
        free = {name: replace(item, default=None, required=True) for name, item in document.inputs.items()}
        bare = copy.copy(graph)
        bare.document = replace(document, inputs=free, train=replace(document.train, settings={}))
        named = {ref.name for node in (*document.nodes.values(), document.train.data) for ref in node_refs(node)}
        named |= {ref.name for ref in arg_refs(document.train.loss)}
        plain = {
            k: v
            for k, v in self.values.items()
            if k in named and not isinstance(v, GivenAddress) and not document.inputs[k].secret
        }
        updated = {handle.key for handle in self.parts.values()}
        beside = [h for h in planner.handles.values() if h.folder is not None and h.key not in updated]
        first = hashlib.sha256(str(len(self.data)).encode())  # type: ignore[arg-type]
        for leaf in leaves(self.data(0)):
            first.update(leaf.numpy().tobytes() if hasattr(leaf, "numpy") else repr(leaf).encode())
        identity = {
            "graph": bare.hash(),
            "inputs": plain,
            "weights": sorted(h.folder.digest(h.files) for h in beside if h.folder is not None),
            "number of rows of data": len(self.data),  # type: ignore[arg-type]
            "data": first.hexdigest(),
            "recipe": self.recipe.identity(),
            "dtype": self.settings.dtype,
        }
        return dict(json.loads(json.dumps(identity, default=str)))

    # --- steps

    def run(self, *, resume: bool = True) -> Path:
        """Trains to the last step; returns the folder.

        Raises RunError where the loss or a gradient is not finite, StoreError, Interrupted.
        """
        import torch

        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.out} cannot be made: {error.strerror}") from None
        if resume and settle(self.out / "checkpoint"):
            self._restore()
        else:
            self._write_log([])
        devices = [self.settings.device] if self.settings.device.startswith("cuda") else []
        try:
            with torch.random.fork_rng(devices=devices):  # which each step seeds
                self._run()
        except (KeyboardInterrupt, Interrupted):
            self.stopping = True
            self._save()
            what = f"interrupted at step {self.step} of {self.recipe.steps}"
            raise Interrupted(what, hint="the same command goes on from there") from None
        except DiffgraphError as error:
            hide(error, self._secrets)
            raise
        return self.out

    def _run(self) -> None:
        total, every = self.recipe.steps, self.recipe.checkpoint
        if self.step and self.step % every == 0:
            self._validate()  # where that was cut short
        while self.step < total:
            started = time.perf_counter()
            loss = self._gradients()
            with uninterrupted():
                self._update()
                self._log(loss=loss, learning_rate=self.recipe.rate(self.step - 1))
            self.emit(Event("step", "train", self.step, total, time.perf_counter() - started, f"{loss:.4f}"))
            if self.step % every == 0 and self.step < total:
                self._validate()
                self._save()
        self._validate()
        self._save()

    def emit(self, event: Event) -> None:
        """Tells the listeners."""
        for listener in self.listeners:
            listener(event)

    def _gradients(self) -> float:
        """The loss of one step, whose gradients are left at the parameters.

        Dropout, and whatever else draws from torch's own generator, depends on the step's number alone.
        """
        import torch

        recipe, total = self.recipe, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.accumulate):
            number = self.step * recipe.accumulate + part
            torch.manual_seed(number)
            batch = to_target(self.data(number), self.runner.target, dtype=False)
            loss = self._loss(batch) / recipe.accumulate
            if not bool(torch.isfinite(loss)):
                raise self._diverged(f"the loss is {float(loss.detach())}")
            if not loss.requires_grad:
                words = ", ".join(self.parts)
                raise RunError(f"the loss does not depend on {words}, which should be trained", node="train.loss")
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _update(self) -> None:
        """One step of the optimizer and of the moving average. Where the scaled gradient of fp16 overflows, the weights
        stay, and the scale becomes half of what it was.
        """
        import torch

        recipe, scaler = self.recipe, self.scaler
        scaler.unscale_(self.optimizer)
        given = [p for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])
        finite = bool(torch.isfinite(norm))
        if not finite and scaler.get_scale() <= 1:  # which it is where nothing is scaled
            raise self._diverged(f"the norm of the gradient is {float(norm)}")
        if finite and recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(given, recipe.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if finite and recipe.ema is not None:
            with torch.no_grad():
                values = [p.detach() for p in self.parameters.values()]
                torch._foreach_lerp_(list(self.average.values()), values, 1 - recipe.decay(self.step))
        self.step += 1

    def _diverged(self, what: str) -> RunError:
        kept = f"the checkpoint in {self.out} is of before; " if (self.out / "checkpoint").exists() else ""
        half = ", or use --dtype bf16" if self.scaler.is_enabled() else ""
        hint = f"{kept}lower the learning rate, or set optimizer.clip{half}"
        return RunError(f"{what} at step {self.step + 1}", node="train.loss", hint=hint)

    def _loss(self, batch: Any, *, grad: bool = True) -> torch.Tensor:
        import torch

        device, precision = self.settings.device.split(":")[0], self.settings.dtype
        with torch.autocast(device, getattr(torch, precision), enabled=precision != "float32"):
            outputs = self.runner.run({self._batch.index: batch}, grad=grad)
        loss: torch.Tensor = outputs["loss"].float().mean()
        return loss

    def _validate(self) -> None:
        """Logs the mean loss of rows held out, of the weights that are written: the same rows and draws each time.

        Does nothing where this step's is in the log. Raises RunError where it is NaN.
        """
        import torch

        count = self.recipe.validate
        if not count or any(e["step"] == self.step and "validation_loss" in e for e in self.losses()):
            return
        modules, total = [part.get() for part in self.parts.values()], 0.0
        with ExitStack() as stack:
            for name, module in zip(self.parts, modules, strict=True):
                stack.enter_context(self._averaged(name))
                stack.callback(module.train)
                module.eval()
            for number in range(count):
                torch.manual_seed(number)
                batch = to_target(self.data.held_out(number), self.runner.target, dtype=False)  # type: ignore[attr-defined]
                total += float(self._loss(batch, grad=False)) / count
        self._log(validation_loss=total)
        self.emit(Event("note", text=f"validation loss {total:.4f} at step {self.step}"))

    # --- files

    def _log(self, **entry: float) -> None:
        try:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **entry}) + "\n")
        except OSError as error:
            hint = "the last checkpoint is kept: free some space, and the same command goes on from it"
            raise StoreError(f"{self.out}/log.jsonl cannot be written: {error.strerror}", hint=hint) from None

    def _write_log(self, lines: Sequence[str]) -> None:
        try:
            (self.out / "log.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{self.out}/log.jsonl cannot be written: {error.strerror}") from None

    def losses(self) -> list[dict[str, Any]]:
        """What was logged: of each step the loss, and at checkpoints the validation loss."""
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        """The whole lines of the log, up to this step."""
        path = self.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [line.rstrip("\n") for line in lines if line.endswith("\n")]
        return [line for line in whole if json.loads(line)["step"] <= self.step]

    def _state(self) -> dict[str, torch.Tensor]:
        """All tensors that resuming needs, by name."""
        groups = {"weights": self.parameters, "buffers": self.buffers, "average": self.average}
        tensors = {f"{group}/{key}": tensor for group, part in groups.items() for key, tensor in part.items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in entry.items() if tensor is not None}
        return tensors

    def _save(self) -> None:
        """Writes the checkpoint, then the weights; each is put into place when it is whole. Raises StoreError, and
        RunError where a weight is no longer finite.
        """
        import torch

        if not all(bool(torch.isfinite(p).all()) for p in self.parameters.values()):
            raise self._diverged("the weights are no longer finite")
        with uninterrupted():
            tensors = {name: t.detach().cpu().contiguous() for name, t in self._state().items()}
            state = {"step": self.step, "identity": self.identity, "scaler": self.scaler.state_dict()}
            write_checkpoint(self.out / "checkpoint", tensors, state)
            try:
                for name, folder in self.train.update.items():
                    self._save_part(name, self.out / folder)
                for folder, handle in self.saved:
                    handle.get().save_pretrained(self.out / folder)
            except (OSError, WeightsError) as error:
                hint = f"the checkpoint of step {self.step} is whole: the same command goes on from it"
                raise StoreError(f"the weights cannot be written: {error}", hint=hint) from None
        self.emit(Event("note", CHECKPOINT, self.step, text=f"checkpoint at step {self.step}"))

    def _save_part(self, name: str, folder: Path) -> None:
        """The moving average of one component, as `run` loads it, with the files of the components around it."""
        with self._averaged(name):
            self.parts[name].get().save_pretrained(folder)
        for handle in self.beside.values():
            handle.get().save_pretrained(folder)

    @contextmanager
    def _averaged(self, name: str) -> Iterator[None]:
        """The moving average in place of a component's weights."""
        import torch

        keys = [key for key in self.average if key.startswith(f"{name}.")]
        kept = {key: self.parameters[key].detach().clone() for key in keys}
        try:
            with uninterrupted(), torch.no_grad():
                for key in keys:
                    self.parameters[key].copy_(self.average[key])
            yield
        finally:
            with uninterrupted(), torch.no_grad():
                for key in keys:
                    self.parameters[key].copy_(kept[key])

    def _restore(self) -> None:
        """Goes on from the checkpoint. Raises InputError where it is of another training, StoreError if damaged."""
        import torch

        folder = self.out / "checkpoint"
        tensors, state = read_checkpoint(folder)
        compare(folder, state["identity"], self.identity)
        if state["step"] > self.recipe.steps:
            what = f"{folder} is of step {state['step']}, beyond the {self.recipe.steps} that are asked for"
            raise InputError(what, hint="ask for more steps, or give --no-resume to start anew")
        entries: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                entries.setdefault(int(number), {})[name] = tensor
        groups = {"weights": self.parameters, "buffers": self.buffers, "average": self.average}
        try:
            with torch.no_grad():
                for group, part in groups.items():
                    for key, tensor in part.items():
                        tensor.copy_(tensors[f"{group}/{key}"])
            groups_now = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": entries, "param_groups": groups_now})
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise damaged(folder, str(error)) from None
        self.step = state["step"]
        self._write_log(self._lines())
        self.emit(Event("note", text=f"resumed at step {self.step}"))


__all__ = ["Trainer"]
