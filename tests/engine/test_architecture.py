"""The arrows of the design: what may import what, which modules are light, how long a module may be, and which words the
engine does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = sorted(
    p for p in (ROOT / "diffgraph").rglob("*.py") if not {"nodes", "graphs", "cli"} & set(p.parts[len(ROOT.parts) :])
)
NODES = sorted(p for p in (ROOT / "nodes").rglob("*.py"))


def at_import(path: Path) -> set[str]:
    """The modules that a file imports while it is imported: not within functions, not for type checkers alone."""
    found: set[str] = set()
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        top = stack.pop()
        if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(top, ast.If) and "TYPE_CHECKING" in ast.unparse(top.test):
            stack.extend(top.orelse)
            continue
        if isinstance(top, ast.Import):
            found.update(alias.name.split(".")[0] for alias in top.names)
        elif isinstance(top, ast.ImportFrom):
            found.add("." * top.level + (top.module or "").split(".")[0])
        stack.extend(ast.iter_child_nodes(top))
    return found


def test_the_contracts_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers and forbidden imports, as contracts.toml has them."""
    from importlinter.cli import lint_imports

    failed = lint_imports(config_filename=str(ROOT / "tests" / "engine" / "contracts.toml"), no_cache=True)
    assert not failed, capsys.readouterr().out


def test_the_engine_never_imports_a_node() -> None:
    for path in [*ENGINE, *(ROOT / "diffgraph" / "cli").glob("*.py")]:
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in item.names] if isinstance(item, ast.Import | ast.ImportFrom) else []
            module = item.module or "" if isinstance(item, ast.ImportFrom) else ""
            for name in (module, *names):
                assert not re.match(r"(diffgraph\.)?(nodes|graphs)\b", name), f"{path.name} imports {name}"


def test_nodes_import_the_authoring_surface_alone() -> None:
    """All but the door of the package, which asks the registry for `from diffgraph.nodes import UNet2D`."""
    allowed = {"authoring", "errors", "originals", "values"}
    for path in set(NODES) - {ROOT / "nodes" / "__init__.py"}:
        depth = len(path.relative_to(ROOT / "nodes").parts)
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ImportFrom) and item.level > depth:
                assert (item.module or "").split(".")[0] in allowed, f"{path}: from {'.' * item.level}{item.module}"
            if isinstance(item, ast.Import | ast.ImportFrom):
                names = [item.module or ""] if isinstance(item, ast.ImportFrom) and not item.level else []
                names += [alias.name for alias in item.names] if isinstance(item, ast.Import) else []
                assert not any(name.split(".")[0] == "diffgraph" for name in names), (
                    f"{path}: imports diffgraph by name"
                )


def test_a_node_file_imports_no_other_node_file() -> None:
    """Shared maths lives in plain modules: those that declare no node."""
    declares = {
        path
        for path in NODES
        if re.search(r"^@node\(|^class \w+\(.*Component", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for path in declares:
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ImportFrom) and item.level and item.module:
                base = path.parents[item.level - 1].joinpath(*item.module.split("."))
                assert base.with_suffix(".py") not in declares, f"{path.name} imports {base.name}, which declares nodes"


HEAVY = {
    "torch",
    "networkx",
    "rich",
    "huggingface_hub",
    "PIL",
    "pydantic",
    "tokenizers",
    "safetensors",
    "click",
    "matplotlib",
}


def test_heavy_imports_are_made_where_they_are_used() -> None:
    for path in ENGINE:
        if path.name == "schema.py":
            continue  # itself imported where `diffgraph schema` needs it
        heavy = at_import(path) & (HEAVY | {"numpy"})
        assert not heavy, f"{path.name} imports {heavy} at its top"


def test_importing_the_package_is_light() -> None:
    script = "import sys, diffgraph.builder, diffgraph.session; print(sorted(m for m in sys.modules if m in %r))" % (
        HEAVY | {"numpy"},
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_are_short() -> None:
    for path in ENGINE:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < 500, f"{path.name} has {lines} lines"


CORE = (
    *(f"language/{name}" for name in ("graph", "reading", "writing")),
    *(f"checking/{name}" for name in ("dims", "unify", "scopes", "calls", "bodies", "check")),
    *(f"planning/{name}" for name in ("keys", "lowering", "program", "selecting", "plan")),
    *(f"running/{name}" for name in ("run", "residency", "guards", "store")),
    *(f"drawing/{name}" for name in ("scene", "layout", "palette", "shapes", "svg", "png", "show")),
    "ports",
)
TERMS = re.compile(
    r"\b(diffusion|denois\w*|latents?|unet|timesteps?|scheduler|guidance|prompt|pixels?|epsilon|vae|clip|glide|ddpm|ddim)\b",
    re.IGNORECASE,
)


def test_the_core_names_no_diffusion_term() -> None:
    for name in CORE:
        text = (ROOT / "diffgraph" / f"{name}.py").read_text(encoding="utf-8")
        found = {match.group() for match in TERMS.finditer(text)}
        assert not found, f"{name}.py speaks of {found}"


def test_the_engine_is_tested_with_the_second_package_alone() -> None:
    """No other module here imports built-in nodes or what is made of them, names a type of theirs, or a shipped graph."""
    from diffgraph.language.sources import shipped_graphs
    from diffgraph.registry import registry

    types = "|".join(name for name in registry().nodes if "." not in name)
    patterns = {
        "imports": r"(from|import) (diffgraph\.nodes|\.\.(graphs|nodes|parts|peers))\b",
        "the node": rf"""(node: |\(")({types})\b(?!\.)""",
        "the graph": rf"\b({'|'.join(shipped_graphs())}|samplers/\w+)\b|(ROOT|\]) / \"graphs\"",
    }
    here = Path(__file__).parent
    for path in {*here.glob("*.py"), *here.glob("*.txt")} - {Path(__file__)}:
        for what, pattern in patterns.items():
            found = re.search(pattern, path.read_text(encoding="utf-8"))
            assert found is None, f"{path.name}: {what} {found[0]}"
