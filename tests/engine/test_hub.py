"""Weights on a Hub: the real client against a real server on loopback, which can go wrong in many ways."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save

from diffgraph.errors import DiffgraphError, HubError
from diffgraph.weights import digests, hub
from diffgraph.weights.addresses import parse_address
from diffgraph.weights.hub import Hub, HubSource
from diffgraph.weights.loading import load_pretrained, open_folder

from ..hub_server import TOKEN, HubServer
from .test_weights import AnyPlan, Tiny, TinyConfig, Words

STATE = {name: tensor.clone() for name, tensor in Tiny(TinyConfig()).state_dict().items() if name != "head.weight"}
WEIGHTS = save(STATE, metadata={"format": "pt"})
CONFIG = json.dumps({"_class_name": "TinyModel", "width": 4}).encode()
FILES = {
    "config.json": CONFIG,
    "diffusion_pytorch_model.safetensors": WEIGHTS,
    "diffusion_pytorch_model.bin": b"not wanted",
    "flax_model.msgpack": b"not wanted",
    "README.md": b"# tiny",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_known", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.close_session", lambda: None)  # by threads that earlier tests left
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        running.commit("org/tiny", FILES)
        yield running


@pytest.fixture
def make_hub(server: HubServer, tmp_path: Path) -> Callable[..., Hub]:
    def make(**options: Any) -> Hub:
        given: dict[str, Any] = {"endpoint": server.endpoint, "cache_dir": tmp_path / "hf", "token": "hf_nobody"}
        return Hub(**given | options)

    return make


def load(hub_: Hub, source: str = "org/tiny", **options: Any) -> Tiny:
    return load_pretrained(Tiny, source, hub=hub_, **options)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffgraphError) as caught:
        call()
    return str(caught.value)


def test_only_what_is_needed_is_fetched(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    module = load(make_hub())
    assert torch.equal(module.linear.weight, STATE["linear.weight"])
    fetched = {
        seen.path.rpartition("/")[2] for seen in server.requests if seen.method == "GET" and "api" not in seen.path
    }
    assert fetched == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_requests_that_a_cached_repository_costs(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    commit = server.repositories["org/tiny"].branches["main"]
    load(make_hub())
    server.requests.clear()
    load(make_hub(), revision=commit)
    assert server.count() == 0
    one = make_hub()
    load(one)
    load(one)
    load(one, "hf://org/tiny")
    assert server.count() == 1  # a branch, once a run
    server.requests.clear()
    load(make_hub(offline=True))
    assert server.count() == 0


def test_planning_downloads_no_weights(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    folder = open_folder("hf://org/tiny", hub=make_hub())
    names = folder.resolve(*Tiny.files)
    assert names == ("diffusion_pytorch_model.safetensors",)
    assert folder.size(names) == len(WEIGHTS)
    assert folder.digests(names) == {names[0]: hashlib.sha256(WEIGHTS).hexdigest()}
    assert folder.absent([*names, "config.json"]) == [*names, "config.json"]
    assert server.count() == 1
    folder.config("config.json")
    assert folder.absent([*names, "config.json"]) == list(names)
    assert server.count("GET .*resolve") == 1


def test_digest_is_that_of_the_same_files_here(make_hub: Callable[..., Hub], tmp_path: Path) -> None:
    folder = open_folder("hf://org/tiny", hub=make_hub())
    (tmp_path / "local").mkdir()
    for name, content in FILES.items():
        (tmp_path / "local" / name).write_bytes(content)
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert folder.digest(names) == open_folder(str(tmp_path / "local")).digest(names)


def test_pipelines_and_the_old_layout(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    index = {"_class_name": "P", "unet": ["peer", "TinyModel"], "scheduler": ["peer", "S"]}
    plan = b'{"_class_name": "S", "steps": 7}'
    root = {"model_index.json": json.dumps(index).encode()}
    below = {f"unet/{name}": content for name, content in FILES.items()} | {"scheduler/scheduler_config.json": plan}
    server.commit("org/pipeline", root | below)
    server.commit("org/old", root | FILES | {"scheduler_config.json": plan})
    one = make_hub()
    for name in ("org/pipeline", "org/old"):
        assert load(one, name)
        assert load(one, name, subfolder="unet")
        assert load_pretrained(AnyPlan, f"hf://{name}", hub=one).config.steps == 7
        folder = open_folder(f"hf://{name}/unet", hub=one).component("Tiny", "config.json", Tiny.published)[0]
        assert folder.sibling("scheduler_config.json") == {"_class_name": "S", "steps": 7}
    assert "Words wants WordsTokenizer" in refusal(lambda: load_pretrained(Words, "org/pipeline", hub=one))
    message = refusal(lambda: load(one, "org/pipeline", subfolder="unett"))
    assert "there is no folder unett; there is: model_index.json, scheduler/, unet/" in message


def test_shards_come_together(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    names = sorted(STATE)
    shards = {f"diffusion_pytorch_model-{n}-of-2.safetensors": part for n, part in ((1, names[:3]), (2, names[3:]))}
    files = {"config.json": CONFIG}
    files |= {shard: save({name: STATE[name] for name in part}) for shard, part in shards.items()}
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    files["diffusion_pytorch_model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    server.commit("org/shards", files)
    told: list[tuple[str, int, int]] = []
    module = load(make_hub(progress=lambda *report: told.append(report)), "org/shards")
    assert torch.equal(module.table.weight, STATE["table.weight"])
    total = sum(len(files[shard]) for shard in shards)
    assert told[-1] == ("org/shards", total, total)


def test_a_branch_that_moves_during_a_run(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    one = make_hub()
    folder = open_folder("hf://org/tiny", hub=one)
    server.commit("org/tiny", {"config.json": b'{"width": 9}'})
    assert load(one).config.width == 4
    assert folder.config("config.json") == json.loads(CONFIG)
    assert open_folder("hf://org/tiny", hub=make_hub()).config("config.json") == {"width": 9}


def test_tags_and_branches_with_slashes(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    repository = server.repositories["org/tiny"]
    repository.tags["v1"] = repository.branches["main"]
    server.commit("org/tiny", {"config.json": b"{}"}, branch="refs/pr/1")
    assert load(make_hub(), revision="v1")
    assert open_folder("hf://org/tiny@refs/pr/1", hub=make_hub()).names() == ["config.json"]
    server.stop()
    assert load(make_hub(offline=True), "hf://org/tiny@v1")


# --- offline --------------------------------------------------------------------------------------------------------


def test_offline_lists_what_is_missing(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    open_folder("hf://org/tiny", hub=make_hub()).config("config.json")
    server.requests.clear()
    message = refusal(lambda: load(make_hub(offline=True)))
    assert "not on this machine: hf://org/tiny/diffusion_pytorch_model.safetensors" in message
    assert "--offline" in message
    assert "org/other@main is not on this machine" in refusal(lambda: load(make_hub(offline=True), "org/other"))
    assert server.count() == 0


def test_offline_uses_what_another_program_fetched(
    server: HubServer, make_hub: Callable[..., Hub], tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        hf_hub_download("org/tiny", name, endpoint=server.endpoint, cache_dir=tmp_path / "hf", token=False)
    server.requests.clear()
    module = load(make_hub(offline=True))
    assert torch.equal(module.linear.weight, STATE["linear.weight"])
    assert server.count() == 0


# --- refusals -------------------------------------------------------------------------------------------------------


def test_dead_endpoint_is_told_soon(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    commit = server.repositories["org/tiny"].branches["main"]
    open_folder(f"hf://org/tiny@{commit}", hub=make_hub())
    server.stop()
    started = time.monotonic()
    for revision in ("main", commit):  # the second is listed already, but not downloaded
        assert f"cannot reach {server.endpoint}" in refusal(partial(load, make_hub(), revision=revision))
    assert time.monotonic() - started < 5


def test_stalled_endpoint(server: HubServer, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    server.fault("stall", match="GET /api", seconds=1)
    assert "cannot reach" in refusal(lambda: load(make_hub()))


def test_no_such_repository(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    assert "did you mean hf://org/tiny?" in refusal(lambda: load(make_hub(), "org/tinny"))
    assert "there is no such repository, or it is private" in refusal(lambda: load(make_hub(), "nobody/x"))


def test_no_such_revision(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.repositories["org/tiny"].tags["v1.0"] = server.repositories["org/tiny"].branches["main"]
    message = refusal(lambda: load(make_hub(), revision="v1.1"))
    assert "there is no revision 'v1.1'" in message
    assert "did you mean v1.0?" in message


def test_gated(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.repositories["org/tiny"].gated = True
    message = refusal(lambda: load(make_hub()))
    assert f"accept it at {server.endpoint}/org/tiny" in message
    assert "log in" in message
    assert load(make_hub(token=TOKEN))


def test_private(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.repositories["org/tiny"].private = True
    assert "or it is private" in refusal(lambda: load(make_hub()))
    assert load(make_hub(token=TOKEN))
    others = [seen for seen in server.requests if seen.host.startswith("localhost")]
    assert others
    assert all(seen.token is None for seen in others)  # no token to the host where large files lie


def test_wrong_token(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("status", match="api/models", status=403)
    assert "answered with status 403" in refusal(lambda: load(make_hub()))


# --- faults on the way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502])
def test_busy_then_fine(server: HubServer, make_hub: Callable[..., Hub], status: int) -> None:
    headers = {"Retry-After": "0"} if status == 429 else {}
    server.fault("status", match="api/models", status=status, headers=headers)
    assert load(make_hub())


def test_files_that_are_busy_then_fine(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("status", match="HEAD .*resolve", status=502)
    assert load(make_hub())


def test_busy_for_long(server: HubServer, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "RETRY_SECONDS", 0.8)
    server.fault("status", match="api/models", status=503, times=99)
    assert "answered with status 503" in refusal(lambda: load(make_hub()))
    assert server.count() == 2
    server.faults.clear()
    server.fault("status", match="api/models", status=429, headers={"Retry-After": "3600"})
    assert "answered with status 429" in refusal(lambda: load(make_hub()))


def test_slow(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("slow", match="GET /large", seconds=0.1)
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])


def test_stalled_download_is_resumed(
    server: HubServer, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.fault("hang", match="GET /large", after=100, seconds=3)
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])
    assert server.count("GET /large") == 2


def test_files_that_never_come_are_told_soon(
    server: HubServer, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No storm of retries: huggingface_hub alone takes 23 seconds to give up, or more."""
    assert hub.QUIET_SECONDS + 1 < 10
    monkeypatch.setattr(hub, "QUIET_SECONDS", 1.0)
    open_folder("hf://org/tiny", hub=make_hub()).config("config.json")
    for kind in ({"kind": "status", "status": 503}, {"kind": "stall", "seconds": 4}):
        server.fault(match="HEAD .*safetensors", times=99, **kind)
        started = time.monotonic()
        message = refusal(lambda: load(make_hub()))
        assert time.monotonic() - started < 3
        assert f"hf://org/tiny: {server.endpoint} has sent nothing for 1 s" in message
        server.faults.clear()
    assert load(make_hub())


