"""What the author of a node writes with: `@node`, `Component`, and the annotations `Kind`, `Fact`, `Bound`.

The signature of a function or of a method *is* the declaration of its ports. Annotations say what a wire may carry:

    Annotated[Tensor, Kind("Sample")]                a kind of value, by name
    Annotated[Sample, "B C H W"]                     its symbolic shape
    Annotated[Sample, Fact(space="pixel")]           what else must agree
    Annotated[float, Bound(gt=0, le=1)]              the range of a number

Shapes: an upper-case name is fresh for each use of the node, and wires equate it; a lower-case name is a config field of the
component, an attribute of it that is one number, or a whole-number input of the same node; `2*B`, `4*H`, `H/8`, `H+1` and
`2**n` are arithmetic; `#name` is how many items a list has; `...` is any run of dimensions, the same run in one use. For a
value that is not a tensor, the shape is that of its first tensor, or just its rows.

Facts: `Fact(name="word")` is constant; `"$field"` is the value of a config field (several joined by commas make one fact);
`"?name"` is a variable, equal in all ports of one use; `"@self"` is the component itself, so that what one model makes
cannot be given to another. A fact that one side does not know fits anything.

This module imports neither torch nor the rest of the engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from .weights.loading import Folder

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a value, by name. `of` names the kind that it is a special case of.

    `once` marks a value that its use consumes, such as a random stream: it may meet one port on any path.
    """

    name: str
    of: str | None = None
    once: bool = False


@dataclass(frozen=True, init=False)
class Fact:
    """Named properties of a value that both ends of a wire must agree on."""

    values: tuple[tuple[str, str], ...]

    def __init__(self, **values: str) -> None:
        object.__setattr__(self, "values", tuple(sorted(values.items())))


@dataclass(frozen=True, slots=True)
class Bound:
    """The range of a number. Infinite and NaN are refused always."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def refuses(self, value: float) -> str | None:
        """What is wrong with `value`, in words, or None."""
        if self.ge is not None and not value >= self.ge:
            return f"must be at least {self.ge:g}"
        if self.gt is not None and not value > self.gt:
            return f"must be greater than {self.gt:g}"
        if self.le is not None and not value <= self.le:
            return f"must be at most {self.le:g}"
        if self.lt is not None and not value < self.lt:
            return f"must be less than {self.lt:g}"
        return None


@dataclass(frozen=True, slots=True)
class NodeMark:
    """What `@node` notes on a function."""

    name: str
    version: int
    static: bool
    shapes: Callable[..., Any] | None


@dataclass(frozen=True, slots=True)
class FileMark:
    """What `@reader`, `@writer`, `@carrier` and `@previewer` note on a function. measure: the function of a reader's."""

    role: str
    kind: str
    suffixes: tuple[str, ...]
    measure: Callable[..., Any] | None = None


def node(
    name: str, *, version: int, static: bool = False, shapes: Callable[..., Any] | None = None
) -> Callable[[F], F]:
    """Makes a function a node type. The function stays an ordinary function.

    name: CapWords, unique in its package. version: raise it when the output changes. static: the value can be computed while
    planning, from literals and configs alone; its module must not import torch. shapes: a torch-free function that takes
    the same inputs as dimensions and returns those of the output, for a node whose shapes no annotation can say.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        raise ValueError(f"a node type is named in CapWords, not {name!r}")

    def mark(function: F) -> F:
        function.__diffgraph__ = NodeMark(name, version, static, shapes)  # type: ignore[attr-defined]
        return function

    return mark


def static(method: F) -> F:
    """Marks a method of a component that needs its config alone, so that the planner calls it before the run."""
    method.__diffgraph_static__ = True  # type: ignore[attr-defined]
    return method


def reader(
    kind: str, *, suffixes: tuple[str, ...], measure: Callable[[bytes], tuple[int, ...]] | None = None
) -> Callable[[F], F]:
    """Makes `function(data: bytes) -> value` the reader of a kind: how a file becomes an input of it.

    measure: a function of the module that tells the value's shape from the head of the file alone, so that the check
    knows it; it imports no torch, and may raise what the reader does.
    """

    def mark(function: F) -> F:
        function.__diffgraph_file__ = FileMark("reader", kind, suffixes, measure)  # type: ignore[attr-defined]
        return function

    return mark


def writer(kind: str, *, suffix: str) -> Callable[[F], F]:
    """Makes `function(value, metadata: dict[str, str]) -> list[bytes]` the writer of a kind: one file an item of a batch."""

    def mark(function: F) -> F:
        function.__diffgraph_file__ = FileMark("writer", kind, (suffix,))  # type: ignore[attr-defined]
        return function

    return mark


def carrier(kind: str, *, suffixes: tuple[str, ...]) -> Callable[[F], F]:
    """Makes `function(data: bytes) -> dict[str, str]` what reads again the texts that a kind's writer put in a file."""

    def mark(function: F) -> F:
        function.__diffgraph_file__ = FileMark("carrier", kind, suffixes)  # type: ignore[attr-defined]
        return function

    return mark


