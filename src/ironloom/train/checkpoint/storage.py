"""Tensors, whole or sharded, to and from safetensors files, by the planners of torch.distributed.checkpoint.

The planners say which rank writes which box of which tensor, and which boxes of which chunks a rank reads: that is all
of resharding. Their own storage is not used: its metadata is a pickle, and its writer for safetensors keeps a file's
tensors in memory twice and takes no checksum. The files are laid out as that writer does it (each tensor under its
name, `saved_offsets` in the head's metadata), so that torch's HuggingFaceStorageReader reads them too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, WriteItem

from ironloom.errors import CheckpointError
from ironloom.train.checkpoint.files import DTYPE_BYTES, Part, write_safetensors
from ironloom.train.checkpoint.index import Chunk, StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_OFFSETS_KEY = "DCP_SHARDING_INFO"
_NUM_READERS = 4


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as safetensors names it. Raises CheckpointError for one that it has no name for."""
    if dtype not in _NAMES:
        raise CheckpointError(f"{dtype} has no form in safetensors")
    return _NAMES[dtype]


def dtype_of(name: str) -> torch.dtype:
    """A dtype by safetensors' name. Raises CheckpointError for an unknown one."""
    if name not in _DTYPES:
        raise CheckpointError(f"safetensors' dtype {name} is unknown; known are {', '.join(_DTYPES)}")
    return _DTYPES[name]


def described(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, whole shape) of each tensor."""
    return {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that a rank wrote, and the chunks in it."""

    name: str
    num_bytes: int
    chunks: dict[str, Chunk]


class Plan:
    """Which boxes this rank writes; the same for each checkpoint of a run, so it is made once."""

    def __init__(self, state: dict[str, torch.Tensor], *, is_coordinator: bool) -> None:
        self._planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._planner.set_up_planner(state, None, is_coordinator)
        self.local: SavePlan = self._planner.create_local_plan()
        self.signature = described(state)
        self._items: list[WriteItem] = []

    def agree(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The coordinator's part: each rank's share, so that each box is written once."""
        shares, _ = self._planner.create_global_plan(plans)
        return shares

    def take(self, share: SavePlan) -> None:
        """Keeps this rank's share."""
        items = self._planner.finish_plan(share).items
        self._items = [item for item in items if _num_bytes(item)]

    def write(
        self, state: dict[str, torch.Tensor], folder: Path, *, rank: int, world: int, num_writers: int
    ) -> list[WrittenFile]:
        """Writes this rank's boxes of a staged state, in files of about the same size. Raises OSError."""
        self._planner.set_up_planner(state, None, is_coordinator=False)
        groups = _of_equal_size(self._items, num_writers)
        names = [f"rank-{rank:05d}-of-{world:05d}.{number}.safetensors" for number in range(len(groups))]
        with ThreadPoolExecutor(max(1, len(groups)), thread_name_prefix="checkpoint") as writers:
            return list(writers.map(lambda pair: self._write_file(folder, *pair), zip(names, groups, strict=True)))

    def _write_file(self, folder: Path, name: str, items: list[WriteItem]) -> WrittenFile:
        parts = [self._part(item) for item in items]
        offsets = {item.index.fqn: {"saved_offsets": list(_box(item).offsets)} for item in items}
        written = write_safetensors(folder / name, parts, {_OFFSETS_KEY: json.dumps(offsets), "format": "pt"})
        chunks = {
            item.index.fqn: Chunk(name, place.begin, tuple(_box(item).offsets), tuple(_box(item).sizes), place.crc32)
            for item, place in zip(items, written, strict=True)
        }
        return WrittenFile(name, (folder / name).stat().st_size, chunks)

    def _part(self, item: WriteItem) -> Part:
        def read() -> memoryview:
            tensor = self._planner.resolve_data(item)
            assert isinstance(tensor, torch.Tensor)
            return tensor_bytes(tensor)

        assert item.tensor_data is not None
        dtype = dtype_name(item.tensor_data.properties.dtype)
        return Part(item.index.fqn, dtype, tuple(_box(item).sizes), read)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, in C order; those of one on a GPU are copied first."""
    whole = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(whole.view(torch.uint8).numpy())


def stored_tensors(
    written: Sequence[WrittenFile], signature: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, StoredTensor]:
    """The index of what all ranks wrote."""
    chunks: dict[str, list[Chunk]] = {name: [] for name in signature}
    for file in written:
        for name, chunk in file.chunks.items():
            chunks[name].append(chunk)
    return {
        name: StoredTensor(dtype, shape, tuple(sorted(chunks[name], key=lambda chunk: chunk.offsets)))
        for name, (dtype, shape) in signature.items()
    }


def read_into(
    state: dict[str, torch.Tensor],
    stored: Mapping[str, StoredTensor],
    folder: Path,
    *,
    is_verified: bool = True,
    is_trial: bool = False,
) -> None:
    """Reads what this rank holds of each tensor, from whatever chunks have it; as a trial it changes nothing.

    Every name of `state` is in `stored` with its shape; dtypes may differ. Raises CheckpointError for a chunk that has
    not its checksum.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(state), _metadata({name: stored[name] for name in state}), is_coordinator=False)
    plan = planner.finish_plan(planner.create_local_plan())
    by_chunk: dict[Chunk, list[tuple[str, ReadItem]]] = {}
    for item in plan.items:
        name = item.storage_index.fqn
        assert item.storage_index.index is not None
        by_chunk.setdefault(stored[name].chunks[item.storage_index.index], []).append((name, item))

    def read(chunk: Chunk) -> None:
        name = by_chunk[chunk][0][0]
        source = _chunk_tensor(folder, name, stored[name].dtype, chunk, is_verified=is_verified)
        if is_trial:
            return
        for _, item in by_chunk[chunk]:
            box = source
            for dim, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                box = box.narrow(dim, offset, length)
            target = planner.resolve_tensor(item)
            with torch.no_grad():
                target.copy_(box)
            planner.commit_tensor(item, target)

    with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="checkpoint") as readers:
        for _ in readers.map(read, sorted(by_chunk, key=lambda chunk: (chunk.file, chunk.begin))):
            pass


