"""How many wrong wires the check catches: `python benchmarks/rewiring.py [GRAPH ...] [--list]`.

Every reference in every shipped graph is rewired, one at a time, to every other value in its scope. The result is
checked, at both levels, with tiny untrained weights; where the check says nothing it is run. Printed: how many
rewirings were caught; how many of those to a value of the right kind, which a check by type names alone cannot see; how
many crashed in the run; and how many gave a different result in silence, each with its place.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DIFFGRAPH_CACHE_DIR", tempfile.mkdtemp())

from diffgraph import DiffgraphError, Options
from diffgraph.checking.check import Checker
from diffgraph.checking.unify import Value
from diffgraph.components import GivenAddress, Opener
from diffgraph.errors import CheckFailed
from diffgraph.language.graph import Arg, GraphDocument, ListOf, Node, Ref
from diffgraph.language.sources import Loader, Source, graphs_folder, open_source, package_source
from diffgraph.ports import compatible
from diffgraph.session import Session, resolve_inputs

# The system that a shared graph is tried in: a shipped one, or a small one of GLIDE's base, with these lines more.
USERS = {"samplers/guided": "glide", "samplers/plain": "glide"}
SMALL = {
    "prediction": ("guided", "uncondition: $no_text\nguidance_scale: 2.5\nrescale: 0.3"),
    "guided_schedule": (
        "guided_schedule", "uncondition: $no_text\nguidance_scale: 2.5\nlow: 0.1\nhigh: 90.0\nramp: linear\nrescale: 0.3",
    ),
    "img2img": ("img2img", "uncondition: $no_text\nguidance_scale: 2.5\nimage: $image\nstrength: 0.7"),
    "inpaint": ("inpaint", "uncondition: $no_text\nguidance_scale: 2.5\nimage: $image\nmask: $mask"),
    "inpaint_clean": ("inpaint_clean", "uncondition: $no_text\nguidance_scale: 2.5\nimage: $image\nmask: $mask"),
    "gradient": ("gradient", "target: $image\nheight: 8\nwidth: 8\ngradient_scale: 0.7"),
    "hand_off": ("hand_off", "image: $image\nheight: 16\nwidth: 16\nlevel: 250"),
}  # fmt: skip
SYSTEM = """
diffgraph: 1
name: user
inputs:
{inputs}
nodes:
{parts}
  sampled:
    graph: pkg://diffgraph/samplers/{sampler}.yaml
{wires}
outputs: {{{outputs}}}
"""
PARTS = {
    "model": "{node: UNetGLIDE, weights: $weights}",
    "scheduler": "{node: DDIMScheduler, weights: $weights, eta: 0.5}",
    "tokenizer": "{node: Tokenizer, weights: $weights}",
    "tokens": "{call: $tokenizer, text: $prompt}",
    "nothing": "{call: $tokenizer, text: $negative_prompt}",
    "text": "{call: $model.condition, tokens: $tokens}",
    "no_text": "{call: $model.condition, tokens: $nothing}",
    "rng": "{node: Rng, seed: $seed, batch: $num_images}",
}
INPUTS = {
    "weights": "{type: weights}", "prompt": "{type: text}", "negative_prompt": "{type: text}", "seed": "{type: int}",
    "num_images": "{type: int}", "steps": "{type: Steps}", "image": "{type: Image}", "mask": "{type: Mask}",
}  # fmt: skip


def small_system(name: str) -> str:
    """A document that uses the sampler, with no more than it needs."""
    sampler, wires = SMALL[name]
    lines = [*wires.split("\n"), "scheduler: $scheduler", "rng: $rng"]
    if sampler != "hand_off":
        lines += ["model: $model", "condition: $text", "steps: $steps"]
    used = {line.split("$")[1] for line in lines if "$" in line}
    for part, text in reversed(PARTS.items()):
        if part in used:
            used |= set(re.findall(r"\$(\w+)", text))
    outputs = "low_res: $sampled.low_res" if sampler == "hand_off" else "image: $sampled.sample"
    return SYSTEM.format(
        inputs="\n".join(f"  {key}: {text}" for key, text in INPUTS.items() if key in used),
        parts="\n".join(f"  {key}: {text}" for key, text in PARTS.items() if key in used),
        sampler=sampler,
        wires="\n".join(f"    {line}" for line in lines),
        outputs=outputs,
    ).lstrip()


# --- tiny parts ------------------------------------------------------------------------------------------------------


def make_parts(folder: Path) -> None:
    """Tiny untrained weights for every system, and a data set of a few pictures."""
    from tests import parts  # the tests' own

    def place(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    parts.save_glide(place("glide"))
    parts.save_glide_inpaint(place("glide_inpaint"))
    parts.save_ddpm(place("ddpm"))
    parts.save_imagen(place("imagen"))
    parts.save_dit(place("dit"))
    parts.save_ldm(place("ldm"))
    parts.save_codebook(place("ldm_unconditional"), 3)
    parts.save_codebook(place("ldm_super_resolution"), 6)
    parts.save_clip(place("stable_diffusion"), 4)
    parts.save_clip(place("stable_diffusion_inpaint"), 9)
    parts.save_photo(place("photo"))
    parts.save_data(place("data"), 4)
    parts.write_tokenizer(folder / "words", 16)


WEIGHTS = {
    "glide_base": "glide", "glide_img2img": "glide", "imagen_base": "imagen", "imagen_if": "imagen/base",
    "imagen_if_base": "imagen/base", "imagen_if_upsampler": "imagen/upsampler",
    "stable_diffusion_img2img": "stable_diffusion", "train/ddpm_finetune": "ddpm", "train/glide_finetune": "glide",
    "train/imagen_if_finetune": "imagen/base", "train/stable_diffusion": "stable_diffusion",
}  # fmt: skip
SIZES = {  # of the pictures
    "train/ddpm_finetune": 8, "train/glide_finetune": 8, "train/imagen_if_finetune": 8, "train/stable_diffusion": 16,
}  # fmt: skip


def inputs_of(name: str, folder: Path) -> dict[str, Any]:
    """Values for a system's inputs that make it run in a moment; none is at its default where two could be confused."""
    if name.startswith("train/"):
        values: dict[str, Any] = {"data": str(folder / "data"), "steps": 1, "batch": 2}
        if name in SIZES:
            values |= {"size": SIZES[name], "weights": GivenAddress(folder / WEIGHTS[name])}
        elif "glide" in name:
            values["tokenizer"] = GivenAddress(folder / "words")
        return values
    values = {
        "prompt": "red", "negative_prompt": "blue", "label": "ostrich", "seed": 3, "num_images": 2, "steps": 3,
        "upsampler_steps": 2, "guidance_scale": 2.5, "upsampler_guidance_scale": 3.5, "noise_level": 70,
        "strength": 0.7, "rescale": 0.3, "image": folder / "photo/image.png", "mask": folder / "photo/mask.png",
        "weights": GivenAddress(folder / WEIGHTS.get(name, name)),
        "upsampler_weights": GivenAddress(folder / "imagen/upsampler"),
    }  # fmt: skip
    if name == "ldm_super_resolution":
        values["size"] = 8
    if name.startswith("samplers/"):
        import torch

        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 3:] = 1
        image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)
        values |= {"weights": GivenAddress(folder / "glide/base"), "image": image, "mask": mask}
        asked = small_system(name.removeprefix("samplers/")).partition("nodes:")[0]
        return {key: value for key, value in values.items() if f"  {key}:" in asked}
    asked = Loader().load(package_source(f"pkg://diffgraph/{name}.yaml")).inputs
    return {key: value for key, value in values.items() if key in asked}


