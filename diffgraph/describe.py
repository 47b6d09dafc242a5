"""Reads the declarations of node modules from their annotations, in a process of its own.

Importing a node module may import torch, so the engine never does it to learn what ports there are: it runs this once for each
file and keeps the answer in the index (registry.py). Live classes and functions are described in the process that has them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .authoring import Bound, Component, Fact, FileMark, Kind, NodeMark, PipelineMark
from .checking.dims import check_shape
from .index import type_name
from .language.graph import FORMS
from .originals import Original
from .ports import ANY, BOOL, FLOAT, INT, TEXT, UNSET, Port, Type, port_to_json
from .weights.config import fields_of

_SCALARS: dict[Any, Type] = {
    int: INT, float: FLOAT, str: TEXT, bool: BOOL, Path: Type("scalar", "folder"), type(None): Type("scalar", "none"),
}  # fmt: skip


def read_annotation(annotation: Any, where: str, default: Any = UNSET) -> Port:
    """The port that an annotation declares. Raises TypeError, naming `where`, for what the language has no word for."""
    base, marks = _flatten(annotation)
    optional = False
    if get_origin(base) in (Union, types.UnionType):
        members = [_flatten(member) for member in get_args(base)]
        optional = any(member is type(None) for member, _ in members)
        rest = [(member, inner) for member, inner in members if member is not type(None)]
        if len(rest) == 1:
            base, inner = rest[0]
            marks = inner + marks
            if get_origin(base) in (Union, types.UnionType):
                rest = [_flatten(member) for member in get_args(base)]
        if len(rest) > 1:
            base = tuple(member for member, _ in rest)
            marks = [mark for _, inner in rest for mark in inner] + marks
    kinds = [mark for mark in marks if isinstance(mark, Kind)]
    shape: str | None = None
    facts: dict[str, str] = {}
    bound: Bound | None = None
    for mark in marks:
        if isinstance(mark, str):
            shape = mark
            try:
                check_shape(shape)
            except ValueError as error:
                raise TypeError(f"{where}: {error}") from None
        elif isinstance(mark, Fact):
            facts.update(mark.values)
        elif isinstance(mark, Bound):
            bound = mark
    if kinds:
        members_of = base if isinstance(base, tuple) else (base,)
        literals = tuple(sorted(_SCALARS[m].name for m in members_of if isinstance(m, type) and m in _SCALARS))
        kind = kinds[-1]
        type_ = Type("kind", kind.name, of=kind.of, once=kind.once, literals=literals)
    else:
        type_ = _plain_type(base, where)
    return Port(type_, shape, tuple(sorted(facts.items())), bound, optional, _plain_default(default))


def _flatten(annotation: Any) -> tuple[Any, list[Any]]:
    marks: list[Any] = []
    while get_origin(annotation) is Annotated:
        marks = list(annotation.__metadata__) + marks
        annotation = annotation.__origin__
    return annotation, marks


def _plain_default(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) and not hasattr(default, "_fields") else default


def _plain_type(base: Any, where: str) -> Type:
    if isinstance(base, tuple):
        if set(base) == {int, float}:
            return FLOAT
        raise TypeError(f"{where}: a union of types needs a Kind")
    if base is Any:
        return ANY
    if isinstance(base, TypeVar):
        return Type("var", base.__name__)
    origin = get_origin(base)
    if origin is Literal:
        return Type("choice", options=get_args(base))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        arguments = [a for a in get_args(base) if a is not Ellipsis]
        return Type("list", item=read_annotation(arguments[0], where))
    if base in _SCALARS:
        return _SCALARS[base]
    if isinstance(base, type):
        if hasattr(base, "_fields") and issubclass(base, tuple):
            return Type("record", type_name(base), fields=_record_fields(base, where))
        if getattr(base, "_is_protocol", False):
            return Type("protocol", type_name(base))
        if issubclass(base, Component):
            return Type("component", type_name(base))
        if base.__module__ == "diffgraph.authoring" and base.__name__ == "File":
            return Type("scalar", "file")
    raise TypeError(f"{where}: {base!r} is not a type that a wire can carry; annotate it with a Kind")


def _record_fields(record: type, where: str) -> tuple[tuple[str, Port], ...]:
    hints = get_type_hints(record, include_extras=True)
    defaults = getattr(record, "_field_defaults", {})
    names: tuple[str, ...] = record._fields  # type: ignore[attr-defined]
    return tuple((n, read_annotation(hints[n], f"{where}.{n}", defaults.get(n, UNSET))) for n in names)


def describe_signature(function: Any, where: str, *, method: bool = False) -> dict[str, Any]:
    """Inputs and output of a function as JSON."""
    hints = get_type_hints(function, include_extras=True)
    inputs: dict[str, Any] = {}
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1:] if method else parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where}: *{parameter.name} cannot be a port; name every input")
        if parameter.name in FORMS:
            raise TypeError(f"{where}: an input cannot be called {parameter.name}, which is a form of the language")
        if parameter.name not in hints:
            raise TypeError(f"{where}: the input {parameter.name} has no annotation")
        default = UNSET if parameter.default is parameter.empty else parameter.default
        inputs[parameter.name] = port_to_json(
            read_annotation(hints[parameter.name], f"{where}.{parameter.name}", default)
        )
    if "return" not in hints:
        raise TypeError(f"{where}: the output has no annotation")
    return {"inputs": inputs, "output": port_to_json(read_annotation(hints["return"], f"{where} -> output"))}


def describe_function(function: Any) -> dict[str, Any]:
    mark: NodeMark = function.__diffgraph__
    shapes = f"{mark.shapes.__module__}:{mark.shapes.__qualname__}" if mark.shapes else None
    call = describe_signature(function, mark.name) | {"static": mark.static, "shapes": shapes, "doc": _doc(function)}
    return {
        "role": "function", "name": mark.name, "version": mark.version, "module": function.__module__,
        "qualname": function.__qualname__, "doc": _doc(function), "methods": {"__call__": call},
    }  # fmt: skip


def describe_component(cls: Any) -> dict[str, Any]:
    name = cls.__name__
    for field in fields_of(cls.Config):
        if field in (*FORMS, "weights", "init_seed", "dtype", "device"):
            raise TypeError(f"{name}: a field of its Config cannot be called {field}, which documents use themselves")
    methods = {}
    for attribute in dir(cls):
        member = inspect.getattr_static(cls, attribute)
        if not inspect.isfunction(member) or _inherited(cls, attribute):
            continue
        if attribute.startswith("_") and attribute != "__call__":
            continue
        if "return" not in getattr(member, "__annotations__", {}):
            continue
        method = {"doc": _doc(member), "static": getattr(member, "__diffgraph_static__", False), "shapes": None}
        try:
            method |= describe_signature(member, f"{name}.{attribute}", method=True)
        except TypeError:
            if attribute in ("forward", "__call__"):
                raise
            continue  # a helper for Python alone, such as one that takes a callable
        methods["__call__" if attribute == "forward" else attribute] = method
    return {
        "role": "component", "name": name, "version": cls.version, "module": cls.__module__, "qualname": cls.__qualname__,
        "doc": _doc(cls), "methods": methods, "config": [spec.to_json() for spec in fields_of(cls.Config).values()],
        "config_file": cls.config_file, "files": list(cls.files),
        "attributes": dict(cls.attributes), "facts": dict(cls.facts), "siblings": dict(cls.siblings),
        "keys": [list(pair) for pair in cls.keys], "ignored": sorted(cls.ignored),
        "published": list(getattr(cls, "published", ())),
        "trainable": any(base.__name__ == "Module" and base.__module__.startswith("torch") for base in cls.__mro__),
    }  # fmt: skip


def describe_protocol(cls: Any) -> dict[str, Any]:
    methods = {}
    for attribute, member in vars(cls).items():
        if inspect.isfunction(member) and (not attribute.startswith("_") or attribute == "__call__"):
            signature = describe_signature(member, f"{cls.__name__}.{attribute}", method=True)
            methods[attribute] = signature | {"doc": _doc(member), "static": False, "shapes": None}
    hints = get_type_hints(cls, include_extras=True)
    fields = {name: port_to_json(read_annotation(hint, f"{cls.__name__}.{name}")) for name, hint in hints.items()}
    return {
        "role": "protocol", "name": cls.__name__, "version": 1, "module": cls.__module__, "qualname": cls.__qualname__,
        "doc": _doc(cls), "methods": methods, "fields": fields,
    }  # fmt: skip


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


_BASES = ("diffgraph.authoring", "torch.nn.modules.module", "builtins", "typing")


def _inherited(cls: Any, attribute: str) -> bool:
    owner = next(base for base in cls.__mro__ if attribute in vars(base))
    return owner.__module__ in _BASES


def describe_module(module: Any) -> dict[str, Any]:
    """Everything that a module declares: nodes, kinds, records, readers, writers, importers of pipelines, and originals."""
    out: dict[str, Any] = {
        "module": module.__name__,
        "nodes": [],
        "kinds": {},
        "records": {},
        "files": [],
        "pipelines": [],
        "originals": [],
    }
    for name, thing in vars(module).items():
        if name.startswith("_"):
            continue
        if get_origin(thing) is Annotated:
            port = read_annotation(thing, name)
            if port.type.form == "kind" and port.type.name == name:
                out["kinds"][name] = port_to_json(port)
        if isinstance(thing, Original):
            entry = {"name": thing.name, "keys": thing.keys, "settings": dict(thing.settings), "instead": thing.instead}
            place = f"{module.__name__}:{name}" if thing.convert is not None else ""
            out["originals"].append(entry | {"place": place})
            continue
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if isinstance(getattr(thing, "__diffgraph__", None), NodeMark):
            out["nodes"].append(describe_function(thing))
        elif isinstance(getattr(thing, "__diffgraph_file__", None), FileMark):
            mark: FileMark = thing.__diffgraph_file__
            out["files"].append(
                {
                    "role": mark.role,
                    "kind": mark.kind,
                    "suffixes": list(mark.suffixes),
                    "function": f"{module.__name__}:{name}",
                    "measure": f"{module.__name__}:{mark.measure.__name__}" if mark.measure is not None else "",
                }
            )
        elif isinstance(getattr(thing, "__diffgraph_pipeline__", None), PipelineMark):
            told: PipelineMark = thing.__diffgraph_pipeline__
            place = f"{module.__name__}:{name}"
            out["pipelines"].append(
                {"classes": told.classes, "graph": told.graph, "libraries": told.libraries, "function": place}
            )
        elif isinstance(thing, type):
            if issubclass(thing, Component) and "version" in vars(thing):
                out["nodes"].append(describe_component(thing))
            elif getattr(thing, "_is_protocol", False):
                out["nodes"].append(describe_protocol(thing))
            elif issubclass(thing, tuple) and hasattr(thing, "_fields"):
                out["records"][name] = port_to_json(read_annotation(thing, name)) | {"at": f"{module.__name__}:{name}"}
    return out


def import_file(name: str, path: Path) -> Any:
    """Imports a node file that the user named, under a module name of its own."""
    from importlib.util import module_from_spec, spec_from_file_location

    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def main(arguments: Iterable[str]) -> None:
    """Prints one JSON object: for each `MODULE` or `MODULE=FILE`, what it declares or the error that importing it raised."""
    answers: dict[str, Any] = {}
    real, sys.stdout = sys.stdout, sys.stderr
    for argument in arguments:
        name, _, file = argument.partition("=")
        try:
            module = import_file(name, Path(file)) if file else importlib.import_module(name)
            answers[name] = json.loads(json.dumps(describe_module(module)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # anything that a third party's module does at import, sys.exit among it
            answers[name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answers, real)


if __name__ == "__main__":
    main(sys.argv[1:])
