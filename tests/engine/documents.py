"""Generates graph documents of the arith package, as plain data: every form, any depth, whatever values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(max_size=6) | st.sampled_from(
    ["$", "$x", "$$", "null", "1", "1e3", "no", "a: b", " ", "#", "\n", "ä", "0x1"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
LITERALS = SCALARS | st.lists(SCALARS, max_size=3) | st.lists(st.lists(SCALARS, max_size=2), max_size=2)


def escaped(value: Any) -> Any:
    """A literal as a document writes it: a dollar in front is doubled."""
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return "$" + value if isinstance(value, str) and value.startswith("$") else value


@st.composite
def arguments(draw: st.DrawFn, names: list[str]) -> Any:
    """A literal, a reference to one of the names, or a list of these."""
    if names and draw(st.booleans()):
        path = draw(st.lists(NAMES, max_size=2))
        return "$" + ".".join([draw(st.sampled_from(names)), *path])
    if names and draw(st.integers(0, 4)) == 0:
        return [draw(arguments(names)) for _ in range(draw(st.integers(1, 3)))]
    return escaped(draw(LITERALS))


@st.composite
def tables(draw: st.DrawFn, names: list[str], keys: list[str] | None = None, least: int = 0) -> dict[str, Any]:
    """Arguments by name."""
    found = keys if keys is not None else draw(st.lists(NAMES, min_size=least, max_size=3, unique=True))
    return {key: draw(arguments(names)) for key in found}


@st.composite
def nodes(draw: st.DrawFn, names: list[str], depth: int) -> dict[str, Any]:
    """One node of any form."""
    forms = ["node", "call", "graph"] if names else ["node", "graph"]
    form = draw(st.sampled_from(forms + (["loop", "map", "when", "grad"] if depth else [])))
    if form in ("node", "call", "graph"):
        target: Any = draw(st.sampled_from(["arith.Add", "arith.Pass", "arith.Nothing", "parts/a.yaml"]))
        if form == "call":
            target = "$" + ".".join([draw(st.sampled_from(names)), *draw(st.lists(NAMES, max_size=1))])
        reserved = ("node", "call", "graph", "loop", "map", "when", "grad")
        keys = draw(st.lists(NAMES.filter(lambda name: name not in reserved), max_size=3, unique=True))
        return {form: target, **draw(tables(names, keys))}
    return draw(bodies(form, names, depth - 1))


@st.composite
def bodies(draw: st.DrawFn, form: str, names: list[str], depth: int) -> dict[str, Any]:
    """A loop, a map, a branch or a gradient."""
    out: dict[str, Any] = {form: draw(arguments(names))}
    own: list[str] = []
    if form != "when":
        out["as"] = draw(NAMES)
        own.append(out["as"])
    if form == "loop":
        out["carry"] = draw(
            tables(names, draw(st.lists(NAMES.filter(lambda n: n not in own), min_size=1, max_size=2, unique=True)))
        )
        own += list(out["carry"])
    inside = draw(scopes([*names, *own], depth))
    out["nodes"] = inside
    seen = [*names, *own, *inside]
    if form == "loop":
        out["next"] = draw(tables(seen, list(out["carry"])))
        if draw(st.booleans()):
            out["collect"] = draw(
                tables(seen, draw(st.lists(NAMES.filter(lambda n: n not in own), min_size=1, max_size=2, unique=True)))
            )
    elif form == "grad":
        out["of"] = draw(arguments(seen))
    else:
        out["outputs"] = draw(tables(seen, least=1))
        if form == "when" and draw(st.booleans()):
            other = draw(scopes(names, depth))
            out["else"] = {"nodes": other, "outputs": draw(tables([*names, *other], list(out["outputs"])))}
    return out


@st.composite
def scopes(draw: st.DrawFn, names: list[str], depth: int) -> dict[str, Any]:
    """Nodes by name, each of which refers to names around it and to those before it."""
    out: dict[str, Any] = {}
    for name in draw(st.lists(NAMES.filter(lambda n: n not in names), max_size=4, unique=True)):
        out[name] = draw(nodes([*names, *out], depth))
    return out


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Any]:
    """Declared inputs by name."""
    out: dict[str, Any] = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        spec: dict[str, Any] = {
            "type": draw(st.sampled_from(["int", "float", "text", "bool", "Vector", "list[float]", "choice"]))
        }
        if draw(st.booleans()):
            spec["default"] = draw(LITERALS)
        for key in draw(st.sets(st.sampled_from(["min", "max"]))):
            spec[key] = draw(st.integers(-9, 9) | st.floats(-9, 9))
        if draw(st.booleans()):
            spec["choices"] = draw(st.lists(SCALARS, min_size=1, max_size=3))
        if draw(st.booleans()):
            spec["help"] = draw(TEXTS.filter(bool))
        if draw(st.booleans()):
            spec["secret"] = True
        out[name] = spec
    return out


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A whole document without mistakes of structure."""
    out: dict[str, Any] = {"diffgraph": 1}
    for key in draw(st.sets(st.sampled_from(["name", "summary"]))):
        out[key] = draw(TEXTS.filter(bool))
    if draw(st.booleans()):
        out["requires"] = {"arith": ">=1"}
    out["inputs"] = draw(inputs())
    if draw(st.booleans()):
        out["variants"] = {draw(NAMES): draw(st.dictionaries(NAMES, LITERALS, max_size=2))}
    out["nodes"] = draw(scopes(list(out["inputs"]), 2))
    out["outputs"] = draw(tables([*out["inputs"], *out["nodes"]], least=1))
    return {key: value for key, value in out.items() if value or key == "nodes"}
