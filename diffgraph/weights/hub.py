"""The Hugging Face Hub: a revision resolved once to a commit, its list of files, and downloads of the files asked for.

The only module that imports huggingface_hub. Files lie in its cache, which other programs share. What a commit holds
never changes, so its list of files is remembered below our own cache folder: with it, a pinned and cached repository
costs no request. Every file is checked against the list when it arrives.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ..errors import HubError, OfflineError, nearest
from ..telling import hide
from .addresses import Address
from .digests import file_digest
from .transfers import Silence, each, meter, say_bytes, unbroken

Progress = Callable[[str, int, int], None]

COMMIT = re.compile("[0-9a-f]{40}")
_YES = ("1", "ON", "YES", "TRUE")
ANSWER_SECONDS = 8.0  # for one answer that is not a file
RETRY_SECONDS = 8.0  # in all, while the Hub says that it is busy
QUIET_SECONDS = 8.5  # until it is an error that no file begins to come; or that one stalls and the Hub does not answer
HEARD_SECONDS = 30.0  # an answer this recent shows that the Hub is there


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `sha256` of large ones, `blob`: git's id of others; "" where not known."""

    size: int
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    repository: str
    commit: str
    files: Mapping[str, HubFile]


@dataclass(frozen=True, slots=True)
class Download:
    """A file that may have to be downloaded."""

    hub: Hub
    snapshot: Snapshot
    name: str

    def __str__(self) -> str:
        return f"hf://{self.snapshot.repository}/{self.name}"

    @property
    def size(self) -> int:
        return self.snapshot.files[self.name].size if self.name in self.snapshot.files else 0


