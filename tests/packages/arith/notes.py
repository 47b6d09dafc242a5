"""Notes: a kind with a reader and a writer. Imports no torch."""

from __future__ import annotations

from diffgraph.authoring import node, reader, writer
from diffgraph.errors import PortError

from .kinds import Note, Page


@reader("Note", suffixes=(".txt",))
def read_note(data: bytes) -> Page:
    """A note from a text file. Raises PortError for one that is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise PortError("note", "is not UTF-8") from None
    return Page(text, len(text.splitlines()))


@writer("Note", suffix=".txt")
def write_note(value: Page, metadata: dict[str, str]) -> list[bytes]:
    """One text file, with what is known of its origin at the end."""
    return ["\n".join([value.text, *(f"# {key}" for key in sorted(metadata))]).encode()]


@node("MakeNote", version=1)
def make_note(text: str) -> Note:
    """A note of a text."""
    return Page(text, len(text.splitlines()))


@node("NoteText", version=1)
def note_text(note: Note) -> str:
    """The text of a note."""
    return note.text
