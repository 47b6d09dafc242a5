"""Importing: a published repository of several parts, as a graph of our own.

The index of such a repository names the class of its pipeline, and a class for each part. Node packages say which graph
does what a pipeline does (`@pipeline`); its nodes get the node types that read the classes of the parts, so the solver
stays the one that was published, with the config that lies beside it. Only the index and small configs are read.
Nothing that a repository holds is executed, and one that names code is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from .authoring import Published
from .errors import WeightsError
from .language.document import parse, read, write
from .language.graph import GraphDocument, Input, Lit, Node, Ref
from .language.reading import read_graph
from .language.writing import document_plain
from .registry import Pipeline, Registry, import_name, registry
from .weights.folders import INDEX_FILE, Folder
from .weights.loading import package_path

LIBRARIES = ("diffusers", "transformers")
NAMES_CODE = frozenset({"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Imported:
    """A repository as a graph.

    graph: with parts of ours. text: of its document. pipeline: the class that the repository names. address: the input
    that takes the repository's address. left_out: parts that the graph does without, with their classes.
    """

    graph: GraphDocument
    text: str
    pipeline: str
    address: str
    left_out: tuple[str, ...]


def imported(folder: Folder, *, name: str, weights: str | None, pipeline: str | None = None) -> Imported:
    """The graph that does what the pipeline of a repository does, by its index and configs.

    name: of the graph. weights: the repository's address as the document has it, None where it cannot have one.
    pipeline: another class that takes the same parts. Raises WeightsError where no graph does this, where a part is
    missing or no node type reads it, or where code is named.
    """
    index = folder.config(INDEX_FILE)
    if index is None:
        raise WeightsError(
            f"{folder}: there is no {INDEX_FILE}, which says what a repository consists of",
            hint="there is: " + (", ".join(folder.names()[:12]) or "nothing"),
        )
    where, reg = f"{folder}/{INDEX_FILE}", registry()
    refuse_code(index, where)
    parts, pipeline = _parts(index), pipeline or index.get("_class_name")
    if not isinstance(pipeline, str):
        raise WeightsError(f"{where}: names no class of a pipeline, as _class_name", hint="is it a whole repository?")
    template = reg.pipelines.get(pipeline)
    _refuse_modules(folder, parts, template, where)
    if template is None:
        raise _no_graph(where, pipeline, parts, reg)
    graph, address = _template(template)
    used, configs = _take_parts(graph, address, parts, folder, reg, f"{where}: {pipeline}")
    changes = import_name(template.function)(Published(index, configs))
    for key, value in changes.items():
        _change(graph, key, value)
    _include_installed(graph, template.graph)
    graph.name, graph.variants = name, {}
    if weights is not None:
        graph.inputs[address.name] = replace(address, default=weights, required=False)
    left_out = tuple(f"{part} ({cls})" for part, (_, cls) in parts.items() if part not in used)
    place = " ".join(str(folder).split()) if weights is not None else "a folder"
    head = [f"# {pipeline}, imported by diffgraph from {place}"]
    head += [f"# left out: {', '.join(left_out)}"] if left_out else []
    return Imported(graph, "\n".join(head) + "\n" + write(document_plain(graph)), pipeline, address.name, left_out)


# --- what a repository names ----------------------------------------------------------------------------------------


def refuse_code(config: Any, where: str) -> None:
    """Raises WeightsError where a published config names code that should be run. where: the file."""
    for path, key, value in _walk(config, ""):
        names_code = (key in NAMES_CODE and value not in (None, False)) or (
            key == "_class_name" and not isinstance(value, str | None)
        )
        if names_code:
            raise WeightsError(
                f"{where}: {path} names code of the repository, {str(value)[:80]!r}, and none is executed here",
                hint="import a repository whose parts are all of " + " and ".join(LIBRARIES),
            )


def _walk(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every key of nested data, with the path that leads there and its value."""
    todo = [(value, path)]
    while todo:
        item, path = todo.pop()
        if isinstance(item, Mapping):
            for key, inner in item.items():
                below = f"{path}.{key}" if path else str(key)
                yield below, str(key), inner
                todo.append((inner, below))
        elif isinstance(item, list):
            todo += [(inner, f"{path}[{number}]") for number, inner in enumerate(item)]