# --- rewiring --------------------------------------------------------------------------------------------------------


@dataclass
class Edge:
    """A reference in a document: where it stands, what it means, and what else is in sight there."""

    node: str
    port: str
    ref: Ref
    value: Value
    others: dict[str, Value] = field(default_factory=dict)


class Recorder(Checker):
    """A check that notes, for every reference of one document, its value and its scope."""

    def record(self, file: str) -> None:
        self.file = file
        self.seen: dict[Any, tuple[Ref, str, Value, Any]] = {}

    def reference(self, ref: Ref, scope: Any, what: str) -> Value:
        value = super().reference(ref, scope, what)
        if ref.place.file == self.file:
            self.seen[ref.place] = (ref, what, value, scope)
        return value


def candidates(scope: Any, ref: Ref) -> Iterator[tuple[Ref, Value]]:
    for name, value in scope.names.items():
        whole = Ref(name, (), "", ref.place)
        yield whole, value
        for part, inner in value.fields.items():
            yield replace(whole, path=(str(part),)), inner
        if value.component is not None:
            for attribute in value.component.type.attributes:
                yield replace(whole, path=(attribute,)), value


def substitute(graph: GraphDocument, place: Any, new: Ref) -> GraphDocument:
    """The graph with the one reference at this place replaced."""
    out = copy.deepcopy(graph)

    def arg(given: Arg) -> Arg:
        if isinstance(given, ListOf):
            return ListOf(tuple(arg(item) for item in given.items), given.place)
        if isinstance(given, Ref) and given.place == place:
            return new
        return given

    def visit(node: Node) -> None:
        node.target = arg(node.target)
        for table in (node.args, node.carry, node.next, node.collect):
            for key, value in table.items():
                table[key] = arg(value)
        if node.of is not None:
            node.of = arg(node.of)
        for body in (node.body, node.other):
            if body is not None:
                body.outputs = {key: arg(value) for key, value in body.outputs.items()}
                for inner in body.nodes.values():
                    visit(inner)

    for node in out.nodes.values():
        visit(node)
    out.outputs = {key: arg(value) for key, value in out.outputs.items()}
    if out.train is not None:
        out.train.loss = arg(out.train.loss)
        visit(out.train.data)
    return out


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.session = Session(Options(device="cpu"))
        self.originals: dict[str, Any] = {}

    def check(self, name: str, target: str, mutated: GraphDocument | None, checker: type[Checker] = Checker) -> Any:
        """Checks the system `name`, in which the document `target` may be replaced."""
        loader, source = self.load(name, target, mutated)
        graph = loader.load(source)
        values, _ = resolve_inputs(graph, inputs_of(name, self.folder), self.session.registry)
        made = checker(self.session.registry, loader, Opener().configs)
        if isinstance(made, Recorder):
            made.record(f"pkg://diffgraph/{target}.yaml")
        made.document(graph, source, values)
        return made

    def load(self, name: str, target: str, mutated: GraphDocument | None) -> tuple[Loader, Source]:
        loader, source = Loader(), package_source(f"pkg://diffgraph/{name}.yaml")
        if name.startswith("samplers/"):
            user = self.folder / f"{Path(name).name}.yaml"
            user.write_text(small_system(Path(name).name), encoding="utf-8")
            source = open_source(str(user))
        if mutated is not None:
            address = f"pkg://diffgraph/{target}.yaml"
            loader.documents[address] = (mutated, package_source(address))
        return loader, source

    def run(self, name: str, target: str, mutated: GraphDocument | None) -> Any:
        """The result of a system, as something that can be compared."""
        import torch

        loader, source = self.load(name, target, mutated)
        graph = loader.load(source)
        if name.startswith("train/"):
            from diffgraph.builder import Graph
            from diffgraph.training.trainer import Trainer

            made = Graph.from_source(source, loader)
            with tempfile.TemporaryDirectory() as out:
                trainer = Trainer(
                    made, inputs_of(name, self.folder), out=Path(out), options=Options(device="cpu", cache=False)
                )
                trainer.run()
                return [entry["loss"] for entry in trainer.losses()]
        given = inputs_of(name, self.folder)
        outputs = self.session.prepare(graph, source, loader, given).run()
        return [v.clone() if isinstance(v, torch.Tensor) else v for v in outputs.values()]

    def same(self, left: Any, right: Any) -> bool:
        import torch

        return len(left) == len(right) and all(
            torch.equal(a, b)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape
            else a is b or (not isinstance(a, torch.Tensor) and a == b)
            for a, b in zip(left, right, strict=True)
        )

    def edges(self, target: str) -> tuple[GraphDocument, list[Edge]]:
        name = USERS.get(target, target)
        recorder = self.check(name, target, None, Recorder)
        if recorder.problems:
            raise CheckFailed(recorder.problems)
        found = []
        for ref, what, value, scope in recorder.seen.values():
            node, _, port = what.partition(".")
            edge = Edge(node, port, ref, value)
            for other, known in candidates(scope, ref):
                if str(other) != f"${'.'.join((ref.name, *ref.path))}":
                    edge.others[str(other)] = known
            found.append(edge)
        return recorder.loader.documents[f"pkg://diffgraph/{target}.yaml"][0], found


