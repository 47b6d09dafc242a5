"""The loopback Hub's routes for making repositories and uploading to them; importing this adds them to the server."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from .hub_server import LARGE_SUFFIXES, TOKEN, Handler, Repository, route

uploaded: dict[str, bytes] = {}  # large files by their hash, until a commit names them


def body(handler: Handler) -> bytes:
    """What came with a request."""
    if "chunked" not in (handler.headers.get("Transfer-Encoding") or ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    content = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        content += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return content


def allowed(handler: Handler) -> bool:
    """Whether this request may write; otherwise it is answered."""
    if handler.seen.token == TOKEN:
        return True
    handler.refuse(401, "InvalidCredentials")
    return False


@route("POST /api/repos/create")
def create(handler: Handler) -> None:
    asked: dict[str, Any] = json.loads(body(handler))
    name = f"{asked.get('organization') or 'loopback'}/{asked['name']}"
    if not allowed(handler):
        return
    url = {"url": f"{handler.server.endpoint}/{name}", "name": name, "id": name}
    if name in handler.server.repositories:
        handler.answer(409, json.dumps(url).encode(), {"Content-Type": "application/json"})
        return
    handler.server.repositories[name] = Repository(
        private=asked.get("visibility") == "private" or bool(asked.get("private"))
    )
    handler.server.commit(name, {".gitattributes": b""})
    handler.json(url)


@route("POST /api/validate-yaml")
def validate(handler: Handler) -> None:
    body(handler)
    handler.json({"errors": [], "warnings": []})


@route("POST /api/models/{id}/preupload/(?P<revision>[^/]+)")
def preupload(handler: Handler, name: str, revision: str) -> None:
    files = json.loads(body(handler))["files"]
    if not allowed(handler):
        return
    modes = {file["path"]: "lfs" if file["path"].endswith(LARGE_SUFFIXES) else "regular" for file in files}
    answer = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
    handler.json({"files": answer})


@route("POST /{id}.git/info/lfs/objects/batch")
def batch(handler: Handler, name: str) -> None:
    asked = json.loads(body(handler))["objects"]
    here = f"{handler.server.endpoint}/large-upload"
    objects = [
        {**one, "actions": {"upload": {"href": f"{here}/{one['oid']}"}, "verify": {"href": f"{here}/verify"}}}
        for one in asked
    ]
    handler.json({"transfer": "basic", "objects": objects})


@route("PUT /large-upload/(?P<oid>[0-9a-f]{64})")
def put(handler: Handler, oid: str) -> None:
    content = body(handler)
    if hashlib.sha256(content).hexdigest() != oid:
        handler.answer(400, b"{}")
        return
    uploaded[oid] = content
    handler.answer(200, b"")


@route("POST /large-upload/verify")
def verify(handler: Handler) -> None:
    body(handler)
    handler.json({})


@route("POST /api/models/{id}/commit/(?P<revision>[^/]+)")
def commit(handler: Handler, name: str, revision: str) -> None:
    lines = [json.loads(line) for line in body(handler).splitlines()]
    repository = handler.repository(name) if allowed(handler) else None
    if repository is None:
        return
    files = dict(repository.commits[repository.branches[revision]])
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = uploaded[value["oid"]]
    oid = handler.server.commit(name, files, branch=revision)
    handler.json({"success": True, "commitOid": oid, "commitUrl": f"{handler.server.endpoint}/{name}/commit/{oid}"})
