"""Sharing a graph: everything that a repository needs so that others run it by its address.

A parcel holds the document and the local ones that it includes, its lock, its weights where that is wanted, a drawing,
a picture, and a card. Nothing in it may name a folder of the user's machine, a token, or a secret value: it is looked
through before it goes anywhere.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import CheckFailed, DiffgraphError, HubError, InputError
from .gathering import gather, part_files, variants_of
from .language.document import write
from .language.graph import GraphDocument
from .language.sources import Loader, Source, included
from .language.writing import document_plain
from .locking import OWN, SUFFIX, Book, Entry, Lock, find_lock
from .weights.addresses import parse_address
from .weights.hub import Hub
from .weights.uploads import TAG, front_matter

if TYPE_CHECKING:
    from .session import Session

DRAWING, SAMPLE, CARD = "graph.png", "sample.png", "README.md"
_LONGEST_TEXT = 4 << 20
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_TASKS = {(True, False): "text-to-image", (True, True): "image-to-image", (False, True): "image-to-image"}


@dataclass
class Shared:
    """What is to be shared: the graph as a command opened it, and what was typed for its inputs.

    variant, sets: as of a run, for the picture and the command on the card.
    """

    session: Session
    graph: GraphDocument
    source: Source
    loader: Loader
    repository: str
    given: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    with_weights: bool = False
    licence: str | None = None
    sample: bytes | None = None


@dataclass(frozen=True)
class Parcel:
    """Files by path in the repository, and what the user should know."""

    files: dict[str, bytes | Path]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in self.files.values())


def pack(shared: Shared, hub: Hub) -> Parcel:
    """Gathers everything. Raises InputError for what may not be shared, CheckFailed, HubError, LockError."""
    if shared.source.remote is not None or shared.source.bundle is not None or shared.source.path is None:
        raise InputError(f"{shared.source.label}: only a document on this machine is pushed", hint="copy it here first")
    _refuse_secrets(shared.graph)
    documents = _documents(shared)
    lock, moved = _weights(shared)
    files: dict[str, bytes | Path] = {**documents, **moved.files}
    main = shared.source.path.name
    if moved.addresses:
        files[main] = write(_rewritten(shared.graph, moved.addresses, shared.variant)).encode()
    files[main + SUFFIX] = lock.text().encode()
    files[DRAWING] = _drawn(shared)
    if shared.sample is not None:
        files[SAMPLE] = without_texts(shared.sample)
    licence, notes = _licence(shared, lock, hub)
    files[CARD] = _card(shared, lock, licence).encode()
    typed = [shared.given.get(name) for name, item in shared.graph.inputs.items() if item.secret]
    _look_through(files, [*hub.secrets(), *(text for text in typed if isinstance(text, str) and len(text) > 3)])
    return Parcel(files, tuple(notes))


def _refuse_secrets(graph: GraphDocument) -> None:
    for item in graph.inputs.values():
        values = [item.default, *(values.get(item.name) for values in graph.variants.values())]
        if item.secret and any(value not in (None, "") for value in values):
            raise InputError(
                f"the input {item.name} is secret, and the document holds a value of it", hint="take the value out"
            )


def _documents(shared: Shared) -> dict[str, bytes]:
    """The document and those below its folder that it includes, by their paths from there."""
    assert shared.source.path is not None
    found: dict[str, bytes] = {}
    waiting = [(shared.source.path.name, shared.source, shared.loader.load(shared.source))]
    while waiting:
        name, source, graph = waiting.pop()
        found[name] = source.read()
        for address in included(graph):
            if address.startswith("hf://"):
                raise InputError(
                    f"{name} includes {address}, and a graph on the Hub includes files of its own repository alone",
                    hint="put a copy of that document below the folder of this one",
                )
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
            if "://" not in address and place not in found:
                inner = source.include(address)
                waiting.append((place, inner, shared.loader.load(inner)))
    return found


@dataclass
class _Moved:
    """Weights of this machine that go along: their files, and new values of inputs."""

    files: dict[str, Path] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)


def _weights(shared: Shared) -> tuple[Lock, _Moved]:
    """The lock, in which no folder of this machine is named; and the weights that go along."""
    source, graph = shared.source, shared.graph
    old = find_lock(source)
    book = Book(source.base, old, adding=True)
    addresses = {name: value for name, value in shared.given.items() if graph.inputs[name].type == "weights"}
    variants = variants_of(graph, shared.variant)
    opener, versions = gather(shared.session, graph, source, shared.loader, shared.given, book, variants=variants)
    parts = part_files(opener)
    if old is not None:
        old.check_nodes(versions)
    local = {str(folder): folder for folder, _ in parts if folder.address.scheme == "file"}
    if local and not shared.with_weights:
        told = "".join(f"\n  {name}" for name in local)
        raise InputError(
            f"weights in folders on this machine, which nobody else has:{told}",
            hint="push each part (model.push_to_hub) and name hf://org/repo, or give --with-weights",
        )
    moved, places = _Moved(), _moves(source, addresses)
    entries: dict[str, Entry] = {}
    for address, entry in book.entries.items():
        target = entries.setdefault(OWN if _is_local(address) else address, Entry(entry.commit))
        for path, file in entry.files.items():
            name = _place(address, path, places)
            target.files[name] = file
            if _is_local(address):
                root = str(source.folder) if address == OWN else address
                moved.files[name] = Path(os.path.normpath(os.path.join(root, path)))
    for name, address in addresses.items():
        if parse_address(address).scheme == "file":
            moved.addresses[name] = places[os.path.abspath(os.path.expanduser(address))]
        else:
            moved.addresses[name] = address
    return Lock("", "", {name: entry for name, entry in entries.items() if entry.files}, versions, __version__), moved


def _is_local(address: str) -> bool:
    return "://" not in address


def _moves(source: Source, addresses: Mapping[str, str]) -> dict[str, str]:
    """Where folders that the user gave come to lie in the repository."""
    places = {}
    for name, address in addresses.items():
        if parse_address(address).scheme != "file":
            continue
        folder = os.path.abspath(os.path.expanduser(address))
        below = os.path.relpath(folder, source.folder or Path())
        inside = Path(below).parts[0] not in ("..", ".") if Path(below).parts else False
        places[folder] = Path(below).as_posix() if inside else f"weights/{name}"
    return places


def _place(address: str, path: str, places: Mapping[str, str]) -> str:
    """A file's path in the repository."""
    if address == OWN or not _is_local(address):
        return path
    whole = os.path.normpath(os.path.join(address, path))
    for folder, place in places.items():
        if Path(whole).is_relative_to(folder):
            return posixpath.join(place, Path(whole).relative_to(folder).as_posix())
    raise InputError(f"{whole} lies outside of the folders that were given", hint="give the folder that holds it all")


