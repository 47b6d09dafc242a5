"""What may meet: what the checker knows of a wire, and the solving of shapes and facts while wires are met one by one.

A `Value` is a type, dimensions, facts and, where it is known, the very value. `Unifier.meet(value, port, use)` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..ports import ANY, BOOL, FLOAT, INT, TEXT, UNSET, Port, Type, Unset, compatible, filled, literal_problem
from .dims import Dim, Dims, Rest, parse_dim


@dataclass(slots=True)
class Value:
    """What the checker knows of a wire. `facts` map to a word, or to a variable that starts with `?`.

    `literal` is the value where every run has the same; a number that a user may change is a symbol there, and `known` is what
    it is this time. `stream` tells values apart that one use consumes. `written` marks a literal of the document: it alone may
    stand where a kind is wanted. `origin` is equal for values that are made in the same way of the same values, 0 if unknown.
    What `learns` is of unknown origin, so that its facts are those of the first port that names them.
    """

    type: Type
    dims: Dims | None = None
    facts: dict[str, str] = field(default_factory=dict)
    literal: Any = UNSET
    known: Any = UNSET
    fields: dict[str, Value] = field(default_factory=dict)
    item: Value | None = None
    maybe: bool = False
    component: Any = None
    stream: int = 0
    written: bool = False
    origin: int = 0
    learns: bool = False

    def describe(self, unifier: Unifier) -> str:
        """The value in words, such as `Sample [B, 3, 64, 64]`."""
        if not isinstance(self.literal, Unset | Dim) and self.type.form in ("scalar", "choice", "any"):
            return f"{self.type} {self.literal!r}" if self.type.form == "scalar" else repr(self.literal)
        dims = f" [{', '.join(str(d) for d in unifier.resolve(self.dims))}]" if self.dims else ""
        return f"{self.type}{dims}"


class Mismatch(Exception):
    """Why a value does not fit a port."""


class Use:
    """One use of a node: the variables of its shapes and facts, and what its lower-case names stand for.

    facts: of the component that is used; a variable of this name is that fact.
    """

    def __init__(
        self,
        unifier: Unifier,
        names: Mapping[str, Any] | None = None,
        identity: str = "",
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.number = unifier.fresh()
        self.names: dict[str, Any] = dict(names or {})
        self.identity = identity
        self.facts = facts or {}

    def symbol(self, name: str) -> int | str | Dim:
        if name[0].isupper():
            return f"?{name}#{self.number}"
        known = self.names.get(name.removeprefix("#"), UNSET)
        if name[0] == "#":
            return len(known) if isinstance(known, list | tuple) else f"?{name}#{self.identity}"
        if isinstance(known, int | Dim) and not isinstance(known, bool):
            return known
        return f"?{name}#{self.number}"

    def dims(self, shape: str) -> Dims:
        result: list[Dim | Rest] = []
        for word in shape.split():
            if word == "...":
                result.append(Rest(f"...#{self.number}"))
            elif word.startswith("*"):
                known = self.names.get(word[1:], UNSET)
                if isinstance(known, list | tuple):
                    result.extend(Dim.of(d) for d in known)
                else:
                    result.append(Rest(f"{word[1:]}#{self.number}"))
            else:
                result.append(parse_dim(word, self.symbol))
        return tuple(result)

    def fact(self, expression: str) -> str | None:
        """The word or variable that a declared fact stands for here; None where it is not known."""
        if expression == "@self":
            return f"@{self.identity}"
        if expression.startswith("?"):
            return self.facts.get(expression[1:]) or f"{expression}#{self.number}"
        return filled(expression, self.names)


class Unifier:
    """Solves for the variables of shapes and facts while wires are met one by one."""

    def __init__(self) -> None:
        self._count = 0
        self._dims: dict[str, Dim] = {}
        self._rests: dict[str, Dims] = {}
        self._facts: dict[str, str] = {}
        self.numbers: dict[str, int] = {}  # what the symbols of whole numbers that a user may change are this time
        self._trail: list[tuple[dict[str, Any], str, Any]] = []  # what was set, with what it was before, to be undone

    def fresh(self) -> int:
        self._count += 1
        return self._count

    def snapshot(self) -> int:
        """A moment to which `restore` goes back."""
        return len(self._trail)

    def restore(self, moment: int) -> None:
        while len(self._trail) > moment:
            table, name, before = self._trail.pop()
            if before is None:
                del table[name]
            else:
                table[name] = before

    def _set(self, table: dict[str, Any], name: str, value: Any) -> None:
        self._trail.append((table, name, table.get(name)))
        table[name] = value

    # dimensions

    def dim(self, value: Dim) -> Dim:
        for _ in range(64):
            bound = [s for symbols, _ in value.terms for s in symbols if s in self._dims]
            if not bound:
                break
            total = Dim()
            for symbols, factor in value.terms:
                product = Dim.of(1) * factor
                for s in symbols:
                    product = product * self._dims.get(s, Dim.of(s))
                total = total + product
            value = total
        return value

    def _now(self, value: Dim) -> Fraction | None:
        """The number that this is for the values given now; None where one is not known, or 1, which others take for a
        row that is repeated.
        """
        total = Fraction(0)
        for symbols, factor in value.terms:
            for symbol in symbols:
                number = self.numbers.get(symbol, 1)
                if number == 1:
                    return None
                factor = factor * number
            total += factor
        return total

    def resolve(self, dims: Dims | None) -> Dims:
        result: list[Dim | Rest] = []
        for d in dims or ():
            if isinstance(d, Rest):
                known = self._rests.get(d.name)
                result.extend(self.resolve(known) if known is not None else (d,))
            else:
                result.append(self.dim(d))
        return tuple(result)

    def equate(self, left: Dim, right: Dim) -> bool:
        difference = self.dim(left) - self.dim(right)
        if difference.constant is not None:
            return difference.constant == 0
        linear = [
            (symbols[0], factor)
            for symbols, factor in difference.terms
            if len(symbols) == 1
            and symbols[0].startswith("?")
            and sum(symbols[0] in other for other, _ in difference.terms) == 1
        ]
        if not linear:  # symbols that stand for any number: equal where they are the same, or that number now
            unsure = any(len(s) > 1 or any(n.startswith("?") for n in s) for s, _ in difference.terms)
            return unsure or self._now(difference) == 0
        name, factor = linear[0]
        solved = (Dim.of(name) * factor - difference) * (1 / factor)
        number = solved.constant
        if number is not None and (number.denominator != 1 or number < 0):
            return False
        self._set(self._dims, name, solved)
        return True

    def equate_dims(self, left: Dims, right: Dims) -> bool:
        a, b = self.resolve(left), self.resolve(right)
        if not any(isinstance(d, Rest) for d in a):
            a, b = b, a
        place = next((i for i, d in enumerate(a) if isinstance(d, Rest)), None)
        if place is None:
            return len(a) == len(b) and all(self.equate(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
        if any(isinstance(d, Rest) for d in b):
            if len(a) == len(b) and isinstance(b[place], Rest):
                rest_a, rest_b = a[place], b[place]
                if rest_a != rest_b:
                    self._set(self._rests, rest_a.name, (rest_b,))  # type: ignore[union-attr]
                pairs = [(x, y) for x, y in zip(a, b, strict=True) if not isinstance(x, Rest)]
                return all(self.equate(x, y) for x, y in pairs if not isinstance(y, Rest))
            return True
        tail = len(a) - place - 1
        if len(b) < place + tail:
            return False
        middle = b[place : len(b) - tail]
        self._set(self._rests, a[place].name, middle)  # type: ignore[union-attr]
        ends = list(zip(a[:place], b[:place], strict=True)) + list(zip(a[place + 1 :], b[len(b) - tail :], strict=True))
        return all(self.equate(x, y) for x, y in ends)  # type: ignore[arg-type]

    # facts

    def word(self, value: str) -> str:
        while value in self._facts:
            value = self._facts[value]
        return value

    def equate_facts(self, left: str, right: str) -> bool:
        a, b = self.word(left), self.word(right)
        if a == b:
            return True
        if a.startswith("?"):
            self._set(self._facts, a, b)
            return True
        if b.startswith("?"):
            self._set(self._facts, b, a)
            return True
        return False

    # instances

    def instance(
        self, port: Port, use: Use, *, dims: Dims | None = None, facts: Mapping[str, str] | None = None
    ) -> Value:
        """The value that an output port gives in one use. `dims` and `facts` are handed down from an enclosing record."""
        own = {name: word for name, text in port.facts if (word := use.fact(text)) is not None}
        merged = {**(facts or {}), **own}
        shape = dims if dims is not None else (use.dims(port.shape) if port.shape is not None else None)
        value = Value(port.type, shape, merged, maybe=port.optional, stream=self.fresh() if port.type.once else 0)
        if port.type.form == "record":
            inner = Use(self, use.names, use.identity, use.facts)
            value.fields = {name: self.instance(p, inner, facts=merged) for name, p in port.type.fields}
            first = next((v for v in value.fields.values() if v.dims is not None), None)
            if first is not None and shape is not None and first.dims is not None:
                self.equate_dims(first.dims, shape)
            elif first is not None and shape is None:
                value.dims = first.dims
        elif port.type.form == "list" and port.type.item is not None:
            value.item = self.instance(port.type.item, use, facts=merged)
        return value

    # meeting

    def meet(self, value: Value, port: Port, use: Use, bindings: dict[str, Value] | None = None) -> None:
        """Raises Mismatch where `value` may not be wired into `port`; else solves for variables."""
        if value.maybe and not (port.optional or not port.required):
            raise Mismatch("it may be missing, and this input is required")
        if value.type.form == "scalar" and value.type.name == "none":
            if not port.optional:
                raise Mismatch("null is given where a value is needed")
            if port.type.form == "var" and bindings is not None:
                bindings.setdefault(port.type.name, value)
            return
        self._types(value, port, use, bindings)
        if port.shape is not None:
            self._shapes(value, use.dims(port.shape), port.type.form == "any")
        self._facts_of(value, port, use)

    def _shapes(self, value: Value, wanted: Dims, anything: bool = False) -> None:
        if value.dims is None:
            if value.type.form not in ("any", "var", "kind", "record") or anything:
                raise Mismatch(f"expected shape [{', '.join(str(d) for d in self.resolve(wanted))}], got {value.type}")
            return
        before = self.snapshot()
        if not self.equate_dims(value.dims, wanted):
            self.restore(before)
            given = ", ".join(str(d) for d in self.resolve(value.dims))
            needed = ", ".join(str(d) for d in self.resolve(wanted))
            raise Mismatch(f"expected shape [{needed}], got [{given}]")

    def _facts_of(self, value: Value, port: Port, use: Use) -> None:
        for name, text in port.facts:
            word, given = use.fact(text), value.facts.get(name)
            if given is None and value.learns:
                given = value.facts[name] = f"?{name}#{self.fresh()}"
            if word is None or given is None:
                continue
            if not self.equate_facts(given, word):
                raise Mismatch(f"expected {name} {_say(self.word(word))}, got {_say(self.word(given))}")

    def _types(self, value: Value, port: Port, use: Use, bindings: dict[str, Value] | None) -> None:
        want, have = port.type, value.type
        if want.form in ("any",) or have.form == "any":
            return
        if want.form == "var":
            if bindings is not None:
                self._bind(want.name, value, bindings)
            return
        exact = value.known if isinstance(value.literal, Unset | Dim) else value.literal
        if want.form == "kind" and not value.written and (have.form != "kind" or not compatible(have, want)):
            raise Mismatch(f"expected {want}, got {have}")
        if have.form == "kind" and want.form in ("scalar", "choice") and not value.written:
            raise Mismatch(f"expected {want}, got {have}")
        if not isinstance(exact, Unset | Dim):
            if problem := literal_problem(exact, port):
                raise Mismatch(problem)
            return
        if want.form == "list" and have.form == "list":
            if want.item is not None and value.item is not None:
                self._types(value.item, want.item, use, bindings)
                if want.item.shape is not None:
                    self._shapes(value.item, use.dims(want.item.shape))
            return
        if not compatible(have, want):
            raise Mismatch(f"expected {want}, got {have}")

    def _bind(self, name: str, value: Value, bindings: dict[str, Value]) -> None:
        known = bindings.get(name)
        if known is None:
            bindings[name] = value
            return
        if not compatible(value.type, known.type):
            raise Mismatch(f"expected {known.type} like its neighbour, got {value.type}")
        for fact, word in value.facts.items():
            if fact in known.facts and not self.equate_facts(known.facts[fact], word):
                have, want = _say(self.word(word)), _say(self.word(known.facts[fact]))
                raise Mismatch(f"expected {fact} {want} like its neighbour, got {have}")


def _say(word: str) -> str:
    return word.removeprefix("@")


def literal_value(value: Any) -> Value:
    """What is known of a literal."""
    if value is None:
        return Value(Type("scalar", "none"), literal=None)
    if isinstance(value, Dim):
        return Value(INT, literal=value)
    for python, scalar in ((bool, BOOL), (int, INT), (float, FLOAT), (str, TEXT)):
        if isinstance(value, python):
            return Value(scalar, literal=value)
    if isinstance(value, list | tuple):
        return Value(Type("list"), literal=list(value))
    return Value(ANY, literal=value)
