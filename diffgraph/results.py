"""What a run gives: outputs as attributes, written and shown through the writers of their kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError
from .ports import Value
from .registry import import_name, registry
from .session import Prepared
from .store import Layers, Memory, Store, cache_folder

if TYPE_CHECKING:
    from PIL.Image import Image


@cache
def default_results() -> Layers:
    """The memory of this process over the store on disk."""
    return Layers(Memory(), Store(cache_folder() / "results", records=lambda place: registry().record_types(place)))


class Result:
    """The outputs of a run, as attributes, and by name: `result.image`, `result["image"]`."""

    def __init__(self, outputs: Mapping[str, Any], shown: Any = None) -> None:
        self._outputs, self._shown = dict(outputs), shown

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_outputs"][name]
        except KeyError:
            has = ", ".join(self.__dict__.get("_outputs", ()))
            raise AttributeError(f"the result has no output {name!r}; it has: {has}") from None

    def __getitem__(self, name: str) -> Any:
        return self._outputs[name]

    def __dir__(self) -> list[str]:
        return list(self._outputs)

    def __repr__(self) -> str:
        return f"<Result {', '.join(self._outputs)}>"

    def _repr_png_(self) -> bytes | None:
        for value in self._outputs.values():
            show = getattr(value, "_repr_png_", None)
            if show is not None:
                return show()  # type: ignore[no-any-return]
        return None


@cache
def _written_tensor() -> type:
    """A tensor that knows the writer of its kind. Operations on it give plain tensors."""
    import torch

    class Written(torch.Tensor):
        """A tensor output: `.pil()` gives pictures, `.save(path)` writes files, notebooks show it."""

        __torch_function__ = torch._C._disabled_torch_function_impl
        _writer: Any
        _suffix: str
        _metadata: dict[str, str]

        def files(self) -> list[bytes]:
            """The content of one file an item, in the format of the kind."""
            return list(self._writer(self.detach().as_subclass(torch.Tensor), self._metadata))

        def pil(self) -> Image | list[Image]:
            """The picture, or a list of them where there are several."""
            from io import BytesIO

            from PIL import Image as pillow

            pictures: list[Image] = [pillow.open(BytesIO(data)) for data in self.files()]
            return pictures[0] if len(pictures) == 1 else pictures

        def save(self, path: str | Path) -> list[Path]:
            """Writes `path`, or `path-0`, `path-1` ... where there are several. Raises StoreError."""
            place = Path(path)
            files = self.files()
            names = [place] if len(files) == 1 else [place.with_stem(f"{place.stem}-{i}") for i in range(len(files))]
            for name, data in zip(names, files, strict=True):
                try:
                    name.write_bytes(data)
                except OSError as error:
                    raise StoreError(f"{name} cannot be written: {error.strerror}") from None
            return names

        def _repr_png_(self) -> bytes | None:
            files = self.files()
            return files[0] if self._suffix == ".png" and files else None

    return Written


def make_result(prepared: Prepared, outputs: Mapping[str, Any]) -> Result:
    """Outputs for Python: a tensor of a kind that has a writer gets `.pil()`, `.save()`."""
    metadata = provenance(prepared)
    wrapped = {}
    for name, value in outputs.items():
        entry = writer_of(prepared, name)
        if entry is not None and hasattr(value, "_version"):
            tensor = value.as_subclass(_written_tensor())
            tensor._suffix, tensor._writer, tensor._metadata = entry[0], import_name(entry[1]), metadata
            wrapped[name] = tensor
        else:
            wrapped[name] = value
    return Result(wrapped)


def writer_of(prepared: Prepared, name: str) -> tuple[str, str] | None:
    """Suffix and function of the writer for an output: of its kind, or of a special kind of that whose facts fit."""
    value = prepared.kinds.get(name)
    return kind_writer(prepared, value) if value is not None else None


def kind_writer(prepared: Prepared, value: Value) -> tuple[str, str] | None:
    reg = prepared.registry
    found = reg.writers.get(value.type.name)
    if found is None and value.type.form == "kind":
        for kind, entry in reg.writers.items():
            port = reg.kinds.get(kind)
            if port is not None and port.type.of == value.type.name:
                if all(value.facts.get(fact, word) == word for fact, word in port.facts):
                    return entry
    return found


def provenance(prepared: Prepared) -> dict[str, str]:
    """What a written file carries: the document, those that it includes, and the inputs; never a secret, a file by digest."""
    from .document import write
    from .session import FileInput
    from .writing import document_plain

    inputs: dict[str, Any] = {}
    for name, value in prepared.values.items():
        if prepared.graph.inputs[name].secret:
            continue
        if isinstance(value, FileInput):
            inputs[name] = {"file": value.file.name, "sha256": value.file.digest}
        elif isinstance(value, str | int | float | bool | list | None):
            inputs[name] = str.__str__(value) if isinstance(value, str) else value
    try:
        main = write(document_plain(prepared.graph))
    except Exception:
        return {}
    documents = {address: text for address, text in prepared.loader.texts.items() if address != prepared.source.address}
    bundle = {
        "diffgraph": 1,
        "main": prepared.source.address,
        "documents": {prepared.source.address: main, **documents},
        "inputs": inputs,
    }
    return {"diffgraph": json.dumps(bundle, ensure_ascii=False, sort_keys=True)}