def test_an_endpoint_that_dies_during_a_download(
    server: HubServer, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "QUIET_SECONDS", 0.5)
    open_folder("hf://org/tiny", hub=make_hub()).config("config.json")
    server.fault("hang", match="GET /large", after=100, seconds=60)
    threading.Timer(0.5, server.stop).start()
    started = time.monotonic()
    assert f"cannot reach {server.endpoint}" in refusal(lambda: load(make_hub()))
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("status", [404, 500, 503])
def test_large_files_that_are_refused(server: HubServer, make_hub: Callable[..., Hub], status: int) -> None:
    server.fault("status", match="GET /large", status=status, times=99)
    assert f"hf://org/tiny: {server.endpoint} answered with status {status}" in refusal(lambda: load(make_hub()))
    server.faults.clear()
    server.requests.clear()
    assert load(make_hub())
    assert server.count("config.json") == 0  # what had arrived was kept


def test_two_processes_fetch_the_same_at_once(server: HubServer, tmp_path: Path) -> None:
    server.fault("slow", match="GET /large", seconds=0.15)
    script = f"""
import sys
from pathlib import Path
from diffgraph.weights.hub import Hub
from diffgraph.weights.loading import open_folder
hub = Hub(endpoint="{server.endpoint}", cache_dir=Path(r"{tmp_path / "hf"}"), progress=lambda *told: None)
folder = open_folder("hf://org/tiny", hub=hub)
print(folder.digest(["diffusion_pytorch_model.safetensors"]), *folder.paths(["diffusion_pytorch_model.safetensors"]))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    assert [path.read_bytes() for path in (tmp_path / "hf").rglob("*.safetensors")] == [WEIGHTS]


def test_interrupted_in_a_download(server: HubServer, tmp_path: Path) -> None:
    """Ctrl-C: no half file is ever used; the next run fetches it."""
    server.fault("hang", match="GET /large", after=100, seconds=30)
    script = f"""
