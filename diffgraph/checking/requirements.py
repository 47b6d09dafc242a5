"""What a document requires: node packages, by name and version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def unmet(requires: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """For each requirement that is not met, what is wrong and one mend."""
    for name, text in requires.items():
        problem = _problem(name, text)
        if problem is not None:
            yield problem


def _problem(name: str, text: str) -> tuple[str, str] | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        wanted = SpecifierSet(text)
    except InvalidSpecifier:
        return f"requires {name}: {text!r} is no version", 'write such as ">=1.2", or "" for any'
    found = _version(name)
    if found is None:
        return f"the graph requires the node package {name} {text}".rstrip(), f"pip install {name}"
    if found and not wanted.contains(found, prereleases=True):
        what = f"the graph requires the node package {name} {text}; {found} is installed"
        return what, f"pip install '{name}{text}'"
    return None


def _version(name: str) -> str | None:
    """The installed version of a package, "" where it has none to tell, None where it is not installed."""
    if name == "diffgraph":
        from .. import __version__

        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "" if name.isidentifier() and find_spec(name) is not None else None
