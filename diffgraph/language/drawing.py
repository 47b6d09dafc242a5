"""A document as a networkx graph, to analyse or to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .graph import Arg, Body, GraphDocument, Node, arg_refs

if TYPE_CHECKING:
    import networkx


def to_networkx(document: GraphDocument) -> networkx.MultiDiGraph[str]:
    """The nodes and wires of one document; what it includes stays one node.

    A node of a body is called `loop.node`, one of an `else` branch `flag:else.node`, an output `output:image`. Nodes
    have `form` ("input", "output", "batch", or the form in the document), `type` (the node type, the method called, the
    address of the graph, the type of an input, or what a body is over) and `place`. Edges have `output`, what is read
    of the source ("" for all of it), and `input`, the port. A body is a cycle through its node: what is its own inside
    (`as`, `carry`) is read from that node, and what it gives (`next.x`, `collect.x`, `outputs.x`, `of`) goes to it.
    """
    import networkx

    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=document.name)
    names: dict[str, tuple[str, str]] = {}
    for item in document.inputs.values():
        graph.add_node(item.name, form="input", type=item.type, place=item.place)
        names[item.name] = (item.name, "")
    train = document.train
    if train is not None:
        batch = train.data.as_name
        graph.add_node(batch, form="batch", type=train.data.target_text, place=train.data.place)
        names[batch] = (batch, "")
        for port, arg in train.data.args.items():
            _wire(graph, names, arg, batch, port)
    within = _scope(graph, document.nodes, names, "")
    outputs = dict(document.outputs) | ({"loss": train.loss} if train is not None else {})
    for name, arg in outputs.items():
        graph.add_node(f"output:{name}", form="output", type="", place=arg.place)
        _wire(graph, within, arg, f"output:{name}", name)
    return graph


Names = Mapping[str, tuple[str, str]]  # by a name in scope: the node that has it, and which part of that node it is


def _scope(graph: networkx.MultiDiGraph[str], nodes: Mapping[str, Node], outer: Names, path: str) -> Names:
    """Adds the nodes of one scope, whose names start with `path`; returns what is in sight in it."""
    names = dict(outer) | {name: (path + name, "") for name in nodes}
    for node in nodes.values():
        graph.add_node(path + node.name, form=node.form, type=node.target_text, place=node.place)
    for node in nodes.values():
        here = path + node.name
        for port, arg in _inputs(node):
            _wire(graph, names, arg, here, port)
        own = [name for name in (node.as_name, *node.carry) if name]
        inside = names | {name: (here, name) for name in own}
        if node.body is not None:
            _body(graph, node, node.body, inside, here, f"{here}.")
        if node.other is not None:
            _body(graph, node, node.other, inside, here, f"{here}:else.")
    return names


def _body(graph: networkx.MultiDiGraph[str], node: Node, body: Body, outer: Names, here: str, path: str) -> None:
    names = _scope(graph, body.nodes, outer, path)
    ends = {"outputs": body.outputs} if body is node.other else _ends(node, body)
    for word, args in ends.items():
        for name, arg in args.items():
            _wire(graph, names, arg, here, f"{word}.{name}")
    if node.of is not None:
        _wire(graph, names, node.of, here, "of")


def _ends(node: Node, body: Body) -> dict[str, Mapping[str, Arg]]:
    return {"next": node.next, "collect": node.collect, "outputs": body.outputs}


def _inputs(node: Node) -> Iterator[tuple[str, Arg]]:
    """What a node reads of the names around it, by port."""
    if node.form not in ("node", "graph"):
        yield node.form, node.target
    yield from node.args.items()
    yield from ((f"carry.{name}", arg) for name, arg in node.carry.items())


def _wire(graph: networkx.MultiDiGraph[str], names: Names, arg: Arg, target: str, port: str) -> None:
    for ref in arg_refs(arg):
        if ref.name in names:
            source, part = names[ref.name]
            graph.add_edge(source, target, output=".".join((*filter(None, [part]), *ref.path)) + ref.sub, input=port)


__all__ = ["to_networkx"]
