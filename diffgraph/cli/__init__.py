"""The command line: `diffgraph COMMAND ...`. Each command is a file of its own here, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import nearest
from .report import State, UsageProblem, report

COMMANDS = {
    "run": "Run a graph; its inputs are the options",
    "check": "Find every mistake in a graph, without running it",
    "plan": "Show what would run, what is cached, and what is missing",
    "show": "Draw a graph, as SVG or PNG",
    "info": "Say what made a picture, what a graph needs, or what an address holds",
    "train": "Train what a training graph names, on a folder of data",
    "lock": "Write down the commits and hashes that a graph runs with",
    "pull": "Fetch all that a graph needs, to run it offline",
    "push": "Put a graph on the Hub, with a card",
    "import": "Write a published repository of parts as a graph",
    "convert": "Make a folder of parts from original checkpoints",
    "nodes": "List the node types, or explain one",
    "graphs": "List the shipped graphs, or copy one here to edit it",
    "schema": "Print the JSON Schema of documents, for editors",
    "cache": "Show, prune or clear the stored results",
}
MODULES = {"import": "importing"}  # where a command's name can be no module's


class Main(click.Group):
    """The group of commands. Errors become one message and an exit code here, and nowhere else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = nearest(args[0], list(COMMANDS))
            hint = f"did you mean {near}?" if near else "there are: " + ", ".join(COMMANDS)
            raise UsageProblem(f"diffgraph: there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{MODULES.get(cmd_name, cmd_name)}", __package__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs one command and ends the process: 0, 2 before the first node ran, 1 after it, 130 where interrupted."""
        arguments = list(sys.argv[1:] if args is None else args)
        named = [word for word in arguments[:1] if word in COMMANDS]
        state = State(" ".join(["diffgraph", *named]), json="--json" in arguments, debug="--debug" in arguments)
        try:
            extra |= {"obj": state, "windows_expand_args": windows_expand_args}
            code = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except Exception as error:
            code = report(error, state)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Diffusion systems as graphs of typed nodes.

    \b
    diffgraph run glide --prompt "red apple"       a prompt becomes a picture
    diffgraph run graphs/glide.yaml --help         the inputs of a graph
    """


__all__ = ["COMMANDS", "main"]