def previewer(name: str) -> Callable[[F], F]:
    """Makes `function(value, call: Mapping[str, Any]) -> array | None` what shows a value while a loop works on it.

    name: of the type that a node inside a loop gives: a kind, or a record. call: what that node was given, by the names of
    its inputs, and as "self" the component that was called. Gives small pictures, uint8 [B, H, W, 3], or None for what
    cannot be shown so. It is called at most four times a second, and only where a listener asks; it changes nothing.
    """

    def mark(function: F) -> F:
        function.__diffgraph_file__ = FileMark("previewer", name, ())  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True, slots=True)
class PipelineMark:
    """What `@pipeline` notes on a function."""

    classes: tuple[str, ...]
    graph: str
    libraries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What a published repository of several parts says of itself.

    index: its model_index.json. configs: the config of each part that the graph uses, by the part's name; empty where it
    has none.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]


def pipeline(*classes: str, graph: str, libraries: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Makes `function(repository: Published) -> dict[str, Any]` what imports published repositories of these classes.

    graph: the address of the graph that does what they do, with one input of the type weights, the repository's address;
    `$weights/part` in it is a part of the index, and gets the node type that reads the class that the index names.
    libraries: where their parts may be from, besides diffusers and transformers, as the index says it. The function
    tells what is different for one repository: defaults by an input's name, values by a node's key, `NODE.KEY`.
    """

    def mark(function: F) -> F:
        function.__diffgraph_pipeline__ = PipelineMark(classes, graph, libraries)  # type: ignore[attr-defined]
        return function

    return mark


class Component:
    """Base of a part that has a config and methods: a model, a scheduler, a tokenizer.

    A subclass names its version and a frozen dataclass `Config`, whose fields are the published config keys and at once the
    node's parameters; a `Literal` or a `Bound` on a field is how a value that is not implemented is refused. Methods with
    annotated signatures are what `call:` can name; `__call__` (for a torch module, `forward`) is the default one.

        class UNet2D(torch.nn.Module, Component, version=1):
            Config = UNet2DConfig
            attributes = {"sample_shape": "in_channels sample_size sample_size"}
            published = ("UNet2DModel",)
            files = ("diffusion_pytorch_model",)
            facts = {"space": "pixel"}
            siblings = {"prediction": "scheduler_config.json:$prediction_type"}

    published: the classes of published repositories that this one reads, the first is what it writes; any where empty.
    config_file: the file that holds the config; a "?" at the end says that it may be missing; after a blank, a file
    whose keys are laid over it, where there is one. files: what else is read;
    for each thing needed, alternatives split by blanks, of which the first that exists is taken. A name without a
    suffix stands for tensors in all their published forms (NAME.safetensors, shards, variants, pickles); a "?" at the
    end says that none need exist. A torch module names its tensors so. attributes: whole numbers, or lists of them,
    worked out from config fields and readable in a graph as `$model.sample_shape`. facts: of the component itself.
    siblings: facts taken from another config of the same repository, as `file:a fact with $field in it`; `part/file`
    is the config of another part, several files split by blanks are alternatives, and what follows a `|` holds where the
    repository's index shows that there is none. keys: patterns and
    replacements from published names of tensors to ours, applied in order; a name that becomes empty is left out;
    `{last-\\1}` in a replacement counts from the end: the largest number that group 1 is in any name, less this one.
    ignored: published config keys that do not change what is computed. metadata: what a published config says besides
    the fields; kept, and written back.
    """

    version: ClassVar[int]
    Config: ClassVar[type]
    published: ClassVar[tuple[str, ...]] = ()
    config_file: ClassVar[str] = "config.json"
    files: ClassVar[tuple[str, ...]] = ()
    attributes: ClassVar[Mapping[str, str]] = {}
    facts: ClassVar[Mapping[str, str]] = {}
    siblings: ClassVar[Mapping[str, str]] = {}
    keys: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignored: ClassVar[frozenset[str]] = frozenset()

    config: Any
    metadata: Mapping[str, Any] = {}

    def __init_subclass__(cls, version: int | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if version is not None:
            cls.version = version

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """A component with this config and fresh values."""
        return cls(config)  # type: ignore[call-arg]

    @classmethod
    def from_files(cls, config: Any, files: Mapping[str, Path]) -> Self:
        """A component with this config and what its files hold. Torch modules get this from the engine."""
        return cls.from_config(config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        variant: str | None = None,
        dtype: Any = None,
        device: Any = None,
        **config: Any,
    ) -> Self:
        """Loads from a local folder or a Hub repository ("org/repo"); keywords replace fields of the config.

        variant: which set of weights, such as "fp16". dtype, device: of a torch module; else float32 on the CPU.
        Raises WeightsError where a file is missing, damaged or of another model, HubError where the Hub is not reached.
        """
        from .weights.loading import load_pretrained

        return load_pretrained(
            cls,
            source,
            subfolder=subfolder,
            revision=revision,
            variant=variant,
            dtype=dtype,
            device=device,
            config=config,
        )

    def save_pretrained(self, folder: str | Path, *, dtype: Any = None) -> Folder:
        """Writes the config and the weights in the published layout, so that `from_pretrained` and the peers read them."""
        from .weights.loading import save_pretrained

        return save_pretrained(self, folder, dtype=dtype)

    def push_to_hub(
        self, repository: str, *, private: bool = False, message: str | None = None, dtype: Any = None,
        licence: str | None = None,
    ) -> str:  # fmt: skip
        """Puts what `save_pretrained` writes into a repository "org/repo", with a card; gives the commit.

        Makes the repository if need be. Raises HubError.
        """
        from .weights.uploads import push_pretrained

        return push_pretrained(self, repository, private=private, message=message, dtype=dtype, licence=licence)

    def save_files(self, folder: Path) -> None:
        """Writes what `from_files` reads. Torch modules get this from the engine."""


class File:
    """A file given by the user, read by the engine: its name, content and digest. Nodes never see a path."""

    __slots__ = ("data", "digest", "name")

    def __init__(self, name: str, data: bytes, digest: str) -> None:
        self.name, self.data, self.digest = name, data, digest


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run computes: `device` as torch writes it ("cpu", "cuda:1"), `dtype` without its prefix ("float16")."""

    device: str = "cpu"
    dtype: str = "float32"


# The engine sets both for a run.
running_target: ContextVar[Target | None] = ContextVar("diffgraph_target", default=None)
running_notes: ContextVar[Callable[[str], None] | None] = ContextVar("diffgraph_notes", default=None)


def target() -> Target:
    """Where the run that calls this computes, for nodes that make tensors from nothing. Outside a run: CPU, float32."""
    return running_target.get() or Target()


def note(message: str) -> None:
    """Tells the user something that is no error, such as a prompt that was cut. Outside a run nobody listens."""
    listener = running_notes.get()
    if listener is not None:
        listener(message)
