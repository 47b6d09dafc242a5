"""Addresses: where a graph or weights are. `hf://org/repo[@revision][/folder]`, `pkg://package/path`, or a local path.

An address in a document is confined: a local one is found beside the document and below its folder only, by name and
through symbolic links. One given on the command line is free. Nothing here opens a file or imports a package that an
address names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from ..errors import WeightsError, nearest

Scheme = Literal["hf", "pkg", "file"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HUB = re.compile(r"([^/@]+)/([^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?", re.DOTALL)
_REPOSITORY_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMS = "an address is hf://org/repo[@revision][/folder], pkg://package/path, or a path"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `address / "sub"` is what lies below it.

    scheme: "hf", "pkg" or "file". root: the repository, the package, or a local path. path: what follows, with "/"
    between parts, "" for none. revision: branch, tag or commit of a repository. confined: the folder that a local
    address may not leave, or None. text: as the user wrote it, for messages.
    """

    scheme: Scheme
    root: str
    path: str = ""
    revision: str | None = None
    confined: str | None = None
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text or self.canonical

    @property
    def canonical(self) -> str:
        """The same for every way of writing one address."""
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        scheme = "" if self.scheme == "file" else f"{self.scheme}://"
        return f"{scheme}{self.root}{revision}" + (f"/{self.path}" if self.path else "")

    def __truediv__(self, sub: str) -> Address:
        below = "/".join(_parts(sub, f"{self}/{sub}"))
        path = "/".join(part for part in (self.path, below) if part)
        return replace(self, path=path, text=f"{self}/{below}" if below else self.text)

    @property
    def above(self) -> Address:
        """The address of the folder that holds this one; of a repository or a package, itself."""
        if self.path:
            return replace(self, path=self.path.rpartition("/")[0], text="")
        return replace(self, root=str(Path(self.root).parent), text="") if self.scheme == "file" else self

    @property
    def folder(self) -> Path:
        """The local path of a "file" or "pkg" address. Raises WeightsError where it leaves what it is confined to."""
        root = Path(self.root) if self.scheme == "file" else _package_folder(self.root, str(self))
        place = root.joinpath(*self.path.split("/")) if self.path else root
        if self.confined is not None:
            confine(place, Path(self.confined), str(self))
        return place


def parse_address(text: str, *, base: Path | Address | None = None, confined: bool = False) -> Address:
    """Reads an address. Raises WeightsError for what is none.

    base: the folder that a path is relative to, on this machine or on the Hub; the working directory where None.
    confined: refuse a path that is absolute, has `..`, or leaves `base` through a symbolic link; so for every address
    that a document holds.
    """
    if not text or "\0" in text or len(text) > 4096:
        raise WeightsError(f"{text[:80]!r} is not an address", hint=_FORMS)
    found = _SCHEME.fullmatch(text)
    if found is None:
        return _parse_local(text, base if base is not None else Path.cwd(), confined)
    scheme, rest = found[1], found[2]
    if scheme == "hf":
        return _parse_hub(rest, text)
    if scheme == "pkg":
        package, _, path = rest.partition("/")
        if not _PACKAGE.fullmatch(package):
            raise WeightsError(f"{text}: {package!r} is not the name of a package", hint=_FORMS)
        return Address("pkg", package, "/".join(_parts(path, text)), text=text)
    page = re.match(r"(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)", rest)
    hint = f"write hf://{page[1]}" if page else _FORMS
    raise WeightsError(f"{text}: weights and graphs are not read from {scheme}://", hint=hint)


def _parse_hub(rest: str, text: str) -> Address:
    found = _HUB.fullmatch(rest)
    if found is None:
        raise WeightsError(f"{text}: no repository is named", hint="write hf://org/repo[@revision][/folder]")
    owner, name, revision, path = found.groups()
    if owner in ("datasets", "spaces", "kernels", "buckets"):
        raise WeightsError(f"{text}: weights are read from model repositories, not {owner}", hint=_FORMS)
    for part in (owner, name):
        if not _REPOSITORY_PART.fullmatch(part) or ".." in part or "--" in part or len(part) > 96:
            raise WeightsError(f"{text}: {part!r} cannot be part of a repository's name", hint=_FORMS)
    if revision is not None:
        revision = unquote(revision)
        _parts(revision, text)
    return Address("hf", f"{owner}/{name}", "/".join(_parts(path or "", text)), revision, text=text)


def _parse_local(text: str, base: Path | Address, confined: bool) -> Address:
    if not confined and isinstance(base, Path):
        return Address("file", str(base / Path(text).expanduser()), text=text)
    if Path(text).is_absolute() or text.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", text):
        raise WeightsError(f"{text}: a document names no absolute path", hint="use a path below the document's folder")
    path = "/".join(part for part in _parts("" if text == "." else text.removeprefix("./"), text) if part)
    if isinstance(base, Address):
        return base / path if path else base
    address = Address("file", str(base), path, confined=str(base), text=text)
    confine(base / path, base, text)
    return address


def _parts(path: str, text: str) -> list[str]:
    """The parts of a path below a root; none may climb, be hidden in another separator, or be empty."""
    if not path:
        return []
    parts = path.removesuffix("/").split("/")
    for part in parts:
        if part in ("", ".", "..") or "\\" in part or any(ord(letter) < 32 for letter in part):
            raise WeightsError(
                f"{text}: {part!r} cannot be part of a path", hint="name what lies below, with / between"
            )
    return parts


def confine(place: Path, root: Path, text: str) -> None:
    """Refuses a path that leads out of `root`, also through a symbolic link. Raises WeightsError."""
    if not place.resolve().is_relative_to(root.resolve()):
        raise WeightsError(f"{text}: leads out of {root}", hint="copy what it names below the document's folder")


def _package_folder(package: str, text: str) -> Path:
    """The folder of an installed package, found without importing it; `diffgraph` stands for its installed graphs."""
    name = "diffgraph.graphs" if package == "diffgraph" else package
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise WeightsError(f"{text}: no package {package!r} is installed", hint="install it, or use another address")
    return Path(folders[0])


def missing_folder(place: Path, text: str) -> WeightsError:
    """The error for a local folder that is not there, with the nearest name beside it."""
    if place.is_file():
        return WeightsError(f"{text}: is a file; wanted a folder", hint=f"its folder is {place.parent}")
    near, first = None, place
    try:
        first = next((path for path in (place, *place.parents) if path.parent.is_dir()), place)
        near = nearest(first.name, [entry.name for entry in first.parent.iterdir()])
    except OSError:
        pass
    also, hint = f", nor {first}" if first != place else "", f"did you mean {first.parent / near}?" if near else None
    if not near and first != place and first.name == text.partition("/")[0]:
        with contextlib.suppress(WeightsError):  # for what cannot be a repository's name
            hint = f"of the Hub it is {parse_address(f'hf://{text}')}"
    return WeightsError(f"{text}: there is no such folder{also}", hint=hint)


def package_path(text: str) -> Path:
    """The file or folder that `pkg://package/path` names. Raises WeightsError for another address."""
    address = parse_address(text)
    if address.scheme != "pkg":
        raise WeightsError(f"{text}: is not a pkg:// address")
    return address.folder
