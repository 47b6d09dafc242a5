"""Commands on one graph: `diffgraph run GRAPH --prompt ...`. The graph's inputs are options, read from the document."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import CheckFailed, DiffgraphError, InputError, OfflineError, nearest
from .report import UsageProblem

if TYPE_CHECKING:
    from ..bundles import Bundle
    from ..language.graph import GraphDocument, Input
    from ..language.sources import Loader, Source
    from ..planning.plan import Planner
    from ..ports import Port
    from ..registry import Registry
    from ..session import Prepared, Session
    from ..sweeps import Axis

F = TypeVar("F", bound=Callable[..., Any])
_OPENED = "diffgraph.opened"
_WORDS = {"weights": "ADDRESS", "text": "TEXT", "int": "INT", "float": "FLOAT", "file": "FILE", "folder": "FOLDER"}


@dataclass
class Opened:
    """The graph that a command was given, and what was typed for its inputs."""

    address: str
    own: frozenset[str]
    graph: GraphDocument
    source: Source
    loader: Loader
    bundle: Bundle | None = None
    typed: dict[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """What inputs have where nothing is typed: from the picture, or of the first variant, or of the document."""
        values = {item.name: item.default for item in self.graph.inputs.values() if not item.required}
        if self.bundle is not None:
            return values | dict(self.bundle.inputs)
        first = next(iter(self.graph.variants.values()), {})
        values |= {name: value for name, value in first.items() if name in self.graph.inputs}
        return values | dict(self.source.given)

    @cached_property
    def options(self) -> list[click.Option]:
        """An option for each input whose name the command does not use itself."""
        return [self._option(item) for item in self.graph.inputs.values() if item.name not in self.hidden]

    @cached_property
    def hidden(self) -> list[str]:
        """The inputs that only `--input NAME=VALUE` reaches."""
        taken, hidden = set(self.own), []
        for item in self.graph.inputs.values():
            flags = _flags(item)
            if item.name.startswith("_") or taken & set(flags):
                hidden.append(item.name)
            else:
                taken.update(flags)
        return hidden

    def _option(self, item: Input) -> click.Option:
        names = ["/".join(_flags(item)), f"input_{item.name}"]
        many = item.type.startswith("list[")

        def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
            if ctx.get_parameter_source(param.name or "") is not click.core.ParameterSource.COMMANDLINE:
                return
            if many or item.type == "bool":
                self.typed[item.name] = list(value) if many else value
                return
            if len(value) > 1:
                sweep = "--sweep" in self.own
                hint = f"for a run with each, --sweep {item.name}=A,B" if sweep else "give it once"
                raise UsageProblem(f"{ctx.command_path}: {param.opts[0]} is given twice", hint=hint)
            self.typed[item.name] = value[0]

        return click.Option(
            names, expose_value=False, callback=take, metavar=_metavar(item), help=self._help(item),
            **({"default": None} if item.type == "bool" else {"type": str, "multiple": True}),
        )  # fmt: skip

    def _help(self, item: Input) -> str:
        from ..telling import HIDDEN

        facts = []
        value = self.defaults.get(item.name)
        if item.name in self.defaults:
            told = HIDDEN if item.secret and value not in (None, "") else _shown(value)
            facts.append(f"default: {told}")
        elif self.bundle is not None and item.name in self.bundle.files:
            facts.append(f"was the file {self.bundle.files[item.name][0]}")
        else:
            facts.append("required")
        if item.min is not None or item.max is not None:
            low, high = _number(item.min), _number(item.max)
            facts.append(f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}")
        if item.type.startswith("list["):
            facts.append("may be repeated")
        return f"{item.help}  [{'; '.join(facts)}]".strip()

    def given(self, pairs: Sequence[str], registry: Registry) -> dict[str, Any]:
        """The values that were typed, of the inputs' types. Raises CheckFailed with all that cannot be."""
        problems: list[DiffgraphError] = []
        typed = dict(self.typed)
        for text in pairs:
            name, sign, value = text.partition("=")
            name = name if name in self.graph.inputs else name.replace("-", "_")
            item = self.graph.inputs.get(name)
            if not sign:
                problems.append(InputError(f"--input {text}: write NAME=VALUE"))
            elif item is None:
                near = nearest(name, list(self.graph.inputs))
                hint = f"did you mean {near}?" if near else "it has: " + (", ".join(self.graph.inputs) or "none")
                problems.append(InputError(f"--input {text}: there is no input {name!r}", hint=hint))
            elif item.type.startswith("list["):
                typed.setdefault(name, []).append(value)
            elif name in typed:
                problems.append(InputError(f"--input {text}: {name} is given twice"))
            else:
                typed[name] = value
        values = {}
        for name, value in typed.items():
            port = registry.input_type(self.graph.inputs[name].type)
            if port is None:
                continue  # the check names the type that does not exist
            try:
                values[name] = convert(self.graph.inputs[name], port, value)
            except DiffgraphError as error:
                problems.append(error)
        if problems:
            raise CheckFailed(problems)
        return values

    def runnable(self, registry: Registry) -> None:
        """Raises InputError for a graph that only trains, or that only another graph can use."""
        if self.graph.train is not None and not self.graph.outputs:
            raise InputError(f"{self.address} gives nothing but weights", hint=f"diffgraph train {self.address}")
        for item in self.graph.inputs.values():
            port = registry.input_type(item.type)
            if port is not None and item.required and not _typable(port, registry):
                raise InputError(
                    f"{self.address} is a part of other graphs: nobody can type its input {item.name} ({item.type})",
                    hint="include it with `graph:` in a graph of your own",
                )

    def prepare(
        self, session: Session, pairs: Sequence[str], *, variant: str | None, sets: Sequence[str], show: Sequence[str],
        axes: Sequence[Axis] = (),
    ) -> list[Prepared]:  # fmt: skip
        """The graph checked and planned with what was typed: once, or in one plan for each point of a sweep."""
        from ..inputs import typed_value
        from ..sweeps import points, refuse_secrets, split

        self.runnable(session.registry)
        refuse_secrets(axes, self.graph)
        fixed = parse_sets(sets)
        runs: list[Prepared] = []
        for point in points(axes):
            typed, keys = split(point)
            changed = {**fixed, **{name: typed_value(text, f"--sweep {name}") for name, text in keys.items()}}
            one, planner = replace(self, typed={**self.typed, **typed}), runs[0].planner if runs else None
            runs.append(one._prepared(session, pairs, variant, changed, show, planner))
        return runs

    def _prepared(
        self, session: Session, pairs: Sequence[str], variant: str | None, sets: Mapping[str, Any], show: Sequence[str],
        planner: Planner | None,
    ) -> Prepared:  # fmt: skip
        given = self.given(pairs, session.registry)
        kept = None
        if self.bundle is not None:
            if variant:
                raise InputError(f"--variant: {self.address} holds one run; give inputs instead")
            if missing := self.bundle.missing(self.graph, given):
                raise CheckFailed(missing)
            kept = self.bundle.inputs
        prepared = session.prepare(
            self.graph, self.source, self.loader, given, variant=variant, sets=sets, show=show, kept=kept,
            planner=planner,
        )  # fmt: skip
        if self.bundle is not None:
            prepared.variant = self.bundle.made.variant
        return prepared

    def secrets(self, pairs: Sequence[str]) -> list[str]:
        """What is typed, or stands in the document, and may not be told."""
        from ..hiding import secret_texts

        given = {name: [value] for name, value in self.typed.items()}
        for name, _, value in (text.partition("=") for text in pairs):
            given.setdefault(name if name in self.graph.inputs else name.replace("-", "_"), []).append(value)
        return secret_texts(self.graph, given)


