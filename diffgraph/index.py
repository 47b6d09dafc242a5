"""The index of nodes: finding the modules of node packages, digesting their sources, keeping what they declare.

Modules are found and digested without importing them. What one declares is read in a process of its own (describe.py)
and kept under the digest of its file and of the files that it imports; a wheel ships the index of the built-in modules:
`python -m diffgraph.index FILE` writes it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .errors import DiffgraphError, InputError

INDEX_FORMAT = 5
BUILT_IN = "diffgraph.nodes"


def package_modules(package: str) -> dict[str, Path]:
    """Every module of a package, by name, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None:
        raise InputError(f"the node package {package} is registered but not installed")
    if not spec.submodule_search_locations:
        return {package: Path(spec.origin)} if spec.origin else {}
    modules = {}
    for location in spec.submodule_search_locations:
        root = Path(location)
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if f.isidentifier() and not f.startswith("__"))
            dotted = ".".join((package, *Path(folder).relative_to(root).parts))
            for name in sorted(names):
                if name.endswith(".py"):
                    modules[dotted if name == "__init__.py" else f"{dotted}.{name[:-3]}"] = Path(folder) / name
    return modules


def imported_modules(path: Path, module: str, known: Mapping[str, Path]) -> set[str]:
    """The modules among `known` that a source file imports, found by reading it."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            found.update(alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - item.level + 1]) if item.level else ""
            target = ".".join(filter(None, (base, item.module)))
            found.add(target)
            found.update(f"{target}.{alias.name}" for alias in item.names)
    return found & set(known) - {module}


def source_digests(modules: Mapping[str, Path]) -> dict[str, str]:
    """For each module the digest of its file and, transitively, of the files among `modules` that it imports."""
    own = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in modules.items()}
    direct = {name: imported_modules(path, name, modules) for name, path in modules.items()}
    digests = {}
    for name in modules:
        seen, stack = {name}, [name]
        while stack:
            for other in direct[stack.pop()]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        digests[name] = hashlib.sha256("".join(sorted(own[n] for n in seen)).encode()).hexdigest()
    return digests


@cache
def packages() -> dict[str, str]:
    """Registered packages: the prefix of their types and the package's name. The built-in one has no prefix."""
    found = {"": BUILT_IN}
    for entry in sorted(entry_points(group="diffgraph.nodes"), key=lambda entry: entry.name):
        if entry.value != BUILT_IN:
            found[f"{entry.name}."] = entry.value
    return found


def type_name(cls: type) -> str:
    """The name of a class as a type of graphs: with the prefix of its package, where that is a third party's."""
    for prefix, package in packages().items():
        if prefix and (cls.__module__ == package or cls.__module__.startswith(f"{package}.")):
            return prefix + cls.__name__
    return cls.__name__


def _describe(missing: Iterable[str], files: Mapping[str, Path]) -> dict[str, Any]:
    """What modules declare, from a process that imports them: with this one's paths, and not the working directory."""
    arguments = [f"{name}={files[name]}" if name in files else name for name in missing]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
    command = [sys.executable, "-P", "-m", "diffgraph.describe", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        raise DiffgraphError("the node index could not be made:\n" + done.stderr.decode(errors="replace")[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def index_folder() -> Path:
    from .running.store import cache_folder

    return cache_folder() / "index" / f"v{INDEX_FORMAT}"


def _shipped() -> dict[str, Any]:
    path = Path(__file__).parent / "nodes" / "index.json"
    try:
        shipped: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return shipped


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_json(path: Path, data: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(data))
        os.replace(temporary, path)
    except OSError:
        return  # an unwritable cache folder costs time, not results


def index_key(module: str, digest: str) -> str:
    """Under which name the index knows what a module declares: files of one content may be different modules."""
    return hashlib.sha256(f"{module} {digest}".encode()).hexdigest()


def build_index(modules: Mapping[str, Path], files: Mapping[str, Path]) -> dict[str, Any]:
    """Digest and declarations of every module, describing in a child process only what no index knows."""
    digests = source_digests(modules)
    keys = {name: index_key(name, digest) for name, digest in digests.items()}
    folder, shipped, index = index_folder(), _shipped(), {}
    missing = []
    for name, digest in digests.items():
        known = shipped.get(keys[name]) or read_json(folder / f"{keys[name]}.json")
        if known is None:
            missing.append(name)
        else:
            index[name] = {"digest": digest, "declares": known}
    if missing:
        for name, declared in _describe(missing, files).items():
            index[name] = {"digest": digests[name], "declares": declared}
            if "error" not in declared:
                write_json(folder / f"{keys[name]}.json", declared)
    return index


def main(out: str) -> None:
    """Writes the index that a wheel ships."""
    index = build_index(package_modules(BUILT_IN), {})
    broken = {name: entry["declares"]["error"] for name, entry in index.items() if "error" in entry["declares"]}
    if broken:
        raise SystemExit("\n".join(f"{name}: {error}" for name, error in broken.items()))
    declared = {index_key(name, entry["digest"]): entry["declares"] for name, entry in index.items()}
    Path(out).write_text(json.dumps(declared))  # unsorted: inputs keep their order, in which they are given


if __name__ == "__main__":
    main(sys.argv[1])