from pathlib import Path
from diffgraph.weights.hub import Hub
from diffgraph.weights.loading import open_folder
hub = Hub(endpoint="{server.endpoint}", cache_dir=Path(r"{tmp_path / "hf"}"), progress=lambda *told: None)
open_folder("hf://org/tiny", hub=hub).paths(["diffusion_pytorch_model.safetensors"])
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
    while server.count("GET /large") == 0:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=10)[1]
    assert not list((tmp_path / "hf").rglob("snapshots/*/*.safetensors"))
    hub_ = Hub(endpoint=server.endpoint, cache_dir=tmp_path / "hf", token="hf_nobody")
    assert torch.equal(load(hub_).linear.weight, STATE["linear.weight"])


def test_cut_download_is_resumed(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("cut", match="GET /large", after=100)
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])


def test_body_shorter_than_promised(server: HubServer, make_hub: Callable[..., Hub], tmp_path: Path) -> None:
    server.fault("short", match="GET /large", after=100)
    assert "shorter or longer than promised" in refusal(lambda: load(make_hub()))
    assert load(make_hub())


@pytest.mark.parametrize("match", ["GET /large", "GET .*config.json"])
def test_flipped_byte_is_refused(server: HubServer, make_hub: Callable[..., Hub], match: str, tmp_path: Path) -> None:
    server.fault("flip", match=match)
    message = refusal(lambda: load(make_hub()))
    assert "arrived damaged" in message
    assert not [
        path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.read_bytes()[1:] == WEIGHTS[1:]
    ]
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])


