"""Ports: the types of values, and what a declared input or output says; as Python, and as JSON for the index.

A `Port` is a declaration, read from annotations (describe.py) or from a document's `inputs`. What the checker knows of a
wire, and whether it may meet a port, is in unify.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from .authoring import Bound
from .checking.dims import Dim

_FIELD = re.compile(r"\$(\w+)")


def filled(template: str, values: Mapping[str, Any]) -> str | None:
    """A fact with the fields of a config put in for their `$name`; None where one of them is not known.

    Numbers are written as shortly as they can be, so that 1 and 1.0 are one word.
    """
    found = {name: values.get(name) for name in _FIELD.findall(template)}
    if any(value is None or isinstance(value, Unset | Dim) for value in found.values()):
        return None
    return _FIELD.sub(lambda name: f"{v:g}" if isinstance(v := found[name[1]], float) else str(v), template)


class Unset:
    """The one value of a thing not given: not None, which a user may give."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()
Form = Literal["scalar", "choice", "kind", "list", "record", "component", "protocol", "outputs", "var", "any"]


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value. `name` is a scalar's, kind's, record's, component's, protocol's or variable's."""

    form: Form
    name: str = ""
    item: Port | None = None
    fields: tuple[tuple[str, Port], ...] = ()
    options: tuple[Any, ...] = ()
    of: str | None = None
    once: bool = False
    literals: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.form == "list" and self.item is not None:
            return f"list of {self.item.type}"
        if self.form == "choice":
            return "one of " + ", ".join(map(repr, self.options))
        return {"any": "anything", "var": "anything"}.get(self.form, self.name)


@dataclass(frozen=True, slots=True)
class Port:
    """One declared input or output."""

    type: Type
    shape: str | None = None
    facts: tuple[tuple[str, str], ...] = ()
    bound: Bound | None = None
    optional: bool = False
    default: Any = UNSET
    help: str = ""

    @property
    def required(self) -> bool:
        return isinstance(self.default, Unset)


INT, FLOAT, TEXT, BOOL = (Type("scalar", name) for name in ("int", "float", "text", "bool"))
ANY = Type("any")


def compatible(have: Type, want: Type) -> bool:
    """Whether the type alone permits the wire. A record fits another by its fields; a kind fits its own general kind, and back."""
    if "any" in (have.form, want.form) or "var" in (have.form, want.form):
        return True
    if want.form == "kind" and have.form == "scalar":
        return have.name in want.literals or (have.name == "int" and "float" in want.literals)
    if have.form != want.form:
        return have.form == "choice" and want == TEXT
    if have.form == "scalar":
        return have.name == want.name or (have.name, want.name) == ("int", "float")
    if have.form == "choice":
        return set(have.options) <= set(want.options)
    if have.form == "kind":
        return have.name in (want.name, want.of) or have.of == want.name
    if have.form == "list":
        return have.item is None or want.item is None or compatible(have.item.type, want.item.type)
    if have.form == "record":
        fields = dict(have.fields)
        return all(name in fields and compatible(fields[name].type, port.type) for name, port in want.fields)
    return have.name == want.name


def literal_problem(value: Any, port: Port) -> str | None:
    """What is wrong with a literal at a port, in words, or None. Values of kinds with no literal form are refused."""
    want = port.type
    if isinstance(value, Dim):
        number = value.constant
        return literal_problem(int(number), port) if number is not None else None
    if value is None:
        return None if port.optional else f"expected {want}, got null"
    if want.form in ("any", "var"):
        return None
    allowed = want.literals if want.form == "kind" else (want.name,) if want.form == "scalar" else ()
    if want.form == "choice":
        return None if value in want.options else f"expected {want}, got {value!r}"
    if want.form == "list":
        if not isinstance(value, list | tuple):
            return f"expected {want}, got {value!r}"
        inner = want.item
        problems = (literal_problem(item, inner) for item in value) if inner is not None else ()
        return next((p for p in problems if p), None)
    if isinstance(value, bool):
        return None if "bool" in allowed else f"expected {want}, got {value!r}"
    if isinstance(value, int | float):
        if isinstance(value, float) and not isfinite(value):
            return f"{value} is not a finite number"
        fits = "float" in allowed or ("int" in allowed and isinstance(value, int))
        if not fits:
            forms = f" ({' or '.join(allowed)})" if want.form == "kind" and allowed else ""
            return f"expected {want}{forms}, got {value!r}"
        refused = port.bound.refuses(value) if port.bound else None
        return f"{value!r} {refused}" if refused else None
    if isinstance(value, str):
        return None if {"text", "weights", "file", "folder"} & set(allowed) else f"expected {want}, got text {value!r}"
    return f"expected {want}, got {type(value).__name__}"


def port_to_json(port: Port) -> dict[str, Any]:
    t = port.type
    out: dict[str, Any] = {"form": t.form}
    for key, value in (
        ("name", t.name), ("of", t.of), ("once", t.once), ("literals", list(t.literals)), ("options", list(t.options)),
        ("shape", port.shape), ("facts", [list(f) for f in port.facts]), ("optional", port.optional), ("help", port.help),
    ):  # fmt: skip
        if value:
            out[key] = value
    if t.item is not None:
        out["item"] = port_to_json(t.item)
    if t.fields:
        out["fields"] = [[name, port_to_json(p)] for name, p in t.fields]
    if port.bound is not None:
        out["bound"] = [port.bound.ge, port.bound.gt, port.bound.le, port.bound.lt]
    if not port.required:
        out["default"] = port.default
    return out


def port_from_json(data: Mapping[str, Any]) -> Port:
    item = port_from_json(data["item"]) if "item" in data else None
    fields = tuple((name, port_from_json(p)) for name, p in data.get("fields", ()))
    kind = Type(
        data["form"], data.get("name", ""), item, fields, tuple(data.get("options", ())), data.get("of"),
        data.get("once", False), tuple(data.get("literals", ())),
    )  # fmt: skip
    bound = Bound(*data["bound"]) if "bound" in data else None
    facts = tuple((name, text) for name, text in data.get("facts", ()))
    default = data.get("default", UNSET)
    return Port(kind, data.get("shape"), facts, bound, data.get("optional", False), default, data.get("help", ""))
