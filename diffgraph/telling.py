"""What may be told: texts and errors without secrets, whatever these are. Imports nothing that knows a graph."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Sequence

from .errors import DiffgraphError

HIDDEN = "***"


def hidden(text: str, secrets: Sequence[str]) -> str:
    """A text with stars in place of secrets, as they stand there themselves or quoted; short ones as whole words."""
    forms = {form for one in secrets for form in (one, repr(one)[1:-1], json.dumps(one)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        pattern = re.escape(form) if len(form) > 3 else rf"(?<!\w){re.escape(form)}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return text


def hide(error: DiffgraphError, secrets: Sequence[str]) -> None:
    """Takes secrets out of an error. Where one that led to it tells a secret, its traceback stays as a note, with stars."""
    if not secrets:
        return
    error.message = hidden(error.message, secrets)
    error.hint = hidden(error.hint, secrets) if error.hint is not None else None
    error.args = (error.message,)
    beneath = error.__cause__ or error.__context__
    if beneath is not None:
        trace = "".join(traceback.format_exception(beneath))
        if (told := hidden(trace, secrets)) != trace:
            error.__cause__ = error.__context__ = None
            error.add_note(told)
