"""Scalars of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/, section 10.3): what they mean, how they are spelt.

`1e-4` is a number, `no`, `on` and `16:9` are text, `0777` is 777: unlike in YAML 1.1 and in PyYAML as it comes.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import DocumentError, Place

MAX_NUMBER = 400  # characters

Plain = None | bool | int | float | str

# Printable characters of YAML 1.2 less the tab, less what 1.1 takes for a line's end, less a byte order mark inside.
UNPRINTABLE = re.compile("[^\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | dict.fromkeys((f"{sign}.{word}" for sign in ("", "+") for word in ("inf", "Inf", "INF")), math.inf)
    | dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
)
_NO_START = frozenset("-?:,[]{}#&*!|>'\"%@`")
_ENDS_TEXT = re.compile(r":\s|:$|\s#")
_ENDS_TEXT_IN_FLOW = re.compile(r":\s|:$|\s#|[,?\[\]{}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r'[\\"\n\r]|' + UNPRINTABLE.pattern)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def resolve(text: str, place: Place) -> Plain:
    """What a scalar without quotes means. Raises DocumentError for a number too big."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-.":
        return text
    is_int = _INT.fullmatch(text)
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER:
        raise DocumentError(
            f"a number of {len(text)} characters", hint=f"at most {MAX_NUMBER} are allowed", place=place
        )
    if is_int:
        whole = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if not fits(whole):
            raise DocumentError("a whole number beyond 64 bits", hint="-2^63 to 2^64 - 1 are allowed", place=place)
        return whole
    number = float(text)
    if math.isinf(number):
        raise DocumentError(f"the number {text} is beyond 1.8e308", hint="give a smaller one", place=place)
    return number


def fits(whole: int) -> bool:
    """Whether a whole number is one of 64 bits, with a sign or without."""
    return -(2**63) <= whole < 2**64


def is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can hold."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def spell(value: Plain, *, in_flow: bool = False) -> str:
    """A value as the reader will read it. `in_flow`: between brackets, where more text needs quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        word = float.__repr__(value)
        return word if math.isfinite(value) else word.replace("inf", ".inf").replace("nan", ".nan")
    return spell_text(value, in_flow=in_flow)


def spell_text(value: str, *, in_flow: bool = False) -> str:
    """Text as the reader will read it, in double quotes only where it would read as something else without."""
    text = str.__str__(value)
    if (
        text not in _WORDS
        and text[0] not in _NO_START
        and text == text.strip()
        and text != "<<"
        and not text.startswith("...")
        and not (_ENDS_TEXT_IN_FLOW if in_flow else _ENDS_TEXT).search(text)
        and not UNPRINTABLE.search(text)
        and not _INT.fullmatch(text)
        and not _FLOAT.fullmatch(text)
        and not ("\n" in text or "\r" in text)
    ):
        return text
    return '"' + _ESCAPED.sub(lambda found: _ESCAPES.get(found.group()) or f"\\u{ord(found.group()):04x}", text) + '"'


def literal_lines(text: str) -> list[str] | None:
    """The lines of text that a literal block `|` holds as it is: several, no blank at an end."""
    if "\n" not in text or "\r" in text or UNPRINTABLE.search(text):
        return None
    lines = str.__str__(text).removesuffix("\n").split("\n")
    is_clean = lines[0] and lines[-1] and lines[0][0] != " " and all(line == line.rstrip() for line in lines)
    return lines if is_clean else None
