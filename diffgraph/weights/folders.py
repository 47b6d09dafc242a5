"""Folders of weights, wherever they are: which files a component needs, their sizes, digests and local paths.

A `Folder` is an opened address. It looks at names first and fetches only what is asked for, so that a plan can be
made, with sizes and digests, before any weight is downloaded. Layouts: a component's own folder; a folder with
`model_index.json`, whose entries name a sub-folder each; and the old one, where `model_index.json` names sub-folders
but the files lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import WeightsError, WrongPart
from .addresses import Address, confine, missing_folder, parse_address
from .config import class_named, read_json
from .digests import file_digest, joined_digest

if TYPE_CHECKING:
    from .hub import Download, Hub, Progress

INDEX_FILE = "model_index.json"
MAX_INDEX_BYTES = 32 << 20
TENSORS = ".safetensors"


class Source(Protocol):
    """Files below a root, on this machine or not. Paths are relative, with "/" between parts.

    commit: of a repository on the Hub. root: the folder on this machine, where that is what it is.
    """

    commit: str | None
    root: Path | None

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    def children(self, path: str) -> list[str]:
        """What is directly below a path, folders with a "/" at the end; empty where there is nothing."""

    def size(self, path: str) -> int:
        """The size of a file in bytes."""

    def absent(self, paths: Sequence[str]) -> list[str]:
        """Which of these files would have to be downloaded."""

    def remote(self, paths: Sequence[str]) -> list[Download]:
        """Those of these files that are on a Hub."""

    def local(self, paths: Sequence[str]) -> dict[str, Path]:
        """Where these files are on this machine, downloaded if need be."""

    def digest(self, path: str) -> str:
        """The SHA-256 of a file."""

    def above(self) -> Source | None:
        """The folder that holds the root; None where there is none that may be looked at."""


class LocalSource:
    """A folder on this machine, which files may not leave where `confined` says so."""

    commit: str | None = None

    def __init__(self, root: Path, confined: Path | None = None) -> None:
        self.root: Path | None = root
        self._place, self.confined = root, confined

    def _path(self, path: str) -> Path:
        place = self._place.joinpath(*path.split("/")) if path else self._place
        if self.confined is not None:
            confine(place, self.confined, str(place))
        return place

    def has(self, path: str) -> bool:
        return self._path(path).is_file()

    def children(self, path: str) -> list[str]:
        try:
            entries = list(self._path(path).iterdir())
        except OSError:
            return []
        return sorted(entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith("."))

    def size(self, path: str) -> int:
        return self._path(path).stat().st_size

    def absent(self, paths: Sequence[str]) -> list[str]:
        return []

    def remote(self, paths: Sequence[str]) -> list[Download]:
        return []

    def local(self, paths: Sequence[str]) -> dict[str, Path]:
        return {path: self._path(path) for path in paths}

    def digest(self, path: str) -> str:
        return file_digest(self._path(path))

    def above(self) -> Source | None:
        parent = self._place.absolute().parent
        if self.confined is not None and not parent.resolve().is_relative_to(self.confined.resolve()):
            return None
        return LocalSource(parent, self.confined)


class Folder:
    """An opened address. Names of files are relative to it."""

    def __init__(self, address: Address, source: Source, prefix: str = "", *, variant: str | None = None) -> None:
        self.address, self.variant = address, variant
        self._source, self._prefix = source, prefix

    def __str__(self) -> str:
        return str(self.address)

    def __truediv__(self, sub: str) -> Folder:
        return Folder(self.address / sub, self._source, _join(self._prefix, sub), variant=self.variant)

    @property
    def commit(self) -> str | None:
        """The commit of a repository on the Hub."""
        return self._source.commit

    def has(self, name: str) -> bool:
        """Whether the folder holds this file."""
        return self._source.has(_join(self._prefix, name))

    def names(self) -> list[str]:
        """What is directly in the folder; sub-folders end with "/"."""
        return self._source.children(self._prefix)

    def config(self, name: str, *, limit: int = 1 << 20) -> dict[str, Any] | None:
        """A JSON object from a small file, or None where there is none. Raises WeightsError where it is damaged."""
        if not self.has(name):
            return None
        if self._source.size(_join(self._prefix, name)) > limit:
            raise WeightsError(f"{self}/{name}: larger than {limit >> 20} MiB, so it is no config")
        return read_json(self.paths([name])[name], f"{self}/{name}", limit)

    def resolve(self, *needed: str) -> tuple[str, ...]:
        """The names of the files that a component needs, without fetching weights.

        needed: for each thing needed, alternatives split by blanks, of which the first that exists is taken; a name
        without a suffix stands for tensors in all their published forms, safetensors before pickles; a "?" at the end
        says that none need exist. Raises WeightsError, saying what there is.
        """
        names: dict[str, None] = {}
        for words in needed:
            names.update(dict.fromkeys(self._first(words)))
        return tuple(names)

    def find(self, *needed: str) -> dict[str, Path]:
        """Local paths of the files that a component needs (see `resolve`), fetched if need be."""
        return self.paths(self.resolve(*needed))

    def paths(self, names: Iterable[str]) -> dict[str, Path]:
        """Local paths of these files, fetched if need be."""
        full = {_join(self._prefix, name): name for name in names}
        return {full[path]: place for path, place in self._source.local(list(full)).items()}

    def size(self, names: Iterable[str]) -> int:
        """How many bytes these files hold together."""
        return sum(self._source.size(_join(self._prefix, name)) for name in names)

    def absent(self, names: Iterable[str]) -> list[str]:
        """Which of these files would have to be downloaded."""
        full = {_join(self._prefix, name): name for name in names}
        return [full[path] for path in self._source.absent(list(full))]

    def remote(self, names: Iterable[str]) -> list[Download]:
        """Those of these files that are on a Hub."""
        return self._source.remote([_join(self._prefix, name) for name in names])

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """The SHA-256 of each file; those of weights on the Hub are known without a download."""
        return {name: self._source.digest(_join(self._prefix, name)) for name in names}

    def digest(self, names: Iterable[str]) -> str:
        """One SHA-256 for these files."""
        return joined_digest(self.digests(names))

    def component(self, title: str, config_file: str, published: Sequence[str] = ()) -> tuple[Folder, dict[str, Any]]:
        """The folder that holds a component, and its published config.

        title: the node type, for messages. config_file: with a "?" at the end where it may be missing, which is an
        empty config; after a blank, a file whose keys are laid over it, where there is one. published: the classes that
        it reads, any where empty. Looks here, then in the one sub-folder that `model_index.json` names for such a
        class. Raises WeightsError, saying what there is instead.
        """
        first, *over = config_file.split()
        needed = not first.endswith("?")
        config_file = first.removesuffix("?")
        here = self._beside_index(config_file)
        config = here._config(config_file, over)
        named = class_named(config) if config is not None else None
        if config is not None and (not published or named is None or named in published):
            return here, config
        index = here.config(INDEX_FILE)
        parts = _parts_of(index or {})
        fit = [part for part, name in parts.items() if (not published or name in published)]
        fit = [part for part in fit if (here / part).has(config_file)]
        if len(fit) == 1:
            below = here / fit[0]
            return below, below._config(config_file, over) or {}
        if not (needed or fit or named):
            return here, {}
        wants = f"{title} wants {_either(published)}" if published else f"{title} wants a {config_file}"
        if fit:
            raise WeightsError(f"{self}: holds several that fit: {', '.join(fit)}", hint=f"name one: {self}/{fit[0]}")
        if index is not None and parts:
            held = ", ".join(f"{part} ({name})" for part, name in parts.items())
            raise WrongPart(f"{self}: this is a {class_named(index)} with {held}; {wants}", parts.values())
        if named is not None:
            raise WrongPart(f"{self}: this is {_a(named)}; {wants}", [named])
        raise self._nothing(f"there is no {config_file}", hint=wants)

    def _config(self, name: str, over: Sequence[str]) -> dict[str, Any] | None:
        """A config with the keys of others laid over it, or None where none of them is there."""
        found = [config for file in (name, *over) if (config := self.config(file)) is not None]
        return {key: value for config in found for key, value in config.items()} if found else None

    def sibling(self, *names: str) -> dict[str, Any] | None:
        """The first config that there is, of another part of the same repository.

        names: `file`, in this folder or the only other one that the index names; or `part/file`.
        """
        return next((found for name in names if (found := self._sibling(name)) is not None), None)

    def _sibling(self, name: str) -> dict[str, Any] | None:
        part, _, file = name.rpartition("/")
        root = self._root()
        if part:
            return (root / part).config(file) if root is not None else None
        config = self.config(name)
        if config is not None or root is None or not root.has(INDEX_FILE):
            return config
        found = [part for part in _parts_of(root.config(INDEX_FILE) or {}) if (root / part).has(name)]
        return (root / found[0]).config(name) if len(found) == 1 else None if found else root.config(name)

    @property
    def indexed(self) -> bool:
        """Whether a `model_index.json` says which parts the repository has."""
        root = self._root()
        return root is not None and root.has(INDEX_FILE)

    def _root(self) -> Folder | None:
        """The folder of the repository: this one where it holds the index, else the one above."""
        return self if self.has(INDEX_FILE) else self._above()

    def _above(self) -> Folder | None:
        if self._prefix:
            parent = self._prefix.rpartition("/")[0]
            return Folder(self.address.above, self._source, parent, variant=self.variant)
        above = self._source.above()
        return Folder(self.address.above, above, variant=self.variant) if above else None

    def _beside_index(self, config_file: str) -> Folder:
        """This folder; or the one above, where that holds the files of a part that its index places in this one."""
        if self.names():
            return self
        above = self._above()
        part = PurePosixPath(self.address.canonical).name
        if above is not None and part in _parts_of(above.config(INDEX_FILE) or {}) and above.has(config_file):
            return above
        if self._source.root is not None:
            raise missing_folder(self._source.root / self._prefix, str(self))
        raise (above or self)._nothing(f"there is no folder {self._prefix}")

    def _first(self, words: str) -> tuple[str, ...]:
        alternatives = words.removesuffix("?").split()
        for plain in alternatives:
            if "." in plain and self.has(plain):
                return (plain,)
        stems = [name for name in alternatives if "." not in name]
        for variant in self._variants(stems):
            for form in (_tensor_forms, _pickle_forms):
                for stem in stems:
                    for name in form(stem, variant):
                        if self.has(name):
                            return self._shards(name) if ".index." in name else (name,)
        if words.endswith("?"):
            return ()
        asked = f" in the variant {self.variant}" if self.variant else ""
        wanted = [name if "." in name else f"{name}{TENSORS}" for name in alternatives]
        raise self._nothing(f"there is no {_either(wanted)}{asked}")

    def _variants(self, stems: Sequence[str]) -> list[str | None]:
        """The variant asked for; or none, and where only one variant is there, that one."""
        if self.variant is not None:
            return [self.variant]
        pattern = re.compile(rf"(?:{'|'.join(map(re.escape, stems)) or '$'})\.([a-z0-9]+)(?:-\d+-of-\d+)?\.safetensors")
        held = sorted({found[1] for name in self.names() if (found := pattern.fullmatch(name))})
        return [None, *held] if len(held) == 1 else [None]

    def _shards(self, index_name: str) -> tuple[str, ...]:
        index = self.config(index_name, limit=MAX_INDEX_BYTES) or {}
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightsError(f"{self}/{index_name}: has no weight_map, so it is no index of shards")
        shards = sorted({str(name) for name in weight_map.values()})
        for shard in shards:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", shard) or ".." in shard:
                raise WeightsError(f"{self}/{index_name}: {shard[:80]!r} is not the name of a shard beside it")
        missing = [shard for shard in shards if not self.has(shard)]
        if missing:
            raise self._nothing(f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}")
        return tuple(shards)

    def _nothing(self, what: str, *, hint: str | None = None) -> WeightsError:
        names = self.names()
        held = (
            ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"
        )
        return WeightsError(f"{self}: {what}; there is: {held}", hint=hint)


def open_folder(
    address: Address | str, *, hub: Hub | None = None, variant: str | None = None,
    watch: Callable[[Source], Source] | None = None,
) -> Folder:  # fmt: skip
    """Opens an address: looks whether it is there, and fetches nothing but, from the Hub, the list of files.

    hub: the Hub to ask, the user's own where None. variant: which set of weights, such as "fp16", where there are
    several. watch: what to put before its files. Raises WeightsError where there is no such folder, HubError where the
    Hub does not answer or refuses.
    """
    if isinstance(address, str):
        address = parse_address(address)
    if address.scheme == "hf":
        from .hub import HubSource, default_hub

        remote = HubSource(hub or default_hub(), address)
        return Folder(address, watch(remote) if watch is not None else remote, address.path, variant=variant)
    place = address.folder
    confined = Path(address.confined) if address.confined is not None else None
    local = LocalSource(place, confined)
    folder = Folder(address, watch(local) if watch is not None else local, variant=variant)
    if not place.is_dir() and not _index_above(place):
        raise missing_folder(place, str(address))
    return folder


def fetch(wanted: Iterable[tuple[Folder, Sequence[str]]], progress: Progress | None = None) -> None:
    """Downloads what is missing of the files of several folders, all together. Raises HubError.

    progress: told of it as (what, bytes done, bytes in all); a bar is drawn where None.
    """
    downloads = [one for folder, names in wanted for one in folder.remote(names)]
    for hub in dict.fromkeys(one.hub for one in downloads):
        hub.fetch([one for one in downloads if one.hub is hub], progress)


def _index_above(place: Path) -> bool:
    return not place.exists() and (place.parent / INDEX_FILE).is_file()


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _tensor_forms(stem: str, variant: str | None) -> list[str]:
    if variant is None:
        return [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    return [f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"]


def _pickle_forms(stem: str, variant: str | None) -> list[str]:
    stem = "pytorch_model" if stem == "model" else stem
    if variant is None:
        return [f"{stem}.bin", f"{stem}.bin.index.json"]
    return [f"{stem}.{variant}.bin", f"{stem}.bin.index.{variant}.json"]


def _parts_of(index: dict[str, Any]) -> dict[str, str]:
    """The parts that a model_index.json names, with their classes."""
    parts = {}
    for part, entry in index.items():
        plain = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
        if plain and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", part):
            parts[part] = entry[1]
    return parts


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


def _a(name: str) -> str:
    return f"an {name}" if name[:1] in "AEIOU" and not name.startswith("UN") else f"a {name}"
