"""Where results go: names of files, a look at the folder before the run, whole files or none, and never one lost."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, StoreError
from ..values import is_record, leaves

if TYPE_CHECKING:
    from ..checking.unify import Value
    from ..session import Prepared

PROBE_BYTES = 1 << 16
TENSORS = ".safetensors"
JSON = ".json"
PLAIN = ""  # stands for all outputs that JSON can say, written as one file


@dataclass(frozen=True)
class Destination:
    """Where the files of one run go. file: what the user named; else every name is made in `folder`.

    label: what tells this run of a sweep apart from the others, but for its seed.
    """

    folder: Path
    name: str
    seed: int | None
    count: int | None
    first: str
    file: Path | None = None
    label: str = ""

    @classmethod
    def of(
        cls, prepared: Prepared, suffixes: Mapping[str, str], wanted: str | None, label: str | None = None
    ) -> Destination:
        """What `--output` means, with the suffix of the files of each output that has some. Raises InputError.

        label: of this run of a sweep, whose output is a folder; None for a run alone.
        """
        values = prepared.values
        seed, count = values.get("seed"), values.get("num_images")
        seed = None if seed is not None and prepared.graph.inputs["seed"].secret else seed
        name = safe(prepared.graph.name or Path(prepared.source.address).stem)
        first = next(iter(suffixes), PLAIN)
        where = cls(
            Path(), name, seed if type(seed) is int else None, count if type(count) is int else None, first,
            label=f"-{label}" if label else "",
        )  # fmt: skip
        if wanted is None:
            return where
        if not wanted:
            raise InputError("--output is empty", hint="name a file or a folder; without it, files go to this folder")
        path = Path(wanted).expanduser()
        if path.is_dir() or not path.name or wanted.endswith((os.sep, "/")):
            return replace(where, folder=path)
        if label is not None:
            what = "is a file" if path.exists() else "there is no such folder"
            hint = "name a folder" if path.exists() else f"a sweep writes many files; make it first: mkdir -p {path}"
            raise InputError(f"--output {wanted}: {what}", hint=hint)
        suffix = suffixes.get(first, JSON)
        special = path.exists() and not path.is_file()
        if not special and path.suffix.lower() != suffix:
            hint = f"name it {path.with_suffix(suffix).name}" if path.suffix else f"write {wanted}{suffix} or {wanted}/"
            what = first if first != PLAIN else "the result"
            raise InputError(f"--output {wanted}: {what} is written as {suffix}", hint=hint)
        return replace(where, folder=path.parent, file=path)

    def check(self) -> None:
        """Looks before the run whether files can be written. Raises InputError."""
        if self.file is not None and self.file.exists() and not self.file.is_file():
            return  # a device or a pipe: known when it is written
        if not self.folder.is_dir():
            what = "is not a folder" if self.folder.exists() else "there is no such folder"
            raise InputError(f"--output {self.folder}: {what}", hint=f"make it first: mkdir -p {self.folder}")
        probe = self.folder / f".diffgraph-{secrets.token_hex(8)}.tmp"
        try:
            with probe.open("xb") as file:
                file.write(bytes(PROBE_BYTES))
        except OSError as error:
            hint = "free some space, or give another folder with -o" if error.errno == 28 else "give another with -o"
            raise InputError(f"the folder {self._shown} cannot be written: {error.strerror}", hint=hint) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    @property
    def _shown(self) -> str:
        return str(self.folder) if str(self.folder) != "." else str(Path.cwd())

    def paths(self, output: str, suffix: str, number: int) -> list[Path]:
        """The names for the files of one output."""
        part = self._part(output)
        if self.file is not None:
            stem, suffix = self.file.stem, suffix if part else self.file.suffix
            counts = [""] if number == 1 else [f"-{i}" for i in range(number)]
            return [self.folder / f"{stem}{part}{count}{suffix}" for count in counts]
        if self.seed is not None and (number == 1 or number == self.count):
            counts = [f"-{self.seed + i}" for i in range(number)]  # image i is that of seed + i
        else:
            seed = f"-{self.seed}" if self.seed is not None else ""
            counts = [seed] if number == 1 else [f"{seed}-{i}" for i in range(number)]
        return [self.folder / f"{self.name}{self.label}{count}{part}{suffix}" for count in counts]

    def sheet(self, output: str, data: bytes) -> Path:
        """Writes a sheet of the pictures of one output. Raises StoreError."""
        if self.file is not None:
            return write_over(self.folder / f"{self.file.stem}{self._part(output)}-sheet.png", data)
        seed = f"-{self.seed}" if self.seed is not None else ""
        return write_beside(self.folder / f"{self.name}{self.label}{seed}{self._part(output)}-sheet.png", data)

    def grid(self, output: str, data: bytes) -> Path:
        """Writes a sheet of one output of all runs of a sweep. Raises StoreError."""
        return write_beside(self.folder / f"{self.name}{self._part(output)}-grid.png", data)

    def _part(self, output: str) -> str:
        return "" if output == self.first else "-" + output.replace(".", "-")

    def write(self, output: str, suffix: str, files: list[bytes]) -> list[Path]:
        """Writes the files of one output; returns where they are. Raises StoreError."""
        return [
            write_over(path, data) if self.file is not None else write_beside(path, data)
            for path, data in zip(self.paths(output, suffix, len(files)), files, strict=True)
        ]


def safe(name: str, longest: int = 80) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:longest].strip(".-") or "output"


def write_over(path: Path, data: bytes) -> Path:
    """Writes a file that the user named, in place of what was there. Raises StoreError."""
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe cannot be replaced
        else:
            with _draft(target, data) as draft:
                os.replace(draft, target)
    except OSError as error:
        raise _unwritten(path, error) from None
    return path


def write_beside(path: Path, data: bytes) -> Path:
    """Writes a new file, or finds one with the same content; another that has the name keeps it. Raises StoreError."""
    try:
        with _draft(path, data) as draft:
            for candidate in _candidates(path):
                try:
                    if candidate.is_file() and candidate.stat().st_size == len(data) and candidate.read_bytes() == data:
                        return candidate
                    os.link(draft, candidate)  # fails where the name is taken, even by a process of this moment
                except FileExistsError:
                    continue
                except OSError:
                    if os.path.lexists(candidate):
                        continue
                    os.replace(draft, candidate)  # a file system without links
                return candidate
    except OSError as error:
        raise _unwritten(path, error) from None
    raise StoreError(f"{path} and a thousand names like it are taken")


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in range(1, 1001):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


@contextlib.contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """A whole file under another name in the same folder, gone at the end."""
    draft = path.with_name(f".{path.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data)
        yield draft
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _unwritten(path: Path, error: OSError) -> StoreError:
    hint = "the result is kept in the store: the same command with another -o writes it without a run"
    return StoreError(f"{path} cannot be written: {error.strerror or error}", hint=hint)


def suffix_of(value: Value | None) -> str | None:
    """The suffix for a kind without a writer, by what the checker knows of the value; None where JSON can say it."""
    if value is None or value.type.form in ("scalar", "choice"):
        return None
    if value.type.form == "list" and value.item is not None:
        return suffix_of(value.item)
    if value.type.form == "record":
        return TENSORS if any(suffix_of(inner) for inner in value.fields.values()) else None
    return TENSORS if value.type.form == "kind" and not value.type.literals else None


# --- values that have no files of their own -------------------------------------------------------------------------


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, or lists and records of these, so that JSON can say it."""
    return all(leaf is None or isinstance(leaf, bool | int | float | str) for leaf in leaves(value))


