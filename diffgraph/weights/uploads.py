"""Uploading to the Hub: files as one commit of a repository, and a component as a repository of its own."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, WeightsError
from .addresses import parse_address
from .hub import Hub
from .loading import save_pretrained

if TYPE_CHECKING:
    import torch

    from ..authoring import Component

TAG = "diffgraph"


def repository_name(text: str) -> str:
    """`org/repo`, also where hf:// stands before it. Raises WeightsError for what names no repository."""
    address = parse_address(text if text.startswith("hf://") else f"hf://{text}")
    if address.path or address.revision:
        raise WeightsError(f"{text}: names more than a repository", hint=f"write {address.root}")
    return address.root


def upload(hub: Hub, repository: str, files: Mapping[str, bytes | Path], *, message: str, private: bool) -> str:
    """Puts files into a repository as one commit, making it if need be; gives the commit. Raises HubError.

    Files of the repository that are not among them stay.
    """
    from huggingface_hub import CommitOperationAdd

    if hub.offline:
        raise HubError(f"hf://{repository}: offline, nothing is sent", hint="run without --offline (or HF_HUB_OFFLINE)")
    operations = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
    with hub.explained(repository, "main"), _bars_on_terminals():
        api = hub.api()
        api.create_repo(repository, private=private, exist_ok=True)
        try:
            made = api.create_commit(repository, operations, commit_message=message)
        except RuntimeError as error:  # what it makes of the failure of one file
            raise error.__cause__ or HubError(f"hf://{repository}: {error}", hint="try again") from None
    hub.forget(repository)
    return str(made.oid)


@contextlib.contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """huggingface_hub draws its bars for uploads, but not into a file or a pipe."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def push_pretrained(
    component: Component, repository: str, *, private: bool = False, message: str | None = None,
    dtype: torch.dtype | str | None = None, licence: str | None = None, hub: Hub | None = None,
) -> str:  # fmt: skip
    """What `Component.push_to_hub` does: what `save_pretrained` writes, with a card, as one commit."""
    from .hub import default_hub

    name, kind = repository_name(repository), type(component).__name__
    hub = hub or default_hub()
    with tempfile.TemporaryDirectory(prefix="diffgraph-") as folder:
        save_pretrained(component, folder, dtype=dtype)
        files: dict[str, bytes | Path] = {path.name: path for path in sorted(Path(folder).iterdir())}
        files["README.md"] = _part_card(component, name, kind, licence).encode()
        return upload(hub, name, files, message=message or f"Upload {kind}", private=private)


def _part_card(component: Component, repository: str, kind: str, licence: str | None) -> str:
    """The card of one component."""
    module = type(component).__module__.partition(".")[0]
    place = "diffgraph.nodes" if module == "diffgraph" else type(component).__module__
    about = (type(component).__doc__ or "").strip().split("\n\n")[0]
    return f"""{front_matter({"license": licence, "library_name": TAG, "tags": [TAG]})}
# {repository.partition("/")[2]}

{about}

```python
from {place} import {kind}

part = {kind}.from_pretrained("{repository}")
```

As a node of a graph: `{{node: {kind}, weights: hf://{repository}}}`.
"""


def front_matter(values: Mapping[str, Any]) -> str:
    """The head of a card, which the Hub reads; without what is None or empty."""
    from ..language.document import write

    return f"---\n{write({key: value for key, value in values.items() if value})}---\n"
