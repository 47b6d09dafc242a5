"""Tensors in files: headers checked against a model before any tensor is read, then mapped and assigned; and written.

A file of weights is untrusted. Its names and shapes are compared with the model's, which was built without memory, and
every difference is told at once. What fits is mapped, not copied, where dtype and device are the file's own.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from .digests import recall, remember

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100 << 20
SHARD_BYTES = 5_000_000_000

_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a file promises: its name there, its dtype as safetensors writes it ("F32"), and its shape.

    rows: where it is a part of what the file has: which part, of how many, of each of how many runs of rows.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: tuple[int, int, int] | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path, where: str) -> dict[str, TensorSpec]:
    """The tensors of a safetensors file by name, without reading one. Needs no torch.

    Raises WeightsError where the file is something else by its content, truncated, or its header contradicts itself.
    """
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            cut = len(start) < 8 or length > min(total - 8, MAX_HEADER_BYTES)
            if start.startswith(b"PK\x03\x04") or (cut and start.startswith(b"\x80")):  # a length may begin with 80
                raise WeightsError(f"{where}: is a pickle under another name, not safetensors", hint="it is refused")
            if cut:
                raise WeightsError(f"{where}: is no safetensors file, or was cut in its header", hint=_AGAIN)
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise WeightsError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise WeightsError(f"{where}: its header is damaged", hint=_AGAIN) from None
    if not isinstance(header, dict):
        raise WeightsError(f"{where}: its header is damaged", hint=_AGAIN)
    body = total - 8 - length
    specs, ends = {}, [0]
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        spec, end = _entry(path, name, entry, where)
        specs[name] = spec
        ends.append(end)
    if max(ends) != body:
        raise WeightsError(
            f"{where}: was cut: it holds {body} bytes of tensors, its header promises {max(ends)}", hint=_AGAIN
        )
    return specs


_AGAIN = "fetch the file again"


def _entry(path: Path, name: str, entry: Any, where: str) -> tuple[TensorSpec, int]:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise WeightsError(f"{where}: the entry of {printable(name)} is damaged", hint=_AGAIN)
    if dtype not in _BYTES:
        raise WeightsError(f"{where}: {printable(name)} is of dtype {printable(str(dtype))}; read: {', '.join(_BYTES)}")
    if math.prod(shape) * _BYTES[dtype] != end - start:
        raise WeightsError(f"{where}: {printable(name)} {list(shape)} {dtype} does not fit in its {end - start} bytes")
    return TensorSpec(path, name, dtype, shape), end


def printable(name: str) -> str:
    """A name from a file, safe to show."""
    text = name if len(name) <= 100 else name[:97] + "..."
    return text if text.isprintable() and text.isascii() else ascii(text)[1:-1]


_FROM_THE_END = r"{last-\1}"


def renamed(specs: Mapping[str, TensorSpec], keys: Sequence[tuple[str, str]], where: str) -> dict[str, TensorSpec]:
    """Tensors under the model's own names. keys: patterns and replacements, in order; what becomes "" is left out.

    `{last-\\1}` in a replacement counts from the end: the largest number that group 1 is in any name, less this one.
    """
    names = {name: name for name in specs}
    for pattern, replacement in keys:
        names = _replaced(names, re.compile(pattern), replacement)
    out: dict[str, TensorSpec] = {}
    for name, new in names.items():
        if new in out:
            both = f"{printable(out[new].name)} and {printable(specs[name].name)}"
            raise WeightsError(f"{where}: {both} are two names of one tensor, {printable(new)}")
        if new:
            out[new] = specs[name]
    return out


def _replaced(names: Mapping[str, str], pattern: re.Pattern[str], replacement: str) -> dict[str, str]:
    if _FROM_THE_END not in replacement:
        return {name: pattern.sub(replacement, new) for name, new in names.items()}
    last = max((int(found[1]) for new in names.values() if (found := pattern.search(new))), default=0)

    def put(found: re.Match[str]) -> str:
        return found.expand(replacement.replace(_FROM_THE_END, str(last - int(found[1]))))

    return {name: pattern.sub(put, new) for name, new in names.items()}


_DRAWS = frozenset({"normal_", "uniform_"})  # on the meta device these import torch's compiler, for seconds


def built_without_memory(build: Callable[[], Any]) -> Any:
    """What `build` makes, with all tensors on the meta device and no time spent on their initial values."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Blank(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
            if getattr(func, "__name__", "") in _DRAWS:
                return args[0]
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Blank():
        return build()


