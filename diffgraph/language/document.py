"""Strict YAML: bytes to a tree in which every value keeps its place, and plain data back to text.

Reads the events of PyYAML's parser; what a scalar means is in scalars.py, what a key means in graph.py. A document is
data: tags, anchors, aliases, merge keys, directives, duplicate keys, keys that are not text are refused.
Limits are checked event by event, so that no file can make the reader large, deep or slow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import DocumentError, Place, nearest
from .scalars import UNPRINTABLE, Plain, fits, is_text, literal_lines, resolve, spell, spell_text

# PyYAML without libyaml gives the same events, about ten times slower.
_Parser: Callable[[str], Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_KEY = 128  # characters; YAML itself stops at 1024, counted with quotes and escapes
WIDTH = 110  # columns of a written line


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value."""

    value: Plain
    place: Place


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Tree, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key of a table holds, and the place of the key."""

    place: Place
    tree: Tree


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order of the document."""

    entries: dict[str, Entry]
    place: Place


Tree = Scalar | Items | Table


def plain(tree: Tree) -> Any:
    """The tree without its places: None, bool, int, float, str, list, dict."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Items):
        return [plain(item) for item in tree.items]
    return {key: plain(entry.tree) for key, entry in tree.entries.items()}


def _refused(place: Place, message: str, hint: str) -> DocumentError:
    return DocumentError(message, hint=hint, place=place)


# ---------------------------------------------------------------------------------------------------------------- files


def read(path: str | Path) -> bytes:
    """The bytes of a document's file. Raises DocumentError where it is missing, a folder, unreadable or over 4 MiB."""
    path = Path(path)
    place = Place(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused(place, "no such file", _near_file(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if os.path.isdir(path):
            raise _folder(path, place) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(place, f"cannot be read: {reason}", "see its permissions, or copy it") from None
    _check_size(len(data), place)
    return data


def _folder(path: Path, place: Place) -> DocumentError:
    found = sorted(str(file) for file in path.glob("*.yaml"))
    hint = f"name a file in it, such as {found[0]}" if found else "it holds no .yaml file; name a document"
    return _refused(place, "a folder, not a document", hint)


def _near_file(path: Path) -> str:
    try:
        names = sorted(file.name for file in path.parent.iterdir() if file.is_file())
    except OSError:
        hub = "" if path.suffix or len(path.parts) != 2 else f"; of the Hub it is hf://{path.as_posix()}"
        return f"there is no folder {path.parent} to look in{hub}"
    stems = {Path(name).stem: name for name in sorted(names, key=lambda name: name.endswith(".yaml"))}
    near = nearest(path.stem, list(stems))
    if near is not None:
        return f"did you mean {path.with_name(stems[near])}?"
    others = [name for name in names if name.endswith(".yaml")]
    return f"there are: {', '.join(others[:5])}" if others else f"there is no document in {path.parent}"


def _check_size(size: int, place: Place) -> None:
    if size > MAX_BYTES:
        raise _refused(place, "larger than 4 MiB", "a document wires nodes; keep data in files of its own")


# --------------------------------------------------------------------------------------------------------------- reader

_UNFINISHED = ("end of stream", "expected ',' or", "end of document")
_SYNTAX_HINTS = (
    ("mapping values are not allowed", "quote text that holds ': ', and begin a key where its siblings begin"),
    ("expected ':'", "a key needs a colon and a space after it: `key: value`"),
    ("cannot start any token", "put quotes around text that begins with @, % or `"),
    ("expected <document start>", "a file is one document: begin every top-level key in the first column"),
    ("expected key", "begin a key where its siblings begin"),
    ("expected '-' indicator", "begin each item of a list where the others begin"),
    ("expected ',' or", "put a comma between items, and close every bracket"),
    ("escape", "write a backslash in double quotes as \\\\, or use single quotes"),
)


def parse(data: bytes, file: str) -> Tree:
    """Reads one document. `file` is the name that places carry.

    Raises DocumentError, with the line and column, for anything but one UTF-8 document of plain data within the limits.
    """
    _check_size(len(data), Place(file))
    root = _build(_events(_text(data, file), file), file)
    if root is None or (isinstance(root, Scalar) and root.value is None):
        raise _refused(Place(file), "empty", "a document begins with `diffgraph: 1`")
    return root


def _text(data: bytes, file: str) -> str:
    for mark, encoding in ((b"\xff\xfe", "UTF-16 or UTF-32"), (b"\xfe\xff", "UTF-16"), (b"\0\0\xfe\xff", "UTF-32")):
        if data.startswith(mark):
            raise _refused(Place(file, 1, 1), f"encoded as {encoding}", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad, start = error.object, error.start  # without a byte order mark, as utf-8-sig hands it on
        place = _place(bad[:start].decode(), start, file)
        offset = start + len(data) - len(bad)
        message = f"not UTF-8: byte 0x{bad[start]:02x} at offset {offset}"
        hint = "this is a binary file, not a document" if b"\0" in data else "save it as UTF-8"
        raise _refused(place, message, hint) from None
    found = UNPRINTABLE.search(text)
    if found is None:
        return text
    code, place = ord(found.group()), _place(text, found.start(), file)
    if code == 0:
        raise _refused(place, "a NUL character is not text", "this is a binary file, not a document")
    if code == 9:
        raise _refused(place, "a tab is not allowed", "indent with spaces; inside text write \\t in double quotes")
    hint = f"inside text write \\u{code:04x} in double quotes" if code < 0x10000 else "remove it"
    raise _refused(place, f"the character U+{code:04X}, which is not printable, is not allowed", hint)


def _place(text: str, index: int, file: str) -> Place:
    lines = re.split("\r\n|\r|\n", text[:index])
    return Place(file, len(lines), len(lines[-1]) + 1)


def _events(text: str, file: str) -> Iterator[Any]:
    parser = _Parser(text)
    while True:
        try:
            event = parser.get_event() if parser.check_event() else None
        except yaml.MarkedYAMLError as error:
            raise _syntax(error, text, file) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise _refused(Place(file), f"not YAML: {error}", "see the escapes in its texts") from None
        if event is None:
            return
        yield event


def _syntax(error: yaml.MarkedYAMLError, text: str, file: str) -> DocumentError:
    problem = str(error.problem or error.context)
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
    lines = len(text.rstrip().splitlines())
    if mark and opened and mark.line + 1 >= lines and any(words in problem for words in _UNFINISHED):
        what = re.sub("^while (?:scanning|parsing) ", "", str(error.context))
        message = f"ends inside {what} that begins at line {opened.line + 1}, column {opened.column + 1}"
        return _refused(place, message, "close it, or see whether the file is cut off")
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in problem), "see the indentation and the quotes here")
    return _refused(place, f"not YAML: {problem}", hint)


class _Open:
    """A list or table whose end has not been seen."""

    __slots__ = ("entries", "items", "key", "place")

    def __init__(self, place: Place, is_table: bool) -> None:
        self.place = place
        self.items: list[Tree] = []
        self.entries: dict[str, Entry] | None = {} if is_table else None
        self.key: tuple[str, Place] | None = None

    def add(self, tree: Tree) -> None:
        if self.entries is None:
            self.items.append(tree)
        elif self.key is not None:
            self.entries[self.key[0]] = Entry(self.key[1], tree)
            self.key = None

    def close(self) -> Tree:
        return Items(tuple(self.items), self.place) if self.entries is None else Table(self.entries, self.place)


def _build(events: Iterator[Any], file: str) -> Tree | None:
    root: Tree | None = None
    stack: list[_Open] = []
    nodes = documents = 0
    for event in events:
        place = Place(file, event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > MAX_NODES:
                raise _refused(place, f"more than {MAX_NODES:,} values", "split it with `graph:`")
            _refuse_extras(event, place)
            top = stack[-1] if stack else None
            key_wanted = top is not None and top.entries is not None and top.key is None
            if isinstance(event, yaml.ScalarEvent):
                if not is_text(event.value):  # libyaml refuses it as well
                    raise _refused(place, "half of a surrogate pair is not text", "write \\U and eight digits")
                if top is not None and key_wanted:
                    top.key = (_key(event, top, place), place)
                    continue
                scalar = Scalar(resolve(event.value, place) if event.implicit[0] else event.value, place)
                if top is None:
                    root = scalar
                else:
                    top.add(scalar)
            else:
                if key_wanted:
                    raise _refused(place, "a key cannot be a list or a table", "a key is text")
                if len(stack) == MAX_DEPTH:
                    raise _refused(place, f"nested deeper than {MAX_DEPTH}", "split it with `graph:`")
                stack.append(_Open(place, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            tree = stack.pop().close()
            if stack:
                stack[-1].add(tree)
            else:
                root = tree
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refused(place, "a second document is not allowed", "keep one document a file; remove `---`")
            if event.version or event.tags:
                raise _refused(place, "a % directive is not allowed", "remove it: a document is YAML 1.2")
    return root


def _refuse_extras(event: Any, place: Place) -> None:
    if type(event) is yaml.AliasEvent:
        raise _refused(place, f"the alias *{event.anchor} is not allowed", "write the value out, or wire a node: $name")
    if event.anchor is not None:
        raise _refused(
            place, f"the anchor &{event.anchor} is not allowed", "remove it; a value is shared by wiring: $name"
        )
    if event.tag is not None:
        raise _refused(
            place, f"the tag {event.tag} is not allowed", "remove it; put quotes around text that begins with !"
        )


def _key(event: yaml.ScalarEvent, table: _Open, place: Place) -> str:
    key: str = event.value
    if event.implicit[0]:
        if key == "<<":
            raise _refused(place, "the merge key << is not allowed", "write the keys out")
        if not isinstance(resolve(key, place), str):
            raise _refused(place, f"the key {key or '(empty)'} is not text", f'write "{key}": in quotes')
    if len(key) > MAX_KEY:
        raise _refused(place, f"a key of {len(key)} characters", f"at most {MAX_KEY} are allowed")
    if table.entries is not None and key in table.entries:
        line = table.entries[key].place.line
        raise _refused(place, f"the key {key!r} is given twice", f"the first is at line {line}; rename or remove one")
    return key


# --------------------------------------------------------------------------------------------------------------- writer


def write(value: dict[str, Any]) -> str:
    """Plain data as a document, in our one layout: `plain(parse(write(value)))` is `value`, with tuples as lists.

    Every key of the document has its line. A table that holds no other table goes on one line where it fits in 110
    columns, as does a list whose tables hold none; all else is a block. Raises DocumentError for what no
    document can hold.
    """
    _check_writable(value)
    lines: list[str] = []
    before = 1  # how many lines the key before has; around a block is a blank one
    for key, item in value.items():
        entry = _entry(key, item, WIDTH)
        lines += ["", *entry] if lines and max(before, len(entry)) > 1 else entry
        before = len(entry)
    text = "\n".join(lines or ["{}"]) + "\n"
    _check_size(len(text.encode()), Place("the document"))
    return text


def _check_writable(value: Any) -> None:
    """Raises DocumentError, naming the path of keys, for what the reader would refuse."""
    nodes, todo = 0, [(value, "", 1)]
    while todo:
        item, path, depth = todo.pop()
        nodes += 1 + (len(item) if isinstance(item, dict) else 0)
        problem = f"more than {MAX_NODES:,} values" if nodes > MAX_NODES else None
        if isinstance(item, dict | list | tuple):
            if depth > MAX_DEPTH:
                problem = f"nested deeper than {MAX_DEPTH}"
            elif isinstance(item, dict):
                bad = next((key for key in item if not is_text(key) or len(key) > MAX_KEY), None)
                if bad is not None:
                    problem = f"the key {str(bad)[:40]!r} is not text of at most {MAX_KEY} characters"
                else:
                    todo += [(part, f"{path}.{key}".lstrip("."), depth + 1) for key, part in item.items()]
            else:
                todo += [(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(item)]
        elif isinstance(item, int) and not fits(item):
            problem = "a whole number beyond 64 bits"
        elif isinstance(item, str) and not is_text(item):
            problem = "half of a surrogate pair is not text"
        elif not isinstance(item, int | float | str | None):
            problem = f"a {type(item).__name__} cannot be written; give a number, text, list or table"
        if problem:
            raise DocumentError(f"{path}: {problem}" if path else problem)


def _entry(key: str, value: Any, width: int) -> list[str]:
    """The lines of `key: value`."""
    head = spell_text(key) + ":"
    if isinstance(value, str) and (lines := literal_lines(value)):
        return [f"{head} |" if value.endswith("\n") else f"{head} |-", *_indented(lines)]
    line = _one_line(value, width - len(head) - 1)
    return [head, *_indented(_block(value, width - 2))] if line is None else [f"{head} {line}"]


def _block(value: Any, width: int) -> list[str]:
    """The lines of a table or a list."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _entry(key, item, width)]
    lines: list[str] = []
    for item in value:
        line = _one_line(item, width - 2)
        first, *rest = _block(item, width - 2) if line is None else [line]
        lines += [f"- {first}", *_indented(rest)]
    return lines


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" if line else line for line in lines]


def _one_line(value: Any, width: int) -> str | None:
    """The value in flow style, or None where it has to be a block."""
    if not isinstance(value, dict | list | tuple):
        return spell(value)
    if value and _levels(value) > 1:
        return None
    line = _flow(value)
    return line if not value or len(line) <= width else None


def _levels(value: Any) -> int:
    """How deep tables are nested in a value; text that reads best as a block counts as two."""
    if isinstance(value, dict):
        return 1 + max(map(_levels, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(_levels, value), default=0)
    return 2 if isinstance(value, str) and literal_lines(value) else 0


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{spell_text(key, in_flow=True)}: {_flow(item)}" for key, item in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    return spell(value, in_flow=True)
