"""The head of a GGUF file: its metadata and where its tensors lie. Reads nothing else, trusts nothing.

The `gguf` package reads the same, but needs numpy and keeps the whole vocabulary as Python objects; this needs the
standard library, skips long arrays, and checks that every tensor lies inside the file.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3), and ggml's table of
types for block sizes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from pathlib import Path

import msgspec

from ironloom.errors import ModelCorrupt

MAGIC = b"GGUF"
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 20
MAX_KEY_BYTES = 1 << 16
MAX_DIMS = 4
KEPT_ARRAY_LENGTH = 64
"""Arrays of numbers up to this length are kept. Of longer ones, and of those of strings, the length alone is, unless
they are asked for by name."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

_BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
"""Type number: its name, weights in a block, bytes of a block. A number that is not here is of a newer ggml."""

FLOAT_TYPES = frozenset({"F32", "F16", "BF16", "F64"})


class ArrayLength(msgspec.Struct, frozen=True):
    """Stands for an array that was skipped."""

    length: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | tuple[str, ...] | ArrayLength


class GgufTensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    type: str
    """ggml's name (Q4_1), or `type N` for one that is not known here."""
    offset_bytes: int
    """From the start of the data."""
    num_bytes: int
    """0 when the type is not known."""


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_offset_bytes: int

    @property
    def architecture(self) -> str:
        """`general.architecture` (llama), or nothing."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    @property
    def context_length(self) -> int | None:
        """The context in tokens that the model was trained for."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def form(self) -> str:
        """The number format that holds most of the weights, e.g. Q4_1."""
        num_weights: dict[str, int] = {}
        for tensor in self.tensors:
            count = 1
            for size in tensor.shape:
                count *= size
            num_weights[tensor.type] = num_weights.get(tensor.type, 0) + count
        return max(num_weights, key=lambda name: (num_weights[name], name), default="")

    @property
    def split_count(self) -> int:
        """How many files the model is split into; 1 when it is whole."""
        value = self.metadata.get("split.count")
        return value if isinstance(value, int) and value > 0 else 1


def read_gguf_header(path: Path, *, keep: Collection[str] = ()) -> GgufHeader:
    """The head of a GGUF file; `keep` names arrays to be read whole, e.g. tokenizer.ggml.tokens.

    Raises ModelCorrupt, naming the file, when it is none or is cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_gguf_header(data, name=str(path), keep=keep)
    except ValueError as error:  # mmap of an empty file
        raise ModelCorrupt(f"{path} is empty, so it is no GGUF file") from error


def parse_gguf_header(data: bytes | mmap.mmap, *, name: str, keep: Collection[str] = ()) -> GgufHeader:
    """The head of a whole GGUF file's bytes. Raises ModelCorrupt with `name` in its message."""
    reader = _Reader(data, name)
    if reader.take(4) != MAGIC:
        raise ModelCorrupt(f"{name} does not begin with GGUF, so it is no GGUF file")
    version = reader.u32()
    if version not in (2, 3):
        raise ModelCorrupt(f"{name} is of GGUF version {version}; versions 2 and 3 (little-endian) can be read")
    num_tensors, num_metadata = reader.u64(), reader.u64()
    if num_tensors > MAX_TENSORS or num_metadata > MAX_METADATA:
        raise ModelCorrupt(f"{name} claims {num_tensors} tensors and {num_metadata} metadata entries; it is damaged")
    metadata: dict[str, Value] = {}
    for _ in range(num_metadata):
        key = reader.text(MAX_KEY_BYTES)
        metadata[key] = reader.value(reader.u32(), whole=key in keep)
    tensors = tuple(reader.tensor() for _ in range(num_tensors))

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise ModelCorrupt(f"{name} has general.alignment {alignment!r}; a power of two is wanted")
    data_offset_bytes = -(-reader.at // alignment) * alignment
    for tensor in tensors:
        end = data_offset_bytes + tensor.offset_bytes + tensor.num_bytes
        if tensor.offset_bytes % alignment:
            raise ModelCorrupt(f'{name}: tensor "{tensor.name}" begins off the alignment of {alignment} bytes')
        if end > len(data):
            raise ModelCorrupt(
                f'{name} is cut short: tensor "{tensor.name}" ends at byte {end}, the file has {len(data)}',
                hint="remove the file and fetch it again",
            )
    return GgufHeader(version=version, metadata=metadata, tensors=tensors, data_offset_bytes=data_offset_bytes)


class _Reader:
    """Takes little-endian values from the front; every step is checked against the end."""

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        self._data = data
        self._size = len(data)
        self._name = name
        self.at = 0

    def take(self, num_bytes: int) -> bytes:
        start = self.at
        self._skip(num_bytes)
        return self._data[start : self.at]

    def _skip(self, num_bytes: int) -> None:
        if num_bytes > self._size - self.at:
            raise ModelCorrupt(
                f"{self._name} is cut short or damaged: {num_bytes} bytes are wanted at byte {self.at} "
                f"of {self._size}, in its header",
                hint="remove the file and fetch it again",
            )
        self.at += num_bytes

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, max_bytes: int | None = None) -> str:
        num_bytes = self.u64()
        if max_bytes is not None and num_bytes > max_bytes:
            raise ModelCorrupt(f"{self._name}: a name of {num_bytes} bytes at byte {self.at}; it is damaged")
        return self.take(num_bytes).decode("utf-8", "replace")

    def value(self, type_number: int, *, whole: bool) -> Value:
        if type_number == _STRING:
            return self.text()
        if type_number == _ARRAY:
            return self._array(whole=whole)
        layout = _SCALARS.get(type_number)
        if layout is None:
            raise ModelCorrupt(f"{self._name}: metadata of type {type_number} at byte {self.at}; it is damaged")
        value: int | float | bool = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def _array(self, *, whole: bool) -> Value:
        item_type, length = self.u32(), self.u64()
        layout = _SCALARS.get(item_type)
        if layout is not None:
            num_bytes = struct.calcsize(layout) * length
            if length > KEPT_ARRAY_LENGTH and not whole:
                self._skip(num_bytes)
                return ArrayLength(length)
            return struct.unpack(f"<{length}{layout[1]}", self.take(num_bytes))
        if item_type != _STRING:
            raise ModelCorrupt(f"{self._name}: an array of type {item_type} at byte {self.at}; it is damaged")
        if length * 8 > self._size - self.at:
            self._skip(length * 8)
        if whole:
            return tuple(self.text() for _ in range(length))
        data, at, size = self._data, self.at, self._size
        for _ in range(length):  # the hot loop: a vocabulary has 50,000 to 300,000 strings
            at += 8 + int.from_bytes(data[at : at + 8], "little")
            if at > size:
                break
        self._skip(at - self.at)
        return ArrayLength(length)

    def tensor(self) -> GgufTensor:
        name = self.text(MAX_KEY_BYTES)
        num_dims = self.u32()
        if num_dims > MAX_DIMS:
            raise ModelCorrupt(f'{self._name}: tensor "{name[:80]}" has {num_dims} dimensions; it is damaged')
        shape = tuple(self.u64() for _ in range(num_dims))
        type_number, offset_bytes = self.u32(), self.u64()
        type_name, block_weights, block_bytes = _BLOCKS.get(type_number, (f"type {type_number}", 1, 0))
        num_weights = 1
        for size in shape:
            num_weights *= size
        return GgufTensor(
            name=name,
            shape=shape,
            type=type_name,
            offset_bytes=offset_bytes,
            num_bytes=-(-num_weights // block_weights) * block_bytes,
        )
