"""`diffgraph info FILE`: what made a picture, what a graph needs, or what an address holds. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CheckFailed, DiffgraphError, DocumentError, InputError
from .graph_command import Opened, offline_option, open_graph, talk_options
from .report import State, put
from .tables import table

if TYPE_CHECKING:
    from ..bundles import Bundle
    from ..language.graph import Input
    from ..locking import Lock
    from ..registry import NodeType, Registry
    from ..session import Session
    from ..weights.folders import Folder

LONGEST = 300  # letters of a value


@click.command("info")
@click.argument("graph", metavar="FILE")
@click.option(
    "--nodes", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
    help="A Python file with nodes that the graph uses; it is executed.",
)  # fmt: skip
@offline_option
@talk_options
@click.pass_context
def command(ctx: click.Context, graph: str, nodes: tuple[Path, ...], as_json: bool, debug: bool) -> None:
    """Says what made a picture, what a graph needs, or what an address holds.

    FILE is a picture that diffgraph made, a document, the name of a shipped graph, an address on the Hub, or a folder of
    parts. Of the Hub small configs are read; no weights are downloaded, and nothing is run.
    """
    from ..session import Options, Session

    state: State = ctx.obj
    session = Session(Options(nodes=nodes))
    try:
        asked = open_graph(graph)
    except (InputError, DocumentError) as error:
        found = _part(graph, session.registry)
        if found is None:
            raise error from None
        put(found) if as_json else _show_part(found)
        return
    state.secrets = asked.secrets(())
    if asked.bundle is not None:
        picture = _picture(asked, asked.bundle, session.registry)
        put(picture) if as_json else _show_picture(picture)
    else:
        about = _graph(asked, session, state)
        put(about) if as_json else _show_graph(about)


# --- what is there --------------------------------------------------------------------------------------------------


def _picture(asked: Opened, bundle: Bundle, registry: Registry) -> dict[str, Any]:
    """What a picture says of the run that made it. Raises DocumentError where it is damaged."""
    from ..locking import OWN, SUFFIX, find_lock

    lock, main = find_lock(asked.source), asked.source.address
    files = {name: {"file": file, "sha256": digest} for name, (file, digest) in bundle.files.items()}
    known = {**bundle.inputs, **files}
    here = {name: registry.nodes[name].version for name in lock.nodes if name in registry.nodes} if lock else {}
    nodes = lock.nodes if lock is not None else {}
    return {
        "kind": "picture",
        "address": asked.address,
        "name": asked.graph.name,
        "summary": asked.graph.summary,
        "variant": bundle.made.variant,
        "inputs": {name: known[name] for name in asked.graph.inputs if name in known},
        "missing": [name for name in asked.graph.inputs if name not in known],
        "versions": dict(bundle.made.versions),
        "device": bundle.made.device,
        "dtype": bundle.made.dtype,
        "documents": [main, *(name for name in asked.source.bundle or () if name not in (main, main + SUFFIX))],
        "locked": lock is not None,
        "weights": [
            {
                "address": "this folder" if address == OWN else address,
                "commit": entry.commit,
                "files": [
                    {"path": path, "size": file.size, "sha256": file.sha256} for path, file in entry.files.items()
                ],
            }
            for address, entry in (lock.entries if lock is not None else {}).items()
        ],
        "nodes": nodes,
        "differs": {name: here.get(name) for name, version in nodes.items() if here.get(name) != version},
    }


def _graph(asked: Opened, session: Session, state: State) -> dict[str, Any]:
    """What a graph is and needs. What cannot be told of its weights is a problem, and no error."""
    from ..gathering import gather, variants_of
    from ..locking import Book, find_lock, how_to_lock
    from ..telling import HIDDEN

    graph, source, lock = asked.graph, asked.source, find_lock(asked.source)
    parts: list[dict[str, Any]] = []
    problem = None
    try:
        book = Book(source.base, lock)
        variants = variants_of(graph, None)
        opener, _ = gather(session, graph, source, asked.loader, {}, book, variants=variants)
        parts = [_files(part.kind, part.folder) for part in opener.opened]
    except DiffgraphError as error:
        first = error.problems[0] if isinstance(error, CheckFailed) and error.problems else error
        problem = state.hide(first.message)
    secret = {item.name for item in graph.inputs.values() if item.secret}
    return {
        "kind": "graph" if source.bundle is None else "parts",
        "address": asked.address,
        "commit": source.remote.revision if source.remote is not None else None,
        "pipeline": _pipeline(asked),
        "name": graph.name,
        "summary": graph.summary,
        "requires": dict(graph.requires),
        "trains": graph.train is not None,
        "inputs": {item.name: _input(item) for item in graph.inputs.values()},
        "variants": {
            name: {key: HIDDEN if key in secret else value for key, value in values.items()}
            for name, values in graph.variants.items()
        },
        "outputs": list(graph.outputs),
        "documents": [one.label for _, one in asked.loader.documents.values()],
        "weights": parts,
        "problem": problem,
        "lock": _lock(lock),
        "how_to_lock": how_to_lock(source),
    }


def _input(item: Input) -> dict[str, Any]:
    """An input as a document declares it; of a secret one not the default."""
    about: dict[str, Any] = {"type": item.type, "required": item.required, "help": item.help}
    about |= {} if item.required or item.secret else {"default": item.default}
    about |= {"min": item.min} if item.min is not None else {}
    about |= {"max": item.max} if item.max is not None else {}
    about |= {"choices": list(item.choices)} if item.choices else {}
    return about | ({"secret": True} if item.secret else {})


def _lock(lock: Lock | None) -> dict[str, Any] | None:
    if lock is None:
        return None
    files, size = lock.size()
    return {"file": lock.label, "addresses": sorted(lock.entries), "files": files, "bytes": size}


def _files(kind: NodeType, folder: Folder) -> dict[str, Any]:
    """The files that a component needs, and which of them are to be downloaded."""
    first = kind.config_file.split()[0].removesuffix("?")
    names = [*([first] if folder.has(first) else []), *folder.resolve(*kind.files)]
    return {
        "type": kind.name,
        "address": str(folder),
        "commit": folder.commit,
        "files": [{"path": name, "size": folder.size([name])} for name in dict.fromkeys(names)],
        "download": folder.size(folder.absent(names)),
    }


def _pipeline(asked: Opened) -> str | None:
    """The class of a pipeline that a repository of parts names."""
    from ..language.sources import INDEX_FILE
    from ..weights.folders import open_folder

    if asked.source.bundle is None:
        return None
    folder = open_folder(asked.source.remote.above if asked.source.remote is not None else asked.address)
    name = (folder.config(INDEX_FILE) or {}).get("_class_name")
    return name if isinstance(name, str) else None


def _part(address: str, registry: Registry) -> dict[str, Any] | None:
    """What a folder or a repository holds that is no graph: a part that node types read; None where it is none."""
    from ..weights.config import class_named
    from ..weights.folders import open_folder

    if not (address.startswith("hf://") or Path(address).is_dir()):
        return None
    folder = open_folder(address)
    readers = []
    for kind in registry.nodes.values():
        config = folder.config(kind.config_file.split()[0].removesuffix("?")) if kind.published else None
        if config is not None and class_named(config) in kind.published:
            readers.append(kind)
    return {
        "kind": "part", "address": address, "commit": folder.commit, "parts": [_files(kind, folder) for kind in readers]
    } if readers else None  # fmt: skip


# --- the screen -----------------------------------------------------------------------------------------------------


def _show_picture(about: Mapping[str, Any]) -> None:
    _title(about)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    place = " in ".join(filter(None, (about["device"], about["dtype"])))
    facts = [("graph", ", ".join(about["documents"])), ("variant", about["variant"] or "")]
    facts += [("with", versions), ("on", place), ("again", f"diffgraph run {about['address']}")]
    _rows("", [fact for fact in facts if fact[1]])
    rows = [(name, _value(value)) for name, value in about["inputs"].items()]
    _rows("inputs", [*rows, *((name, "to be given again: it is not in the picture") for name in about["missing"])])
    if not about["locked"]:
        click.echo("\nno lock: which weights made it is not known")
    _weights([(entry["address"], entry["commit"], entry["files"], "") for entry in about["weights"]])
    told = [f"{name} {version}" for name, version in about["nodes"].items()]
    _rows("nodes", [(", ".join(told),)] if told else [])
    for name, version in about["differs"].items():
        now = f"is version {version} here" if version is not None else "is not installed here"
        click.secho(f"{name} {now}, and {about['nodes'][name]} in the picture", fg="yellow")


def _show_graph(about: Mapping[str, Any]) -> None:
    _title(about)
    facts = [("holds", f"parts of {about['pipeline']}, in the layout of diffusers" if about["pipeline"] else "a graph")]
    facts = facts if "://" in about["address"] or about["pipeline"] else []
    facts += [("commit", about["commit"])] if about["commit"] else []
    facts += [("requires", ", ".join(f"{name} {text}".strip() for name, text in about["requires"].items()))]
    facts += [("includes", ", ".join(about["documents"][1:])), ("outputs", ", ".join(about["outputs"]))]
    verb = "train" if about["trains"] else "run"
    facts += [(verb, f"diffgraph {verb} {about['address']}")]
    _rows("", [fact for fact in facts if fact[1]])
    _rows("inputs", [(name, *_declared(item)) for name, item in about["inputs"].items()])
    rows = []
    for number, (name, values) in enumerate(about["variants"].items()):
        changed = {**values, **(values.get("set") or {})}
        told = ", ".join(f"{key}: {_value(value)}" for key, value in changed.items() if key != "set")
        rows.append((name, told + ("  [default]" if number == 0 else "")))
    _rows("variants", rows)
    _weights([(part["address"], part["commit"], part["files"], part["type"]) for part in about["weights"]])
    missing = sum(part["download"] for part in about["weights"])
    if missing:
        click.echo(f"to download: {_size(missing)}")
    if about["problem"] is not None:
        click.secho(f"\nits weights cannot be told: {_value(about['problem'])}", fg="yellow")
        click.echo(f"  diffgraph check {about['address']}")
    if about["lock"] is not None:
        lock = about["lock"]
        click.echo(f"\nlocked by {lock['file']}: {lock['files']} files of {_size(lock['bytes'])}")
    elif about["weights"]:
        click.echo(f"\nnot locked; {about['how_to_lock']}")


def _show_part(about: Mapping[str, Any]) -> None:
    click.secho(_value(about["address"]), bold=True)
    kinds = ", ".join(dict.fromkeys(part["type"] for part in about["parts"]))
    facts = [("holds", f"a part for {kinds}"), ("commit", about["commit"] or "")]
    _rows("", [fact for fact in facts if fact[1]])
    _weights([(part["address"], None, part["files"], part["type"]) for part in about["parts"]])


def _title(about: Mapping[str, Any]) -> None:
    name = f": {about['name']}" if about["name"] else ""
    click.secho(_value(about["address"] + name), bold=True)
    if about["summary"]:
        click.echo(f"  {_value(about['summary'])}")


def _weights(rows: Iterable[tuple[str, str | None, Sequence[Mapping[str, Any]], str]]) -> None:
    """A table of addresses with what is needed of each."""
    told = []
    for address, commit, files, kind in rows:
        count = f"{len(files)} file{'s' * (len(files) != 1)}"
        told.append(
            [
                _value(address),
                kind,
                count,
                _size(sum(file["size"] for file in files)),
                f"at {commit[:12]}" if commit else "",
            ]
        )
    if told and not any(row[1] for row in told):
        told = [[row[0], *row[2:]] for row in told]
    _rows("weights", told)


def _rows(head: str, rows: Sequence[Sequence[str]]) -> None:
    """A table with a heading, or nothing."""
    if rows:
        click.echo()
        click.secho(head, bold=True) if head else None
        table([[_clean(cell) for cell in row] for row in rows], indent="  ", last=False)


def _declared(item: Mapping[str, Any]) -> tuple[str, str]:
    """The type of an input, and its default and help."""
    facts = "required" if item["required"] else f"default: {_value(item['default'])}" if "default" in item else ""
    facts = "; ".join(filter(None, (facts, "secret" if item.get("secret") else "")))
    kind = "|".join(map(_value, item["choices"])) if "choices" in item else item["type"]
    return kind, " ".join(filter(None, (item["help"], f"[{facts}]" if facts else "")))


def _value(value: Any) -> str:
    """A value in one line, short, and without what a terminal would obey."""
    if isinstance(value, dict) and "sha256" in value:
        value = f"the file {value['file']} (SHA-256 {value['sha256'][:12]}...), to be given again"
    if isinstance(value, bool) or value is None:
        value = {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list):
        value = ", ".join(map(_value, value))
    text = _clean(str(value)) or '""'
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _size(count: int) -> str:
    from ..weights.transfers import say_bytes

    return say_bytes(count)