def as_plain(value: Any) -> Any:
    """A value for JSON, records as objects."""
    if is_record(value):
        return {name: as_plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return [as_plain(item) for item in value] if isinstance(value, list | tuple) else value


def as_tensors(value: Any, output: str) -> bytes:
    """A value of a kind without a writer as a safetensors file: its tensors by path, all else as JSON in the header.

    Raises StoreError for what can be neither.
    """
    import torch
    from safetensors.torch import save

    tensors: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [(output, value)]
    while stack:
        path, item = stack.pop()
        if is_record(item):
            stack += [(f"{path}.{name}", getattr(item, name)) for name in item._fields]
        elif isinstance(item, list | tuple):
            stack += [(f"{path}.{i}", part) for i, part in enumerate(item)]
        elif isinstance(item, torch.Tensor):
            tensors[path] = item.detach().cpu().contiguous()
        elif hasattr(item, "__array__"):
            tensors[path] = torch.as_tensor(item).contiguous().clone()
        elif item is None or isinstance(item, bool | int | float | str):
            rest[path] = item
        else:
            raise StoreError(f"{output}: a {type(item).__name__} cannot be written", hint="take a part of it")
    metadata = {"values": json.dumps(rest, sort_keys=True)} if rest else None
    return bytes(save({name: tensors[name] for name in sorted(tensors)}, metadata))
