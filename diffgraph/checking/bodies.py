"""Checking the nodes of a scope, and the bodies that open one: loops, maps, branches, gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..language.graph import NAME, Arg, Body, Node, Ref, arg_refs, inner_args, node_refs, ordered
from ..ports import ANY, BOOL, FLOAT, INT, UNSET, Port, Type, compatible
from .calls import Calls
from .scopes import Scope
from .unify import Value, literal_value

TENSORS = ("kind", "record", "list", "any", "var")  # forms of types whose values may hold tensors


class Bodies(Calls):
    """Checks the nodes of a scope in order, each with what the ones before give."""

    def _nodes(self, nodes: Mapping[str, Node], scope: Scope) -> None:
        for name, node in nodes.items():
            if name in scope.names:
                self.fault(
                    node.place, f"the name {name} is taken already in this scope or around it", "rename the node"
                )
        order, cycle = ordered(nodes)
        if cycle:
            self.fault(
                nodes[cycle[0]].place,
                "these nodes wait for each other: " + " -> ".join(cycle),
                "break the cycle, or use a loop",
            )
            done = {node.name for node in order}
            order = [*order, *(node for name, node in nodes.items() if name not in done)]
            scope.names.update({name: Value(ANY) for name in cycle})
            scope.used.update(cycle)
        for node in order:
            known = len(self.problems)
            value = self._made(self._fresh(self.node(node, scope), scope.loops))
            scope.names[node.name] = value if len(self.problems) == known or value.type != ANY else Value(ANY)

    def _made(self, value: Value) -> Value:
        """What a node gives: where its origin is unknown it is this node, and so the same for each who takes it."""
        if value.type.form == "outputs":
            return replace(value, fields={name: self._made(inner) for name, inner in value.fields.items()})
        return value if value.origin else replace(value, origin=self.unifier.fresh())

    def node(self, node: Node, scope: Scope) -> Value:
        return getattr(self, f"_{node.form}")(node, scope)  # type: ignore[no-any-return]

    def _unreadable(self, node: Node, scope: Scope) -> Value:
        self._skip(node, scope)
        return Value(ANY)

    def _unused(self, nodes: Mapping[str, Node], scope: Scope) -> None:
        for node in nodes.values():
            if node.name not in scope.used and NAME.fullmatch(node.name):
                self.fault(
                    node.place, f"nothing uses {node.name}", "wire it into another node or an output, or remove it"
                )

    def _inside(
        self, node: Node, scope: Scope, own: Mapping[str, Value], *, loop: bool, arm: int | None = None
    ) -> Scope:
        for name in own:
            if name in scope.names:
                self.fault(node.place, f"{node.name}: the name {name} is taken already around the body", "rename it")
        loops = (*scope.loops, id(node)) if loop else scope.loops
        branches = (*scope.branches, (id(node), arm)) if arm is not None else scope.branches
        return Scope(scope.names.new_child(dict(own)), scope.source, f"{scope.path}{node.name}.", loops, branches)

    def _leave(self, node: Node, body: Body, scope: Scope, inside: Scope, own: Iterable[str]) -> None:
        local = {*own, *body.nodes}
        self._unused(body.nodes, inside)
        scope.used.update(inside.used - local)

    def _loop(self, node: Node, scope: Scope) -> Value:
        item = self._element(node, scope)
        start = {name: self.value(arg, scope, f"{node.name}.carry.{name}") for name, arg in node.carry.items()}
        own = {node.as_name: item, **{name: self._carried(value) for name, value in start.items()}}
        inside = self._inside(node, scope, own, loop=True)
        for name in start:
            inside.names[name] = self._fresh(inside.names[name], inside.loops)
        assert node.body is not None
        self._nodes(node.body.nodes, inside)
        self._stale(node)
        result = {name: Value(ANY) for name in start}
        for name, arg in node.next.items():
            if name not in start:
                continue
            value = self.value(arg, inside, f"{node.name}.next.{name}")
            turned = own[name] if start[name].type != ANY else start[name]
            self._same(node, f"next.{name}", arg, value, turned)
            kept = isinstance(arg, Ref) and arg.name == name and not arg.path
            twins = [twin for twin in node.carry.values() if str(twin) == str(node.carry[name])]
            if kept and len(twins) == 1:  # of two that start alike one may stay what it was
                self.fault(
                    arg.place,
                    f"{node.name}: {name} is carried but never changed",
                    "wire into `next` what it becomes, or do not carry it",
                )
            result[name] = replace(start[name], literal=UNSET, known=UNSET, origin=0)
        for name, arg in node.collect.items():
            value = self.value(arg, inside, f"{node.name}.collect.{name}")
            result[name] = Value(Type("list", item=Port(value.type)), item=value)
        for name in node.carry:
            if name not in inside.used:
                self.fault(
                    node.carry[name].place, f"{node.name}: {name} is carried, but nothing in the loop reads it",
                    f"wire ${name} where the loop now takes a value from outside",
                )  # fmt: skip
        self._leave(node, node.body, scope, inside, own)
        return Value(Type("outputs", node.name), fields=result) if result else Value(ANY)

    def _carried(self, start: Value) -> Value:
        """What a carried value is inside the loop: the start's type and shape, and what the body's ports say besides."""
        learns = start.learns or start.type.form == "kind"
        return replace(start, literal=UNSET, known=UNSET, facts=dict(start.facts), learns=learns, origin=0)

    def _stale(self, node: Node) -> None:
        """Refuses, inside a loop, what a carried value was before the loop: every turn would begin anew."""
        starts = {(arg.name, arg.path): name for name, arg in node.carry.items() if isinstance(arg, Ref)}
        assert node.body is not None
        inside = (ref for inner in node.body.nodes.values() for ref in node_refs(inner))
        for ref in (*inside, *(ref for arg in inner_args(node) for ref in arg_refs(arg))):
            name = starts.get((ref.name, ref.path))
            if name is not None:
                self.fault(
                    ref.place,
                    f"{node.name}: {ref} is what {name} was before the loop, the same at every turn",
                    f"wire ${name}, which the loop carries; if the start is meant, carry it under a second name too",
                )

    def _element(self, node: Node, scope: Scope) -> Value:
        sequence = self.value(node.target, scope, node.name)
        if sequence.type.form not in ("list", "any"):
            return self.fault(
                node.target.place, f"{node.name}: a {node.form} runs over a list; {node.target} is {sequence.type}"
            )
        if sequence.item is not None:
            item = sequence.item
            return replace(item, facts={**sequence.facts, **item.facts})
        if isinstance(sequence.literal, list) and sequence.literal:
            return self._element_of(node, sequence.literal)
        if sequence.fields:
            return replace(next(iter(sequence.fields.values())), literal=UNSET)
        return Value(ANY)

    def _element_of(self, node: Node, items: list[Any]) -> Value:
        """What the items of a literal list are, all of one type; whole numbers among others are numbers."""
        types = {literal_value(item).type for item in items}
        if types == {INT, FLOAT}:
            return Value(FLOAT)
        if len(types) > 1:
            names = ", ".join(sorted(map(str, types)))
            return self.fault(node.target.place, f"{node.name}: the items are of different types: {names}")
        return Value(types.pop())

    def _same(self, node: Node, what: str, arg: Arg, value: Value, first: Value) -> None:
        """A carried value keeps its type, shape and facts from turn to turn, and both branches give alike."""
        message = ""
        if not compatible(value.type, first.type):
            message = f"expected {first.type} as at the start, got {value.type}"
            if (first.type, value.type) == (INT, FLOAT):
                message += "; write the start with a point, such as 1.0"
        elif value.dims is not None and first.dims is not None and not self.unifier.equate_dims(value.dims, first.dims):
            dims = [", ".join(map(str, self.unifier.resolve(v.dims))) for v in (first, value)]
            message = f"expected shape [{dims[0]}] as at the start, got [{dims[1]}]"
        else:
            for fact, word in value.facts.items():
                if fact in first.facts and not self.unifier.equate_facts(word, first.facts[fact]):
                    message = f"expected {fact} {self.unifier.word(first.facts[fact])} as at the start, got {self.unifier.word(word)}"
        if message:
            like = "as in the other branch" if node.form == "when" else "as at the start"
            self.fault(arg.place, f"{node.name}.{what}: {message.replace('as at the start', like)}", f"from {arg}")

    def _map(self, node: Node, scope: Scope) -> Value:
        own = {node.as_name: self._element(node, scope)}
        inside = self._inside(node, scope, own, loop=True)
        inside.names[node.as_name] = self._fresh(inside.names[node.as_name], inside.loops)
        outputs = self._body(node, node.body, inside)
        if node.as_name and node.as_name not in inside.used:
            self.fault(node.place, f"{node.name}: nothing in the map uses ${node.as_name}")
        assert node.body is not None
        self._leave(node, node.body, scope, inside, own)
        if not outputs:
            return Value(ANY)
        fields = {name: Value(Type("list", item=Port(value.type)), item=value) for name, value in outputs.items()}
        return Value(Type("outputs", node.name), fields=fields)

    def _body(self, node: Node, body: Body | None, inside: Scope) -> dict[str, Value]:
        assert body is not None
        self._nodes(body.nodes, inside)
        return {name: self.value(arg, inside, f"{node.name}.outputs.{name}") for name, arg in body.outputs.items()}

    def _when(self, node: Node, scope: Scope) -> Value:
        flag = self.value(node.target, scope, node.name)
        if not compatible(flag.type, BOOL):
            self.fault(
                node.target.place,
                f"{node.name}: `when` takes true or false; {node.target} is {flag.type}",
                "a node that compares gives one",
            )
        inside = self._inside(node, scope, {}, loop=False, arm=0)
        outputs = self._body(node, node.body, inside)
        assert node.body is not None
        self._leave(node, node.body, scope, inside, ())
        if not outputs:
            return Value(ANY)
        if node.other is None:
            return Value(Type("outputs", node.name), fields={n: replace(v, maybe=True) for n, v in outputs.items()})
        otherwise = self._inside(node, scope, {}, loop=False, arm=1)
        others = self._body(node, node.other, otherwise)
        self._leave(node, node.other, scope, otherwise, ())
        for name, value in others.items():
            if name in outputs:
                self._same(node, f"else.outputs.{name}", node.other.outputs[name], value, outputs[name])
        return Value(
            Type("outputs", node.name), fields={n: replace(v, literal=UNSET, known=UNSET) for n, v in outputs.items()}
        )

    def _grad(self, node: Node, scope: Scope) -> Value:
        x = self.value(node.target, scope, node.name)
        if x.type.form not in TENSORS:
            x = self.fault(node.target.place, f"{node.name}: a grad is by a tensor; {node.target} is {x.type}")
        own = {node.as_name: x}
        inside = self._inside(node, scope, own, loop=False)
        assert node.body is not None
        self._nodes(node.body.nodes, inside)
        score = self.value(node.of, inside, f"{node.name}.of") if node.of is not None else Value(ANY)
        if node.of is not None and score.type.form not in TENSORS:
            self.fault(node.of.place, f"{node.name}.of: a score is a tensor; {node.of} is {score.type}")
        if node.as_name and node.as_name not in inside.used:
            self.fault(node.place, f"{node.name}: the score does not depend on ${node.as_name}")
        self._leave(node, node.body, scope, inside, own)
        slope = replace(x, literal=UNSET, facts={**x.facts, "derivative": "yes"}, origin=0)
        return Value(Type("outputs", node.name), fields={"value": score, "grad": slope})
