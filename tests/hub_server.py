"""A Hub on loopback, of standard library, that the real huggingface_hub client talks to; with switches for faults.

    with HubServer() as server:
        commit = server.commit("org/repo", {"config.json": b"{}", "model.safetensors": data})
        Hub(endpoint=server.endpoint, cache_dir=tmp_path)
        server.fault("status", match="resolve", status=500, times=2)

Routes are a table (`route`), so that those for uploading can stand beside those for reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

LARGE_SUFFIXES = (".safetensors", ".bin", ".model", ".msgpack")
TOKEN = "hf_loopback"


@dataclass
class Repository:
    """Commits, each all files by path, and what points to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit means."""
        named = self.branches.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)


@dataclass
class Seen:
    """A request that came, and the bytes of body that went out for it."""

    method: str
    path: str
    host: str
    token: str | None
    sent: int = 0


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match.

    status: the answer is this status. cut: the connection is closed after `after` bytes of the body. short: the body
    ends there, as if it were whole. flip: one byte of the body is another. stall: nothing comes for `seconds`. hang:
    nothing comes for `seconds` after `after` bytes. slow: each of ten parts of the body takes `seconds`. etag: a wrong one.
    """

    kind: str
    match: str
    times: int
    status: int
    headers: dict[str, str]
    after: int
    seconds: float


