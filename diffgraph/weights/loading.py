"""Weights: a component from a folder, and back. What `from_pretrained`, `save_pretrained` and the run loop call.

Only this module, tensors.py and pickles.py open weights; torch is imported where they do. Nothing that a file holds is
executed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..authoring import Component
from ..errors import InputError, WeightsError, nearest
from .addresses import Address, missing_folder, package_path, parse_address
from .config import FieldSpec, class_named, fields_of, metadata_of, parse_config
from .folders import TENSORS, Folder, open_folder
from .tensors import assign, built_without_memory, read_header, renamed, save_tensors, write_whole

if TYPE_CHECKING:
    import torch

    from .hub import Hub

__all__ = [
    "Address", "ConfigRead", "Folder", "init_module", "load_component", "load_module", "load_pretrained", "open_folder",
    "package_path", "parse_address", "read_config", "save_pretrained", "tensor_dtype",
]  # fmt: skip

C = TypeVar("C", bound=Component)


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """A published config, read: where the component lies, the value of every field, and what else the config says."""

    folder: Folder
    values: dict[str, Any]
    metadata: dict[str, Any]


def read_config(
    folder: Folder,
    title: str,
    fields: Mapping[str, FieldSpec],
    *,
    config_file: str = "config.json",
    published: Sequence[str] = (),
    ignored: Set[str] = frozenset(),
    overrides: Mapping[str, Any] | None = None,
) -> ConfigRead:
    """Finds a component in a folder and reads its config, from plain data about its fields, so without torch.

    title: the node type. fields: see `fields_of`. overrides: values that replace published ones. Raises WeightsError
    where there is no such component or its config is refused, InputError for an override that is no field.
    """
    for key in overrides or {}:
        if key not in fields:
            near = nearest(key, list(fields))
            hint = f"did you mean {near}?" if near else f"fields: {', '.join(fields)}"
            raise InputError(f"{title} has no config field {key!r}", hint=hint)
    here, found = folder.component(title, config_file, published)
    values = parse_config(fields, {**found, **(overrides or {})}, ignored=ignored, where=f"{here}/{_main(config_file)}")
    return ConfigRead(here, values, metadata_of(fields, found, ignored))


def is_module(cls: type) -> bool:
    """Whether a component is a torch module; asks without importing torch."""
    return any(base.__name__ == "Module" and base.__module__ == "torch.nn.modules.module" for base in cls.__mro__)


def load_component(
    cls: type[C],
    config: Any,
    files: Mapping[str, Path],
    *,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    device: str = "cpu",
    where: str = "",
) -> C:
    """A component with this config and what its files hold. dtype and device are for torch modules."""
    if is_module(cls):
        component = load_module(cls, config, files, dtype=dtype, device=device, where=where)
    else:
        component = cls.from_files(config, files)
    component.config = config
    component.metadata = {**cls.metadata, **(metadata or {})}
    return component


def load_module(
    cls: type[C],
    config: Any,
    files: Mapping[str, Path],
    *,
    dtype: torch.dtype | str | None = None,
    device: str = "cpu",
    where: str = "",
) -> C:
    """A torch module with the weights of its files: built without memory, checked by name and shape, mapped, assigned.

    dtype: of floating tensors, None as the files have them. where: the address, for messages. The module is in
    evaluation mode and can be trained. Raises WeightsError for weights that are damaged, of another model, or hold
    NaN.
    """
    where = where or f"the weights of {cls.__name__}"
    _stem(cls)
    specs = {}
    for name, path in files.items():
        if name.endswith((TENSORS, ".bin")):
            specs.update(read_header(_readable(name, path, where), f"{where}/{name}"))
    module: Any = built_without_memory(lambda: cls.from_config(config))
    assign(module, renamed(specs, cls.keys, where), dtype=tensor_dtype(dtype), device=str(device), where=where)
    component: C = module.eval()
    return component


def _readable(name: str, path: Path, where: str) -> Path:
    if name.endswith(TENSORS):
        return path
    from .pickles import converted

    return converted(path, f"{where}/{name}")


def init_module(
    cls: type[C], config: Any, seed: int, *, dtype: torch.dtype | str | None = None, device: str = "cpu"
) -> C:
    """A torch module with fresh values, drawn on the CPU from a generator of its own: the same on every device."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = cls.from_config(config)
    assert isinstance(module, torch.nn.Module)
    module.config = config
    return module.eval().to(device=device, dtype=tensor_dtype(dtype))


