"""Converting: checkpoints as their authors published them, as folders of parts that graphs take.

Node packages list the originals that they know (originals.py): how each is recognised, and what it becomes. Here a
checkpoint is read (pickles by a weights-only loader, in a process of its own), recognised by the names of its tensors,
held against the models' names and shapes, and written as one folder, whole or not at all.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HubError, InputError, WeightsError, nearest
from .originals import Checkpoint, Conversion, Part, Rows
from .registry import OriginalEntry, import_name, registry
from .weights.addresses import Address, parse_address
from .weights.config import fields_of, metadata_of, parse_config
from .weights.digests import file_digest
from .weights.folders import INDEX_FILE, open_folder
from .weights.loading import is_module, load_component, read_config, save_pretrained, tensor_dtype
from .weights.pickles import unpickle
from .weights.tensors import TensorSpec, assign, built_without_memory, printable, read_header, renamed, write_whole
from .weights.uploads import TAG, front_matter

if TYPE_CHECKING:
    import torch

    from .authoring import Component


@dataclass(frozen=True)
class Options:
    """How a conversion is done.

    dtype: of the weights, None as the files have them. averaged: moving averages are taken where there are any.
    settings: what no tensor tells, by the names that the original has for it. sources: where parts come from that no
    file holds, by the part's name. without: such parts that are left out.
    """

    dtype: torch.dtype | str | None = None
    averaged: bool = True
    settings: Mapping[str, Any] | None = None
    sources: Mapping[str, Address] | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Written:
    """A part of the folder: which type reads it, how many numbers its tensors hold, and where else it came from."""

    folder: str
    node: str
    parameters: int = 0
    source: str = ""


@dataclass(frozen=True)
class Converted:
    """What was made: the folder, what it is, its parts, how it is run, and what was chosen."""

    folder: Path
    title: str
    parts: tuple[Written, ...]
    run: str
    note: str


def convert(files: Sequence[Path], out: Path, options: Options | None = None) -> Converted:
    """Converts checkpoints of one system into a folder, which must be new or empty.

    Raises WeightsError for a file that is damaged, refused, of no known system, or not as its system's are; InputError
    for an option or a folder; HubError where a part that no file holds is not reached. Nothing is left behind then.
    """
    options = options or Options()
    place = out.expanduser().absolute()
    _check_empty(place, out)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as drafts:
            found = _drafted(files, out, options, Path(drafts))
            if place.exists():
                place.rmdir()
            (Path(drafts) / "folder").rename(place)
    except OSError as error:
        raise WeightsError(f"{out}: cannot be written: {error.strerror or error}") from None
    return found


def _drafted(files: Sequence[Path], out: Path, options: Options, drafts: Path) -> Converted:
    """Makes the folder as `drafts/folder`; pickled tensors lie beside it."""
    draft, dtype = drafts / "folder", tensor_dtype(options.dtype)
    draft.mkdir()
    jobs = [_Job.of(path, drafts / f"{number}.safetensors", options) for number, path in enumerate(files)]
    _check_together(jobs, options)
    made = [(part, job.built(part)) for job in jobs for part in job.conversion.parts if not part.source]
    made += [(part, _fetched(part, options)) for job in jobs for part in job.fetched(options)]
    written = []
    for part, component in made:
        module: Any = component if is_module(type(component)) else None
        save_pretrained(component, draft / part.place, dtype=dtype if module is not None else None)
        count = sum(tensor.numel() for tensor in module.state_dict().values()) if module is not None else 0
        source = str((options.sources or {}).get(part.name, part.source)) if part.source else ""
        written.append(Written(part.place, part.node, count, source))
    first = jobs[0].conversion
    _write_index(draft, [part for part, _ in made], first)
    found = Converted(out, first.title, tuple(written), first.run.replace("FOLDER", str(out)), first.note)
    (draft / "README.md").write_text(_card(found, jobs, out.absolute().name), encoding="utf-8")
    return found


def _check_empty(place: Path, out: Path) -> None:
    """Raises InputError unless a folder can be made there."""
    if place.is_dir() and any(place.iterdir()):
        raise InputError(f"{out} is not empty", hint="name another folder")
    if place.exists() and not place.is_dir():
        raise InputError(f"{out} is not a folder", hint="name another")
    if not place.parent.is_dir():
        raise InputError(f"{out}: there is no folder {place.parent}", hint=f"make it first: mkdir -p {out.parent}")


# --- reading and recognising ------------------------------------------------------------------------------------------


def read_tensors(path: Path, draft: Path) -> dict[str, TensorSpec]:
    """The tensors of a checkpoint by name. draft: where those of a pickle are written. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except IsADirectoryError:
        raise WeightsError(f"{path}: is a folder; a checkpoint is one file", hint=f"diffgraph run {path}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return read_header(path, str(path))
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(
            f"{path}: is neither safetensors nor a pickle of torch", hint="was it fetched whole, and not a web page?"
        )
    unpickle(path, draft, str(path), nested=True)
    return read_header(draft, str(path))


def recognised(names: Sequence[str], where: str) -> OriginalEntry:
    """The original that names of tensors belong to. Raises WeightsError where it is unknown, or not converted."""
    text = "\n".join(names)
    known = registry().originals.values()
    fit = [entry for entry in known if all(re.search(pattern, text, re.MULTILINE) for pattern in entry.keys)]
    most = max((len(entry.keys) for entry in fit), default=0)
    fit = [entry for entry in fit if len(entry.keys) == most]
    converts = [entry for entry in known if entry.place]
    if not fit:
        looked = "\n".join(f"  {entry.name}: {' and '.join(_plain(key) for key in entry.keys)}" for entry in converts)
        shown = ", ".join(printable(name) for name in sorted(names)[:3])
        raise WeightsError(
            f"{where}: its {len(names)} tensors ({shown}, ...) are of no system that is known; looked for:\n{looked}",
            hint="docs/convert.md says how a node package adds one",
        )
    if len(fit) > 1:
        raise WeightsError(f"{where}: may be any of {', '.join(entry.name for entry in fit)}")
    if not fit[0].place:
        told = f"those that are: {', '.join(entry.name for entry in converts)}"
        raise WeightsError(f"{where}: is {fit[0].name}, which is not converted: {fit[0].instead}", hint=told)
    return fit[0]


def _plain(pattern: str) -> str:
    """A pattern of names as it is read most easily."""
    return re.sub(r"\(([^()|]*)\)\?", "", pattern).strip("^$").replace("\\.", ".")


@dataclass(frozen=True)
class _Job:
    """A checkpoint, and what it becomes."""

    path: Path
    specs: Mapping[str, TensorSpec]
    conversion: Conversion

    @classmethod
    def of(cls, path: Path, draft: Path, options: Options) -> _Job:
        specs = read_tensors(path, draft)
        original, settings = recognised(list(specs), str(path)), options.settings or {}
        _check_settings(settings, original)
        shapes = {name: spec.shape for name, spec in specs.items()}
        checkpoint = Checkpoint(shapes, settings=settings, averaged=options.averaged)
        try:
            conversion = import_name(original.place).convert(checkpoint)
        except WeightsError as error:
            raise WeightsError(f"{path}: looks like {original.name}, but {error.message}", hint=error.hint) from None
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from None
        left = left_over(conversion, specs)
        if left:
            shown = ", ".join(f"{printable(name)} {list(specs[name].shape)}" for name in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            raise WeightsError(
                f"{path}: looks like {original.name}, but holds {len(left)} tensors that this does not have: {shown}{more}"
            )
        return cls(path, specs, conversion)

    def fetched(self, options: Options) -> list[Part]:
        """The parts that come from elsewhere."""
        return [part for part in self.conversion.parts if part.source and part.name not in options.without]

    def built(self, part: Part) -> Component:
        """A part of what the file holds and the system's configs say. Raises WeightsError where they do not fit."""
        cls, values, metadata = _configured(part)
        if not part.tensors:
            component = cls.from_config(cls.Config(**values))
        else:
            where = f"{self.path}: {part.name}"
            specs = renamed(part_specs(part, self.specs, where), cls.keys, where)
            module: Any = built_without_memory(lambda: cls.from_config(cls.Config(**values)))
            assign(module, specs, dtype=None, device="cpu", where=where, whole=False)
            component = module.eval()
        component.metadata = {**cls.metadata, **metadata}
        return component


def left_over(conversion: Conversion, names: Iterable[str]) -> list[str]:
    """The tensors that no part reads and no pattern names."""
    read = {
        source.name if isinstance(source, Rows) else source
        for part in conversion.parts
        for source in part.tensors.values()
    }
    unused = [re.compile(pattern) for pattern in conversion.unused]
    return [name for name in names if name not in read and not any(one.search(name) for one in unused)]


def part_specs(part: Part, specs: Mapping[str, TensorSpec], where: str) -> dict[str, TensorSpec]:
    """What a file holds for each tensor of a part. Raises WeightsError where one cannot be divided as the part says."""
    found = {}
    for name, source in part.tensors.items():
        if not isinstance(source, Rows):
            found[name] = specs[source]
            continue
        spec = specs[source.name]
        if not spec.shape or spec.shape[0] % (source.parts * source.runs):
            told = f"{printable(source.name)} {list(spec.shape)}"
            raise WeightsError(f"{where}: {told} cannot be divided into {source.runs} runs of {source.parts} parts")
        rows = (source.number, source.parts, source.runs)
        found[name] = replace(spec, shape=(spec.shape[0] // source.parts, *spec.shape[1:]), rows=rows)
    return found


def _configured(part: Part) -> tuple[type[Component], dict[str, Any], dict[str, Any]]:
    """The class of a part, the value of each field of its config, and what the config says besides."""
    cls: type[Component] = registry().nodes[part.node].load()
    fields = fields_of(cls.Config)
    values = parse_config(fields, part.config, ignored=cls.ignored, where=f"the config of {part.name}")
    return cls, values, metadata_of(fields, part.config, cls.ignored)


def _fetched(part: Part, options: Options) -> Component:
    """A part from where the options say it is, or else from its own source."""
    cls: type[Component] = registry().nodes[part.node].load()
    given = (options.sources or {}).get(part.name)
    try:
        read = read_config(
            open_folder(given if given is not None else parse_address(part.source)),
            part.node,
            fields_of(cls.Config),
            config_file=cls.config_file,
            published=cls.published,
            ignored=cls.ignored,
            overrides=part.config,
        )
        files = read.folder.find(*cls.files)
    except HubError as error:
        hint = f"or give a folder that is here: --part {part.name}=FOLDER; it is not in the checkpoint"
        raise HubError(f"{part.name}: {error.message}", hint=hint) from None
    return load_component(cls, cls.Config(**read.values), files, metadata=read.metadata, where=str(read.folder))


def _check_settings(settings: Mapping[str, Any], original: OriginalEntry) -> None:
    for name in settings:
        if name not in original.settings:
            near = nearest(name, list(original.settings))
            told = "; ".join(f"{key}: {what}" for key, what in original.settings.items()) or "nothing"
            raise InputError(
                f"--set {name}: there is no such setting of {original.name}",
                hint=f"did you mean {near}?" if near else f"what can be set: {told}",
            )


def _check_together(jobs: Sequence[_Job], options: Options) -> None:
    """Raises InputError where files do not belong into one folder, or an option names a part that there is not."""
    first = jobs[0]
    given: dict[tuple[str, str], Path] = {}
    for job in jobs:
        if job.conversion.title != first.conversion.title:
            raise InputError(
                f"{first.path} is of {first.conversion.title}, {job.path} of {job.conversion.title}",
                hint="convert each into a folder of its own",
            )
        for part in job.conversion.parts:
            other = given.setdefault((part.place, part.name), job.path)
            if other != job.path:
                raise InputError(
                    f"{other} and {job.path} both hold the part {part.name}", hint="convert each into its own folder"
                )
    elsewhere = [part.name for job in jobs for part in job.conversion.parts if part.source]
    for option, names in (("--part", options.sources or {}), ("--without", options.without)):
        for name in names:
            if name not in elsewhere:
                known = ", ".join(elsewhere) or "none"
                raise InputError(f"{option} {name}: no such part comes from elsewhere", hint=f"those that do: {known}")


# --- what is written beside the parts ---------------------------------------------------------------------------------


def _write_index(folder: Path, parts: Sequence[Part], conversion: Conversion) -> None:
    """The index of the folder, where its layout has one."""
    if not conversion.index:
        return
    types = registry().nodes
    classes = {
        part.name: [part.library, (types[part.node].published or (types[part.node].qualname,))[0]] for part in parts
    }
    text = json.dumps({**conversion.index, **classes}, indent=2)
    write_whole(folder / INDEX_FILE, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _card(made: Converted, jobs: Sequence[_Job], name: str) -> str:
    """The README.md of the folder. It names files, but no path of this machine."""
    from . import __version__

    rows = ["| original file | bytes | SHA-256 |", "| --- | --- | --- |"]
    rows += [f"| {job.path.name} | {job.path.stat().st_size} | {file_digest(job.path)} |" for job in jobs]
    rows += ["", "| folder | part | parameters | from |", "| --- | --- | --- | --- |"]
    for part in made.parts:
        source = (part.source if "://" in part.source else "a local folder") if part.source else "the original file"
        if not part.source and not part.parameters:
            source = "the system's description"
        count = f"{part.parameters:,}" if part.parameters else ""
        rows.append(f"| {part.folder or '.'} | {part.node} | {count} | {source} |")
    conversion = jobs[0].conversion
    head = front_matter({"license": conversion.licence, "library_name": TAG, "tags": [TAG]})
    note = f"\nWhat was taken: {made.note}.\n" if made.note else ""
    run = conversion.run.replace("FOLDER", name)
    table = "\n".join(rows)
    return f"""{head}
# {name}

{made.title}, converted by diffgraph {__version__} from the checkpoint of its authors.
{note}
{table}

```text
diffgraph run {run}
```
"""