def convert(item: Input, port: Port, value: Any) -> Any:
    """A typed text as the value that a document would have at this input."""
    from ..inputs import typed_value

    kind = port.type
    if isinstance(value, list):
        return [convert(item, kind.item, part) for part in value] if kind.item is not None else value
    if not isinstance(value, str):
        return value
    if item.choices:
        return next((choice for choice in item.choices if _shown(choice) == value), value)
    scalar = kind.form == "scalar"
    if scalar and kind.name not in ("int", "float", "bool"):
        return value
    literals = (kind.name,) if scalar else kind.literals
    known = typed_value(value, item.name)
    if isinstance(known, bool):
        return known if "bool" in literals else value
    if isinstance(known, int | float):
        return known if {"int", "float"} & set(literals) else value
    return None if known is None and not item.required and item.default is None else value


def _typable(port: Port, registry: Registry) -> bool:
    """Whether an input can be given as text, or as a file."""
    kind = port.type
    if kind.form == "list":
        return kind.item is not None and _typable(kind.item, registry)
    return kind.form in ("scalar", "choice") or bool(kind.literals) or kind.name in registry.readers


def _flags(item: Input) -> list[str]:
    name = item.name.replace("_", "-")
    return [f"--{name}", f"--no-{name}"] if item.type == "bool" else [f"--{name}"]