def _parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each part that an index names; without those that it says are absent."""
    found = {}
    for part, entry in index.items():
        if not part.startswith("_") and isinstance(entry, list) and len(entry) == 2:
            library, cls = entry
            if isinstance(library, str) and isinstance(cls, str):
                found[part] = library, cls
    return found


def _refuse_modules(
    folder: Folder, parts: Mapping[str, tuple[str, str]], template: Pipeline | None, where: str
) -> None:
    """Raises WeightsError for a part whose class would come from a module of the repository."""
    known = (*LIBRARIES, *(template.libraries if template is not None else ()))
    for part, (library, cls) in parts.items():
        word = all(map(_WORD.fullmatch, (library, cls))) is True
        unknown = template is not None and library not in known
        if not word or unknown or not re.fullmatch(r"[\w-]+", part) or folder.has(f"{part}/{library}.py"):
            raise WeightsError(
                f"{where}: {part} names code, the class {cls!r} of the module {library!r}, and none is executed here",
                hint="import a repository whose parts are all of " + " and ".join(LIBRARIES),
            )


def _no_graph(where: str, pipeline: str, parts: Mapping[str, tuple[str, str]], reg: Registry) -> WeightsError:
    readable = {name for node in reg.nodes.values() for name in node.published}
    unread = [f"{part} ({cls})" for part, (_, cls) in parts.items() if cls not in readable]
    also = f", and no node type reads {', '.join(unread)}" if unread else ", though node types read all of its parts"
    return WeightsError(
        f"{where}: there is no graph for {pipeline}{also}",
        hint="those that can be imported: " + ", ".join(sorted(reg.pipelines)),
    )


# --- the graph ------------------------------------------------------------------------------------------------------


def _template(pipeline: Pipeline) -> tuple[GraphDocument, Input]:
    """A graph of its own to be changed, and its input for the repository's address."""
    graph, problems = read_graph(parse(read(package_path(pipeline.graph)), pipeline.graph), pipeline.graph)
    addresses = [item for item in graph.inputs.values() if item.type == "weights"]
    if problems or len(addresses) != 1:
        raise TypeError(f"{pipeline.graph} is no graph with one input of the type weights, as {pipeline.function} says")
    return graph, addresses[0]


def _take_parts(
    graph: GraphDocument,
    address: Input,
    parts: Mapping[str, tuple[str, str]],
    folder: Folder,
    reg: Registry,
    where: str,
) -> tuple[set[str], dict[str, Mapping[str, Any]]]:
    """Gives each node with weights of the repository the node type that reads its part; and the parts' configs."""
    used: set[str] = set()
    configs: dict[str, Mapping[str, Any]] = {}
    wrong = []
    for node in graph.nodes.values():
        wanted = node.args.get("weights")
        if node.form != "node" or not isinstance(wanted, Ref) or wanted.name != address.name:
            continue
        part = wanted.sub.strip("/") or node.name
        if part not in parts:
            if wanted.sub:
                wrong.append(f"has no {part}")
            continue
        used.add(part)
        cls = parts[part][1]
        chosen = _reader(reg, node.target_text, cls)
        if chosen is None:
            read = any(cls in each.published for each in reg.nodes.values())
            told = f"{part} is a {cls}, which {node.target_text} does not read"
            wrong.append(told if read else f"no node type reads {part} ({cls})")
            continue
        node.target = Lit(chosen, node.target.place)
        node.args["weights"] = replace(wanted, sub=f"/{part}")
        kind = reg.nodes[chosen]
        here, config = (folder / part).component(chosen, kind.config_file, kind.published)
        refuse_code(config, f"{here}/{kind.config_file.split()[0].removesuffix('?')}")
        configs[part] = config
    if wrong:
        raise WeightsError(f"{where}: {', '.join(wrong)}", hint="`diffgraph nodes` lists the node types")
    return used, configs


def _reader(reg: Registry, shipped: str, cls: str) -> str | None:
    """The node type for a part: the graph's own where it is made for this class, else the one that is, or None."""
    made_for = [node.name for node in reg.nodes.values() if node.published[:1] == (cls,)]
    if shipped in made_for:
        return shipped
    if len(made_for) == 1:
        return made_for[0]
    known = reg.nodes.get(shipped)
    reads = known is not None and (not known.published or cls in known.published)
    return shipped if reads else None


def _change(graph: GraphDocument, key: str, value: Any) -> None:
    """Replaces the default of an input, or by `NODE.KEY` a value of a node."""
    name, dot, field = key.partition(".")
    if not dot:
        graph.inputs[name] = replace(graph.inputs[name], default=value, required=False)
    elif field == "node":
        graph.nodes[name].target = Lit(value)
    else:
        graph.nodes[name].args[field] = Lit(value)


def _include_installed(graph: GraphDocument, address: str) -> None:
    """What the graph includes from beside it, by addresses that hold anywhere."""
    scheme, _, place = address.partition("://")
    waiting: list[Node] = list(graph.nodes.values())
    while waiting:
        node = waiting.pop()
        waiting += node.inner.values()
        if node.form == "graph" and "://" not in node.target_text:
            node.target = Lit(f"{scheme}://{PurePosixPath(place).parent / node.target_text}", node.target.place)