def _chunk_tensor(folder: Path, name: str, dtype: str, chunk: Chunk, *, is_verified: bool) -> torch.Tensor:
    num_bytes = DTYPE_BYTES[dtype] * int(np.prod(chunk.sizes, dtype=np.int64))
    mapped = np.memmap(folder / chunk.file, dtype=np.uint8, mode="c", offset=chunk.begin, shape=(num_bytes,))
    if is_verified and zlib.crc32(mapped.data) != chunk.crc32:
        raise CheckpointError(f"{folder / chunk.file} is damaged: {name} has not the CRC-32 that it was written with")
    return torch.from_numpy(mapped).view(dtype_of(dtype)).reshape(chunk.sizes)


def _metadata(stored: Mapping[str, StoredTensor]) -> Metadata:
    return Metadata(
        {
            name: TensorStorageMetadata(
                properties=TensorProperties(dtype=dtype_of(tensor.dtype)),
                size=torch.Size(tensor.shape),
                chunks=[
                    ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in tensor.chunks
                ],
            )
            for name, tensor in stored.items()
        }
    )


def _box(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk


def _num_bytes(item: WriteItem) -> int:
    assert item.tensor_data is not None, "a state is tensors alone"
    return int(np.prod(_box(item).sizes, dtype=np.int64)) * item.tensor_data.properties.dtype.itemsize


def _of_equal_size(items: list[WriteItem], num_groups: int) -> list[list[WriteItem]]:
    """The items in at most so many groups, the largest first to the lightest; each keeps the items' order."""
    groups: list[list[int]] = [[] for _ in range(max(1, min(num_groups, len(items))))]
    weights = [0] * len(groups)
    for place in sorted(range(len(items)), key=lambda place: -_num_bytes(items[place])):
        lightest = weights.index(min(weights))
        groups[lightest].append(place)
        weights[lightest] += _num_bytes(items[place])
    return [[items[place] for place in sorted(group)] for group in groups]
