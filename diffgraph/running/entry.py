"""One entry of the store: a value as the bytes of a safetensors file, and back.

Tensors and arrays lie in the file by number (https://github.com/huggingface/safetensors#format); the structure that
holds them is JSON in the header's metadata, beside the key and a checksum of the whole file. An entry without tensors
is a header alone: torch and numpy are not imported before a tensor or an array asks for it, and nothing else ever is.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError
from ..values import is_record

Records = Callable[[str], type | None]  # the class of a record by "module:qualname", where it is known

_NO_DIGEST = b"0" * 64
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_DTYPE_CODES = {name: code for code, name in _DTYPES.items()}


def record_name(kind: type) -> str:
    """The name under which a record type is stored."""
    return f"{kind.__module__}:{kind.__qualname__}"


class DamagedError(Exception):
    """Why a file is not an entry."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A tensor's or an array's bytes."""

    code: str
    shape: list[int]
    item_size: int
    data: memoryview


def _pack(value: Any, records: Records, blocks: list[_Block]) -> Any:
    """The structure of a value, for JSON; tensors and arrays become numbers of blocks."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_pack(item, records, blocks) for item in value]
    if kind is tuple:
        return {"tuple": [_pack(item, records, blocks) for item in value]}
    if is_record(value):
        name = record_name(kind)
        if records(name) is not kind:
            raise StoreError(f"the record type {name} is not registered, so that a result of it could not be read back")
        return {
            "record": name,
            "fields": {field: _pack(getattr(value, field), records, blocks) for field in value._fields},
        }
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and isinstance(value, torch.Tensor):
        blocks.append(_tensor_block(value, torch))
        return {"tensor": len(blocks) - 1}
    if numpy and isinstance(value, numpy.ndarray):
        blocks.append(_array_block(value, numpy))
        return {"array": len(blocks) - 1}
    raise StoreError(f"a {kind.__name__} cannot be stored; a result is a tensor, number, text, list or record of these")


def _tensor_block(tensor: Any, torch: Any) -> _Block:
    code = _DTYPE_CODES.get(str(tensor.dtype).removeprefix("torch."))
    if code is None or tensor.layout is not torch.strided or tensor.device.type == "meta":
        raise StoreError(f"a {tensor.layout} tensor of {tensor.dtype} on {tensor.device} cannot be stored")
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return _Block(code, list(tensor.shape), flat.element_size(), flat.view(torch.uint8).numpy().data)


def _array_block(array: Any, numpy: Any) -> _Block:
    code = _DTYPE_CODES.get(array.dtype.name)
    if code is None:
        raise StoreError(f"an array of {array.dtype} cannot be stored")
    flat = numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(-1)
    return _Block(code, list(array.shape), flat.itemsize, flat.view(numpy.uint8).data)


def encode(key: str, value: Any, records: Records) -> list[bytes | memoryview]:
    """The parts of an entry's file, one after the other."""
    blocks: list[_Block] = []
    try:
        structure = json.dumps(_pack(value, records, blocks))
    except (RecursionError, ValueError) as error:  # ValueError: a whole number of thousands of digits
        raise StoreError(f"a result cannot be stored: {error}") from None
    header: dict[str, Any] = {"__metadata__": {"sha256": _NO_DIGEST.decode(), "key": key, "value": structure}}
    order = sorted(range(len(blocks)), key=lambda index: -blocks[index].item_size)  # each aligned to its item's size
    end = 0
    for index in order:
        block = blocks[index]
        begin, end = end, end + block.data.nbytes
        header[str(index)] = {"dtype": block.code, "shape": block.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text, *(blocks[index].data for index in order)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    parts[1] = text.replace(_NO_DIGEST, digest.hexdigest().encode(), 1)
    return parts


def decode(path: str, key: str, records: Records) -> Any:
    """The value in an entry's file. Raises DamagedError for a file that is not what was written, OSError for none."""
    with open(path, "rb") as file:
        rest = os.fstat(file.fileno()).st_size - 8
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if length > rest:
            raise DamagedError("cut off")
        try:
            text = file.read(length)
            header = json.loads(text)
            written = header["__metadata__"].pop("sha256").encode()
            digest = hashlib.sha256(prefix + text.replace(written, _NO_DIGEST, 1))
            blocks, rest = {}, rest - length
            for name, block in header.items():
                if name != "__metadata__":
                    begin, end = block["data_offsets"]
                    blocks[int(name)] = (block["dtype"], block["shape"], _read_block(file, end - begin, rest))
                    digest.update(blocks[int(name)][2])
                    rest -= end - begin
            if rest != 0 or digest.hexdigest().encode() != written or header["__metadata__"]["key"] != key:
                raise DamagedError("its checksum is wrong")
            return _unpack(json.loads(header["__metadata__"]["value"]), records, blocks)
        except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise DamagedError(f"not an entry of this format: {error}") from None


def _read_block(file: Any, size: int, rest: int) -> Any:
    import numpy

    if not 0 <= size <= rest:
        raise DamagedError("cut off")
    data = numpy.empty(size, numpy.uint8)
    if file.readinto(data.data) != size:
        raise DamagedError("cut off")
    return data


def _unpack(node: Any, records: Records, blocks: dict[int, tuple[str, list[int], Any]]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, records, blocks) for item in node]
    if not isinstance(node, dict):
        return node
    if "tuple" in node:
        return tuple(_unpack(item, records, blocks) for item in node["tuple"])
    if "record" in node:
        kind, fields = records(node["record"]), node["fields"]
        if kind is None or tuple(fields) != getattr(kind, "_fields", None):
            raise DamagedError(f"it holds a record {node['record']}, which is not registered, or not with these fields")
        return kind._make(_unpack(item, records, blocks) for item in fields.values())  # type: ignore[attr-defined]
    if "tensor" in node:
        import torch

        code, shape, data = blocks[node["tensor"]]
        dtype = getattr(torch, _DTYPES[code])
        flat = torch.from_numpy(data).view(dtype) if data.size else torch.empty(0, dtype=dtype)
        return flat.reshape(shape)
    code, shape, data = blocks[node["array"]]
    return data.view(_DTYPES[code]).reshape(shape)