class Hub:
    """One endpoint, one cache, and what was resolved there: a revision stays at one commit while this object lives.

    endpoint, cache_dir, token: the user's own where None. offline: ask nothing, use what is on this machine; so does
    HF_HUB_OFFLINE=1. progress: told of downloads as (repository, bytes done, bytes in all); a bar is drawn where None.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
        token: str | None = None,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        from huggingface_hub import constants

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.shown = re.sub("//[^/@]*@", "//", self.endpoint)  # without a login, as errors name it
        self.cache_dir = Path(cache_dir or constants.HF_HUB_CACHE)
        self.offline = offline or constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES
        self._token, self._progress = token, progress
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        self._lock = threading.Lock()
        self._heard = float("-inf")

    def api(self) -> Any:
        """huggingface_hub's own way to this Hub, with the user's token."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self._token)

    def licence(self, repository: str, commit: str) -> str | None:
        """What a repository's card says of its licence. Raises HubError."""
        card = self._ask(repository, commit, files=False).card_data if not self.offline else None
        found = card.get("license") if card is not None else None
        return found if isinstance(found, str) else None

    def secrets(self) -> list[str]:
        """Texts that must never leave this machine."""
        from huggingface_hub import get_token

        login = urlsplit(self.endpoint)
        return [text for text in (self._token, get_token(), login.password or login.username) if text]

    def forget(self, repository: str) -> None:
        """Resolves the branches of a repository anew, which was changed by ourselves."""
        with self._lock:
            for known in [known for known in self._snapshots if known[0] == repository]:
                del self._snapshots[known]

    def snapshot(self, repository: str, revision: str | None = None) -> Snapshot:
        """A repository at the commit that a branch, tag or commit means now, and then on. Raises HubError."""
        revision = revision or "main"
        with self._lock:
            if (repository, revision) not in self._snapshots:
                found = self._resolve(repository, revision)
                self._snapshots[repository, revision] = self._snapshots[repository, found.commit] = found
            return self._snapshots[repository, revision]

    def absent(self, snapshot: Snapshot, names: Sequence[str]) -> list[str]:
        """Which of these files are not in the cache."""
        return [name for name in names if not self._place(snapshot, name).is_file()]

    def paths(self, snapshot: Snapshot, names: Sequence[str]) -> dict[str, Path]:
        """Local paths of files, after downloading those that are not in the cache, several at once. Raises HubError."""
        self.fetch([Download(self, snapshot, name) for name in names])
        return {name: self._place(snapshot, name) for name in names}

    # --- what is where ----------------------------------------------------------------------------------------------

    def _repository_folder(self, repository: str) -> Path:
        return self.cache_dir / f"models--{repository.replace('/', '--')}"

    def _place(self, snapshot: Snapshot, name: str) -> Path:
        return self._repository_folder(snapshot.repository).joinpath("snapshots", snapshot.commit, *name.split("/"))

    def _notes(self, repository: str) -> Path:
        from ..running.store import cache_folder

        return cache_folder() / "hub" / quote(self.shown, safe="") / quote(repository, safe="")

    def _listed(self, repository: str, commit: str) -> Snapshot | None:
        try:
            files = json.loads((self._notes(repository) / f"{commit}.json").read_bytes())
            return Snapshot(repository, commit, {name: HubFile(*entry) for name, entry in files.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def _known_commit(self, repository: str, revision: str) -> str | None:
        ours = self._notes(repository) / "refs" / quote(revision, safe="")
        shared = self._repository_folder(repository).joinpath("refs", *revision.split("/"))
        for path in (ours, shared):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                commit = path.read_text("ascii").strip()
                if COMMIT.fullmatch(commit):
                    return commit
        return None

    def _note(self, snapshot: Snapshot, revision: str) -> None:
        listing = {name: [file.size, file.sha256, file.blob] for name, file in snapshot.files.items()}
        texts = {f"{snapshot.commit}.json": json.dumps(listing)}
        if revision != snapshot.commit:
            texts[f"refs/{quote(revision, safe='')}"] = snapshot.commit
        with contextlib.suppress(OSError):  # without the notes there is one request more, that is all
            for name, text in texts.items():
                path = self._notes(snapshot.repository) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                draft.write_text(text, encoding="utf-8")
                draft.replace(path)

    # --- asking -----------------------------------------------------------------------------------------------------

    def _resolve(self, repository: str, revision: str) -> Snapshot:
        commit = revision if COMMIT.fullmatch(revision) else None
        listed = self._listed(repository, commit) if commit else None
        if listed is not None:
            return listed
        if self.offline:
            return self._resolve_offline(repository, revision)
        info = self._ask(repository, revision, files=True)
        files = {}
        for entry in info.siblings or ():
            if _plain(entry.rfilename):
                sha256 = entry.lfs.sha256 if entry.lfs is not None else ""
                files[entry.rfilename] = HubFile(entry.size or 0, sha256, entry.blob_id or "")
        if not COMMIT.fullmatch(info.sha or ""):
            raise HubError(f"{self.shown} named no commit for {repository}", hint="is it a Hub?")
        snapshot = Snapshot(repository, info.sha, files)
        self._note(snapshot, revision)
        return snapshot

    def _resolve_offline(self, repository: str, revision: str) -> Snapshot:
        commit = revision if COMMIT.fullmatch(revision) else self._known_commit(repository, revision)
        if commit is not None:
            listed = self._listed(repository, commit)
            if listed is not None:
                return listed
            root = self._repository_folder(repository) / "snapshots" / commit
            held = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
            if held:  # fetched by another program
                return Snapshot(repository, commit, {name: HubFile(path.stat().st_size) for name, path in held.items()})
        raise OfflineError(
            f"hf://{repository}@{revision} is not on this machine, and offline nothing is asked",
            [f"hf://{repository}@{revision}"],
            hint="run once without --offline (or HF_HUB_OFFLINE)",
        )

    def _ask(self, repository: str, revision: str, *, files: bool) -> Any:
        """What the Hub says of a repository; asked again for a few seconds where it is busy."""
        from huggingface_hub.errors import HfHubHTTPError

        api = self.api()
        deadline = time.monotonic() + RETRY_SECONDS
        pause = 0.5
        with self.explained(repository, revision):
            while True:
                try:
                    info = unbroken(
                        lambda: api.model_info(
                            repository, revision=revision, files_metadata=files, timeout=ANSWER_SECONDS
                        )
                    )
                except HfHubHTTPError as error:
                    status = error.response.status_code
                    wait = _retry_after(error.response.headers.get("Retry-After"), pause)
                    if status not in (429, 500, 502, 503, 504) or time.monotonic() + wait > deadline:
                        raise
                    time.sleep(wait)
                    pause *= 2
                else:
                    self._heard = time.monotonic()
                    return info

    # --- downloading ------------------------------------------------------------------------------------------------

    def fetch(self, wanted: Sequence[Download], progress: Progress | None = None) -> None:
        """Downloads those of these files that are not in the cache, several at once, with one progress for all.

        progress: in place of the Hub's own. Raises OfflineError naming all of them, HubError.
        """
        by_name = {str(one) + one.snapshot.commit: one for one in wanted if self.absent(one.snapshot, [one.name])}
        if not by_name:
            return
        absent = list(by_name.values())
        total = sum(one.size for one in absent)
        if self.offline:
            missing = [f"{one} ({say_bytes(one.size)})" for one in absent]
            listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
            hint = "run once without --offline (or HF_HUB_OFFLINE)"
            raise OfflineError(f"offline, and not on this machine: {listed}", missing, hint=hint)
        self._check_space(total)
        if time.monotonic() - self._heard > HEARD_SECONDS:  # a dead endpoint is told now, not after many tries
            self._ask(absent[0].snapshot.repository, absent[0].snapshot.commit, files=False)
        repositories = dict.fromkeys(one.snapshot.repository for one in absent)
        label = next(iter(repositories)) if len(repositories) == 1 else f"{len(repositories)} repositories"
        silence = Silence([self._repository_folder(name) / "blobs" for name in repositories])
        with self._reported(label, total, progress or self._progress) as report:

            def add(count: int) -> None:
                silence.end()
                report(count)

            each(
                lambda name: self._fetch(by_name[name].snapshot, by_name[name].name, add), list(by_name),
                lambda: self._listen(silence, absent[0].snapshot),
            )  # fmt: skip
        self._heard = time.monotonic()

    def _listen(self, silence: Silence, snapshot: Snapshot) -> None:
        """Raises HubError where nothing comes and nobody is there: huggingface_hub alone would try for minutes."""
        seconds = silence.seconds()
        if seconds < QUIET_SECONDS:
            return
        if not silence.begun:
            raise HubError(
                f"hf://{snapshot.repository}: {self.shown} has sent nothing for {seconds:.0f} s",
                hint="try again later; what has arrived is kept",
            )
        if time.monotonic() - self._heard > QUIET_SECONDS:
            self._ask(snapshot.repository, snapshot.commit, files=False)

    def _fetch(self, snapshot: Snapshot, name: str, add: Callable[[int], None]) -> None:
        from huggingface_hub import hf_hub_download

        def download() -> str:
            return hf_hub_download(
                snapshot.repository,
                name,
                revision=snapshot.commit,
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
                token=self._token,
                etag_timeout=ANSWER_SECONDS,
                tqdm_class=meter(add),
            )

        with self.explained(snapshot.repository, snapshot.commit):
            self._verify(snapshot, name, Path(unbroken(download)))

    def _verify(self, snapshot: Snapshot, name: str, path: Path) -> None:
        """Throws away a file that is not what the Hub's list says. Raises HubError."""
        want = snapshot.files.get(name, HubFile(0))
        if want.sha256:
            wanted, got = want.sha256, file_digest(path)
        elif want.blob:
            content = path.read_bytes()
            wanted, got = want.blob, hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        else:
            return
        if wanted != got:
            for damaged in (path.resolve(), path):
                damaged.unlink(missing_ok=True)
            raise HubError(
                f"hf://{snapshot.repository}/{name} arrived damaged: its hash is {got}, the Hub's list says {wanted}",
                hint="it was thrown away; run again to fetch it again",
            )

    def _check_space(self, total: int) -> None:
        folder = self.cache_dir.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < total:
            raise HubError(
                f"no space: {say_bytes(total)} to download, {say_bytes(free)} free at {self.cache_dir}",
                hint="make room, or set HF_HOME to a folder on a larger disk",
            )

    @contextlib.contextmanager
    def _reported(self, what: str, total: int, progress: Progress | None) -> Iterator[Callable[[int], None]]:
        """Counts the bytes of all files of one download together."""
        from huggingface_hub.utils.tqdm import tqdm

        done, lock = 0, threading.Lock()
        with contextlib.ExitStack() as stack:
            if progress is None:
                draw: Any = tqdm
                bar = stack.enter_context(draw(total=total, unit="B", unit_scale=True, desc=what, disable=None))
                report = bar.update
            else:
                tell = progress
                tell(what, 0, total)

                def report(count: int) -> None:
                    tell(what, done, total)

            def add(count: int) -> None:
                nonlocal done
                with lock:
                    done += count
                    report(count)

            yield add

    # --- what went wrong --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def explained(self, repository: str, revision: str) -> Iterator[None]:
        """Turns whatever huggingface_hub raises into one HubError that names the repository and one mend."""
        from huggingface_hub import errors

        # The root of the HTTP library's own errors, whichever library huggingface_hub uses.
        transport: Any = errors.HfHubHTTPError.__mro__[1]
        try:
            yield
        except (OSError, ValueError, errors.EntryNotFoundError, transport) as error:  # a HubError is none of these
            told = self._explain(error, repository, revision)
            hide(told, self.secrets())  # a client may quote the header or the address that it could not use
            raise told from None

    def _explain(self, error: BaseException, repository: str, revision: str) -> HubError:
        from huggingface_hub import errors

        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, errors.GatedRepoError):
            return HubError(
                f"hf://{repository}: its owner gives the files to those who accept the licence",
                hint=f"accept it at {self.shown}/{repository}, then log in: hf auth login",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            near = self._near_repository(repository)
            hint = f"did you mean hf://{near}?" if near else "check the name; for a private one log in: hf auth login"
            return HubError(f"hf://{repository}: there is no such repository, or it is private", hint=hint)
        if isinstance(error, errors.RevisionNotFoundError):
            near = self._near_revision(repository, revision)
            hint = f"did you mean {near}?" if near else "name a branch, a tag or a whole commit"
            return HubError(f"hf://{repository}: there is no revision {revision!r}", hint=hint)
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            hint = "log in: hf auth login" if status in (401, 403) else "try again later"
            return HubError(f"hf://{repository}: {self.shown} answered with status {status}", hint=hint)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return HubError(f"no space left at {self.cache_dir}", hint="make room, or set HF_HOME to a larger disk")
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            return HubError(f"{self.cache_dir} cannot be written", hint="set HF_HOME to a folder that can")
        if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno is None:
            return HubError(f"hf://{repository}: a file came shorter or longer than promised", hint="run again")
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return HubError(
            f"hf://{repository}: cannot reach {self.shown}: {reason}",
            hint="check the network; what is on this machine is used with --offline",
        )

    def _near_repository(self, repository: str) -> str | None:
        with contextlib.suppress(Exception):  # only a hint; the error that asked for it stands
            found = self.api().list_models(author=repository.partition("/")[0], limit=200)
            return nearest(repository, [model.id for model in found])
        return None

    def _near_revision(self, repository: str, revision: str) -> str | None:
        with contextlib.suppress(Exception):
            refs = self.api().list_repo_refs(repository)
            return nearest(revision, [ref.name for ref in (*refs.branches, *refs.tags)])
        return None


@functools.cache
def default_hub() -> Hub:
    """The user's own Hub: endpoint, cache and token as their environment has them."""
    return Hub()


class HubSource:
    """The files of a repository at one commit, as a Folder wants them."""

    root: Path | None = None

    def __init__(self, hub: Hub, address: Address) -> None:
        self.hub = hub
        self.snapshot = hub.snapshot(address.root, address.revision)
        self.commit: str | None = self.snapshot.commit

    def has(self, path: str) -> bool:
        return path in self.snapshot.files

    def children(self, path: str) -> list[str]:
        start = f"{path}/" if path else ""
        below = [name.removeprefix(start) for name in self.snapshot.files if name.startswith(start)]
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in below}
        return sorted(name for name in names if not name.startswith("."))

    def size(self, path: str) -> int:
        return self.snapshot.files[path].size

    def absent(self, paths: Sequence[str]) -> list[str]:
        return self.hub.absent(self.snapshot, paths)

    def remote(self, paths: Sequence[str]) -> list[Download]:
        return [Download(self.hub, self.snapshot, path) for path in paths]

    def local(self, paths: Sequence[str]) -> dict[str, Path]:
        return self.hub.paths(self.snapshot, paths)

    def digest(self, path: str) -> str:
        return self.snapshot.files[path].sha256 or file_digest(self.local([path])[path])

    def above(self) -> None:
        return None


def _plain(name: str) -> bool:
    """Whether a file's name stays below its repository's folder."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts)


def _retry_after(header: str | None, otherwise: float) -> float:
    return float(header) if header is not None and header.isdigit() else otherwise