def rewire(bench: Bench, target: str, show: bool) -> dict[str, int]:
    """Rewires every edge of one shipped graph; returns the counts."""
    name = USERS.get(target, target)
    graph, edges = bench.edges(target)
    counts = dict.fromkeys(
        ("edges", "rewirings", "caught", "right kind", "right kind caught", "crashed", "different", "same"), 0
    )
    original = bench.run(name, target, None)
    counts["edges"] = len(edges)
    for edge in edges:
        for text, value in edge.others.items():
            parts = text[1:].split(".")
            new = Ref(parts[0], tuple(parts[1:]), edge.ref.sub, edge.ref.place)
            called = next((n for n in _all_nodes(graph) if n.form == "call" and n.target.place == edge.ref.place), None)
            if called is not None and isinstance(called.target, Ref):
                method = called.target.path[len(edge.ref.path) :]
                new = replace(new, path=(*new.path, *method))
            counts["rewirings"] += 1
            right = compatible(value.type, edge.value.type) and (value.component is None) == (
                edge.value.component is None
            )
            counts["right kind"] += right
            mutated = substitute(graph, edge.ref.place, new)
            checked = bench.check(name, target, mutated)
            if checked.problems:
                counts["caught"] += 1
                counts["right kind caught"] += right
                continue
            place = edge.ref.place
            line = f"{target}.yaml:{place.line}:{place.column} {edge.node}.{edge.port}: {edge.ref} -> {new}"
            try:
                result = bench.run(name, target, mutated)
            except DiffgraphError as error:
                counts["crashed"] += 1
                print(f"  crashed    {line}\n             {str(error).splitlines()[0]}")
                continue
            outcome = "same" if bench.same(original, result) else "different"
            counts[outcome] += 1
            if outcome == "different" or show:
                print(f"  {outcome:10s} {line}")
    return counts


