"""The result store: what goes in comes out, from a sound folder, whatever other processes do to it or to themselves."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from diffgraph.errors import StoreError
from diffgraph.running import store as module
from diffgraph.running.entry import encode, record_name
from diffgraph.running.store import MISSING, Layers, Memory, Store, cache_folder, size_of

ROOT = Path(module.__file__).parents[1]


class Pair(NamedTuple):
    left: Any
    right: Any = None


class Nothing(NamedTuple):
    pass


class Other(NamedTuple):
    a: int


RECORDS = {record_name(kind): kind for kind in (Pair, Nothing)}
KEY = "ab" * 32


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


class Damage:
    """Collects what a store reports."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, key: str, reason: str) -> None:
        self.seen.append((key, reason))


def opened(folder: Path, limit: int = module.GIB) -> tuple[Store, Damage]:
    damage = Damage()
    return Store(folder, limit, records=RECORDS.get, on_damage=damage), damage


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, and of the same types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        flat_a, flat_b = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return torch.equal(flat_a, flat_b)
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return repr(a) == repr(b)


# --------------------------------------------------------------------------------------------------------- round trips

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    **{str(dtype): partial(torch.Tensor.to, torch.arange(12).reshape(3, 4), dtype) for dtype in FLOATS + INTS},
    "bool": lambda: torch.tensor([True, False, True]),
    "complex": lambda: torch.tensor([1 + 2j, -3j]).conj(),
    "scalar": lambda: torch.tensor(1.5),
    "empty": lambda: torch.empty(0),
    "empty with a shape": lambda: torch.empty(2, 0, 3, dtype=torch.bfloat16),
    "transposed": lambda: torch.arange(12.0).reshape(3, 4).t(),
    "strided": lambda: torch.arange(24.0).reshape(4, 6)[1::2, ::3],
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.tensor([1.0, 2.0]).expand(5, 2),
    "needs grad": lambda: torch.ones(3, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "extremes": lambda: torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]),
}


