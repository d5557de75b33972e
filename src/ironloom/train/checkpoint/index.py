"""checkpoint.json: what a checkpoint holds, and the one file that makes it whole.

{"digest": SHA-256 of the content's bytes, "content": {…}}
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ironloom.errors import CheckpointError

FILE = "checkpoint.json"
FORMAT = 1


class Chunk(msgspec.Struct, frozen=True):
    """A box of a tensor, as it lies in a file."""

    file: str
    begin: int
    """The first byte in the file."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    crc32: int


class StoredTensor(msgspec.Struct, frozen=True):
    """A whole tensor, in one chunk or several that share it out."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint's content."""

    format: int = FORMAT
    step: int
    world: int
    """Ranks that wrote it."""
    num_bytes: int
    identity: dict[str, Any]
    """What the model is, by the run's own words; another one's checkpoint is refused."""
    extra: dict[str, Any]
    """What else the run keeps: its place in the data, its counters."""
    optimizers: list[dict[str, Any]]
    """What of the optimizers is no tensor."""
    ranks: list[dict[str, Any]]
    """What each rank keeps for itself: its random numbers."""
    files: dict[str, int]
    """Each file's length."""
    tensors: dict[str, StoredTensor]


class _Sealed(msgspec.Struct, frozen=True):
    digest: str
    content: msgspec.Raw


_decode_sealed = msgspec.json.Decoder(_Sealed).decode
_decode_index = msgspec.json.Decoder(Index).decode
_decode_any = msgspec.json.Decoder().decode


def write_index(folder: Path, index: Index) -> None:
    """Writes checkpoint.json and waits until the disk has it. Raises OSError."""
    content = msgspec.json.encode(index)
    sealed = _Sealed(hashlib.sha256(content).hexdigest(), msgspec.Raw(content))
    with (folder / FILE).open("wb") as stream:
        stream.write(msgspec.json.encode(sealed))
        stream.flush()
        os.fsync(stream.fileno())


def read_index(folder: Path) -> Index:
    """The folder's content. Raises CheckpointError when it is none, is damaged, or a file is not as long as it was."""
    try:
        sealed = _decode_sealed((folder / FILE).read_bytes())
        content = bytes(sealed.content)
        if hashlib.sha256(content).hexdigest() != sealed.digest:
            raise CheckpointError(f"{folder / FILE} is damaged: its content has not the SHA-256 that it names")
        version = _decode_any(content)["format"]
        if version != FORMAT:
            raise CheckpointError(f"{folder / FILE} has the format {version}; this version reads {FORMAT}")
        index = _decode_index(content)
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: {FILE} cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / FILE} is damaged ({error})") from error
    for name, length in index.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{folder} is not whole: {name} of its {len(index.files)} files is missing")
        if file.stat().st_size != length:
            raise CheckpointError(f"{file} has {file.stat().st_size} bytes, and was written with {length}")
    return index


def first_difference(
    saved: Mapping[str, tuple[str, tuple[int, ...]]], wanted: Mapping[str, tuple[str, tuple[int, ...]]]
) -> str | None:
    """The first tensor, in the order wanted, that is not the same in both; each has (dtype, shape) by name."""
    for name, (dtype, shape) in wanted.items():
        if name not in saved:
            return f"{name} {list(shape)} is not in it"
        saved_dtype, saved_shape = saved[name]
        if saved_shape != shape:
            return f"{name} is {list(saved_shape)} there and {list(shape)} here"
        if saved_dtype != dtype:
            return f"{name} is {saved_dtype} there and {dtype} here"
    for name, (_, shape) in saved.items():
        if name not in wanted:
            return f"it has {name} {list(shape)}, which is not here"
    return None


def first_identity_difference(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first key whose values differ, of what both say."""
    for key, value in wanted.items():
        if key in saved and saved[key] != value:
            return f"{key} is {saved[key]!r} there and {value!r} here"
    return None
