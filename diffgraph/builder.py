"""Graphs in Python: the same language as the documents, with wires as objects.

g = Graph("squares")
n = g.input("n", "int", default=3)
square = g.add("Multiply", a=n, b=n)
g.output("result", square)
g(n=4).result                                    # 16
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .authoring import Component, NodeMark
from .components import GivenAddress, live_key
from .errors import CheckError, CheckFailed, DiffgraphError, DocumentError, InputError, nearest
from .inputs import apply_sets, choose_variant
from .language.document import parse, write
from .language.graph import Arg, Body, GraphDocument, Input, ListOf, Lit, Node, Ref, parts
from .language.sources import Loader, Source, open_source
from .language.writing import document_plain, graph_hash
from .live import type_of
from .locking import pinned
from .registry import Method, NodeType, Registry, registry
from .session import Options, Prepared, Session
from .wires import BodyBuilder, Level, Wire, check_name

if TYPE_CHECKING:
    import networkx

    from .planning.plan import Planner
    from .results import Result
    from .running.run import Listener
    from .sweeps import Point, Sweep


class Graph:
    """A graph: made here node by node, or loaded from a document; checked, planned, run and saved."""

    def __init__(self, name: str = "", *, summary: str = "", nodes: Sequence[str | Path] = ()) -> None:
        self.document = GraphDocument(name=name, summary=summary)
        here = Path.cwd()
        self.source = Source(f"<python {id(self)}>", "<python>", here / f"<python {id(self)}>", here)
        self.loader = Loader()
        self._node_files = tuple(Path(n) for n in nodes)
        self._levels = [Level(self.document.nodes)]
        self._numbers: dict[str, int] = {}
        self._types: dict[Any, NodeType] = {}
        self._planned: tuple[tuple[Any, ...], list[Any], Prepared] | None = None  # the last plan, what it was made of

    # --- loading and saving

    @classmethod
    def load(cls, source: str | Path, *, nodes: Sequence[str | Path] = ()) -> Graph:
        """Reads a document: a path, or a shipped graph's name. Raises DocumentError, CheckFailed, InputError."""
        return cls.from_source(pinned(open_source(source)), Loader(), nodes=nodes)

    @classmethod
    def from_source(cls, source: Source, loader: Loader, *, nodes: Sequence[str | Path] = ()) -> Graph:
        """The graph of a source that was opened."""
        graph = cls(nodes=nodes)
        graph.source, graph.loader = source, loader
        graph.document = loader.read(source)
        if source.address in loader.faults:
            graph.check()  # raises, with what else is wrong
        graph._levels = [_level(graph.document)]
        return graph

    @classmethod
    def from_text(cls, text: str, *, file: str = "<text>", nodes: Sequence[str | Path] = ()) -> Graph:
        """Reads a document from a text; it may include shipped graphs only."""
        return cls.from_source(Source(file, file, bundle={file: text}), Loader(), nodes=nodes)

    def save(self, path: str | Path) -> Path:
        """Writes the document. Raises CheckError where it holds live objects, InputError where the disk refuses."""
        text, place = self.text(), Path(path)
        try:
            place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        return place

    def text(self) -> str:
        """The document as YAML."""
        return write(document_plain(self.document))

    @cached_property
    def registry(self) -> Registry:
        """The node types that were installed when the graph was begun; a run looks at them anew."""
        return registry(self._node_files)

    @property
    def name(self) -> str:
        return self.document.name

    def hash(self) -> str:
        """A digest of what the graph means, whatever its nodes are called and in whichever order they stand."""

        around: list[str] = []

        def digest(document: GraphDocument, source: Source) -> str:
            if source.identity in around:
                return "cycle"
            around.append(source.identity)

            def include(address: str) -> str:
                inner = source.include(address)
                return digest(self.loader.load(inner), inner)

            parts = [graph_hash(document, include, live_key)]
            for name, values in sorted(document.variants.items()):
                changed = apply_sets(document, values.get("set") or {})
                inputs = sorted((key, repr(value)) for key, value in values.items() if key != "set")
                parts += [name, repr(inputs), graph_hash(changed, include, live_key)]
            around.pop()
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()

        return digest(self.document, self.source)

    # --- building

    def input(
        self, name: str, type: str, default: Any = ..., *, min: float | None = None, max: float | None = None,  # noqa: A002
        choices: Sequence[Any] = (), help: str = "", secret: bool = False, differs: str = "",  # noqa: A002
    ) -> Wire:  # fmt: skip
        """Declares an input of the graph: `type` as in a document."""
        required = default is ...
        item = Input(
            name, type, None if required else default, required, min, max, tuple(choices), help, secret, differs
        )
        port = self.registry.input_type(type)
        if port is None:
            raise CheckError(f"input {name}: there is no type {type!r}")
        self._take(name)
        self.document.inputs[name] = item
        kind = self.registry.nodes.get(type) if port.type.form in ("component", "protocol") else _record(port.type)
        return Wire(self, name, (), kind)

    def add(self, what: Any, name: str | None = None, **inputs: Any) -> Wire:
        """Adds a node: a type's name, a component's class, a function made with `@node`, or a live component."""
        kind, live = self._kind_of(what)
        if isinstance(live, Component) and inputs:
            raise CheckError(f"a live {kind.name} takes no parameters", hint="it has its config; add its class instead")
        title = name or self._fresh(_snake(kind.name.rpartition(".")[2]))
        node = Node(title, "node", Lit(kind.name), live=live)
        allowed = (
            {*kind.fields, "weights", "init_seed", "dtype", "device"}
            if kind.role == "component"
            else set(kind.call.inputs)
        )
        self._fill(node, inputs, allowed, kind.name)
        self._put(node)
        return Wire(self, title, (), kind if kind.role == "component" else _record(kind.call.output.type))

    def call(self, target: Wire, name: str | None = None, **inputs: Any) -> Wire:
        """Calls a component that another node made, or a method of it."""
        kind: Any = target._kind
        method = (
            kind if isinstance(kind, Method) else kind.methods.get("__call__") if isinstance(kind, NodeType) else None
        )
        if method is None and kind is not None:
            raise CheckError(f"{target!r} cannot be called")
        node = Node("", "call", Ref(target._name, target._path))
        node.name = name or self._fresh("_".join((target._name, *target._path)))
        self._fill(node, inputs, set(method.inputs) if method is not None else None, str(node.target))
        self._put(node)
        return Wire(self, node.name, (), _record(method.output.type) if method is not None else None)

    def include(self, address: str, name: str | None = None, **inputs: Any) -> Wire:
        """Uses another graph as a node: its inputs and outputs are the ports."""
        try:
            inner = self.loader.load(self.source.include(address))
        except DocumentError as error:
            raise CheckError(f"include {address}: {error.message}", hint=error.hint) from None
        node = Node(name or self._fresh(_snake(Path(address).stem)), "graph", Lit(address))
        self._fill(node, inputs, set(inner.inputs), address)
        self._put(node)
        return Wire(self, node.name, (), dict.fromkeys(inner.outputs))

    @contextmanager
    def loop(self, over: Any, *, name: str | None = None, as_name: str = "item", **carry: Any) -> Iterator[BodyBuilder]:
        """`with g.loop(schedule, sample=start) as body:` ... `body.next(sample=...)`; `body.item` is the element."""
        node = Node(name or self._fresh("loop"), "loop", self._arg(over), as_name=as_name, body=Body())
        node.carry = {key: self._arg(value) for key, value in carry.items()}
        with self._body(node, [as_name, *carry], carry) as body:
            yield body

    @contextmanager
    def map(self, over: Any, *, name: str | None = None, as_name: str = "item") -> Iterator[BodyBuilder]:
        """`with g.map(prompts) as body:` ... `body.output(image=...)`."""
        node = Node(name or self._fresh("map"), "map", self._arg(over), as_name=as_name, body=Body())
        with self._body(node, [as_name]) as body:
            yield body

    @contextmanager
    def when(self, flag: Any, *, name: str | None = None) -> Iterator[BodyBuilder]:
        """`with g.when(flag) as body:` ... `body.output(...)`, and `with body.otherwise() as other:`."""
        node = Node(name or self._fresh("when"), "when", self._arg(flag), body=Body())
        with self._body(node, []) as body:
            yield body

    @contextmanager
    def grad(self, x: Any, *, name: str | None = None, as_name: str = "x") -> Iterator[BodyBuilder]:
        """`with g.grad(sample) as body:` ... `body.of(score)`; then `body.grad` and `body.value`."""
        node = Node(name or self._fresh("grad"), "grad", self._arg(x), as_name=as_name, body=Body())
        with self._body(node, [as_name], {as_name: x}) as body:
            yield body

    def output(self, name: str, value: Any) -> None:
        """Declares an output of the graph, in place of another of that name. Raises CheckError for what is no name."""
        check_name(name)
        self.document.outputs[name] = self._arg(value)

    # --- using

    def _session(self, options: Options | None) -> Session:
        from .results import default_results

        options = options or Options()
        options = replace(options, nodes=(*self._node_files, *(n for n in options.nodes if n not in self._node_files)))
        return Session(options, default_results() if options.cache else None)

    def check(self) -> None:
        """Raises CheckFailed with every mistake. Needs no values of inputs; opens no weights.

        The first variant is checked with the configs of its components, the others by their structure alone.
        """
        document, session = self.document, self._session(None)
        defaults = {item.name: item.default for item in document.inputs.values() if not item.required}
        problems: list[DiffgraphError] = []
        for number, variant in enumerate(document.variants or {"": {}}):
            place = document.places.get(f"variants.{variant}")
            values, sets = choose_variant(document, variant or None)
            try:
                changed = apply_sets(document, sets, place=place)
            except InputError as error:
                what = f"variant {variant}: {error.message.removeprefix('--')}"
                problems.append(CheckError(what, hint=error.hint, place=place))
                continue
            opener = session.opener(self.source) if number == 0 else None
            found, _ = session.check(changed, self.source, self.loader, {**defaults, **values}, opener)
            known = {(str(problem.place), problem.message) for problem in problems}
            problems += [p for p in found if (str(p.place), p.message) not in known]
        if problems:
            raise CheckFailed(problems)

    def plan(
        self,
        *,
        variant: str | None = None,
        options: Options | None = None,
        sets: Mapping[str, Any] | None = None,
        show: Sequence[str] = (),
        **inputs: Any,
    ) -> Prepared:
        """The graph checked and planned with these inputs; `.run()` makes the outputs.

        The last plan is given again where nothing that it depends on has changed.
        """
        session = self._session(options)
        asked = self._asked(session, variant, inputs) if not (sets or show) else None
        made_of = self._parts() if asked is not None else []
        if self._planned is not None and asked == self._planned[0] and _same(made_of, self._planned[1]):
            return self._planned[2]
        prepared = session.prepare(
            self.document, self.source, self.loader, inputs, variant=variant, sets=sets, show=show
        )  # fmt: skip
        self._planned = (asked, made_of, prepared) if asked is not None and not prepared.handles else None
        return prepared

    def _asked(self, session: Session, variant: str | None, inputs: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """What a plan depends on, where that can be told: for a graph without weights or files, given plain inputs.

        A plan with components is made anew, for their weights may have changed.
        """
        document = self.document
        if document.train is not None or any(_reads_files(item.type) for item in document.inputs.values()):
            return None
        if not all(type(value) in (str, int, float, bool) for value in inputs.values()):
            return None
        given = tuple(sorted((name, type(value), value) for name, value in inputs.items()))
        around = (id(session.registry), id(session.results), session.settings(), session.options)
        return given, variant, repr(document.variants), repr(document.requires), around

    def _parts(self) -> list[Any]:
        document = self.document
        found = parts(document.nodes)
        for table in (document.outputs, document.inputs):
            found += (None, *table, *table.values())
        return found

    def __call__(
        self,
        *,
        variant: str | None = None,
        options: Options | None = None,
        listeners: Sequence[Listener] = (),
        **inputs: Any,
    ) -> Result:
        """Runs the graph. The outputs are attributes of the result: `.image`, `.image.pil()`."""
        from .results import make_result

        prepared = self.plan(variant=variant, options=options, **inputs)
        return make_result(prepared, prepared.run(listeners))

    def sweep(
        self, axes: Mapping[str, Iterable[Any]], *, variant: str | None = None, options: Options | None = None,
        sets: Mapping[str, Any] | None = None, listeners: Sequence[Listener] = (), **inputs: Any,
    ) -> Sweep:  # fmt: skip
        """Runs the graph with every combination of some values: `g.sweep({"seed": range(8), "prompt": texts})`.

        axes: values by an input's name or a node's key, `NODE.KEY`; the last varies fastest. Raises InputError besides
        what a call raises.
        """
        from .sweeps import sweep

        session = self._session(options)

        def prepare(values: Point, keys: Point, planner: Planner | None) -> Prepared:
            return session.prepare(
                self.document, self.source, self.loader, {**inputs, **values}, variant=variant,
                sets={**(sets or {}), **keys}, planner=planner,
            )  # fmt: skip

        return sweep(axes, prepare, listeners)

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """The nodes and wires of this document; nodes of bodies are called `loop.node`."""
        from .language.drawing import to_networkx

        return to_networkx(self.document)

    def svg(self, *, depth: int = 1, theme: str = "light") -> str:
        """A drawing of the graph; depth: how many graphs in graphs are opened; theme: "light" or "dark"."""
        from .drawing.show import drawing
        from .drawing.svg import svg

        found, _ = drawing(self.document, self.source, self.loader, self.registry, depth=depth, theme=theme)
        return svg(found)

    def _repr_svg_(self) -> str | None:
        try:
            return self.svg()
        except DiffgraphError:
            return None  # a notebook shows the text instead

    # --- inside

    def _kind_of(self, what: Any) -> tuple[NodeType, Any]:
        """The type of what is added, and what of it is live: a component, or a type that no package has."""
        if isinstance(what, str):
            kind = self.registry.get(what)
            if kind is None:
                raise CheckError(f"there is no node type {what!r}", hint=self.registry.suggest(what))
            return kind, None
        if isinstance(what, Component):
            return self._type_of(type(what)), what
        is_class = isinstance(what, type) and issubclass(what, Component)
        if not is_class and not isinstance(getattr(what, "__diffgraph__", None), NodeMark):
            raise CheckError(f"{what!r} is no node", hint="give a type's name, a Component, or a function with @node")
        kind = self._type_of(what)
        return kind, kind if kind.live is not None else None

    def _type_of(self, thing: Any) -> NodeType:
        """The type of a component's class or of a function, worked out once for each."""
        if thing not in self._types:
            self._types[thing] = type_of(thing, self.registry)
        return self._types[thing]

    def _take(self, name: str) -> None:
        check_name(name)
        if self._is_taken(name):
            raise CheckError(f"the name {name} is taken already in this scope, around it or in a body inside it")
        self._levels[-1].names.add(name)

    def _is_taken(self, name: str) -> bool:
        return name in self._levels[-1].inside or any(name in level.names for level in self._levels)

    def _fresh(self, base: str) -> str:
        number = self._numbers.get(base, 1)
        while self._is_taken(name := f"{base}{number}" if number > 1 else base):
            number += 1
        self._numbers[base] = number
        return name

    def _put(self, node: Node) -> None:
        self._take(node.name)
        self._levels[-1].nodes[node.name] = node

    def _fill(self, node: Node, inputs: Mapping[str, Any], allowed: set[str] | None, what: str) -> None:
        for name, value in inputs.items():
            if allowed is not None and name not in allowed:
                near = nearest(name, sorted(allowed))
                hint = f"did you mean {near!r}?" if near else "it has: " + ", ".join(sorted(allowed))
                raise CheckError(f"{what} has no input {name!r}", hint=hint)
            given = GivenAddress(value) if name == "weights" and isinstance(value, str | Path) else value
            node.args[name] = self._arg(given)

    def _arg(self, value: Any) -> Arg:
        if isinstance(value, Wire):
            if value._graph is not self:
                raise CheckError(f"{value!r} belongs to another graph", hint="hand it over as an input of this one")
            if value._level not in self._levels:
                hint = "give it out: `next` and `collect` of a loop, `output` of a map or a branch"
                raise CheckError(f"{value!r} is inside a body, and is used outside of it", hint=hint)
            return Ref(value._name, value._path)
        if isinstance(value, BodyBuilder):
            return self._arg(value._whole())
        if isinstance(value, Ref | Lit | ListOf):
            return value
        if isinstance(value, list) or type(value) is tuple:
            items = tuple(self._arg(item) for item in value)
            literals = [item.value for item in items if isinstance(item, Lit)]
            return Lit(literals) if len(literals) == len(items) else ListOf(items)
        return Lit(str(value) if isinstance(value, Path) else value)

    @contextmanager
    def _inside(self, body: Body) -> Iterator[None]:
        level = Level(body.nodes)
        self._levels.append(level)
        try:
            yield
        finally:
            self._levels.pop()
            self._levels[-1].inside |= level.names | level.inside

    @contextmanager
    def _body(self, node: Node, names: list[str], kinds: Mapping[str, Any] | None = None) -> Iterator[BodyBuilder]:
        self._put(node)
        assert node.body is not None
        wires: dict[str, Wire] = {}
        body = BodyBuilder(self, node, wires)
        with self._inside(node.body):
            for name in names:
                self._take(name)
                given = (kinds or {}).get(name)
                wires[name] = Wire(self, name, (), given._kind if isinstance(given, Wire) else None)
            yield body
        body._close()

    def __repr__(self) -> str:
        return f"<Graph {self.document.name or 'without a name'}: {len(self.document.nodes)} nodes>"


def _reads_files(type_name: str) -> bool:
    """Whether a value of an input's type may stand for what is in a file."""
    return type_name not in ("int", "float", "bool", "text", "choice")


def _same(left: list[Any], right: list[Any]) -> bool:
    """Whether two lists hold the very same objects."""
    return len(left) == len(right) and all(map(is_, left, right))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "_", name).lower().replace("-", "_")


def _record(kind: Any) -> dict[str, Any] | None:
    """The ports of a record, for completion; None where the type is none or is not known."""
    if kind.form == "record":
        return {name: _record(port.type) for name, port in kind.fields}
    return {} if kind.form in ("scalar", "choice", "kind", "list") else None


def _level(document: GraphDocument) -> Level:
    """The outermost scope of a document that was read."""
    level = Level(document.nodes, {*document.inputs, *document.nodes})
    stack = list(document.nodes.values())
    while stack:
        node = stack.pop()
        if node.inner or node.as_name:
            level.inside |= {node.as_name, *node.carry, *node.inner}
            stack.extend(node.inner.values())
    return level


def read_text(text: str, file: str) -> GraphDocument:
    """The document that a text holds. Raises DocumentError, CheckFailed."""
    from .language.reading import read_graph

    graph, problems = read_graph(parse(text.encode(), file), file)
    if problems:
        raise CheckFailed(problems)
    return graph


__all__ = ["BodyBuilder", "DiffgraphError", "Graph", "Wire", "read_text"]
