"""Turns pickled tensors into safetensors, in a process of its own: `python -P unpickle.py FILE OUT LIMIT [nested]`.

torch's weights-only loader reads the file, with memory limited and mapped; nothing in it is executed. What is written
is a flat dictionary of names and tensors, no larger together than the file. nested: the file may be what a trainer
wrote: its `state_dict`, or else every tensor below names and lists, by its path; all else is passed over. Prints one line
of JSON: {} or {"error"}.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import zipfile
from typing import Any

# What trainers write beside their tensors; each is read as a Stand, which is nothing and does nothing.
STANDS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)


class Stand:
    """In place of what is no tensor."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def limit_memory(extra: int) -> None:
    """Allows this process so many more bytes of address space than it has now, where the system can limit that."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))
    except (ImportError, OSError):
        pass  # Windows and macOS keep no such limit; the sizes are still checked


def check_archive(path: str) -> None:
    """Refuses an archive that was cut, or whose entries unpack to more than the file holds."""
    with open(path, "rb") as file:
        archived = file.read(4) == b"PK\x03\x04"
    if archived and not zipfile.is_zipfile(path):
        raise ValueError("it was cut: the end of the archive is missing")
    if not archived:
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > os.path.getsize(path):
        raise ValueError(f"it unpacks to {unpacked} bytes, more than it holds")


def found_within(loaded: Any) -> dict[str, Any]:
    """The tensors that a trainer wrote, by their paths. An optimizer's have numbers for names, and are passed over.

    Raises ValueError where there are none.
    """
    import torch

    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    found: dict[str, Any] = {}
    seen, todo = set(), [("", loaded)]
    while todo:
        path, item = todo.pop()
        if isinstance(item, torch.Tensor):
            found[path] = item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            inner = item.items() if isinstance(item, dict) else enumerate(item)
            named = not isinstance(item, dict) or all(isinstance(key, str) for key in item)
            todo += [(f"{path}/{key}" if path else str(key), value) for key, value in inner if named]
    if not found:
        raise ValueError("it holds no tensors")
    return found


def flat_tensors(loaded: Any, size: int) -> dict[str, Any]:
    """The tensors of a loaded file by name. Raises ValueError for what is no flat dictionary of them, or too large."""
    import torch

    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary of tensors")
    tensors, seen = {}, set()
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise ValueError(f"its entry {str(name)[:80]!a} is a {kind}; wanted a flat dictionary of names and tensors")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(f"its tensor {name[:80]!a} is of a kind that weights do not have")
        held = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > held:
            raise ValueError(f"its tensor {name[:80]!a} {list(value.shape)} is larger than what is stored of it")
        storage = value.untyped_storage().data_ptr()
        size -= 0 if storage in seen else held
        seen.add(storage)
        tensors[name] = value.detach()
    if size < 0:
        raise ValueError("its tensors are larger than the file")
    return tensors


def separate(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors, each with a storage of its own, as safetensors wants them; pickles store tied ones once."""
    taken: set[int] = set()
    for name, value in tensors.items():
        alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        if not (alone and value.is_contiguous()) or value.data_ptr() in taken:
            tensors[name] = value.contiguous().clone()
        taken.add(tensors[name].data_ptr())
    return tensors


def main(path: str, out: str, extra: str, nested: str = "") -> dict[str, str]:
    """Converts; what went wrong is the answer's "error"."""
    import torch
    from safetensors.torch import save_file

    limit_memory(int(extra))
    try:
        check_archive(path)
        mapped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals([(Stand, name) for name in STANDS] if nested else []):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        loaded = found_within(loaded) if nested else loaded
        save_file(separate(flat_tensors(loaded, os.path.getsize(path))), out, metadata={"format": "pt"})
    except MemoryError:
        return {"error": "it needs more memory than its size allows"}
    except EOFError:
        return {"error": "it was cut, or is no pickle"}
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return {
            "error": f"it names {named[1]}, which is no tensor" if named else "it holds something that is no tensor"
        }
    except Exception as error:  # whatever a hostile file makes the loader raise
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
