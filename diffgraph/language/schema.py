"""The JSON Schema of documents, for editors: completion and mistakes as one types. `diffgraph check` is the judge.

The forms of the language are pydantic models; each installed node type becomes one too, made of its declared ports. An
editor cannot follow wires, so wherever a value may stand a `$reference` may stand as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from ..checking.calls import COMPONENT_KEYS
from ..ports import Port, Type
from ..registry import NodeType, Registry
from .graph import FORMAT

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Reference = Annotated[
    str,
    Field(
        pattern=r"^\$[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(/[^/\s]+)*$",
        description="A value of the graph: $input, $node, $node.port, or $weights/folder.",
    ),
]
Plain = bool | int | float | str | list[Any] | None
Args = dict[str, Plain]
Nodes = dict[str, "Node"]
_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Strict(BaseModel):
    """A table with no other keys."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class Input(Strict):
    """One input of the graph, and an option of the command line."""

    type: str
    """text, int, float, bool, choice, file, folder, weights, a kind such as Image, or list[...] of one."""
    default: Plain = None
    """What it is where nothing is given; without a default it must be given."""
    min: int | float | None = None
    max: int | float | None = None
    choices: list[Plain] = []
    """The values that are allowed."""
    help: str = ""
    """What the command line says of it."""
    secret: bool = False
    """Never written into results."""
    differs: str = ""
    """Another input, into which the same value may not be wired."""


class Call(BaseModel):
    """Calls a component, or a method of it, that another node made; the other keys are its inputs."""

    call: Reference


class Include(BaseModel):
    """Another graph as a node; the other keys are its inputs."""

    graph: str = Field(description="A file beside this document or below its folder, or pkg://package/path.")


class Body(Strict):
    """Nodes in a scope of their own, and what the scope gives."""

    nodes: Nodes = {}
    outputs: Args = {}


class Loop(Strict):
    """A body that is repeated, with carried values, which are its outputs."""

    loop: Reference | list[Any]
    as_: str = Field(alias="as", pattern=_NAME, description="The name of the element inside.")
    carry: Args = Field({}, description="What goes from turn to turn, and what it is at first.")
    nodes: Nodes = {}
    next: Args = Field({}, description="What each carried value becomes.")
    collect: Args = Field({}, description="Also kept: one item a turn, as a list.")


class Map(Body):
    """A body applied to each element; each output is a list."""

    map: Reference | list[Any]
    as_: str = Field(alias="as", pattern=_NAME, description="The name of the element inside.")


class When(Body):
    """A branch: what is not taken is neither loaded nor run."""

    when: Reference | bool
    else_: Body | None = Field(None, alias="else", description="The other branch, with the same outputs.")


class Grad(Strict):
    """The gradient of a score by a value; the outputs are `value` and `grad`."""

    grad: Reference
    as_: str = Field(alias="as", pattern=_NAME, description="The name of the value inside.")
    nodes: Nodes = {}
    of: Reference = Field(description="The score.")


class Train(Strict):
    """What makes the document a training graph."""

    data: dict[str, Any] = Field(description="A node that gives batches, and `as`, their name in the graph.")
    update: dict[str, str] = Field(description="The components that are trained, and the folder of each.")
    save: dict[str, str] = Field({}, description="Other components that are written, and the folder of each.")
    loss: Reference
    optimizer: dict[str, Any] | str = {}
    learning_rate: dict[str, Any] | float | str = 1e-4
    ema: float | str | None = None
    steps: int | str
    checkpoint: int | str = 1000
    validate_: int | str = Field(
        0, alias="validate", description="Batches of rows that are held out, at each checkpoint."
    )
    sample: dict[str, Any] | None = None


class Document(Strict):
    """A graph."""

    diffgraph: int = Field(description="The version of the format.", json_schema_extra={"const": FORMAT})
    name: str = Field("", description="Part of the names of the files that it makes.")
    summary: str = Field("", description="One line: what it does, and the paper.")
    requires: dict[str, str] = Field({}, description="Packages of nodes that it needs.")
    inputs: dict[str, Input | str] = {}
    variants: dict[str, dict[str, Any]] = Field({}, description="Named defaults of inputs; the first is the default.")
    nodes: Nodes = {}
    outputs: Args = {}
    train: Train | None = None


class Node(BaseModel):
    """Stands for any node while the forms are collected; replaced by `any_node`."""


FORMS: dict[str, type[BaseModel]] = {
    "call": Call, "graph": Include, "loop": Loop, "map": Map, "when": When, "grad": Grad,
}  # fmt: skip


