"""What the user is told: errors as one message each on standard error, or JSON where it was asked for."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import click

from ..errors import CheckFailed, DiffgraphError, Interrupted, RunError


class UsageProblem(DiffgraphError):
    """An option or argument that a command does not take."""

    code = "usage"


@dataclass
class State:
    """What one invocation knows of itself. command: as it was called. ran: the first node has run. secrets: values that
    are not told.
    """

    command: str = "diffgraph"
    json: bool = False
    debug: bool = False
    ran: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def hide(self, text: str) -> str:
        """A text as it may be told: without the secrets of the graph."""
        if not self.secrets:
            return text
        from ..telling import hidden

        return hidden(text, self.secrets)


def say(text: str, **style: Any) -> None:
    """A line on standard error; never fails for a character that the terminal lacks."""
    stream = sys.stderr
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    coloured = stream.isatty() and "NO_COLOR" not in os.environ
    click.echo(click.style(text, **style) if coloured and style else text, err=True)


def put(data: Any) -> None:
    """One line of JSON on standard output."""
    click.echo(json.dumps(data))


def report(error: Exception, state: State) -> int:
    """Tells the user of an error; returns the exit code."""
    if state.debug and not isinstance(error, click.exceptions.Exit):
        import traceback

        click.echo(state.hide("".join(traceback.format_exception(error))), err=True)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx is not None else "")
        return 0
    found = problems(error, state.command)
    for problem in found:
        problem.message = state.hide(problem.message)
        problem.hint = state.hide(problem.hint) if problem.hint is not None else None
    if state.json:
        put({"errors": [as_json(problem) for problem in found]})
    for problem in found if not state.json else ():
        _show(problem)
    return exit_code(found[0], state)


def exit_code(error: DiffgraphError, state: State) -> int:
    """130 where the user stopped it; 1 where a node had run; else 2."""
    if isinstance(error, Interrupted):
        return 130
    return 1 if state.ran or isinstance(error, RunError) else 2


def problems(error: Exception, command: str) -> list[DiffgraphError]:
    """An error as those that the user is told of, at least one."""
    if isinstance(error, CheckFailed):
        return [inner for problem in error.problems for inner in problems(problem, command)] or [error]
    if isinstance(error, DiffgraphError):
        return [error]
    if isinstance(error, click.Abort):
        return [Interrupted("interrupted")]
    if isinstance(error, click.ClickException):
        return [_usage(error, command)]
    if isinstance(error, MemoryError):
        return [DiffgraphError("out of memory", hint="close other programs, or make the graph smaller")]
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return [
        DiffgraphError(f"a fault of diffgraph itself: {text}", hint="--debug shows the traceback; please report it")
    ]


def _usage(error: click.ClickException, command: str) -> UsageProblem:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else command
    if isinstance(error, click.NoSuchOption):
        near = [name for name in error.possibilities or () if name.startswith("-")]
        hint = f"did you mean {near[0]}?" if near else f"`{command} --help` lists the options"
        return UsageProblem(f"{command}: there is no option {error.option_name}", hint=hint)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        what = error.param.param_type_name
        name = error.param.human_readable_name if what == "argument" else error.param.opts[-1]
        return UsageProblem(
            f"{command}: the {what} {name} is missing", hint=f"`{command} --help` shows how to write it"
        )
    message = error.format_message().rstrip(".")
    return UsageProblem(
        f"{command}: {message[:1].lower()}{message[1:]}", hint=f"`{command} --help` lists what it takes"
    )


def as_json(error: DiffgraphError) -> dict[str, Any]:
    """An error as data: code, message, hint, place; and the node where one failed."""
    place = error.place
    data: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "place": {"file": place.file, "line": place.line, "column": place.column} if place is not None else None,
    }
    return data | ({"node": error.node} if isinstance(error, RunError) else {})


def _show(error: DiffgraphError) -> None:
    where = f"{error.place}  " if error.place is not None else ""
    first, *more = error.message.split("\n")
    title = "" if where or isinstance(error, UsageProblem) else "diffgraph: "
    say(f"{where}{title}{first}", fg="yellow" if isinstance(error, Interrupted) else "red")
    for line in (*more, *(error.hint or "").split("\n")):
        if line:
            say(f"  {line.strip()}")