def test_wrong_etag_changes_nothing(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("etag", match="safetensors", times=99)
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])


def test_one_etag_for_two_files_mixes_nothing_up(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("etag", match="resolve", times=99)
    assert "diffusion_pytorch_model.safetensors arrived damaged" in refusal(lambda: load(make_hub()))
    server.faults.clear()
    assert torch.equal(load(make_hub()).linear.weight, STATE["linear.weight"])


def test_names_that_climb_are_not_files(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.commit(
        "org/climb", FILES | {"../../evil.json": b"{}", "/etc/evil.json": b"{}", "a\\..\\b": b"", "a/../b": b""}
    )
    source = HubSource(make_hub(), parse_address("hf://org/climb"))
    assert set(source.snapshot.files) == set(FILES)


def test_no_space(make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    message = refusal(lambda: load(make_hub()))
    assert "no space" in message
    assert "10 bytes free" in message


def test_disk_that_fills_on_the_way(make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "no space left" in refusal(lambda: load(make_hub()))


def test_cache_that_cannot_be_made(make_hub: Callable[..., Hub], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in refusal(lambda: load(make_hub(cache_dir=tmp_path / "file" / "hf")))


def test_notes_that_cannot_be_written(
    make_hub: Callable[..., Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DIFFGRAPH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert load(make_hub())


def test_damaged_notes_are_made_again(server: HubServer, make_hub: Callable[..., Hub], tmp_path: Path) -> None:
    commit = server.repositories["org/tiny"].branches["main"]
    load(make_hub())
    for note in (tmp_path / "cache" / "hub").rglob("*.json"):
        note.write_text("[")
    assert load(make_hub(), revision=commit)


def test_two_fetch_the_same_at_once(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    server.fault("stall", match="GET /large", seconds=0.3, times=2)
    loaded: list[Tiny] = []
    threads = [threading.Thread(target=lambda: loaded.append(load(make_hub()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 2
    assert server.count("GET /large") in (1, 2)  # two where huggingface_hub's lock is lost between threads, under load


@pytest.mark.parametrize("asked", ["HfApi.model_info", "hf_hub_download"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, os.strerror(errno.EBADF)), RuntimeError("the client has been closed")]
)
def test_a_client_closed_by_another_thread(
    asked: str, error: Exception, make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As huggingface_hub does to all threads where one of them cannot connect."""
    owner, name = (huggingface_hub.HfApi, "model_info") if "." in asked else (huggingface_hub, asked)
    real, failures = getattr(owner, name), [error, error]

    def broken(*given: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*given, **options)

    monkeypatch.setattr(owner, name, broken)
    assert load(make_hub())
    assert not failures


def test_environment_says_offline(make_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert make_hub().offline
    with pytest.raises(HubError, match="offline"):
        load(make_hub())


def test_errors_tell_no_token_and_no_login(server: HubServer, make_hub: Callable[..., Hub]) -> None:
    """A client quotes a header that it cannot send; an endpoint may hold a login."""
    token, host = "hf_swordfish\nhf_swordfish", server.endpoint.removeprefix("http://")
    for hub_ in (
        make_hub(token=token),
        make_hub(endpoint=f"http://me:swordfish@{host}", token=None),
        make_hub(endpoint=f"http://swordfish@{host}", token=None),
        make_hub(endpoint="http://me:swordfish@127.0.0.1:9", token=None),
    ):
        with pytest.raises(HubError) as caught:
            hub_.snapshot("org/nothing")
        assert "swordfish" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert hub_.shown in ("http://127.0.0.1:9", server.endpoint)
        assert any("swordfish" in secret for secret in hub_.secrets())


def test_no_path_token_or_login_in_notes(server: HubServer, make_hub: Callable[..., Hub], tmp_path: Path) -> None:
    load(make_hub(token=TOKEN))
    load(make_hub(endpoint=server.endpoint.replace("//", "//me:swordfish@"), token=TOKEN))
    for note in (tmp_path / "cache" / "hub").rglob("*"):
        assert "swordfish" not in note.name
        if note.is_file():
            assert TOKEN not in note.read_text()
            assert str(tmp_path) not in note.read_text()
    assert os.listdir(tmp_path / "cache" / "hub")
