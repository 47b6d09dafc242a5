"""The JSON Schema for editors: right documents pass, common mistakes do not."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from diffgraph.language.document import parse, plain
from diffgraph.language.schema import document_schema
from diffgraph.registry import registry

SCHEMA: dict[str, Any] = document_schema(registry())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def faults(text: str) -> list[str]:
    data = plain(parse(textwrap.dedent(text).lstrip().encode(), "test.yaml"))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_it_is_a_schema_of_every_installed_node() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    types = {name for name, node in registry().nodes.items() if node.role != "protocol"}
    assert {name.removeprefix("node ") for name in SCHEMA["$defs"] if name.startswith("node ")} == types
    offered = {choice["const"] for choice in SCHEMA["$defs"]["Node"]["properties"]["node"]["oneOf"]}
    assert offered == types
    assert all(choice["description"] for choice in SCHEMA["$defs"]["Node"]["properties"]["node"]["oneOf"])


def test_it_is_json_to_those_who_know_no_infinity() -> None:
    json.dumps(SCHEMA, allow_nan=False)


ALL_FORMS = """
    diffgraph: 1
    name: forms
    requires: {arith: ">=1"}
    inputs:
      n: {type: int, default: 1, min: 0, max: 9, help: how many}
      short: int
      pick: {type: choice, choices: [a, b], default: a}
    variants:
      one: {n: 1, set: {add.b: 2}}
    nodes:
      add: {node: arith.Add, a: $n, b: 1.5}
      power: {node: arith.Power, base: 2, exponent: $n}
      list: {node: arith.Sum, values: [1, $add, 2.5]}
      line: {node: arith.Linear, in_features: 2, out_features: 2, init_seed: 3, dtype: fp16}
      shape: {call: $line.norm}
      other: {graph: parts/x.yaml, any: $thing, number: 3}
      loop: {loop: $n, as: i, carry: {x: 1}, nodes: {y: {node: arith.Add, a: $x}}, next: {x: $y}, collect: {k: $y}}
      map: {map: [1, 2], as: i, nodes: {}, outputs: {x: $i}}
      when: {when: $flag, nodes: {}, outputs: {x: 1}, else: {nodes: {}, outputs: {x: null}}}
      grad: {grad: $v, as: x, nodes: {}, of: $x}
    outputs: {sum: $add, literal: 4}
"""


def test_every_form_passes() -> None:
    assert faults(ALL_FORMS) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("diffgraph: 1\n", "diffgraph: 2\n", "diffgraph"),
        ("name: forms", "nam: forms", "nam"),
        ("default: 1, min", "defualt: 1, min", "inputs.n"),
        ("arith.Add, a: $n", "arith.Ad, a: $n", "nodes.add.node"),
        ("b: 1.5", "c: 1.5", "nodes.add"),
        ("b: 1.5", "b: one", "nodes.add"),
        ("arith.Add, a: $n, b", "arith.Add, b", "nodes.add"),
        ("exponent: $n", "exponent: 65", "nodes.power"),
        ("exponent: $n", "exponent: $n-1", "nodes.power"),
        ("values: [1, $add, 2.5]", "values: [1, x]", "nodes.list"),
        ("in_features: 2", "in_features: 0", "nodes.line"),
        ("dtype: fp16", "dtype: fp8", "nodes.line"),
        ("call: $line.norm", "call: line.norm", "nodes.shape"),
        ("call: $line.norm", "cal: $line.norm", "nodes.shape"),
        ("as: i, carry", "carry", "nodes.loop"),
        ("nodes: {y: {node: arith.Add, a: $x}}", "nodes: {y: {node: arith.Add, z: $x}}", "nodes.loop"),
        ("of: $x", "off: $x", "nodes.grad"),
        ("else: {nodes: {}, outputs", "else: {nodes: {}, output", "nodes.when"),
    ],
)
def test_mistakes_are_found_where_they_are(old: str, new: str, where: str) -> None:
    assert old in ALL_FORMS
    found = faults(ALL_FORMS.replace(old, new, 1))
    assert found
    assert any(where in fault for fault in found), found