def git_id(content: bytes) -> str:
    """Git's id of a blob."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class HubServer(ThreadingHTTPServer):
    """The server. `requests` holds what came, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.connections: list[socket.socket] = []
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every connection, and refuses every new one."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit(self, name: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Puts a commit with exactly these files on a branch, in a new repository if need be. Gives the commit's id."""
        repository = self.repositories.setdefault(name, Repository())
        text = repr((name, branch, repository.branches.get(branch), sorted((p, git_id(c)) for p, c in files.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit

    def fault(
        self,
        kind: str,
        *,
        match: str = "",
        times: int = 1,
        status: int = 500,
        headers: dict[str, str] | None = None,
        after: int = 0,
        seconds: float = 0,
    ) -> None:
        """Makes the next requests go wrong; see Fault. match: a pattern found in "METHOD /path"."""
        self.faults.append(Fault(kind, match, times, status, headers or {}, after, seconds))

    def count(self, match: str = "") -> int:
        """How many requests came whose "METHOD /path" holds the pattern."""
        return sum(bool(re.search(match, f"{seen.method} {seen.path}")) for seen in self.requests)

    def take_fault(self, line: str, *kinds: str) -> Fault | None:
        """The fault that this request meets, used up by one."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.kind in kinds and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None


Route = Callable[..., None]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: HubServer
    routes: ClassVar[list[tuple[re.Pattern[str], Route]]] = []

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def handle_any(self) -> None:
        split = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
        line = f"{self.command} {split.path}"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.seen = Seen(self.command, split.path, self.headers.get("Host", ""), token)
        with self.server.lock:
            self.server.requests.append(self.seen)
        stalled = self.server.take_fault(line, "stall")
        if stalled:
            time.sleep(stalled.seconds)
        broken = self.server.take_fault(line, "status")
        if broken:
            self.answer(broken.status, b"{}", broken.headers)
            return
        for pattern, route in self.routes:
            found = pattern.fullmatch(line)
            if found:
                route(self, **{key: unquote(value) for key, value in found.groupdict().items() if value is not None})
                return
        self.answer(404, b'{"error": "no such route"}')

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, faulty: bool = False) -> None:
        """Sends an answer; to HEAD without its body. faulty: whether faults of bodies may strike it."""
        line = f"{self.command} {self.seen.path}"
        fault = (
            self.server.take_fault(line, "cut", "short", "flip", "hang", "slow")
            if faulty and self.command == "GET"
            else None
        )
        length = len(body)
        if fault is not None and fault.kind == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault is not None and fault.kind in ("cut", "short"):
            body = body[: fault.after]
            length = len(body) if fault.kind == "short" else length
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.write(body, fault)
        if len(body) < length:
            self.close_connection = True

    def write(self, body: bytes, fault: Fault | None) -> None:
        """Sends a body, in parts with waits between them where a fault says so."""
        parts, seconds = [body], 0.0
        if fault is not None and fault.kind == "hang":
            parts, seconds = [body[: fault.after], body[fault.after :]], fault.seconds
        if fault is not None and fault.kind == "slow":
            size = len(body) // 10 + 1
            parts, seconds = [body[at : at + size] for at in range(0, len(body), size)], fault.seconds
        for number, part in enumerate(parts):
            time.sleep(seconds if number else 0)
            with contextlib.suppress(ConnectionError):  # whoever asked has gone
                self.wfile.write(part)
                self.wfile.flush()
            self.seen.sent += len(part)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code})

    def repository(self, name: str) -> Repository | None:
        """A repository that this request may see; otherwise it is answered."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and self.seen.token != TOKEN):
            self.refuse(401 if self.seen.token is None else 404, "RepoNotFound")
            return None
        return found

    def log_message(self, *_: object) -> None:
        pass


def route(pattern: str) -> Callable[[Route], Route]:
    """Puts a function into the table. pattern: "METHOD /path" with named groups; {id} is a repository."""

    def put(function: Route) -> Route:
        Handler.routes.append((re.compile(pattern.replace("{id}", r"(?P<name>[^/]+/[^/]+)")), function))
        return function

    return put


@route("GET /api/whoami-v2")
def who_am_i(handler: Handler) -> None:
    if handler.seen.token != TOKEN:
        handler.refuse(401, "InvalidCredentials")
        return
    handler.json({"type": "user", "name": "loopback", "orgs": [], "auth": {"type": "access_token"}})


@route("GET /api/agent-harnesses")
def harnesses(handler: Handler) -> None:
    """What huggingface_hub asks for once a day, for itself."""
    handler.json({"standardEnvVars": [], "harnesses": {}})


@route("GET /api/models")
def list_models(handler: Handler) -> None:
    author = handler.query.get("author", "")
    names = [n for n, r in handler.server.repositories.items() if n.startswith(f"{author}/") and not r.private]
    handler.json([{"id": name, "modelId": name, "private": False} for name in sorted(names)])


@route(r"GET /api/models/{id}(?:/revision/(?P<revision>[^/]+))?")
def model_info(handler: Handler, name: str, revision: str = "main") -> None:
    repository = handler.repository(name)
    if repository is None:
        return
    commit = repository.find(revision)
    if commit is None:
        handler.refuse(404, "RevisionNotFound")
        return
    siblings: list[dict[str, Any]] = []
    for path, content in sorted(repository.commits[commit].items()):
        entry: dict[str, Any] = {"rfilename": path}
        if "blobs" in handler.query:
            entry |= {"size": len(content), "blobId": git_id(content)}
            if path.endswith(LARGE_SUFFIXES):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    card = repository.commits[commit].get("README.md", b"").decode("utf-8", "replace")
    licence = re.match(r"---\n(?:.*\n)*?license: (.+)\n", card)
    handler.json(
        {"id": name, "sha": commit, "siblings": siblings, "private": repository.private, "gated": repository.gated,
        "tags": [], "cardData": {"license": licence[1]} if licence else {}}
    )  # fmt: skip


@route("GET /api/models/{id}/refs")
def refs(handler: Handler, name: str) -> None:
    repository = handler.repository(name)
    if repository is None:
        return

    def listed(kind: str, pointers: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": commit} for n, commit in pointers.items()]

    handler.json(
        {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags), "converts": []}
    )


@route(r"(?:GET|HEAD) /{id}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(handler: Handler, name: str, revision: str, path: str) -> None:
    repository = handler.repository(name)
    if repository is None:
        return
    if repository.gated and handler.seen.token != TOKEN:
        handler.refuse(403, "GatedRepo")
        return
    commit = repository.find(revision)
    if commit is None:
        handler.refuse(404, "RevisionNotFound")
        return
    content = repository.commits[commit].get(path)
    if content is None:
        handler.answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        return
    headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(content)}"', "Accept-Ranges": "bytes"}
    if path.endswith(LARGE_SUFFIXES):  # large files lie on another host, which must see no token
        sha256 = hashlib.sha256(content).hexdigest()
        place = f"http://localhost:{handler.server.server_address[1]}/large/{name}/{commit}/{path}"
        headers |= {"ETag": f'"{sha256}"', "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        wrong(handler, headers)
        handler.answer(302, b"", headers | {"Location": place})
        return
    wrong(handler, headers)
    send(handler, content, headers)


def wrong(handler: Handler, headers: dict[str, str]) -> None:
    """Changes the ETag where a fault asks for it."""
    if handler.server.take_fault(f"{handler.command} {handler.seen.path}", "etag"):
        headers.update({key: f'"{"0" * 40}"' for key in ("ETag", "X-Linked-Etag") if key in headers})


@route(r"(?:GET|HEAD) /large/{id}/(?P<commit>[^/]+)/(?P<path>.+)")
def large(handler: Handler, name: str, commit: str, path: str) -> None:
    send(handler, handler.server.repositories[name].commits[commit][path], {"Accept-Ranges": "bytes"})


def send(handler: Handler, content: bytes, headers: dict[str, str]) -> None:
    """A file, or the part of it that is asked for."""
    part = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
    if part is None:
        handler.answer(200, content, headers, faulty=True)
        return
    start, end = int(part[1]), min(int(part[2] or len(content) - 1), len(content) - 1)
    if start >= len(content):
        handler.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        return
    headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    handler.answer(206, content[start : end + 1], headers, faulty=True)