def _metavar(item: Input) -> str | None:
    if item.type == "bool":
        return None
    if item.choices:
        return "|".join(_shown(choice) for choice in item.choices)
    inner = item.type.removeprefix("list[").rstrip("]")
    return _WORDS.get(inner, inner.upper())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.15g}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "none"
    return str(value) if value != "" else '""'


class GraphCommand(click.Command):
    """A command whose first argument is a graph; the graph's inputs are options of the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.token_normalize_func = lambda name: name.replace("_", "-")
        if "--offline" in args:  # which holds for the graph itself too
            _go_offline(True)
        address = None if ctx.resilient_parsing else self._address(ctx, args)
        if address is not None:
            try:
                ctx.meta[_OPENED] = open_graph(address, self._own(ctx), lock="--no-lock" not in args)
            except OfflineError as error:
                from ..fetching import not_here

                raise not_here(error.missing, address) from None
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        opened = ctx.meta.get(_OPENED)
        return [*super().get_params(ctx), *(opened.options if opened is not None else ())]

    def _own(self, ctx: click.Context) -> frozenset[str]:
        names = (name for param in super().get_params(ctx) for name in (*param.opts, *param.secondary_opts))
        return frozenset(name for name in names if name.startswith("--"))

    def _address(self, ctx: click.Context, args: Sequence[str]) -> str | None:
        """The graph among the arguments: the first that is neither an option of the command nor its value."""
        takes = {
            name: not (getattr(param, "is_flag", False) or getattr(param, "count", False))
            for param in super().get_params(ctx)
            for name in (*param.opts, *param.secondary_opts)
        }
        rest = iter(args)
        for text in rest:
            if text == "--":
                return next(rest, None)
            if not text.startswith("-") or text == "-":
                return text
            name, sign, _ = text.partition("=")
            name = name.replace("_", "-") if name.startswith("--") else name[:2]
            if name not in takes:
                raise UsageProblem(
                    f"{ctx.command_path}: {name} comes before the graph, or is no option",
                    hint=f"name the graph first: {ctx.command_path} GRAPH {name} ...",
                )
            if takes[name] and not sign and not (len(text) > 2 and not text.startswith("--")):
                next(rest, None)
        return None

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        opened = ctx.meta.get(_OPENED)
        return [opened.address if opened is not None else "GRAPH", "[OPTIONS]"]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        opened = ctx.meta.get(_OPENED)
        if opened is None:
            super().format_help_text(ctx, formatter)
        elif opened.graph.summary:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(opened.graph.summary)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        opened = ctx.meta.get(_OPENED)
        if opened is not None:
            _section(formatter, "Inputs", _records(ctx, opened.options))
            hidden = [(f"--input {name}=...", opened.graph.inputs[name].help) for name in opened.hidden]
            _section(formatter, "Inputs whose names are options of the command", hidden)
            if opened.bundle is None:
                _section(formatter, "Variants (--variant NAME)", list(_variants(opened.graph)))
            _section(formatter, "Outputs", [(", ".join(opened.graph.outputs), "")] if opened.graph.outputs else [])
        _section(formatter, "Options", _records(ctx, super().get_params(ctx)))


def _records(ctx: click.Context, params: Sequence[click.Parameter]) -> list[tuple[str, str]]:
    options = (param for param in params if isinstance(param, click.Option))
    return [record for option in options if (record := option.get_help_record(ctx)) is not None]


def _section(formatter: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=34)


def _variants(graph: GraphDocument) -> Iterator[tuple[str, str]]:
    from ..telling import HIDDEN

    secret = {item.name for item in graph.inputs.values() if item.secret}
    for number, (name, values) in enumerate(graph.variants.items()):
        values = {key: HIDDEN if key in secret else value for key, value in values.items()}
        told = [f"{key}: {_shown(value)}" for key, value in values.items() if key != "set"]
        told += [f"{key}: {_shown(value)}" for key, value in (values.get("set") or {}).items()]
        yield name, ", ".join(told) + ("  [default]" if number == 0 else "")


def open_graph(address: str, own: frozenset[str] = frozenset(), *, lock: bool = True) -> Opened:
    """Reads the graph that a command names: a document, a shipped graph's name, or a file that carries a graph.

    lock: one that lies beside it says which documents of the Hub it includes.
    """
    from ..language.sources import Loader, open_source
    from ..locking import pinned

    path, bundle = Path(address), None
    if path.suffix and path.suffix not in (".yaml", ".yml") and path.is_file():
        from ..bundles import carries, read_bundle
        from ..registry import registry

        known = registry()
        if carries(path, known):
            bundle = read_bundle(path, known)
    loader = Loader()
    source = bundle.source if bundle is not None else open_source(address)
    source = pinned(source) if lock else source
    return Opened(address, own, loader.load(source), source, loader, bundle)


def opened(ctx: click.Context) -> Opened:
    """The graph of a command's context. What is secret among its inputs is not told from here on."""
    found: Opened = ctx.meta[_OPENED]
    ctx.obj.secrets = found.secrets(ctx.params.get("pairs", ()))
    return found