def _all_nodes(graph: GraphDocument) -> Iterator[Node]:
    stack = list(graph.nodes.values())
    while stack:
        node = stack.pop()
        yield node
        for body in (node.body, node.other):
            if body is not None:
                stack.extend(body.nodes.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", help="names such as glide or samplers/plain; all unless given")
    parser.add_argument("--list", action="store_true", help="list rewirings without effect too")
    options = parser.parse_args()
    root = graphs_folder()
    names = options.graphs or sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
    total: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_parts(Path(folder))
        bench = Bench(Path(folder))
        for name in names:
            counts = rewire(bench, name, options.list)
            print(f"{name}: " + ", ".join(f"{value} {key}" for key, value in counts.items()), flush=True)
            for key, value in counts.items():
                total[key] = total.get(key, 0) + value
    caught, rewirings = total["caught"], total["rewirings"]
    right, right_caught = total["right kind"], total["right kind caught"]
    print(
        f"\n{rewirings} rewirings of {total['edges']} edges: {caught} caught ({caught / rewirings:.1%}); "
        f"of {right} to a value of the right kind {right_caught} ({right_caught / max(right, 1):.1%}); "
        f"{total['crashed']} crashed in the run; {total['different']} gave another result in silence; "
        f"{total['same']} changed nothing"
    )
    return 0 if caught >= 0.97 * rewirings and right_caught * 2 >= right and not total["crashed"] else 1


if __name__ == "__main__":
    sys.exit(main())
