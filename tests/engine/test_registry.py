"""Finding nodes: packages by their entry point, files that the user names, and the index of what they declare."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffgraph import index
from diffgraph.errors import DiffgraphError, InputError
from diffgraph.index import imported_modules, package_modules, source_digests
from diffgraph.registry import Registry, node_from_json, registry

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "tests" / "packages"

FILE = """
from typing import Annotated, NamedTuple
from diffgraph.authoring import Bound, Kind, node

class Pair(NamedTuple):
    left: int
    right: int

@node("{0}", version={1})
def pair(left: Annotated[int, Bound(ge=0)], right: int = 2) -> Pair:
    '''Two numbers.

    left, right: the numbers.
    '''
    return Pair(left, right)
"""


def test_a_package_is_found_by_its_entry_point_and_names_its_types() -> None:
    found = registry()
    assert found.broken == {}
    add = found.nodes["arith.Add"]
    assert (add.role, add.version, add.module, add.qualname) == ("function", 1, "arith.numbers", "add")
    assert add.summary == "The sum of two numbers."
    assert list(add.call.inputs) == ["a", "b"]
    assert add.call.inputs["a"].required and add.call.inputs["b"].default == 0.0
    assert found.nodes["arith.Mapper"].role == "protocol"
    assert found.get("arith.Mapper") is None and found.protocol("arith.Mapper") is not None
    assert "Add" not in found.nodes


def test_what_is_known_of_a_component() -> None:
    linear = registry().nodes["arith.Linear"]
    assert linear.role == "component" and linear.trainable
    assert set(linear.fields) == {"in_features", "out_features", "unit"}
    assert linear.fields["in_features"].bound is not None and linear.fields["unit"].default == "metre"
    assert linear.attributes == {"shape": "out_features in_features", "size": "in_features"}
    assert set(linear.methods) == {"__call__", "norm"}, "what a torch module inherits is no method of a graph"
    assert not registry().nodes["arith.Formatter"].trainable
    assert registry().nodes["arith.Formatter"].methods["label"].static


def test_types_of_inputs() -> None:
    found = registry()
    for name, written in (
        ("int", "int"), ("list[float]", "list of float"), ("list[list[Vector]]", "list of list of Vector"), ("Ticket", "Ticket"),
        ("arith.Page", "arith.Page"), ("arith.Mapper", "arith.Mapper"), ("arith.Formatter", "arith.Formatter"),
    ):  # fmt: skip
        port = found.input_type(name)
        assert port is not None and str(port.type) == written
    for name in ("flaot", "arith.Add", "list[flaot]", "Page", "list[int"):
        assert found.input_type(name) is None


def test_a_record_keeps_the_name_of_its_package() -> None:
    """Two packages may have a record of one name: this one and the built-in one both have `Drawn`."""
    found = registry()
    assert "arith.Drawn" in found.records and "Drawn" in found.records
    assert found.records["arith.Drawn"] != found.records["Drawn"]
    assert found.record_types("arith.kinds:Drawn") is not None
    assert found.record_types("os:system") is None, "what no package declares is not imported"


def test_a_component_fits_a_protocol_by_what_it_has() -> None:
    found = registry()
    mapper = found.protocol("arith.Mapper")
    assert mapper is not None
    assert found.fits_protocol(found.nodes["arith.Linear"], mapper) is None
    assert found.fits_protocol(found.nodes["arith.Formatter"], mapper) == "arith.Formatter has no attribute size"


def test_suggestions() -> None:
    found = registry()
    assert found.suggest("arith.Ad") == "did you mean arith.Add?"
    assert found.suggest("divmod") == "did you mean arith.DivMod?"
    assert "diffgraph nodes" in found.suggest("Zzzzzz")


# --- files that the user names


def test_a_file_of_the_user(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(FILE.format("Paired", 3))
    found = registry([place])
    kind = found.nodes["Paired"]
    assert kind.version == 3 and kind.doc.startswith("Two numbers.")
    assert kind.load()(1).right == 2
    assert "Paired" not in registry().nodes


def test_two_files_of_one_content_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(FILE.format("Paired", 1))
        kind = registry([tmp_path / folder / "mine.py"]).nodes["Paired"]
        assert kind.load()(1).left == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nothing_of_this_name\n", "ModuleNotFoundError"), ("def broken(:\n", "SyntaxError"), ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("raise RuntimeError('no')\n", "RuntimeError: no"),
        ("from diffgraph.authoring import node\n@node('Bad', version=1)\ndef bad(x) -> int:\n    return 1\n", "has no annotation"),
        ("from diffgraph.authoring import node\n@node('Bad', version=1)\ndef bad(*x: int) -> int:\n    return 1\n", "name every input"),
        ("from diffgraph.authoring import node\n@node('Bad', version=1)\ndef bad(map: int) -> int:\n    return 1\n", "map"),
        (
            "from dataclasses import dataclass\nfrom diffgraph.authoring import Component\n@dataclass(frozen=True)\nclass C:\n    dtype: str\n"
            "class Bad(Component, version=1):\n    Config = C\n    def __call__(self) -> int:\n        return 1\n",
            "cannot be called dtype",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(content: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(content)
    with pytest.raises(InputError, match=message):
        registry([place])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        registry([tmp_path / "missing.py"])


def test_a_type_declared_twice_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(FILE.format("Paired", 1) + f"# {name}\n")
    with pytest.raises(DiffgraphError, match="two node types are called Paired"):
        registry([tmp_path / "a.py", tmp_path / "b.py"])


def test_a_kind_declared_in_two_ways_is_an_error() -> None:
    found = Registry()
    index: dict[str, Any] = {
        "module": "a",
        "nodes": [],
        "records": {},
        "files": [],
        "kinds": {"K": {"form": "kind", "name": "K"}},
    }
    found.add_index(index, "1")
    found.add_index({**index, "module": "b"}, "2")
    with pytest.raises(DiffgraphError, match="the kind K is declared in two ways, the second in c"):
        found.add_index({**index, "module": "c", "kinds": {"K": {"form": "kind", "name": "K", "once": True}}}, "3")


# --- packages that are broken


def in_a_process(folder: Path, script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGES), str(folder)])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_broken_package_breaks_no_other(tmp_path: Path) -> None:
    for name, value in (("gone", "not_installed_at_all"), ("broken", "broken")):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (tmp_path / f"{name}-1.dist-info" / "entry_points.txt").write_text(f"[diffgraph.nodes]\n{name} = {value}\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("")
    (tmp_path / "broken" / "part.py").write_text("import nothing_of_this_name\n")
    script = (
        "import json; from diffgraph.registry import registry; r = registry();"
        "print(json.dumps([r.broken, 'arith.Add' in r.nodes, r.suggest('broken.Part')]))"
    )
    broken, found, hint = json.loads(in_a_process(tmp_path, script))
    assert found
    assert set(broken) == {"gone", "broken"}
    assert "nothing_of_this_name" in hint


def test_nothing_in_the_working_directory_is_imported(tmp_path: Path) -> None:
    """A folder with a graph may also hold a file that has the name of a module."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')\n")
    (tmp_path / "mine.py").write_text(FILE.format("Paired", 1))
    script = "import sys; sys.path = [p for p in sys.path if p]; from pathlib import Path; from diffgraph.registry import registry; print('Paired' in registry([Path('mine.py')]).nodes)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGES)])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.stdout == "True\n", done.stderr