def document_schema(registry: Registry) -> dict[str, Any]:
    """The schema of documents that use these node types."""
    schema = Document.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema.pop("$defs")
    for form in FORMS.values():
        own = form.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
        definitions |= own.pop("$defs", {})
        definitions[form.__name__] = own
    types = sorted((node for node in registry.nodes.values() if node.role != "protocol"), key=lambda node: node.name)
    for node in types:
        definitions[f"node {node.name}"] = node_schema(node)
    definitions["Node"] = any_node(types)
    whole = {"$schema": DIALECT, **schema, "title": "diffgraph document", "$defs": dict(sorted(definitions.items()))}
    tidy: dict[str, Any] = _tidy(whole)
    return tidy


def any_node(types: list[NodeType]) -> dict[str, Any]:
    """A node of any form. What decides is which key is there, and after `node:` which type, so that errors are near."""
    names = [{"const": node.name, "description": node.summary} for node in types]
    choices = [{"if": {"required": [key]}, "then": {"$ref": f"#/$defs/{form.__name__}"}} for key, form in FORMS.items()]
    for node in types:
        this = {"required": ["node"], "properties": {"node": {"const": node.name}}}
        choices.append({"if": this, "then": {"$ref": f"#/$defs/node {node.name}"}})
    return {
        "type": "object",
        "description": "One node: a type, a call, a graph, or a body.",
        "oneOf": [{"required": [key]} for key in ("node", *FORMS)],
        "properties": {"node": {"oneOf": names}},
        "allOf": choices,
    }


def node_schema(node: NodeType) -> dict[str, Any]:
    """The keys that a node of this type takes."""
    fields: dict[str, Any] = {"node": (Literal[node.name], ...)}
    ports: Mapping[str, Port] = node.fields | COMPONENT_KEYS if node.role == "component" else node.call.inputs  # type: ignore[operator]
    for name, port in ports.items():
        # A component with weights takes its parameters from their config, so none of them is required here.
        required = port.required and node.role != "component"
        default = ... if required else None if port.required or not _finite(port.default) else port.default
        fields[f"port_{name}"] = (_annotation(port), Field(default, alias=name, description=_about(port)))
    model = create_model(f"node {node.name}", __config__=ConfigDict(extra="forbid"), __doc__=node.summary, **fields)
    schema = model.model_json_schema(by_alias=True)
    schema["properties"]["node"]["description"] = node.summary
    return schema


def _finite(value: Any) -> bool:
    """Whether JSON has the value: it has neither an infinite number nor NaN."""
    return not isinstance(value, float) or isfinite(value)


def _about(port: Port) -> str:
    shape = f" [{', '.join(port.shape.split())}]" if port.shape else ""
    return port.help or f"{port.type}{shape}"


def _annotation(port: Port) -> Any:
    """What may stand at a port: a literal that it takes, or a reference."""
    inner = _literal(port.type, port)
    if inner is None:
        return Reference | None if port.optional else Reference
    return inner | Reference | None if port.optional else inner | Reference


def _literal(kind: Type, port: Port) -> Any:
    """The literals of a type as an annotation, or None where it has none."""
    if kind.form in ("any", "var"):
        return Plain
    if kind.form == "choice":
        return Literal[kind.options]
    if kind.form == "list":
        item = kind.item
        return list[_annotation(item)] if item is not None else list[Any]  # type: ignore[misc]
    names = kind.literals if kind.form == "kind" else (kind.name,) if kind.form == "scalar" else ()
    found = [_SCALARS[name] for name in names if name in _SCALARS]
    if not found:
        return None
    bound = port.bound
    limits = {key: value for key in ("ge", "gt", "le", "lt") if bound and (value := getattr(bound, key)) is not None}
    out: Any = None
    for scalar in found:
        one = Annotated[scalar, Field(**limits)] if limits and scalar in (int, float) else scalar
        out = one if out is None else out | one
    return out


_SCALARS: dict[str, Any] = {
    "int": int, "float": float, "text": str, "bool": bool, "weights": str, "folder": str, "file": str,
}  # fmt: skip


def _tidy(schema: Any) -> Any:
    """Without the titles that pydantic makes of names, which editors show for nothing."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = {"properties", "$defs"}
    out = {}
    for key, value in schema.items():
        if key in named and isinstance(value, dict):
            out[key] = {name: _tidy(inner) for name, inner in value.items()}
        elif not (key == "title" and isinstance(value, str) and "$schema" not in schema):
            out[key] = _tidy(value)
    return out
