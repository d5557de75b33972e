"""A safetensors file, written as a stream: the head first, then each tensor's bytes, their CRC-32 taken on the way.

The library's own `save_file` wants all tensors of a file in memory as bytes. Here a tensor is asked for when its turn
comes, so that a file of any size costs one tensor.
Source of the format: https://github.com/huggingface/safetensors (8 bytes of length, JSON, then the data).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import msgspec

from ironloom.units import MIB

DTYPE_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_WRITE_BYTES: Final = 16 * MIB
"""Written at a time: what was summed is still in the processor's cache when it is written."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor, or a piece of one, to be written."""

    name: str
    dtype: str
    """As safetensors names it: BF16."""
    shape: tuple[int, ...]
    read: Callable[[], memoryview]
    """Its bytes, in C order."""

    @property
    def num_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype] * prod(self.shape)


@dataclass(frozen=True, slots=True)
class Written:
    """Where a part stands in its file, and its checksum."""

    begin: int
    crc32: int


def write_safetensors(file: Path, parts: Sequence[Part], metadata: dict[str, str]) -> list[Written]:
    """Writes the file and waits until the disk has it. Raises OSError."""
    head: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for part in parts:
        head[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": (end, end + part.num_bytes)}
        end += part.num_bytes
    encoded = msgspec.json.encode(head)
    encoded += b" " * (-len(encoded) % 8)  # the data begins aligned
    begin = 8 + len(encoded)
    written = []
    with file.open("wb", buffering=0) as stream:
        _write(stream.fileno(), memoryview(len(encoded).to_bytes(8, "little") + encoded))
        for part in parts:
            data = part.read()
            assert data.nbytes == part.num_bytes, part.name
            written.append(Written(begin, _write(stream.fileno(), data)))
            begin += part.num_bytes
        os.fsync(stream.fileno())
    return written


def _write(descriptor: int, data: memoryview) -> int:
    """Writes all of it; returns its CRC-32."""
    crc = 0
    for start in range(0, data.nbytes, _WRITE_BYTES):
        rest = data[start : start + _WRITE_BYTES]
        crc = zlib.crc32(rest, crc)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return crc


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