# --- sources


def write(folder: Path, **files: str) -> dict[str, Path]:
    found = {}
    for name, content in files.items():
        place = folder.joinpath("pack", *name.split("__")).with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        found[".".join(["pack", *name.split("__")])] = place
    return found


def test_imports_are_found_by_reading(tmp_path: Path) -> None:
    modules = write(
        tmp_path,
        a="from . import b\nfrom .sub import c\nimport pack.sub.d\nimport json\n", b="", sub__c="from ..b import x\n",
        sub__d="def late():\n    from .c import y\n", e="from pack.sub.d import *\n",
    )  # fmt: skip
    assert imported_modules(modules["pack.a"], "pack.a", modules) == {"pack.b", "pack.sub.c", "pack.sub.d"}
    assert imported_modules(modules["pack.sub.c"], "pack.sub.c", modules) == {"pack.b"}
    assert imported_modules(modules["pack.sub.d"], "pack.sub.d", modules) == {"pack.sub.c"}
    assert imported_modules(modules["pack.e"], "pack.e", modules) == {"pack.sub.d"}


def test_a_digest_covers_what_is_imported_and_nothing_else(tmp_path: Path) -> None:
    files = {"a": "from .b import x\n", "b": "from .c import x\n", "c": "x = 1\n", "d": "x = 2\n"}
    before = source_digests(write(tmp_path, **files))
    after = source_digests(write(tmp_path, **{**files, "c": "x = 3\n"}))
    assert {name for name in before if before[name] != after[name]} == {"pack.a", "pack.b", "pack.c"}
    after = source_digests(write(tmp_path, **{**files, "d": "x = 4\n"}))
    assert {name for name in before if before[name] != after[name]} == {"pack.d"}
    circle = source_digests(write(tmp_path, a="from .b import x\n", b="from .a import x\n"))
    assert circle["pack.a"] == circle["pack.b"]


def test_the_modules_of_a_package() -> None:
    assert {"arith", "arith.numbers", "arith.linear"} <= set(package_modules("arith"))
    with pytest.raises(InputError, match="not installed"):
        package_modules("nothing_of_this_name")


def test_the_registry_imports_no_node() -> None:
    script = "import sys; from diffgraph.registry import registry; registry(); print([m for m in sys.modules if m in ('torch', 'arith', 'arith.numbers', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_index_of_a_wheel_is_what_the_modules_declare(tmp_path: Path) -> None:
    """Read back, it gives the inputs of every method in the order of the signature, by which they are called."""
    index.main(str(tmp_path / "index.json"))
    shipped = json.loads((tmp_path / "index.json").read_text())
    modules = index.package_modules(index.BUILT_IN)
    for entry, (name, digest) in zip(shipped.values(), index.source_digests(modules).items(), strict=True):
        assert index.index_key(name, digest) in shipped
        for data in entry["nodes"]:
            node = node_from_json(data, digest)
            for method in node.methods.values():
                function = inspect.unwrap(node.load()) if node.role == "function" else getattr(node.load(), method.name)
                if method.name == "__call__" and node.trainable:
                    function = node.load().forward
                parameters = [p for p in inspect.signature(function).parameters if p != "self"]
                assert list(method.inputs) == parameters, f"{node.name}.{method.name}"