@pytest.mark.parametrize("name", list(TENSORS))
def test_tensors(name: str, tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    value = TENSORS[name]()
    store.put(KEY, value)
    found = store.get(KEY)
    assert same(found, value.detach().resolve_conj() if type(value) is torch.Tensor else value.data)
    assert not found.requires_grad
    found.zero_()  # it is its own, and can be written
    assert damage.seen == []


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int64", "uint8", "bool", ">f4", ">i8", "complex64"]
)
def test_arrays(dtype: str, tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    for value in (
        np.arange(12).reshape(3, 4).astype(dtype),
        np.zeros((0, 2), dtype),
        np.array(1, dtype),
        np.eye(4, dtype=dtype)[::2].T,
    ):
        store.put(KEY, value)
        found = store.get(KEY)
        assert found.dtype == value.dtype.newbyteorder("=")
        assert found.shape == value.shape
        assert (found == value).all()


def test_views_of_one_storage_come_back_apart(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    whole = torch.arange(1000.0)
    store.put(KEY, [whole[:10], whole[5:15], whole[:10]])
    a, b, c = store.get(KEY)
    assert same([a, b, c], [whole[:10], whole[5:15], whole[:10]])
    assert a.untyped_storage().nbytes() == 40
    a += 1
    assert same([b, c], [whole[5:15], whole[:10]])


def test_a_tensor_is_stored_as_it_was_when_it_was_put(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    x = torch.zeros(3)
    store.put(KEY, x)
    x += 1
    assert same(store.get(KEY), torch.zeros(3))


tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["0" * 64, "\ud800"])
    | tensors
)
values = st.recursive(
    leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.builds(Nothing)
        | st.builds(np.asarray, st.lists(st.floats(width=32), max_size=3))
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_any_value_comes_back(tmp_path: Path, value: Any) -> None:
    store, damage = opened(tmp_path)
    store.put(KEY, value)
    assert store.has(KEY)
    assert same(store.get(KEY), value)
    assert damage.seen == []


def test_missing_is_not_none(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    assert store.get(KEY) is MISSING
    assert not store.has(KEY)
    store.put(KEY, None)
    assert store.get(KEY) is None


def test_others_read_the_file(tmp_path: Path) -> None:
    """An entry is a safetensors file in the eyes of safetensors itself, odd sizes before wide types included."""
    store, _ = opened(tmp_path)
    value = [torch.ones(3, dtype=torch.uint8), torch.arange(5.0), torch.ones(1, dtype=torch.float64), "text"]
    store.put(KEY, value)
    found = load_file(store._path(KEY))
    assert all(same(found[str(number)], value[number]) for number in range(3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a object cannot be stored"),
        ({"a": 1}, "a dict cannot be stored"),
        ([b"x"], "a bytes cannot be stored"),
        (np.float64(1), "a float64 cannot be stored"),
        (torch.Size([1]), "a Size cannot be stored"),
        (np.array(["x"]), "an array of <U1 cannot be stored"),
        (np.array([object()]), "an array of object cannot be stored"),
        (torch.zeros(2, device="meta"), "on meta cannot be stored"),
        (torch.zeros(2).to_sparse(), "a torch.sparse_coo tensor"),
        (torch.zeros(2, dtype=torch.complex128), "of torch.complex128"),
        (Other(1), "test_store:Other is not registered"),
    ],
)
def test_what_cannot_be_stored(value: Any, message: str, tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    with pytest.raises(StoreError) as caught:
        store.put(KEY, value)
    assert message in str(caught.value)
    assert store.get(KEY) is MISSING


def test_too_long_and_too_deep(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    with pytest.raises(StoreError, match="cannot be stored"):
        store.put(KEY, 10**5000)
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(StoreError, match="cannot be stored"):
        store.put(KEY, value)
    while value:  # taken apart by hand, for the interpreter would recurse
        value = value.pop()


@pytest.mark.parametrize("key", ["../../../../etc/x", "", "abc", "ABCDEF012345", "ab/cdef0123", KEY + "\n", "a" * 200])
def test_keys_are_digests(key: str, tmp_path: Path) -> None:
    for use in (Store(tmp_path).get, Store(tmp_path).has, lambda key: Store(tmp_path).put(key, 1)):
        with pytest.raises(ValueError, match="hexadecimal"):
            use(key)


# --------------------------------------------------------------------------------------------------------------- torch


def run(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=check, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_values_without_tensors_need_no_torch(tmp_path: Path) -> None:
    code = """
        import sys
        from diffgraph.running.store import Memory, Layers, Store
        store = Layers(Memory(), Store(sys.argv[1]))
        store.put("ab" * 8, [1, 2.5, "x", (None, True)])
        assert Store(sys.argv[1]).get("ab" * 8) == [1, 2.5, "x", (None, True)]
        assert not {"torch", "numpy", "safetensors"} & set(sys.modules), sys.modules
        found = Store(sys.argv[1]).get("cd" * 8)
        assert found.tolist() == [1.0], found
        assert "torch" in sys.modules
    """
    Store(tmp_path).put("cd" * 8, torch.ones(1))
    run(code, str(tmp_path))


# ------------------------------------------------------------------------------------------------------------- damage


def every_damage(data: bytes) -> dict[str, bytes]:
    length = int.from_bytes(data[:8], "little")
    cases = {f"cut at {at}": data[:at] for at in (0, 1, 7, 8, 9, 8 + length // 2, 8 + length, len(data) - 1)}
    cases |= {f"bit {at}": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))}
    cases |= {"longer": data + b"\0", "zeros": bytes(len(data)), "text": b"hello, this is no entry", "json": b"{}"}
    cases["huge header"] = b"\xff" * 8 + data[8:]
    cases["a byte moved"] = (length + 1).to_bytes(8, "little") + data[8:]
    return cases


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    store.put(KEY, Pair(torch.arange(3.0), ["a", 1, np.ones(2, np.uint8)]))
    path = Path(store._path(KEY))
    data = path.read_bytes()
    for name, bad in every_damage(data).items():
        path.write_bytes(bad)
        damage.seen.clear()
        assert store.get(KEY) is MISSING, name
        assert [key for key, _ in damage.seen] == [KEY], name
        assert not path.exists(), name
    path.write_bytes(data)
    assert store.get(KEY) is not MISSING


def test_an_entry_under_another_key_is_damaged(tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    store.put(KEY, 1)
    other = Path(store._path("cd" * 8))
    other.parent.mkdir()
    other.write_bytes(Path(store._path(KEY)).read_bytes())
    assert store.get("cd" * 8) is MISSING
    assert len(damage.seen) == 1


def forge(store: Store, structure: Any, blocks: dict[str, Any] | None = None, data: bytes = b"") -> None:
    """An entry with a right checksum, and what its author likes inside."""
    meta = {"sha256": "0" * 64, "key": KEY, "value": json.dumps(structure)}
    text = json.dumps({"__metadata__": meta, **(blocks or {})}).encode()
    prefix = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(prefix + text + data).hexdigest().encode()
    path = Path(store._path(KEY))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(prefix + text.replace(b"0" * 64, digest, 1) + data)


@pytest.mark.parametrize(
    "structure",
    [
        {"record": "os:system", "fields": {"command": "touch here"}},
        {"record": "subprocess:Popen", "fields": {}},
        {"record": f"{__name__}:Pair", "fields": {"left": 1}},
        {"record": f"{__name__}:Pair", "fields": {"right": 1, "left": 2}},
        {"record": ["x"], "fields": {}},
        {"record": f"{__name__}:Pair"},
        {"tensor": 0},
        {"tensor": "x"},
        {"array": 7},
        {"else": 1},
        {"tuple": 3},
    ],
)
def test_a_forged_structure_is_damage(structure: Any, tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    forge(store, structure)
    assert store.get(KEY) is MISSING
    assert len(damage.seen) == 1


@pytest.mark.parametrize(
    "block",
    [
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [0, 2**50], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "load", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]},
        {},
    ],
)
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_forged_block_is_damage(block: dict[str, Any], kind: str, tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    forge(store, {kind: 0}, {"0": block}, bytes(8))
    assert store.get(KEY) is MISSING
    assert len(damage.seen) == 1
    forge(store, {kind: 0}, {"0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    assert store.get(KEY).tolist() == [0, 0]


def test_a_record_that_is_no_longer_known(tmp_path: Path) -> None:
    opened(tmp_path)[0].put(KEY, Pair(1, 2))
    damage = Damage()
    store = Store(tmp_path, on_damage=damage)
    assert store.get(KEY) is MISSING
    assert "not registered" in damage.seen[0][1]


# --------------------------------------------------------------------------------------------------------------- bounds


def entry_size(value: Any) -> int:
    return sum(memoryview(part).nbytes for part in encode(KEY, value, RECORDS.get))


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    size = entry_size(torch.zeros(1000))
    store, damage = opened(tmp_path, limit=10 * size)
    for number in range(10):
        store.put(key_of(number), torch.zeros(1000))
    assert store.get(key_of(0)) is not MISSING
    store.put(key_of(10), torch.zeros(1000))
    kept = [number for number in range(11) if store.has(key_of(number))]
    assert kept == [0, 3, 4, 5, 6, 7, 8, 9, 10]  # to nine tenths of the limit, and what was read last stays
    assert store.stats() == module.Stats(9, 9 * size, 10 * size)
    assert store.prune(2 * size) == 7 * size
    assert [number for number in range(11) if store.has(key_of(number))] == [0, 10]
    assert store.clear() == 2 * size
    assert store.stats().entries == 0
    assert damage.seen == []


def test_what_was_just_put_stays(tmp_path: Path) -> None:
    store, _ = opened(tmp_path, limit=5000)
    store.put(key_of(1), torch.zeros(100))
    store.put(key_of(2), torch.zeros(1150))
    assert (store.has(key_of(1)), store.has(key_of(2))) == (False, True)


def test_larger_than_the_store(tmp_path: Path) -> None:
    store, _ = opened(tmp_path, limit=1000)
    with pytest.raises(StoreError, match="larger than the store"):
        store.put(KEY, torch.zeros(1000))
    assert store.stats().entries == 0


def test_the_bound_holds_for_all_processes_together(tmp_path: Path) -> None:
    stores = [opened(tmp_path, limit=200_000)[0] for _ in range(3)]
    for number in range(90):
        stores[number % 3].put(key_of(number), torch.zeros(2000))
        assert stores[0].stats().size <= 220_000
    assert stores[0].stats().size > 100_000


def test_unfinished_files_of_the_dead_are_dropped(tmp_path: Path) -> None:
    store, _ = opened(tmp_path)
    store.put(KEY, 1)
    old, new = (Path(store._path(KEY)).parent / name for name in (".1-old.tmp", ".2-new.tmp"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * module.STALE_SECONDS,) * 2)
    assert store.stats().entries == 1
    assert (old.exists(), new.exists()) == (False, True)


# ---------------------------------------------------------------------------------------------------- bad surroundings


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store, damage = opened(tmp_path / "file")
    assert store.get(KEY) is MISSING
    assert store.stats().entries == 0
    with pytest.raises(StoreError, match="cannot be written: Not a directory") as caught:
        store.put(KEY, 1)
    assert caught.value.hint == "set DIFFGRAPH_CACHE_DIR to a folder that can be written"
    assert damage.seen == []


def test_an_entry_that_is_a_folder(tmp_path: Path) -> None:
    store, damage = opened(tmp_path)
    Path(store._path(KEY)).mkdir(parents=True)
    assert store.get(KEY) is MISSING
    assert damage.seen == [(KEY, "it cannot be read: Is a directory")]
    with pytest.raises(StoreError, match="cannot be written"):
        store.put(KEY, 1)
    assert os.listdir(Path(store._path(KEY)).parent) == [Path(store._path(KEY)).name]


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written"), (errno.EACCES, "can be written")],
)
def test_a_disk_that_refuses(code: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    store, _ = opened(tmp_path)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match=os.strerror(code)) as caught:
        store.put(KEY, torch.zeros(3))
    assert hint in (caught.value.hint or "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="a limit that POSIX has")
def test_a_write_that_fails_half_way(tmp_path: Path) -> None:
    code = """
        import resource, sys, torch
        from diffgraph.errors import StoreError
        from diffgraph.running.store import Store
        store = Store(sys.argv[1])
        store.put("ab" * 8, torch.zeros(10))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            store.put("cd" * 8, torch.zeros(1_000_000))
        except StoreError as error:
            print(error.message)
        store.put("ef" * 8, torch.zeros(10))
    """
    assert "cannot be written: File too large" in run(code, str(tmp_path)).stdout
    store, damage = opened(tmp_path)
    assert [store.has(key * 8) for key in ("ab", "cd", "ef")] == [True, False, True]
    assert store.get("ef" * 8).shape == (10,)
    assert (damage.seen, list(tmp_path.rglob("*.tmp"))) == ([], [])


# ------------------------------------------------------------------------------------------------------------ processes

WRITER = """
    import sys, torch
    from diffgraph.running.store import MISSING, Store
    torch.set_num_threads(1)
    def damaged(key, reason): print("damaged", key, reason, flush=True)
    store = Store(sys.argv[1], int(sys.argv[2]), on_damage=damaged)
    print("ready", flush=True)
    for turn in range(int(sys.argv[3])):
        number = turn * int(sys.argv[4]) % 7
        key = f"{number:016x}"
        store.put(key, [torch.full((50_000,), float(number)), "x" * number])
        found = store.get(f"{(number + 3) % 7:016x}")
        if found is not MISSING:
            other = (number + 3) % 7
            assert found[0].eq(other).all() and found[0].numel() == 50_000 and found[1] == "x" * other
"""


def writer(folder: Path, limit: int, turns: int, stride: int) -> subprocess.Popen[str]:
    arguments = [str(folder), str(limit), str(turns), str(stride)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_processes_race_on_the_same_keys_while_others_are_dropped(tmp_path: Path) -> None:
    """Two writers of seven keys in a store with room for five: reading, replacing and pruning at once."""
    racers = [writer(tmp_path, 1_100_000, 150, stride) for stride in (1, 2)]
    store, damage = opened(tmp_path, 1_100_000)
    while any(racer.poll() is None for racer in racers):
        store.prune(600_000)
        for number in range(7):
            found = store.get(f"{number:016x}")
            assert found is MISSING or found[0].eq(number).all()
    for racer in racers:
        out, err = racer.communicate()
        assert (racer.returncode, out, err) == (0, "ready\n", "")
    assert damage.seen == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_process_killed_in_the_middle_leaves_the_store_sound(tmp_path: Path) -> None:
    for turn in range(2):
        victim = writer(tmp_path, module.GIB, 10**6, 1)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.013 * turn)
        victim.kill()
        victim.communicate()
        store, damage = opened(tmp_path)
        found = [store.get(f"{number:016x}") for number in range(7)]
        assert damage.seen == []
        assert any(value is not MISSING for value in found)
        assert all(value is MISSING or value[0].eq(number).all() for number, value in enumerate(found))
        store.put(KEY, turn)
        assert store.get(KEY) == turn


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that POSIX has")
def test_a_process_killed_before_the_file_has_its_name(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from diffgraph.running.store import Store
        store = Store(sys.argv[1])
        store.put("ab" * 8, "old")
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.put("ab" * 8, "new")
    """
    assert run(code, str(tmp_path), check=False).returncode == -9
    store, damage = opened(tmp_path)
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert store.get("ab" * 8) == "old"
    assert (store.stats().entries, damage.seen) == (1, [])


# --------------------------------------------------------------------------------------------------------- in memory


def test_memory() -> None:
    memory = Memory(limit=3 * 4128)
    assert memory.get("a") is MISSING
    tensors = {name: torch.zeros(1000) for name in "abcd"}
    for name in "abc":
        memory.put(name, tensors[name])
    assert memory.get("a") is tensors["a"]
    memory.put("d", tensors["d"])
    assert [memory.has(name) for name in "abcd"] == [True, False, True, True]
    memory.put("a", 1)
    assert memory.stats() == module.Stats(3, 64 + 2 * 4128, 3 * 4128)
    memory.put("c", torch.zeros(10_000))
    assert memory.get("c") is MISSING  # the old one is not kept either
    assert memory.prune(100) == 4128
    assert memory.get("a") == 1
    assert memory.clear() == 64
    assert memory.stats() == module.Stats(0, 0, 3 * 4128)
    memory.put("n", None)
    assert memory.get("n") is None


def test_sizes() -> None:
    assert size_of(torch.zeros(1000)[:1]) == 4000 + 128  # a view keeps all of its storage
    assert size_of([np.zeros(10), "abc", Pair(1, None)]) == 80 + 3 + 64 * 5
    assert size_of(None) == size_of(1.5) == 64


def test_layers(tmp_path: Path) -> None:
    memory, (store, _) = Memory(), opened(tmp_path)
    layers = Layers(memory, store)
    layers.put(KEY, [1])
    assert layers.get(KEY) is memory.get(KEY)
    memory.clear()
    assert layers.has(KEY)
    assert layers.get(KEY) == [1]
    assert memory.has(KEY)
    with pytest.raises(StoreError):
        layers.put("cd" * 8, object())
    assert memory.has("cd" * 8)
    assert layers.get("ef" * 8) is MISSING


# ----------------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"DIFFGRAPH_CACHE_DIR": "/here"}, "/here"),
        ("linux", {"DIFFGRAPH_CACHE_DIR": "~/here"}, "/home/me/here"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/diffgraph"),
        ("linux", {"XDG_CACHE_HOME": "cache"}, "/home/me/.cache/diffgraph"),
        ("linux", {"DIFFGRAPH_CACHE_DIR": ""}, "/home/me/.cache/diffgraph"),
        ("darwin", {"XDG_CACHE_HOME": "/cache"}, "/home/me/Library/Caches/diffgraph"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/diffgraph"),
        ("win32", {}, "/home/me/AppData/Local/diffgraph"),
    ],
)
def test_cache_folder(platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIFFGRAPH_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder().as_posix() == expected


def test_a_relative_cache_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", "here")
    assert cache_folder() == tmp_path / "here"
