"""Configs: what the fields of a component's `Config` may hold, and strict reading of published config files.

A published config is untrusted JSON. Every key is a field, or metadata that says who wrote it, or refused by name;
every value is of its field's type and within its bounds, or refused by name. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from ..authoring import Bound
from ..errors import WeightsError, nearest

MAX_CONFIG_BYTES = 1 << 20

# Keys by which published configs say who wrote them, and for which library; none changes what is computed.
PUBLISHING_KEYS = frozenset(
    {"architectures", "dtype", "model_type", "tokenizer_class", "torch_dtype", "transformers_version"}
)

_SCALARS: dict[Any, str] = {int: "int", float: "float", str: "str", bool: "bool", type(None): "none", None: "none"}
_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "none": "null"}


@dataclass(frozen=True, slots=True)
class ValueType:
    """What a config field may hold, as plain data.

    kind: "int", "float", "str", "bool", "none"; "choice" (one of `choices`); "list" (any number of `items[0]`);
    "tuple" (one of each of `items`); "any_of" (one of `items`). bound: the range of a number.
    """

    kind: str
    items: tuple[ValueType, ...] = ()
    choices: tuple[Any, ...] = ()
    bound: Bound | None = None

    def accept(self, value: Any) -> Any:
        """The value as Python holds it: lists as tuples, numbers of float fields as floats. Raises ValueError."""
        if self.kind == "any_of":
            for item in self.items:
                try:
                    return item.accept(value)
                except ValueError:
                    continue
            raise ValueError(f"allowed: {self}")
        if self.kind == "choice":
            if not any(value == choice and type(value) is type(choice) for choice in self.choices):
                raise ValueError(f"allowed: {self}")
            return value
        if self.kind in ("list", "tuple"):
            fits = isinstance(value, list | tuple) and (self.kind == "list" or len(value) == len(self.items))
            if not fits:
                raise ValueError(f"allowed: {self}")
            types_ = self.items * len(value) if self.kind == "list" else self.items
            return tuple(item.accept(part) for item, part in zip(types_, value, strict=True))
        return self._scalar(value)

    def _scalar(self, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind == "float" and number:
            try:
                value = float(value)
            except OverflowError:
                raise ValueError(f"allowed: {self}") from None
        fits = {
            "int": number and isinstance(value, int),
            "float": number and not math.isnan(value),
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "none": value is None,
        }[self.kind]
        if not fits:
            raise ValueError(f"allowed: {self}")
        if self.bound is not None:
            wrong = "must be finite" if math.isinf(value) else self.bound.refuses(value)
            if wrong:
                raise ValueError(wrong)
        return value

    def __str__(self) -> str:
        if self.kind == "choice":
            return ", ".join(json.dumps(choice) for choice in self.choices)
        if self.kind == "any_of":
            return " or ".join(str(item) for item in self.items)
        if self.kind == "list":
            return f"a list, each {self.items[0]}"
        if self.kind == "tuple":
            return "a list of " + ", ".join(str(item) for item in self.items)
        bound = self.bound or Bound()
        limits = (bound.ge, ">="), (bound.gt, ">"), (bound.le, "<="), (bound.lt, "<")
        return " ".join([_WORDS[self.kind], *(f"{sign} {limit:g}" for limit, sign in limits if limit is not None)])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without what is empty."""
        data: dict[str, Any] = {"kind": self.kind}
        if self.items:
            data["items"] = [item.to_json() for item in self.items]
        if self.choices:
            data["choices"] = list(self.choices)
        if self.bound is not None:
            data["bound"] = {key: value for key, value in dataclasses.asdict(self.bound).items() if value is not None}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ValueType:
        """From what `to_json` gave."""
        bound = Bound(**data["bound"]) if "bound" in data else None
        items = tuple(cls.from_json(item) for item in data.get("items", ()))
        return cls(data["kind"], items, tuple(data.get("choices", ())), bound)