def _rewritten(graph: GraphDocument, addresses: Mapping[str, str], variant: str | None) -> dict[str, Any]:
    """The document with other defaults for inputs."""
    inputs = {
        name: replace(item, default=addresses[name], required=False) if name in addresses else item
        for name, item in graph.inputs.items()
    }
    chosen = variant or next(iter(graph.variants), None)
    variants = {
        name: {**values, **{key: addresses[key] for key in values if key in addresses}} if name == chosen else values
        for name, values in graph.variants.items()
    }
    return document_plain(replace(graph, inputs=inputs, variants=variants))


def _drawn(shared: Shared) -> bytes:
    from .drawing.png import png
    from .drawing.show import drawing

    return png(drawing(shared.graph, shared.source, shared.loader, shared.session.registry)[0])


def without_texts(picture: bytes) -> bytes:
    """The picture alone, as PNG: without what a file carries besides. Raises InputError for what is no picture."""
    from io import BytesIO

    from PIL import Image

    try:
        with Image.open(BytesIO(picture)) as opened:
            opened.load()
            plain = Image.frombytes(opened.mode, opened.size, opened.tobytes())
            if opened.mode == "P":
                plain = opened.convert("RGB")
                plain.info.clear()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"the sample is no picture: {error}", hint="give a PNG file") from None
    out = BytesIO()
    plain.save(out, "PNG")
    return out.getvalue()


# --- the card -------------------------------------------------------------------------------------------------------


def _licence(shared: Shared, lock: Lock, hub: Hub) -> tuple[str | None, list[str]]:
    """The licence that was given, or else the one that all weights have; and what to tell of it."""
    if shared.licence is not None:
        return shared.licence, []
    found = set()
    for address, entry in lock.entries.items():
        if entry.commit is not None:
            try:
                found.add(hub.licence(parse_address(address).root, entry.commit))
            except HubError:
                found.add(None)
    if len(found) == 1 and None not in found:
        return found.pop(), []
    return None, ["the card names no licence: give --licence"]