def assign(
    module: torch.nn.Module, specs: Mapping[str, TensorSpec], *, dtype: torch.dtype | None, device: str, where: str,
    whole: bool = True,
) -> None:  # fmt: skip
    """Gives a module that was built on the meta device the tensors of files.

    Floating tensors become `dtype` (None: as the file has them); with dtype and device those of the file nothing is
    copied. whole: these are all tensors of the files, so that a file in which none holds NaN is remembered. Raises
    WeightsError, before a tensor is read, listing what is missing, left over, or of another shape; and where a tensor
    holds NaN.
    """
    import torch

    groups = _groups(module)
    chosen = _match(groups, specs, where)
    state: dict[str, torch.Tensor] = {}
    for shard in sorted({spec.file for spec in chosen.values()}):
        wanted = {group: spec for group, spec in chosen.items() if spec.file == shard}
        known_good = recall(shard).get("no_nan") is True
        with _opened(shard, device, where) as file:
            for group, spec in wanted.items():
                model = groups[group]
                tensor = _read(file, spec, where)
                if tensor.shape != model.shape:
                    tensor = tensor.reshape(model.shape)
                if not known_good and tensor.is_floating_point() and has_nan(tensor):
                    raise WeightsError(
                        f"{where}: {printable(spec.name)} holds NaN", hint=f"the weights are broken; {_AGAIN}"
                    )
                tensor = tensor.to((dtype or tensor.dtype) if model.is_floating_point() else model.dtype)
                if isinstance(model, torch.nn.Parameter):
                    tensor = torch.nn.Parameter(tensor, requires_grad=model.requires_grad)
                state.update(dict.fromkeys(group, tensor))
        if whole and not known_good:
            remember(shard, "no_nan", True)
    owners = dict(module.named_modules(remove_duplicate=False))
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        owner = owners[path]
        held: Any = owner._parameters if leaf in owner._parameters else owner._buffers
        held[leaf] = tensor
    for name, tensor in module.named_buffers():
        if tensor.is_meta:
            raise TypeError(f"{type(module).__name__}.{name} is in no file: a component's buffers must be persistent")


def has_nan(tensor: torch.Tensor) -> bool:
    """Whether a floating tensor holds NaN. Reads it once, without a copy unless its sum is not finite."""
    import torch

    if tensor.element_size() == 1:
        tensor = tensor.float()
    total = tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return not bool(torch.isfinite(total)) and bool(torch.isnan(tensor).any())


Group = tuple[str, ...]


def _groups(module: torch.nn.Module) -> dict[Group, torch.Tensor]:
    """The module's tensors by all their names: tied ones have several."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return {tuple(group): tensors[key] for key, group in names.items()}


def _match(
    groups: Mapping[Group, torch.Tensor], specs: Mapping[str, TensorSpec], where: str
) -> dict[Group, TensorSpec]:
    names = {name for group in groups for name in group}
    chosen, missing, other = {}, [], []
    for group, model in groups.items():
        spec = next((specs[name] for name in group if name in specs), None)
        if spec is None:
            missing.append(f"{group[0]} {list(model.shape)}")
            continue
        floating = spec.dtype.startswith(("F", "BF"))
        if _squeezed(spec.shape) != _squeezed(tuple(model.shape)) or floating != model.is_floating_point():
            kind = "" if floating == model.is_floating_point() else f" {model.dtype}".replace(" torch.", " ")
            other.append(
                f"{printable(spec.name)} is {spec.dtype} {list(spec.shape)}, the model's is{kind} {list(model.shape)}"
            )
        chosen[group] = spec
    left = [f"{printable(spec.name)} {list(spec.shape)}" for name, spec in specs.items() if name not in names]
    if missing or left or other:
        parts = [("missing", missing), ("left over", left), ("of another shape", other)]
        lines = [f"{len(items)} {what}: {_some(items)}" for what, items in parts if items]
        raise WeightsError(f"{where}: these are the weights of another model\n  " + "\n  ".join(lines))
    return chosen


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the trailing ones by which a 1x1 convolution differs from a linear layer."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _some(items: Sequence[str]) -> str:
    return "; ".join(items[:5]) + (f"; and {len(items) - 5} more" if len(items) > 5 else "")


def _opened(path: Path, device: str, where: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{where}: {printable(str(error))}", hint=_AGAIN) from None


def _read(file: Any, spec: TensorSpec, where: str) -> torch.Tensor:
    from safetensors import SafetensorError

    try:
        tensor: torch.Tensor = file.get_tensor(spec.name)
    except SafetensorError as error:
        raise WeightsError(f"{where}: {printable(spec.name)}: {printable(str(error))}", hint=_AGAIN) from None
    if spec.rows is not None:
        number, parts, runs = spec.rows
        tensor = tensor.view(runs, parts, -1, *tensor.shape[1:])[:, number].flatten(0, 1)
    return tensor


def save_tensors(module: torch.nn.Module, folder: Path, stem: str, *, dtype: torch.dtype | None = None) -> None:
    """Writes a module's tensors as STEM.safetensors, or, above 5 GB, as shards with an index. Each file appears whole.

    dtype: of floating tensors, None as they are. Tied tensors are written once. Raises WeightsError where the disk
    refuses.
    """
    tensors = {group[0]: tensor.detach() for group, tensor in _groups(module).items()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = total = 0
    for name, tensor in tensors.items():
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        size = tensor.numel() * kept.itemsize
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled, total = filled + size, total + size
    count = len(shards)
    names = [f"{stem}.safetensors"]
    if count > 1:
        names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_whole(folder / name, _writer(shard, dtype))
    index = f"{stem}.safetensors.index.json"
    if count > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        write_whole(folder / index, lambda path: path.write_text(text + "\n", encoding="utf-8"))
        names.append(index)
    pattern = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
    for old in folder.iterdir():  # the shards of an earlier, larger save would be read in place of these
        if pattern.fullmatch(old.name) and old.name not in names:
            old.unlink()


def _writer(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        from safetensors.torch import save_file

        ready = {}
        for name, tensor in tensors.items():
            plain = tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
            whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
            ready[name] = plain if whole else plain.clone()
        save_file(ready, path, metadata={"format": "pt"})

    return write


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and then renames it, so that nobody sees a part. Raises WeightsError."""
    from safetensors import SafetensorError

    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.touch()
        mode = draft.stat().st_mode  # what new files get here; safetensors makes its own for the owner alone
        write(draft)
        draft.chmod(mode)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None
    finally:
        draft.unlink(missing_ok=True)
