"""Texts as the captions were that a model saw in training. Imports no torch."""

from __future__ import annotations

from ...authoring import node


@node("LowerCase", version=1)
def lower_case(text: str) -> str:
    """A text in small letters, without blanks around it: what DeepFloyd IF and Imagen's captions had at least.

    text: any. Returns it by Unicode's rules for small letters.
    """
    return text.lower().strip()