def load_pretrained(
    cls: type[C],
    source: str | Path,
    *,
    subfolder: str = "",
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: Any = None,
    config: Mapping[str, Any] | None = None,
    hub: Hub | None = None,
) -> C:
    """What `Component.from_pretrained` does. A torch module becomes float32 unless `dtype` says otherwise."""
    if not is_module(cls) and not (dtype is None and device is None):
        raise InputError(f"{cls.__name__} holds no tensors, so it takes neither dtype nor device")
    address = _source_address(source, revision)
    if subfolder:
        address = address / subfolder
    read = read_config(
        open_folder(address, hub=hub, variant=variant),
        cls.__name__,
        fields_of(cls.Config),
        config_file=cls.config_file,
        published=cls.published,
        ignored=cls.ignored,
        overrides=config,
    )
    files = read.folder.find(*cls.files)
    return load_component(
        cls,
        cls.Config(**read.values),
        files,
        metadata=read.metadata,
        dtype=dtype if dtype is not None else "float32",
        device="cpu" if device is None else str(device),
        where=str(read.folder),
    )


def _source_address(source: str | Path, revision: str | None) -> Address:
    text = str(source)
    place = Path(text).expanduser()
    if "://" not in text and not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", text) and text[0] not in ".~":
        if place.parent.is_dir() and nearest(place.name, [entry.name for entry in place.parent.iterdir()]):
            raise missing_folder(place, text)
        text = f"hf://{text}"
    address = parse_address(text)
    if revision is None:
        return address
    if address.scheme != "hf" or address.revision not in (None, revision):
        raise InputError(f"{text}: takes no revision {revision!r}", hint="a revision is of a repository, given once")
    return dataclasses.replace(address, revision=revision, text="")


def save_pretrained(component: Component, folder: str | Path, *, dtype: torch.dtype | str | None = None) -> Folder:
    """What `Component.save_pretrained` does: the weights first, then the config, each file whole or not at all."""
    cls = type(component)
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{place}: cannot be made: {error.strerror}") from None
    published = {**component.metadata, **dataclasses.asdict(component.config)}
    if is_module(cls):
        module: Any = component
        save_tensors(module, place, _stem(cls), dtype=tensor_dtype(dtype))
        stored = tensor_dtype(dtype) or next((t.dtype for t in module.parameters() if t.is_floating_point()), None)
        published.update(
            (key, str(stored).removeprefix("torch.")) for key in ("dtype", "torch_dtype") if key in published
        )
    elif dtype is not None:
        raise InputError(f"{cls.__name__} holds no tensors, so it takes no dtype")
    component.save_files(place)
    names = cls.published or (cls.__name__,)
    if "architectures" in component.metadata:
        published["architectures"] = [names[0]]
    elif "_class_name" in published or class_named(published) not in names:
        published = {"_class_name": "", **published} | {"_class_name": names[0]}  # first in the file
    text = json.dumps(published, indent=2, ensure_ascii=False)
    write_whole(place / _main(cls.config_file), lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return open_folder(Address("file", str(place), text=str(folder)))


def _main(config_file: str) -> str:
    """The name of the config among those that a component reads."""
    return config_file.split()[0].removesuffix("?")


def _stem(cls: type[Component]) -> str:
    for name in (name for words in cls.files for name in words.removesuffix("?").split()):
        if "." not in name:
            return name
    raise TypeError(f"{cls.__name__}.files names no tensors, such as diffusion_pytorch_model")


_DTYPES = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}


def tensor_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of a name such as "float16" or "bf16". Raises InputError for one that weights cannot have."""
    import torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, _DTYPES.get(dtype, dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"{dtype!r} is not a dtype of weights", hint="use float32, float16 or bfloat16")
    return found