class _Missing:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Missing()


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a config: its name, what it may hold, and its default, or REQUIRED."""

    name: str
    type: ValueType
    default: Any = field(default=REQUIRED)

    @property
    def required(self) -> bool:
        """Whether a config must name this field."""
        return self.default is REQUIRED

    def accept(self, value: Any) -> Any:
        """The value as the config holds it. Raises ValueError, saying what is allowed."""
        return self.type.accept(value)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        data = {"name": self.name, "type": self.type.to_json()}
        return data if self.required else {**data, "default": self.default}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FieldSpec:
        """From what `to_json` gave."""
        type_ = ValueType.from_json(data["type"])
        return cls(data["name"], type_, type_.accept(data["default"]) if "default" in data else REQUIRED)


@functools.cache
def fields_of(config: type) -> Mapping[str, FieldSpec]:
    """The fields of a config dataclass, in order. Raises TypeError where its author wrote what no config can hold."""
    hints = typing.get_type_hints(config, include_extras=True)
    specs = {}
    for entry in dataclasses.fields(config):
        where = f"{config.__qualname__}.{entry.name}"
        type_ = _type_of(hints[entry.name], where, None)
        default: Any = REQUIRED
        if entry.default is not dataclasses.MISSING:
            default = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        if default is not REQUIRED:
            try:
                default = type_.accept(default)
            except ValueError as error:
                raise TypeError(f"{where}: its default {default!r} is refused: {error}") from None
        specs[entry.name] = FieldSpec(entry.name, type_, default)
    return types.MappingProxyType(specs)


def _type_of(hint: Any, where: str, bound: Bound | None) -> ValueType:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type_of(args[0], where, next((extra for extra in args[1:] if isinstance(extra, Bound)), bound))
    if hint in (int, float):
        return ValueType(_SCALARS[hint], bound=bound)
    if hint in (str, bool, None, type(None)):
        return ValueType(_SCALARS[hint])
    if origin is Literal:
        return ValueType("choice", choices=args)
    if origin in (Union, types.UnionType):
        return ValueType("any_of", tuple(_type_of(arg, where, bound) for arg in args))
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return ValueType("list", (_type_of(args[0], where, bound),))
    if origin is tuple and args:
        return ValueType("tuple", tuple(_type_of(arg, where, bound) for arg in args))
    raise TypeError(
        f"{where} cannot be {hint!r}; use int, float, str, bool, Literal, tuple[T, ...] or a union of these"
    )


def parse_config(
    fields: Mapping[str, FieldSpec], published: Mapping[str, Any], *, ignored: Set[str] = frozenset(), where: str
) -> dict[str, Any]:
    """The value of every field: as published, or its default.

    published: keys and values as a config file or a document gives them; keys that begin with "_", publishing keys and
    `ignored` keys are passed over. where: the file, for messages. Raises WeightsError, with all that is wrong.
    """
    values, wrong = {}, []
    for name, spec in fields.items():
        if name not in published:
            if spec.required:
                wrong.append(f"{name} is missing; wanted: {spec.type}")
            values[name] = spec.default
            continue
        try:
            values[name] = spec.accept(_token_text(published[name]))
        except ValueError as error:
            wrong.append(f"{name}: {_short(published[name])} is not permitted; {error}")
    for key, value in published.items():
        if key not in fields and not is_metadata(key, ignored):
            near = nearest(key, list(fields))
            meant = f"; near: {near}" if near else ""
            wrong.append(f"unknown key {_short(key)} (its value is {_short(value)}){meant}")
    if wrong:
        raise WeightsError(f"{where}: " + "\n  ".join(wrong), hint="the part does not implement this config")
    return values


def _token_text(value: Any) -> Any:
    """The text of a token that a published config of a tokenizer describes as a record; else the value itself."""
    described = isinstance(value, dict) and isinstance(value.get("content"), str)
    return value["content"] if described else value


def is_metadata(key: str, ignored: Set[str]) -> bool:
    """Whether a published key is kept and written back, but changes nothing."""
    return key.startswith("_") or key in PUBLISHING_KEYS or key in ignored


def metadata_of(fields: Mapping[str, FieldSpec], published: Mapping[str, Any], ignored: Set[str]) -> dict[str, Any]:
    """What a published config says besides its fields."""
    return {key: value for key, value in published.items() if key not in fields and is_metadata(key, ignored)}


def class_named(published: Mapping[str, Any]) -> str | None:
    """The class that a published config names: `_class_name`, the first of `architectures`, or `tokenizer_class`."""
    architectures = published.get("architectures")
    first = architectures[0] if isinstance(architectures, list | tuple) and architectures else None
    for name in (published.get("_class_name"), first, published.get("tokenizer_class")):
        if isinstance(name, str):
            return name
    return None


def read_json(path: Path, where: str, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a small file. Raises WeightsError where it is too large, damaged, or holds a key twice."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise WeightsError(f"{where}: cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise WeightsError(f"{where}: larger than {limit >> 20} MiB, so it is no config")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: not JSON: {error}", hint="the file is damaged; fetch it again") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{where}: holds {_short(value)}; wanted an object with keys")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return data


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