# --- options that commands share ------------------------------------------------------------------------------------


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """What `--set NODE.KEY=VALUE` says. Raises InputError."""
    from ..inputs import typed_value

    out = {}
    for text in sets:
        path, sign, value = text.partition("=")
        if not sign or "." not in path:
            raise InputError(f"--set {text}: write NODE.KEY=VALUE, such as --set ddim.node=DDPMScheduler")
        if path in out:
            raise InputError(f"--set {text}: {path} is set twice")
        out[path] = typed_value(value, f"--set {path}")
    return out


def _go_offline(value: bool) -> None:
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"  # which is read when the Hub is first asked


offline_option = click.option(
    "--offline", is_flag=True, expose_value=False, callback=lambda ctx, param, value: _go_offline(value),
    help="Asks the Hub nothing; uses what is on this machine.",
)  # fmt: skip


def graph_options(function: F) -> F:
    """GRAPH and the options of every command on a graph."""
    for option in reversed((
        click.argument("graph", metavar="GRAPH"),
        click.option("--variant", metavar="NAME", help="A named set of defaults of the graph; the first unless given."),
        click.option("--set", "sets", metavar="NODE.KEY=VALUE", multiple=True, help="Replaces a key of a node."),
        click.option("--input", "pairs", metavar="NAME=VALUE", multiple=True, help="An input, whatever its name."),
        click.option(
            "--nodes", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
            help="A Python file with nodes that the graph uses; it is executed.",
        ),
        offline_option,
    )):  # fmt: skip
        function = option(function)
    return function


def talk_options(function: F) -> F:
    """How results and errors are told."""
    for option in reversed((
        click.option("--json", "as_json", is_flag=True, help="Prints results and errors as JSON."),
        click.option("--debug", is_flag=True, help="Shows the traceback of an error."),
    )):  # fmt: skip
        function = option(function)
    return function


def place_options(function: F) -> F:
    """Where a graph is computed."""
    for option in reversed((
        click.option("--device", metavar="DEVICE", help="cpu, mps, cuda or cuda:1; picked unless given."),
        click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of the weights; fp32 unless given."),
    )):  # fmt: skip
        function = option(function)
    return function


def run_options(function: F) -> F:
    """How a graph is run, for `run` and `plan`."""
    for option in reversed((
        click.option("--show", metavar="NODE.PORT", multiple=True, help="Writes this intermediate result too."),
        click.option(
            "--sweep", "sweeps", metavar="NAME=A,B,...", multiple=True,
            help="Runs with each value of an input or of NODE.KEY; @FILE has one a line. Options take 0..7 and @FILE too.",
        ),
        place_options,
        click.option("--memory", metavar="SIZE", help="For weights, such as 6GiB; needed last, dropped first."),
        click.option("--no-cache", is_flag=True, help="Neither reads nor keeps stored results."),
        click.option("--locked", is_flag=True, help="Refuses to go on without a lock beside the graph."),
        click.option("--no-lock", is_flag=True, help="Takes what is there now, whatever was locked."),
    )):  # fmt: skip
        function = option(function)
    return function


def run_session(
    asked: Opened, device: str | None, dtype: str | None, memory: str | None, no_cache: bool, nodes: Sequence[Path],
    locked: bool, no_lock: bool,
) -> Session:  # fmt: skip
    """The session of `run` and `plan`. A picture is made again where and in the precision that it was made."""
    from ..planning.sizes import parse_size
    from ..results import default_results
    from ..session import Options, Session

    size = parse_size(memory, "--memory") if memory is not None else None
    if locked and no_lock:
        raise InputError("--locked and --no-lock: give one of them")
    if asked.bundle is not None:
        device, dtype = asked.bundle.made.place(device, dtype)
    options = Options(device, dtype or "fp32", size, not no_cache, tuple(nodes), locked, not no_lock)
    return Session(options, default_results() if not no_cache else None)
