"""Types, symbolic shapes and facts: what may meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgraph.authoring import Bound, Fact, File, Kind, node
from diffgraph.checking.dims import Dim, parse_dim
from diffgraph.checking.unify import Mismatch, Unifier, Use, Value, literal_value
from diffgraph.describe import describe_signature, read_annotation
from diffgraph.ports import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    TEXT,
    UNSET,
    Port,
    Type,
    compatible,
    literal_problem,
    port_from_json,
    port_to_json,
)

Thing = Annotated[Any, Kind("Thing")]
Special = Annotated[Any, Kind("Special", of="Thing")]
Amount = Annotated[int | float | str, Kind("Amount")]
Turns = Annotated[int | str, Kind("Turns")]
Once = Annotated[Any, Kind("Once", once=True)]
T = TypeVar("T")


class Pair(NamedTuple):
    left: Annotated[Thing, "A B"]
    right: float = 1.0


def port(annotation: Any, default: Any = UNSET) -> Port:
    return read_annotation(annotation, "test", default)


# --- annotations


@pytest.mark.parametrize(
    ("annotation", "written"),
    [
        (int, "int"), (float, "float"), (str, "text"), (bool, "bool"), (File, "file"), (Any, "anything"), (T, "anything"),
        (int | float, "float"), (list[int], "list of int"), (Sequence[str], "list of text"), (tuple[int, ...], "list of int"),
        (Literal["a", "b"], "one of 'a', 'b'"), (Thing, "Thing"), (list[Thing], "list of Thing"), (Pair, "Pair"),
    ],
)  # fmt: skip
def test_an_annotation_is_a_type(annotation: Any, written: str) -> None:
    assert str(port(annotation).type) == written


def test_marks_of_an_annotation() -> None:
    found = port(Annotated[Special, "B 2*C", Fact(unit="metre"), Fact(colour="?c")])
    assert (found.type.name, found.type.of, found.shape) == ("Special", "Thing", "B 2*C")
    assert found.facts == (("colour", "?c"), ("unit", "metre"))
    assert port(Annotated[float, Bound(ge=0, lt=1)]).bound == Bound(ge=0, lt=1)
    assert port(Once).type.once


def test_optional_inputs() -> None:
    assert port(float | None, None).optional
    assert not port(float | None, None).required
    found = port(Annotated[Thing, "B"] | None)
    assert (found.type.name, found.shape, found.optional) == ("Thing", "B", True)


def test_a_kind_may_have_literals() -> None:
    assert port(Amount).type.literals == ("float", "int", "text")
    assert port(Thing).type.literals == ()


def test_a_record_has_the_ports_of_its_fields() -> None:
    fields = dict(port(Pair).type.fields)
    assert fields["left"].shape == "A B"
    assert fields["right"].default == 1.0


@pytest.mark.parametrize("annotation", [dict[str, int], object, int | str, set[int]])
def test_what_no_wire_can_carry_is_refused_where_it_is_declared(annotation: Any) -> None:
    with pytest.raises(TypeError, match="^test"):
        port(annotation)


def test_every_input_and_the_output_are_annotated() -> None:
    def bare(x):  # type: ignore[no-untyped-def]
        return x

    def silent(x: int):  # type: ignore[no-untyped-def]
        return x

    def open_(*x: int) -> int:
        return x[0]

    for function, what in ((bare, "no annotation"), (silent, "output has no annotation"), (open_, "cannot be a port")):
        with pytest.raises(TypeError, match=what):
            describe_signature(function, "f")


def test_a_node_is_named_in_cap_words() -> None:
    with pytest.raises(ValueError, match="CapWords"):
        node("add_one", version=1)


def test_ports_survive_the_index() -> None:
    for annotation in (Pair, Amount, Annotated[float, Bound(gt=0)], list[Special], Literal["a", 1], Once, float | None):
        found = port(annotation, None)
        assert port_from_json(port_to_json(found)) == found


# --- dimensions


def symbol(name: str) -> str:
    return name


@pytest.mark.parametrize(
    ("text", "written"),
    [("3", "3"), ("B", "B"), ("2*B", "2*B"), ("H/8", "H/8"), ("B+1", "1+B"), ("2*H-2*H", "0"), ("B*C", "B*C"), ("8*H/8", "H"),
     ("2**3", "8"), ("2**3/4*H", "2*H"), ("1+2**0", "2")],
)  # fmt: skip
def test_dimensions_are_arithmetic(text: str, written: str) -> None:
    assert str(parse_dim(text, symbol)) == written


@pytest.mark.parametrize("text", ["B**2", "+", "B C", "H/W", "2.5", "H/0", "", "B+", "*B", "B*"])
def test_what_is_no_dimension(text: str) -> None:
    with pytest.raises(ValueError, match="is no dimension"):
        parse_dim(text, symbol)


def test_the_number_of_items_of_a_list() -> None:
    unifier = Unifier()
    use = Use(unifier, {"widths": (8, 16, 32), "names": Dim.of("?names#part")}, identity="part")
    assert use.dims("#widths 2**#widths/2") == (Dim.of(3), Dim.of(4))
    (unknown,) = use.dims("2**#names/2*H")
    assert str(unknown) == "2**#names*H/2"
    assert unifier.equate(unknown, Dim.of(5))


def test_a_shape_is_read_where_it_is_declared() -> None:
    assert port(Annotated[Thing, "B *shape ... 2*H"]).shape == "B *shape ... 2*H"
    for shape in ("B C*", "2.5", "*2"):
        with pytest.raises(TypeError, match="^test: .* is no dimension"):
            port(Annotated[Thing, shape])


def meet(
    shape: Sequence[int | str], wanted: str, unifier: Unifier | None = None, names: dict[str, Any] | None = None
) -> str | None:
    """What is wrong with a value of this shape at a port of that one."""
    unifier = unifier or Unifier()
    value = Value(Type("kind", "Thing"), tuple(Dim.of(d) for d in shape))
    try:
        unifier.meet(value, Port(Type("kind", "Thing"), wanted), Use(unifier, names))
    except Mismatch as mismatch:
        return str(mismatch)
    return None


def test_shapes_meet() -> None:
    assert meet([2, 3], "B C") is None
    assert meet([2, 3], "2 3") is None
    assert meet([2, 2], "N N") is None
    assert meet([6], "2*N") is None
    assert meet([4, 1, 2, 3], "B ...") is None
    assert meet([4, 3], "B size", names={"size": 3}) is None
    assert meet([4, 3, 8, 8], "B *shape", names={"shape": [3, 8, 8]}) is None


def test_shapes_that_do_not_meet() -> None:
    assert meet([2, 3], "N N") == "expected shape [N, N], got [2, 3]"
    assert meet([2, 3], "B") == "expected shape [B], got [2, 3]"
    assert meet([5], "2*N") == "expected shape [2*N], got [5]"
    assert meet([4, 4], "B size", names={"size": 3}) == "expected shape [B, 3], got [4, 4]"
    assert meet([4, 3, 8, 9], "B *shape", names={"shape": [3, 8, 8]}) == "expected shape [B, 3, 8, 8], got [4, 3, 8, 9]"
    assert meet([], "B ...") == "expected shape [B, ...], got []"


def test_names_are_fresh_for_each_use_and_equal_within_one() -> None:
    unifier = Unifier()
    assert meet([2], "N", unifier) is None
    assert meet([3], "N", unifier) is None
    use, thing = Use(unifier), Type("kind", "Thing")
    unifier.meet(Value(thing, (Dim.of(2),)), Port(thing, "N"), use)
    with pytest.raises(Mismatch, match=r"expected shape \[2\], got \[3\]"):
        unifier.meet(Value(thing, (Dim.of(3),)), Port(thing, "N"), use)


def test_wires_carry_what_a_use_found_out() -> None:
    unifier, thing = Unifier(), Type("kind", "Thing")
    use = Use(unifier)
    out = unifier.instance(Port(thing, "4*N"), use)
    unifier.meet(Value(thing, (Dim.of(3),)), Port(thing, "N"), use)
    assert [str(d) for d in unifier.resolve(out.dims)] == ["12"]


def test_a_symbol_of_the_user_stands_for_every_number() -> None:
    """What holds for 2 must hold for every count that a user may give."""
    assert meet(["steps"], "2") == "expected shape [2], got [steps]"
    assert meet(["steps"], "N") is None
    assert meet(["steps", "steps"], "N N") is None
    assert meet(["steps", "size"], "N N") == "expected shape [N, N], got [steps, size]"


def test_a_failed_match_leaves_nothing_behind() -> None:
    unifier = Unifier()
    moment = unifier.snapshot()
    use, thing = Use(unifier), Type("kind", "Thing")
    unifier.meet(Value(thing, (Dim.of(2),)), Port(thing, "N"), use)
    unifier.restore(moment)
    unifier.meet(Value(thing, (Dim.of(3),)), Port(thing, "N"), use)


numbers = st.integers(0, 50)


@given(numbers, numbers, st.integers(1, 6))
def test_arithmetic_is_that_of_whole_numbers(a: int, b: int, c: int) -> None:
    values = {"A": a, "B": b}
    total = parse_dim(f"{c}*A+B", values.__getitem__)
    assert total.constant == c * a + b
    assert (parse_dim("A-B", values.__getitem__) + b).constant == a
    unifier = Unifier()
    assert unifier.equate(parse_dim(f"{c}*A+B", lambda n: f"?{n}#1" if n == "A" else b), Dim.of(c * a + b))
    assert unifier.dim(Dim.of("?A#1")).constant == a


@given(st.lists(numbers, max_size=5), st.lists(numbers, max_size=5))
def test_shapes_of_numbers_meet_where_they_are_equal(left: list[int], right: list[int]) -> None:
    assert (meet(left, " ".join(map(str, right))) is None) == (left == right)


# --- facts


def facts(
    given: dict[str, str], wanted: dict[str, str], unifier: Unifier | None = None, use: Use | None = None
) -> str | None:
    unifier = unifier or Unifier()
    value = Value(Type("kind", "Thing"), facts=given)
    try:
        unifier.meet(value, Port(Type("kind", "Thing"), facts=tuple(wanted.items())), use or Use(unifier))
    except Mismatch as mismatch:
        return str(mismatch)
    return None


def test_facts_meet() -> None:
    assert facts({"unit": "metre"}, {"unit": "metre"}) is None
    assert facts({}, {"unit": "metre"}) is None, "an unknown fact fits anything"
    assert facts({"unit": "metre"}, {}) is None
    assert facts({"unit": "foot"}, {"unit": "metre"}) == "expected unit metre, got foot"


def test_a_variable_is_the_same_in_all_ports_of_one_use() -> None:
    unifier = Unifier()
    use = Use(unifier)
    assert facts({"unit": "metre"}, {"unit": "?u"}, unifier, use) is None
    assert facts({"unit": "foot"}, {"unit": "?u"}, unifier, use) == "expected unit metre, got foot"
    assert facts({"unit": "foot"}, {"unit": "?u"}, unifier, Use(unifier)) is None


def test_facts_of_config_fields() -> None:
    unifier = Unifier()
    use = Use(unifier, {"kind": "linear", "start": 0.1, "end": 1.0}, identity="unet")
    assert use.fact("$kind from $start to $end") == "linear from 0.1 to 1"
    assert use.fact("$missing") is None
    assert use.fact("@self") == "@unet"


def test_a_variable_is_the_components_own_fact_where_it_has_one() -> None:
    unifier = Unifier()
    own = Use(unifier, {}, "unet", {"unit": "metre"})
    assert facts({"unit": "metre"}, {"unit": "?unit"}, unifier, own) is None
    assert facts({"unit": "foot"}, {"unit": "?unit"}, unifier, own) == "expected unit metre, got foot"
    assert facts({"unit": "foot"}, {"unit": "?other"}, unifier, own) is None


# --- types and literals


def test_compatible_types() -> None:
    thing, special = Type("kind", "Thing"), Type("kind", "Special", of="Thing")
    for have, want in ((INT, FLOAT), (thing, special), (special, thing), (ANY, INT), (INT, ANY)):
        assert compatible(have, want)
    assert compatible(Type("choice", options=("a",)), Type("choice", options=("a", "b")))
    assert compatible(Type("choice", options=("a",)), TEXT)
    others = Type("kind", "Other"), Type("kind", "Cousin", of="Thing")
    for have, want in (
        (FLOAT, INT),
        (BOOL, INT),
        (TEXT, INT),
        (thing, others[0]),
        (special, others[1]),
        (thing, FLOAT),
    ):
        assert not compatible(have, want)


def test_a_record_fits_another_by_its_fields() -> None:
    wide = Type("record", "Wide", fields=(("a", Port(INT)), ("b", Port(TEXT))))
    narrow = Type("record", "Narrow", fields=(("a", Port(FLOAT)),))
    assert compatible(wide, narrow)
    assert not compatible(narrow, wide)


@pytest.mark.parametrize(
    ("value", "annotation", "problem"),
    [
        (1, float, None), (1.5, int, "expected int, got 1.5"), (True, int, "expected int, got True"),
        (1, bool, "expected bool, got 1"), ("a", str, None), ("a", Literal["a"], None),
        ("b", Literal["a"], "expected one of 'a', got 'b'"), ([1, 2], list[float], None),
        ([1, "a"], list[int], "expected int, got text 'a'"), (3, list[int], "expected list of int, got 3"),
        (2, Annotated[int, Bound(ge=3)], "2 must be at least 3"), (3, Annotated[int, Bound(gt=3)], "3 must be greater than 3"),
        (4, Annotated[int, Bound(le=3)], "4 must be at most 3"), (3, Annotated[int, Bound(lt=3)], "3 must be less than 3"),
        (float("nan"), float, "nan is not a finite number"), (float("-inf"), float, "-inf is not a finite number"),
        (1, Thing, "expected Thing, got 1"), (1, Amount, None), ("dozen", Amount, None),
        (1.5, Turns, "expected Turns (int or text), got 1.5"), (None, float, "expected float, got null"),
        (None, float | None, None),
    ],
)  # fmt: skip
def test_literals(value: Any, annotation: Any, problem: str | None) -> None:
    assert literal_problem(value, port(annotation)) == problem


def test_the_type_of_a_literal() -> None:
    for value, kind in ((True, BOOL), (1, INT), (1.0, FLOAT), ("a", TEXT)):
        assert literal_value(value).type == kind
    assert literal_value(None).type.name == "none"
    assert literal_value([1, 2]).type.form == "list"
