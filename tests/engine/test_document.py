"""The strict reader and writer: what YAML 1.2 means, what is refused and where, and that what is written reads back."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgraph.errors import DocumentError, Place
from diffgraph.language import document
from diffgraph.language.document import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_KEY,
    MAX_NODES,
    Items,
    Scalar,
    Table,
    parse,
    plain,
    read,
    write,
)

ROOT = Path(document.__file__).parents[1]
PARSERS = {"libyaml": getattr(yaml, "CSafeLoader", yaml.SafeLoader), "python": yaml.SafeLoader}


@pytest.fixture(params=list(PARSERS))
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with PyYAML's C parser and with its Python one."""
    monkeypatch.setattr(document, "_Parser", PARSERS[request.param])
    return str(request.param)


def load(text: str | bytes) -> Any:
    return plain(parse(text.encode() if isinstance(text, str) else text, "a.yaml"))


def refusal(data: str | bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        parse(data.encode() if isinstance(data, str) else data, "a.yaml")
    assert caught.value.hint
    return caught.value


# YAML 1.2.2, section 10.3.2, and the words that YAML 1.1 reads otherwise.
SCALARS: list[tuple[str, Any]] = [
    *((word, None) for word in ("", "~", "null", "Null", "NULL")),
    *((word, True) for word in ("true", "True", "TRUE")),
    *((word, False) for word in ("false", "False", "FALSE")),
    *((word, word) for word in ("no", "yes", "on", "off", "Yes", "NO", "y", "n", "tRUE", "nULL", "none")),
    *((word, word) for word in ("16:9", "1:30:00", "2026-01-02", "1_000", "0b11", "0o9", "0xg", "-0x1", "+0o7", "=")),
    *(
        (word, word)
        for word in (".", "1e", "e1", "1e+", "--1", "+", "-.", ".e1", "inf", "nan", ".iNF", "+.nan", "1.2.3")
    ),
    *((word, word) for word in ("$name", "$$x", "hf://a/b@v1", "a: b".replace(": ", ":"), "a#b", "x y", "٣")),
    *(("0", 0), ("-0", 0), ("+12", 12), ("0777", 777), ("-19", -19), ("0o777", 511), ("0xFf", 255)),
    *((f"{2**64 - 1}", 2**64 - 1), (f"{-(2**63)}", -(2**63))),
    *(("1e-4", 1e-4), ("1E3", 1000.0), ("12e03", 12000.0), ("1.", 1.0), (".5", 0.5), ("-.5e1", -5.0), ("+1.5", 1.5)),
    *((".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf)),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_core_schema(text: str, value: Any, parser: str) -> None:
    for source in (f"a: {text}", f"a: [{text}, 1]" if text else "a: [~]"):
        found = load(source)["a"]
        found = found[0] if isinstance(found, list) else found
        assert (found, type(found)) == (value, type(value))


def test_nan_and_quotes(parser: str) -> None:
    assert all(math.isnan(item) for item in load("a: [.nan, .NaN, .NAN]")["a"])
    assert load("""a: ['1', "true", '~', "", '<<', "x\\ty", '$$']""")["a"] == ["1", "true", "~", "", "<<", "x\ty", "$$"]
    assert load("a: >\n  one\n  two\nb: |-\n  x\n   y\n") == {"a": "one two\n", "b": "x\n y"}


def test_every_value_keeps_its_place(parser: str) -> None:
    tree = parse(b"a: 1\nnodes:\n  x: {node: Add,\n    b: [2, $y]}\n", "g.yaml")
    assert isinstance(tree, Table)
    assert tree.place == Place("g.yaml", 1, 1)
    nodes = tree.entries["nodes"]
    assert isinstance(nodes.tree, Table)
    x = nodes.tree.entries["x"]
    assert (x.place, x.tree.place) == (Place("g.yaml", 3, 3), Place("g.yaml", 3, 6))
    assert isinstance(x.tree, Table)
    b = x.tree.entries["b"]
    assert isinstance(b.tree, Items)
    assert (b.place, b.tree.place) == (Place("g.yaml", 4, 5), Place("g.yaml", 4, 8))
    assert b.tree.items == (Scalar(2, Place("g.yaml", 4, 9)), Scalar("$y", Place("g.yaml", 4, 12)))


def test_columns_count_characters_and_a_byte_order_mark_none(parser: str) -> None:
    tree = parse("\ufeff{é😀: 1, b: 2}\r\n".encode(), "g.yaml")
    assert isinstance(tree, Table)
    assert tree.entries["b"].place == Place("g.yaml", 1, 9)


REFUSED: list[tuple[str | bytes, int, int, str]] = [
    ("a: 1\nb: 2\na: 3", 3, 1, "the key 'a' is given twice"),
    ("a: {b: 1, 'b': 2}", 1, 11, "the key 'b' is given twice"),
    ("1: x", 1, 1, "the key 1 is not text"),
    ("a: {true: x}", 1, 5, "the key true is not text"),
    ("? \n: x", 1, 2, "the key (empty) is not text"),
    ("[1, 2]: x", 1, 1, "a key cannot be a list or a table"),
    ("? {a: 1}\n: x", 1, 3, "a key cannot be a list or a table"),
    ("a: !!int 3", 1, 4, "the tag tag:yaml.org,2002:int is not allowed"),
    ("a: !!python/object/apply:os.system [id]", 1, 4, "the tag tag:yaml.org,2002:python/object/apply:os.system"),
    ("a: ! 3", 1, 4, "the tag ! is not allowed"),
    ("!x {a: 1}", 1, 1, "the tag !x is not allowed"),
    ("a: &x 1", 1, 4, "the anchor &x is not allowed"),
    ("a: &x {b: 1}", 1, 4, "the anchor &x is not allowed"),
    ("a: *x", 1, 4, "the alias *x is not allowed"),
    ("*x : 1", 1, 1, "the alias *x is not allowed"),
    ("a:\n  <<: {b: 1}", 2, 3, "the merge key << is not allowed"),
    ("a: 1\n---\nb: 2", 2, 1, "a second document is not allowed"),
    ("%YAML 1.1\n---\na: 1", 1, 1, "a % directive is not allowed"),
    ("%TAG ! tag:x,2000:\n---\na: 1", 1, 1, "a % directive is not allowed"),
    ("a: 1\n\tb: 2", 2, 1, "a tab is not allowed"),
    ("a:\tb", 1, 3, "a tab is not allowed"),
    (b"a: \0", 1, 4, "a NUL character is not text"),
    (b"a: \x07", 1, 4, "U+0007"),
    ("a: b\u2028c: d", 1, 5, "U+2028"),
    ("a: b\x85c: d", 1, 5, "U+0085"),
    ("a: \ufeff", 1, 4, "U+FEFF"),
    ("a:\n  é: é\n".encode("latin-1"), 2, 3, "not UTF-8: byte 0xe9 at offset 5"),
    (b"\xef\xbb\xbfa: \xff", 1, 4, "not UTF-8: byte 0xff at offset 6"),
    (b"a: \xf0\x9f", 1, 4, "not UTF-8: byte 0xf0 at offset 3"),
    (b"a: \xed\xa0\x80", 1, 4, "not UTF-8"),
    ("a: 1".encode("utf-16"), 1, 1, "encoded as UTF-16"),
    ("a: 1".encode("utf-32"), 1, 1, "encoded as UTF-16 or UTF-32"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 1, 1, "not UTF-8: byte 0x89 at offset 0"),
    ("a: 1e999", 1, 4, "beyond 1.8e308"),
    ("a: 18446744073709551616", 1, 4, "beyond 64 bits"),
    ("a: -9223372036854775809", 1, 4, "beyond 64 bits"),
    ("a: 0x10000000000000000", 1, 4, "beyond 64 bits"),
    ("a: " + "1" * 5000, 1, 4, "a number of 5000 characters"),
    ("a: 0." + "1" * 5000, 1, 4, "a number of 5002 characters"),
    ("a" * (MAX_KEY + 1) + ": 1", 1, 1, f"a key of {MAX_KEY + 1} characters"),
    ("a: 'x\n", 2, 1, "ends inside a quoted scalar that begins at line 1, column 4"),
    ("a: [1, 2", 1, 9, "ends inside a flow sequence that begins at line 1, column 4"),
    ("nodes:\n  a: {node: Add, b: $", 2, 22, "ends inside a flow mapping that begins at line 2, column 6"),
    ("a: b: c", 1, 5, "mapping values are not allowed"),
    ("a:\n  b: 1\n c: 2", 3, 2, "not YAML"),
    ("a: @x", 1, 4, "cannot start any token"),
    ('a: "\\q"', 1, 5, "unknown escape character"),
    ("a: 1\n...\nb", 3, 1, "not YAML"),
]


@pytest.mark.parametrize(("data", "line", "column", "message"), REFUSED)
def test_refused_with_place(data: str | bytes, line: int, column: int, message: str) -> None:
    error = refusal(data)
    assert message in error.message
    assert (error.place and error.place.file) == "a.yaml"
    if "ends inside" not in message:
        assert error.place == Place("a.yaml", line, column)
    assert str(error).startswith(f"a.yaml:{error.place.line}:{error.place.column}  ")  # type: ignore[union-attr]


@pytest.mark.parametrize("data", [data for data, *_ in REFUSED])
def test_refused_without_libyaml_too(data: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_Parser", yaml.SafeLoader)
    refusal(data)


@pytest.mark.parametrize("data", ["", "  \n", "# only a remark\n", "---\n", "\ufeff", "~", "null"])
def test_empty(data: str, parser: str) -> None:
    assert refusal(data).message == "empty"


@pytest.mark.parametrize("escape", [r"\ud800", r"\UFFFFFFFF", r"\U00110000", r"\ud83d\ude00", r"\x1"])
def test_escapes_of_what_is_no_character(escape: str, parser: str) -> None:
    assert refusal(f'a: "{escape}"').message


def test_depth() -> None:
    ok = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert load(f"a: {ok}")
    assert refusal(f"a: [{ok}]").message == f"nested deeper than {MAX_DEPTH}"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[{a: ", "a:\n"])
def test_a_deep_file_neither_crashes_nor_lasts(opening: str) -> None:
    """200,000 `[` overflow the C stack of PyYAML's composer; in a process of its own, for then this would kill it."""
    code = (
        "import sys\nfrom diffgraph.language.document import parse\nfrom diffgraph.errors import DocumentError\n"
        f"text = ({opening!r} * 200000)[:4000000] if '\\n' not in {opening!r} else "
        "''.join(' ' * depth + 'a:\\n' for depth in range(2000))\n"
        "try: parse(text.encode(), 'a')\nexcept DocumentError as error: sys.stdout.write(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"nested deeper than {MAX_DEPTH}"


def test_count_and_size() -> None:
    assert refusal("[" + "1," * MAX_NODES + "]").message == f"more than {MAX_NODES:,} values"
    assert refusal(b"#" * (MAX_BYTES + 1)).message == "larger than 4 MiB"
    assert refusal("a: [" * 3 + "x, " * 200_000).message  # cut off and too many


def test_bombs() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "anchor" in refusal("\n".join(lines)).message
    for data in (b"'" * MAX_BYTES, b"\n" * MAX_BYTES, b"-" * MAX_BYTES, b"?" * MAX_BYTES, b"1" * MAX_BYTES):
        with contextlib.suppress(DocumentError):
            parse(data, "a.yaml")


def test_two_thousand_nodes() -> None:
    text = "nodes:\n" + "".join(f"  n{i}: {{node: Add, a: $n{i - 1}, b: 1.5}}\n" for i in range(2000))
    assert write(plain(parse(text.encode(), "a.yaml"))) == text


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_of_a_document_breaks_out(data: st.DataObject) -> None:
    source = bytearray(write(GRAPH).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source)))
        cut = data.draw(st.integers(0, 6))
        pool = st.sampled_from(
            ["[", "{", "}", "]", ": ", "- ", "&a", "*a", "!", "<<", '"', "'", "|", ">", "%", "\n", "?", "\t"]
        )
        source[at : at + cut] = data.draw(
            st.binary(max_size=4) | pool.map(str.encode) | st.text(max_size=3).map(str.encode)
        )
    with contextlib.suppress(DocumentError):
        repr(plain(parse(bytes(source), "a.yaml")))


# ------------------------------------------------------------------------------------------------------------- writing

GRAPH: dict[str, Any] = {
    "diffgraph": 1,
    "name": "tiny",
    "summary": "Text to 64x64, then to 256x256 (Nichol et al. 2021, arXiv:2112.10741)",
    "inputs": {
        "prompt": {"type": "text"},
        "negative_prompt": {"type": "text", "default": ""},
        "scale": {"type": "float", "default": 3.0, "min": 1, "help": "uncond + scale * (cond - uncond), 1 is off"},
        "letter": {"type": "text", "default": "Dear reader,\n\nnothing.\n"},
    },
    "variants": {"demo": {"weights": "pkg://diffgraph/weights/demo", "set": {"ddim.node": "PNDM"}}, "openai": {}},
    "nodes": {
        "base": {"node": "UNet", "weights": "$weights/base", "adapters": [{"weights": "hf://a/b@v1", "scale": 0.8}]},
        "start": {"node": "Text", "value": "no", "price": "$$5", "rate": 1e-4, "flags": [True, None, "null"]},
        "small": {
            "graph": "parts/guided.yaml",
            "model": "$base",
            "scheduler": "$ancestral",
            "condition": "$text",
            "uncondition": "$no_text",
            "guidance_scale": "$guidance_scale",
        },
        "denoise": {
            "loop": "$schedule",
            "as": "step",
            "carry": {"sample": "$start.sample", "state": "$start.state"},
            "nodes": {"next": {"call": "$scheduler.step", "sample": "$sample"}},
            "next": {"sample": "$next.sample", "state": "$next.state"},
        },
    },
    "outputs": {"image": "$denoise.sample"},
}

WRITTEN = """\
diffgraph: 1
name: tiny
summary: Text to 64x64, then to 256x256 (Nichol et al. 2021, arXiv:2112.10741)

inputs:
  prompt: {type: text}
  negative_prompt: {type: text, default: ""}
  scale: {type: float, default: 3.0, min: 1, help: "uncond + scale * (cond - uncond), 1 is off"}
  letter:
    type: text
    default: |
      Dear reader,

      nothing.

variants:
  demo:
    weights: pkg://diffgraph/weights/demo
    set: {ddim.node: PNDM}
  openai: {}

nodes:
  base:
    node: UNet
    weights: $weights/base
    adapters: [{weights: hf://a/b@v1, scale: 0.8}]
  start: {node: Text, value: no, price: $$5, rate: 0.0001, flags: [true, null, "null"]}
  small:
    graph: parts/guided.yaml
    model: $base
    scheduler: $ancestral
    condition: $text
    uncondition: $no_text
    guidance_scale: $guidance_scale
  denoise:
    loop: $schedule
    as: step
    carry: {sample: $start.sample, state: $start.state}
    nodes:
      next: {call: $scheduler.step, sample: $sample}
    next: {sample: $next.sample, state: $next.state}

outputs: {image: $denoise.sample}
"""


def test_layout() -> None:
    assert write(GRAPH) == WRITTEN
    assert load(WRITTEN) == GRAPH
    assert max(map(len, WRITTEN.splitlines())) <= document.WIDTH


HARD = [
    "",
    " ",
    "1e-4",
    "no",
    "null",
    "~",
    "<<",
    "$$x",
    "a: b",
    "a #b",
    "# a",
    "- a",
    "-",
    "--- a",
    "...",
    "? a",
    ": a",
    "a:",
]
HARD += [
    "[",
    "a, b",
    "{a}",
    "'",
    '"',
    "\\",
    "\n",
    "a\n",
    "a\nb",
    "a\nb\n",
    "a\nb\n\n",
    " a\nb",
    "a \nb",
    "a\n\nb",
    "a\r\nb",
    "\ta",
]
HARD += [
    "\u2028",
    "\x85",
    "\ufeff",
    "\xa0a",
    "é",
    "😀",
    "\0",
    "\x7f",
    "0777",
    "0o7",
    ".5",
    "1.",
    ".inf",
    "@a",
    "`a",
    "%a",
    "!a",
]
HARD += [
    "&a",
    "*a",
    "|",
    ">",
    "=",
    "a?b",
    "x" * 3000,
    "x " * 3000,
    "a\n  b\nc",
    "#\nb",
    "---\nb",
    "+1",
    "1_0",
    "true",
    "\ufffe",
]


@pytest.mark.parametrize("text", HARD)
def test_texts_read_back(text: str, parser: str) -> None:
    key = text[:MAX_KEY]
    for value in (
        {"a": text},
        {"a": [text, [text]]},
        {key: {"b": {key: text}}},
        {"a": [{key: {key: text}}]},
        {key: text},
    ):
        assert load(write(value)) == value


@pytest.mark.parametrize(
    "number", [1.0, 1e16, 1e-7, -0.0, 1e300, 5e-324, 0.1, 2**53 + 0.0, math.inf, -math.inf, 7, True]
)
def test_numbers_read_back(number: float, parser: str) -> None:
    found = load(write({"a": number, "b": [number]}))
    assert repr(found) == repr({"a": number, "b": [number]})


keys = st.text(max_size=12) | st.sampled_from([text[:MAX_KEY] for text in HARD])
texts = st.text(max_size=40) | st.sampled_from(HARD)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)


@pytest.mark.parametrize("loader", list(PARSERS.values()), ids=list(PARSERS))
def test_all_data_reads_back(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_Parser", loader)

    @settings(max_examples=300, deadline=None)
    @given(st.dictionaries(keys, trees, max_size=5))
    def holds(value: dict[str, Any]) -> None:
        text = write(value)
        found = load(text)
        assert repr(found) == repr(value)  # order, types and the sign of zero
        assert write(found) == text

    holds()


def test_subclasses_and_tuples_are_written_as_what_they_are() -> None:
    class Name(str):
        def __str__(self) -> str:
            return "else"

    assert load(write({"a": (1, 2), "b": Name("x"), "c": {Name("k"): Name("y")}})) == {
        "a": [1, 2],
        "b": "x",
        "c": {"k": "y"},
    }
    assert write({}) == "{}\n"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [object()]}}, "a.b[0]: a object cannot be written"),
        ({"a": b"x"}, "a: a bytes cannot be written"),
        ({"a": 2**64}, "a: a whole number beyond 64 bits"),
        ({"a": "\ud800"}, "a: half of a surrogate pair"),
        ({"a": {1: 2}}, "a: the key '1' is not text"),
        ({"\udfff": 1}, "is not text"),
        ({"k" * (MAX_KEY + 1): 1}, "is not text of at most"),
        ({"a": [1] * MAX_NODES}, "more than"),
        ({"a": "x" * MAX_BYTES}, "larger than 4 MiB"),
    ],
)
def test_what_cannot_be_read_is_not_written(value: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        write(value)
    assert message in str(caught.value).encode("utf-8", "replace").decode()


def test_a_value_inside_itself() -> None:
    value: dict[str, Any] = {}
    value["a"] = [value]
    with pytest.raises(DocumentError, match="nested deeper"):
        write(value)


# --------------------------------------------------------------------------------------------------------------- files


def test_read(tmp_path: Path) -> None:
    (tmp_path / "total.yaml").write_bytes(b"a: 1")
    assert read(tmp_path / "total.yaml") == b"a: 1"
    for name, message, hint in (
        ("totl.yaml", "no such file", f"did you mean {tmp_path / 'total.yaml'}?"),
        ("zzz", "no such file", "there are: total.yaml"),
        ("zzzzz.yaml", "no such file", "there are: total.yaml"),
        ("no/x.yaml", "no such file", f"there is no folder {tmp_path / 'no'} to look in"),
        (".", "a folder, not a document", f"name a file in it, such as {tmp_path / 'total.yaml'}"),
        ("total.yaml/x", "cannot be read: Not a directory", "see its permissions, or copy it"),
        ("a\0b", "cannot be read: embedded null byte", "see its permissions, or copy it"),
        ("x" * 300, "cannot be read: File name too long", "see its permissions, or copy it"),
    ):
        with pytest.raises(DocumentError) as caught:
            read(str(tmp_path / name) if name != "." else tmp_path)
        assert (caught.value.message, caught.value.hint) == (message, hint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match=r"holds no \.yaml file"):
        read(tmp_path / "empty")
    with pytest.raises(DocumentError) as caught:
        read(tmp_path / "empty" / "a.yaml")
    assert caught.value.hint == f"there is no document in {tmp_path / 'empty'}"
    with pytest.raises(DocumentError) as caught:
        read("nobody/nothing")
    assert caught.value.hint == "there is no folder nobody to look in; of the Hub it is hf://nobody/nothing"


def test_read_large_and_endless(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    for path in (tmp_path / "big.yaml", *([Path("/dev/zero")] if Path("/dev/zero").exists() else [])):
        with pytest.raises(DocumentError, match="larger than 4 MiB"):
            read(path)


def test_read_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read what nobody may
    with pytest.raises(DocumentError, match="cannot be read: Permission denied"):
        read(tmp_path / "a.yaml")
