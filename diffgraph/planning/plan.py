"""Planning: a checked graph becomes one flat list of instructions, every value of which has a key known before the run.

Lowering walks the document once. What is known already (literals, inputs, configs, and static nodes over these) is
computed here and becomes a constant; the rest becomes units: single instructions, or regions (a loop, a branch not
decided yet, a gradient). Then `select` walks the units backwards from the outputs and leaves out what the store holds,
and what only that needed.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ..authoring import Component
from ..components import anchored
from ..errors import CheckFailed, DiffgraphError, Place
from ..language.graph import Body, GraphDocument, Node, ordered
from ..language.sources import Source
from ..live import type_of
from .keys import digest, literal_key
from .lowering import NOTHING, Bound, Known, Lowering, Outputs, Slot, converted, is_plain
from .program import BRANCH, CALL, END, GRAD, GRADIENT, JUMP, LOOP, MOVE, NEXT, READ, Instruction, Unit


class Planner(Lowering):
    """Lowers one or several runs of graphs into one list of units."""

    # --- documents

    def inputs(self, values: Mapping[str, Any]) -> dict[str, Bound]:
        """The names that a graph's inputs give; a value may be bound already, as a file is, or a live component."""
        return {name: self._input(name, value) for name, value in values.items()}

    def _input(self, name: str, value: Any) -> Bound:
        if isinstance(value, Slot):
            return value
        if isinstance(value, Component):
            kind = type_of(type(value), self.registry)
            return self.handle(kind, {}, Source("<python>", "<python>"), name, Place("<python>"), value)
        return NOTHING if value is None else Known(value, literal_key(value))

    def secret(self, bound: Bound) -> Bound:
        """The value of a secret input: only the run knows it, and what depends on it is not stored."""
        if isinstance(bound, Known) and not (bound.value is None or bound.value == ""):
            known = Known(bound.value, digest("secret", bound.key))
            bound = Slot(self.index(known), known.key)
        if isinstance(bound, Slot):
            self.secrets.add(bound.index)
        return bound

    def file_input(self, given: Any) -> Slot:
        """The value that a reader makes of a file, keyed by the file's content."""
        data = self.index(Known(given.file.data, digest("bytes", given.file.digest)))
        instruction = Instruction(CALL, (data,), function=given.read, name=READ, path=given.name, tensors=True)
        return self.emit(instruction, digest("read", given.digest, self.settings.where), "")

    def scope(self, graph: GraphDocument, source: Source, names: dict[str, Bound], path: str) -> dict[str, Bound]:
        self.nodes(graph.nodes, names, source, path)
        return {name: self.bind(arg, names) for name, arg in graph.outputs.items()}

    def nodes(self, nodes: Mapping[str, Node], names: MutableMapping[str, Bound], source: Source, path: str) -> None:
        for node in ordered(nodes)[0]:
            try:
                names[node.name] = getattr(self, f"_{node.form}")(node, names, source, path + node.name)
            except CheckFailed:
                raise
            except DiffgraphError as error:
                if error.place is None:
                    error.place = node.place
                    error.message = f"{path}{node.name}: {error.message}"
                raise

    def _graph(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        inner_source = source.include(node.target_text)
        inner = self.loader.load(inner_source)
        inside: dict[str, Bound] = {}
        for item in inner.inputs.values():
            port = self.registry.input_type(item.type)
            if item.name in node.args:
                bound = self.bind(node.args[item.name], names)
                if isinstance(bound, Known) and item.type == "weights":
                    bound = Known(anchored(bound.value, source), bound.key)
            else:
                bound = NOTHING if item.default is None else Known(item.default, literal_key(item.default))
            bound = converted(bound, port) if port is not None else bound
            inside[item.name] = self.secret(bound) if item.secret else bound
        return Outputs(self.scope(inner, inner_source, inside, path + "."))

    # --- bodies

    def _region(
        self, lower: Callable[[list[Instruction]], tuple[dict[str, Slot], str]], path: str, what: str, place: Place
    ) -> Outputs:
        """Lowers a region as one unit. `lower` fills the code and gives the outputs' slots and the region's key."""
        outer = self._code
        code: list[Instruction] = []
        self._code = code
        self._same.append({})
        self._regions.append({})
        self.depth += 1
        try:
            outputs, key = lower(code)
        finally:
            self.depth -= 1
            self._same.pop()
            self._regions.pop()
            self._code = outer
        for scope in self._regions:
            if key in scope:
                return scope[key]
        named = {name: Slot(slot.index, digest(key, name)) for name, slot in outputs.items()}
        written = {index for instruction in code for index in instruction.writes()}
        needs = tuple({index for instruction in code for index in instruction.reads()} - written)
        if outer is not None:
            base = len(outer)
            for instruction in code:
                if instruction.target >= 0:
                    instruction.target += base
            outer.extend(code)
        else:
            code.append(Instruction(END, path=path, place=place))
            handles = tuple({i.handle.key: i.handle for i in code if i.handle is not None}.values())
            unit = Unit(code, tuple(slot.index for slot in named.values()), needs, path, what, place, handles=handles)
            unit.stores = {slot.index: slot.key for slot in named.values()}
            self.units.append(unit)
        self._regions[-1][key] = Outputs(named)
        return self._regions[-1][key]

    def _body(
        self, nodes: Mapping[str, Node], names: Mapping[str, Bound], own: Mapping[str, Bound], source: Source, path: str
    ) -> MutableMapping[str, Bound]:
        inside = ChainMap(dict(own), *(names.maps if isinstance(names, ChainMap) else (dict(names),)))
        self.nodes(nodes, inside, source, path + ".")
        return inside

    def _loop(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        sequence = self.bind(node.target, names)
        starts = {name: self.bind(arg, names) for name, arg in node.carry.items()}
        source_slot, start_slots = self.index(sequence), {name: self.index(bound) for name, bound in starts.items()}
        trips = len(sequence.value) if isinstance(sequence, Known) else None

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            item = self.slot(f"@as{self.depth}")
            carried = {name: self.slot(f"@carry{self.depth}.{name}") for name in starts}
            collected = {name: self.slot("") for name in node.collect}
            begin = Instruction(LOOP, (source_slot,), item.index, path=path, place=node.place, name=str(trips or ""))
            begin.pairs = tuple((start_slots[name], slot.index) for name, slot in carried.items())
            begin.function = tuple(slot.index for slot in collected.values())
            code.append(begin)
            inside = self._body(node.body.nodes, names, {node.as_name: item, **carried}, source, path)
            nexts = {name: self.bind(arg, inside) for name, arg in node.next.items()}
            kept = {name: self.bind(arg, inside) for name, arg in node.collect.items()}
            end = Instruction(NEXT, out=item.index, path=path, place=node.place, target=0)
            end.pairs = tuple((self.index(nexts[name]), slot.index) for name, slot in carried.items())
            end.args = tuple(self.index(bound) for bound in kept.values())
            end.function = begin.function
            code.append(end)
            begin.target = len(code)
            parts = [f"{n}:{self.key(starts[n])}>{self.key(nexts[n])}" for n in sorted(starts)]
            parts += [f"{n}+{self.key(bound)}" for n, bound in sorted(kept.items())]
            return {**carried, **collected}, digest("loop", self.key(sequence), *parts)

        return self._region(lower, path, f"loop of {trips}" if trips is not None else "loop", node.place)

    def _map(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        assert node.body is not None
        body = node.body
        sequence = self.bind(node.target, names)
        if isinstance(sequence, Known):
            rows: dict[str, list[Bound]] = {name: [] for name in body.outputs}
            for number, value in enumerate(sequence.value):
                own = {
                    node.as_name: Known(
                        value, literal_key(value) if is_plain(value) else digest("item", sequence.key, str(number))
                    )
                }
                inside = self._body(body.nodes, names, own, source, f"{path}[{number}]")
                for name, arg in body.outputs.items():
                    rows[name].append(self.bind(arg, inside))
            return Outputs({name: self._gathered(items) for name, items in rows.items()})
        source_slot = self.index(sequence)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            item = self.slot(f"@as{self.depth}")
            collected = {name: self.slot("") for name in body.outputs}
            begin = Instruction(LOOP, (source_slot,), item.index, path=path, place=node.place)
            begin.function = tuple(slot.index for slot in collected.values())
            code.append(begin)
            inside = self._body(body.nodes, names, {node.as_name: item}, source, path)
            kept = {name: self.bind(arg, inside) for name, arg in body.outputs.items()}
            end = Instruction(
                NEXT, tuple(self.index(b) for b in kept.values()), item.index, path=path, place=node.place, target=0
            )
            end.function = begin.function
            code.append(end)
            begin.target = len(code)
            parts = [f"{name}+{self.key(bound)}" for name, bound in sorted(kept.items())]
            return collected, digest("map", self.key(sequence), *parts)

        return self._region(lower, path, "map", node.place)

    def _gathered(self, items: list[Bound]) -> Bound:
        if all(isinstance(item, Known) for item in items):
            values = [item.value for item in items if isinstance(item, Known)]
            return Known(values, digest("list", *(item.key for item in items if isinstance(item, Known))))
        return self.list_of(items)

    def _when(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        assert node.body is not None
        flag = self.bind(node.target, names)
        if isinstance(flag, Known):
            taken = node.body if flag.value else node.other
            if taken is None:
                return Outputs(dict.fromkeys(node.body.outputs, NOTHING))
            inside = self._body(taken.nodes, names, {}, source, path)
            return Outputs({name: self.bind(arg, inside) for name, arg in taken.outputs.items()})
        flag_slot = self.index(flag)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            results = {name: self.slot("") for name in node.body.outputs}
            branch = Instruction(BRANCH, (flag_slot,), path=path, place=node.place)
            code.append(branch)
            first = self._arm(node.body, names, results, code, source, path)
            jump = Instruction(JUMP, path=path)
            code.append(jump)
            branch.target = len(code)
            second = self._arm(node.other, names, results, code, source, path)
            jump.target = len(code)
            return results, digest("when", self.key(flag), *first, *second)

        return self._region(lower, path, "when", node.place)

    def _arm(
        self,
        body: Body | None,
        names: Mapping[str, Bound],
        results: Mapping[str, Slot],
        code: list[Instruction],
        source: Source,
        path: str,
    ) -> list[str]:
        self._same.append({})
        self._regions.append({})
        try:
            values: dict[str, Bound] = dict.fromkeys(results, NOTHING)
            if body is not None:
                inside = self._body(body.nodes, names, {}, source, path)
                values = {name: self.bind(arg, inside) for name, arg in body.outputs.items()}
            code.append(
                Instruction(
                    MOVE,
                    pairs=tuple((self.index(values[name]), slot.index) for name, slot in results.items()),
                    path=path,
                )
            )
            return [f"{name}={self.key(values[name])}" for name in sorted(results)]
        finally:
            self._same.pop()
            self._regions.pop()

    def _grad(self, node: Node, names: Mapping[str, Bound], source: Source, path: str) -> Outputs:
        x = self.bind(node.target, names)
        x_slot = self.index(x)

        def lower(code: list[Instruction]) -> tuple[dict[str, Slot], str]:
            assert node.body is not None
            assert node.of is not None
            inner = self.slot(f"@grad{self.depth}")
            code.append(Instruction(GRAD, (x_slot,), inner.index, path=path, place=node.place))
            inside = self._body(node.body.nodes, names, {node.as_name: inner}, source, path)
            score = self.bind(node.of, inside)
            value, gradient = self.slot(""), self.slot("")
            end = Instruction(GRADIENT, (self.index(score), inner.index), value.index, path=path, place=node.place)
            end.pairs = ((inner.index, gradient.index),)
            code.append(end)
            return {"value": value, "grad": gradient}, digest("grad", self.key(x), self.key(score))

        return self._region(lower, path, "grad", node.place)