def _card(shared: Shared, lock: Lock, licence: str | None) -> str:
    """README.md: what the graph does, how to run it, and what it is made of."""
    graph, name = shared.graph, shared.graph.name or shared.repository.partition("/")[2]
    bases = [parse_address(address).root for address, entry in lock.entries.items() if entry.commit is not None]
    head = front_matter({
        "license": licence, "library_name": TAG, "pipeline_tag": _task(shared), "tags": [TAG],
        "base_model": list(dict.fromkeys(bases)),
    })  # fmt: skip
    assert shared.source.path is not None
    main = shared.source.path.name
    parts = [f"{head}\n# {_plain(name)}\n"]
    parts += [f"{_plain(graph.summary)}\n"] if graph.summary else []
    parts += [f"![{_plain(name)}]({SAMPLE})\n"] if shared.sample is not None else []
    parts += [f"```sh\n{_command(shared)}\n```\n", "## Inputs\n" if graph.inputs else "This graph has no inputs.\n"]
    if graph.inputs:
        rows = ["| input | type | default | what it is |", "| --- | --- | --- | --- |"]
        rows += [f"| {' | '.join(map(_cell, row))} |" for row in _inputs(shared)]
        parts += ["\n".join(rows) + "\n"]
    if len(graph.variants) > 1:
        parts += ["Variants, for `--variant`: " + ", ".join(f"`{variant}`" for variant in graph.variants) + ".\n"]
    weights = [
        f"- `{address}`" + (f" at `{entry.commit[:12]}`" if entry.commit else "")
        for address, entry in sorted(lock.entries.items())
        if address != OWN
    ]
    own = any(address == OWN for address in lock.entries)
    parts += [f"## The graph\n\n![the graph]({DRAWING})\n"]
    parts += (
        ["## Weights\n\n" + "\n".join([*weights, *(["- in this repository"] if own else [])]) + "\n"]
        if weights or own
        else []
    )
    parts += [f"[{main}]({main}) is the graph; [{main}{SUFFIX}]({main}{SUFFIX}) has the hash of every file.\n"]
    return "\n".join(parts)


def _task(shared: Shared) -> str | None:
    """The Hub's word for what the graph does, as far as the kinds of its inputs and outputs tell."""
    from .results import kind_writer

    registry = shared.session.registry
    kinds = shared.session.check(shared.graph, shared.source, shared.loader)[1].values()
    writers = [kind_writer(registry, kind) for kind in kinds]
    if not any(writer is not None and writer.suffix == ".png" for writer in writers):
        return None
    types = {item.type for item in shared.graph.inputs.values()}
    pictures = any(registry.readers.get(name, ((), ""))[0] for name in types)
    return _TASKS.get(("text" in types, pictures), "unconditional-image-generation")


def _inputs(shared: Shared) -> list[list[str]]:
    """A row of the card for each input. What is secret has no default there."""
    graph = shared.graph
    first = next(iter(graph.variants.values()), {})
    rows = []
    for item in graph.inputs.values():
        value = first.get(item.name, item.default)
        told = "secret" if item.secret else "required" if item.required and item.name not in first else f"`{value}`"
        rows.append([f"`{item.name}`", item.type, told if value is not None or item.required else "", item.help])
    return rows


def _command(shared: Shared) -> str:
    words = ["diffgraph", "run", f"hf://{shared.repository}"]
    words += ["--variant", shared.variant] if shared.variant else []
    for name, value in shared.given.items():
        item = shared.graph.inputs[name]
        if item.secret or item.type in ("weights", "folder") or not isinstance(value, str | int | float):
            continue
        if isinstance(value, str) and (item.type == "file" or item.type in shared.session.registry.readers):
            value = os.path.basename(value)
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        else:
            words += [option, str(value)]
    return shlex.join(words)


def _plain(text: str) -> str:
    """A text of the document as one line of Markdown, without markup of its own."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- the last look --------------------------------------------------------------------------------------------------


def _look_through(files: Mapping[str, bytes | Path], secrets: Sequence[str]) -> None:
    """Raises CheckFailed where a file holds what must not leave this machine: a secret, a token, a path of it."""
    folders = {str(Path.home()), str(Path.cwd()), os.path.abspath(os.getcwd())} - {"/", ""}
    problems: list[DiffgraphError] = []
    for name, content in files.items():
        for number, line in enumerate(_text(content).splitlines(), 1):
            what = None
            if any(secret in line for secret in secrets) or _TOKEN.search(line):
                what = "a token or a secret value"
            elif any(re.search(rf"{re.escape(folder)}(?![\w.-])", line) for folder in folders):
                what = "a folder of this machine"
            if what is not None:
                problems.append(InputError(f"{name}:{number} holds {what}", hint="take it out; nothing was sent"))
    if problems:
        raise CheckFailed(problems)


def _text(content: bytes | Path) -> str:
    """The content of a file that people read; empty for others."""
    if isinstance(content, Path):
        if content.stat().st_size > _LONGEST_TEXT:
            return ""
        content = content.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", "replace")
