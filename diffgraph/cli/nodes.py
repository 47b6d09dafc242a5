"""`diffgraph nodes`: the installed node types; `diffgraph nodes NAME`: the ports, parameters and docstring of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, nearest
from .report import put, say
from .tables import table, width

if TYPE_CHECKING:
    from ..authoring import Bound
    from ..ports import Port
    from ..registry import Method, NodeType, Registry


@click.command("nodes")
@click.argument("name", required=False)
@click.option(
    "--nodes", "files", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="A Python file with nodes, to be listed too; it is executed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Prints JSON.")
def command(name: str | None, files: tuple[Path, ...], as_json: bool) -> None:
    """Lists the node types that documents can name, by package; or explains NAME: what it does, ports, bounds.

    NAME may be a published class, such as UNet2DModel: which types read it.
    """
    from ..registry import registry

    known = registry(files)
    if name is None:
        _list(known, as_json)
        return
    found = known.nodes.get(name)
    if found is None:
        readers = [node.name for node in known.nodes.values() if name in node.published]
        if readers:
            click.echo(f"{name} is a published class, which {' and '.join(readers)} read{'s' * (len(readers) == 1)}")
            return
        near = nearest(name, list(known.nodes))
        hint = f"did you mean {near}?" if near else "`diffgraph nodes` lists those that are installed"
        raise InputError(
            f"there is no node type {name!r}, and none that reads a published class of that name", hint=hint
        )
    if as_json:
        put(_as_data(found))
    else:
        _explain(found)


def _list(known: Registry, as_json: bool) -> None:
    types = [node for node in known.nodes.values() if node.role != "protocol"]
    if as_json:
        put({"nodes": [{"name": n.name, "role": n.role, "version": n.version, "summary": summary(n)} for n in types]})
        return
    packages: dict[str, list[NodeType]] = {}
    for node in types:
        packages.setdefault(package_of(node), []).append(node)
    for number, (package, nodes) in enumerate(packages.items()):
        click.secho(("\n" if number else "") + package, bold=True)
        rows = sorted((node.role != "component", node.name, summary(node)) for node in nodes)
        table([(name, "function" if other else "component", text) for other, name, text in rows], indent="  ")
    for name, error in known.broken.items():
        say(f"warning: {name} cannot be imported: {error}", fg="yellow")


def package_of(node: NodeType) -> str:
    """Where a type comes from: the package that registered it, or the user's file."""
    if node.module.startswith("diffgraph_user_"):
        return f"{node.module.split('_', 3)[3]}.py, named by --nodes"
    package, dot, _ = node.name.rpartition(".")
    return package if dot else "diffgraph"


def summary(node: NodeType) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join(node.doc.strip().split("\n\n")[0].split())


def _explain(node: NodeType) -> None:
    click.secho(node.name, bold=True, nl=False)
    click.echo(f"  {node.role}, version {node.version}, in {node.module}")
    click.echo()
    for line in node.doc.strip().split("\n"):
        click.echo(f"  {line}".rstrip())
    if node.fields:
        title = "Attributes" if node.role == "protocol" else "Parameters"
        _heading(title, "" if node.role == "protocol" else "keys of the node, and of its published config")
        table([_row(name, port) for name, port in node.fields.items()], indent="  ", last=False)
    if node.role == "component":
        _heading("Also", "every component takes these")
        table(COMPONENT_KEYS, indent="  ", last=False)
    if node.attributes:
        _heading("Attributes", "read as $name.attribute")
        table(list(node.attributes.items()), indent="  ")
    for method in node.methods.values():
        _method(node, method)
    if node.facts or node.siblings:
        _heading("Facts", "what else must agree on a wire")
        table([*node.facts.items(), *((k, f"from {v}") for k, v in node.siblings.items())], indent="  ")


COMPONENT_KEYS = [
    ("weights", "address", "where its config and weights are"),
    ("init_seed", "int", "for fresh values, where there are no weights"),
    ("dtype", "fp32, fp16 or bf16", "its own, in place of the run's"),
    ("device", "text", "its own, in place of the run's"),
]


def _heading(title: str, note: str = "") -> None:
    click.echo()
    click.secho(title, bold=True, nl=False)
    click.secho(f"  {note}" if note else "", dim=True)


def _method(node: NodeType, method: Method) -> None:
    if node.role == "function":
        _heading("Inputs")
    else:
        call = "$name" if method.name == "__call__" else f"$name.{method.name}"
        _heading(f"call: {call}")
        if method.doc and method.doc != "Call self as a function.":  # which Python says of a protocol
            first = " ".join(method.doc.strip().split("\n\n")[0].split())
            click.echo(click.wrap_text(first, min(width(), 120), "  ", "  "))
    table([_row(name, port) for name, port in method.inputs.items()], indent="  ", last=False)
    if node.role == "function":
        _heading("Output")
    table(_outputs(method.output), indent="  " if node.role == "function" else "  -> ", last=False)


def _outputs(port: Port) -> list[tuple[str, ...]]:
    if port.type.form == "record" and port.type.fields:
        return [_row(f".{name}", inner) for name, inner in port.type.fields]
    return [(kind_text(port), notes_text(port))]


def _row(name: str, port: Port) -> tuple[str, ...]:
    return name, kind_text(port), notes_text(port)


def kind_text(port: Port) -> str:
    """The kind and shape of a port: `Sample [B, C, H, W]`."""
    kind = port.type
    if kind.form == "choice":
        text = " | ".join(json.dumps(option) for option in kind.options)
    elif kind.form == "list" and kind.item is not None:
        text = f"list of {kind_text(kind.item)}"
    else:
        text = str(kind)
    if kind.literals:
        text += f" ({' or '.join(kind.literals)})"
    shape = f" [{', '.join(port.shape.split())}]" if port.shape else ""
    return text + shape + (" or null" if port.optional and kind.form != "any" else "")


def notes_text(port: Port) -> str:
    """What else is said of a port: its range, its facts, its default."""
    notes = [bound_text(port.bound)] if port.bound is not None else []
    notes += [_fact_text(name, word) for name, word in port.facts]
    if not port.required:
        notes.append(f"default {json.dumps(port.default, default=str)}")
    if port.type.once:
        notes.append("used once")
    return ", ".join(notes)


def _fact_text(name: str, word: str) -> str:
    if word.startswith("?"):
        return f"same {name} as the others"
    return f"{name}: {'of this component' if word == '@self' else word}"


def bound_text(bound: Bound) -> str:
    """A range in words: `from 0 to 1`, `above 0`."""
    ends = ("from", bound.ge), ("above", bound.gt), ("to", bound.le), ("below", bound.lt)
    return " ".join(f"{word} {value:g}" for word, value in ends if value is not None)


def _as_data(node: NodeType) -> dict[str, Any]:
    from ..ports import port_to_json

    def ports(given: Mapping[str, Port]) -> dict[str, Any]:
        return {name: port_to_json(port) for name, port in given.items()}

    methods = {
        name: {"inputs": ports(method.inputs), "output": port_to_json(method.output), "doc": method.doc}
        for name, method in node.methods.items()
    }
    return {
        "name": node.name, "role": node.role, "version": node.version, "module": node.module, "doc": node.doc,
        "parameters": ports(node.fields), "attributes": dict(node.attributes), "methods": methods,
    }  # fmt: skip
