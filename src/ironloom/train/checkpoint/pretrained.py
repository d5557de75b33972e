"""Weights from a folder of safetensors, each rank reading what it holds.

A fused parameter is a tensor in several chunks, as a sharded one is; so the planner of checkpoints reads both. A matrix
in NF4 is read in the folder's type, one layer at a time, and quantised where it is held.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import empty as distributed_empty

from ironloom.errors import ModelCorrupt, ModelRefused
from ironloom.serve.models.inspect import inspect_model, weight_files
from ironloom.train.checkpoint.index import Chunk, StoredTensor
from ironloom.train.checkpoint.names import Rows, rows_of_parameter
from ironloom.train.checkpoint.state import plain_name
from ironloom.train.checkpoint.storage import dtype_of, read_into
from ironloom.train.model.nf4 import nf4_layers
from ironloom.workload.shapes.safetensors_header import read_safetensors_header

_NF4_PARTS = (".codes", ".scales", ".ranges")


def load_pretrained(model: torch.nn.Module, folder: Path) -> None:
    """Reads a Hugging Face folder's weights into a model whose parameters have memory, sharded or whole, each in the
    parameter's own dtype.

    Raises ModelNotFound, ModelRefused (pickles alone, another model's tensors) and ModelCorrupt.
    """
    found = tensors_in(folder)
    layers = {f"{plain_name(name)}.weight": layer for name, layer in nf4_layers(model)}
    stored: dict[str, StoredTensor] = {}
    state: dict[str, torch.Tensor] = {}
    for raw_name, parameter in model.named_parameters():
        name = plain_name(raw_name)
        if name.endswith(_NF4_PARTS) and f"{name.rpartition('.')[0]}.weight" in layers:
            continue
        places = rows_of_parameter(model, name, tuple(parameter.shape))
        if places:
            stored[name] = _stored(folder, found, name, tuple(parameter.shape), places)
            state[name] = parameter.detach()
    for name, layer in layers.items():
        shape = (layer.out_features, layer.in_features)
        stored[name] = _stored(folder, found, name, shape, rows_of_parameter(model, name, shape))
    read_into(state, stored, folder, is_verified=False)
    for name, layer in layers.items():
        rows = _rows_like(layer.codes, layer.in_features, dtype_of(stored[name].dtype))
        read_into({name: rows}, stored, folder, is_verified=False)
        layer.fill(rows.to_local() if isinstance(rows, DTensor) else rows)


def _stored(
    folder: Path, found: dict[str, StoredTensor], name: str, shape: tuple[int, ...], places: list[Rows]
) -> StoredTensor:
    """A parameter out of the folder's tensors that are its rows. Raises ModelRefused where they are others."""
    chunks = []
    dtypes = set()
    for rows in places:
        if rows.hf_name not in found:
            raise ModelRefused(f"{folder} is another model: it has no {rows.hf_name} {list(shape)}")
        tensor = found[rows.hf_name]
        wanted = (rows.num_rows, *shape[1:]) if shape else ()
        if tensor.shape != wanted:
            raise ModelRefused(
                f"{folder} is another model: {rows.hf_name} is {list(tensor.shape)} there and {list(wanted)} here"
            )
        (chunk,) = tensor.chunks
        chunks.append(Chunk(chunk.file, chunk.begin, (rows.begin, *(0,) * (len(shape) - 1))[: len(shape)], wanted, 0))
        dtypes.add(tensor.dtype)
    if len(dtypes) > 1:
        raise ModelRefused(f"{folder}: the parts of {name} have different dtypes: {', '.join(sorted(dtypes))}")
    return StoredTensor(dtypes.pop(), shape, tuple(chunks))


def _rows_like(codes: torch.Tensor, num_columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Room for a matrix that is divided over the ranks as its codes are."""
    if not isinstance(codes, DTensor):
        return torch.empty(codes.shape[0], num_columns, dtype=dtype, device=codes.device)
    return distributed_empty(
        (codes.shape[0], num_columns), dtype=dtype, device_mesh=codes.device_mesh, placements=codes.placements
    )


def tensors_in(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's safetensors files by name, without a checksum.

    Raises ModelNotFound, ModelRefused and ModelCorrupt.
    """
    if not folder.is_dir() or not (files := weight_files(folder)):
        inspect_model(folder, str(folder))
        raise ModelRefused(f"{folder} holds no safetensors")
    found: dict[str, StoredTensor] = {}
    for file in files:
        with file.open("rb") as stream:
            data = 8 + int.from_bytes(stream.read(8), "little")
        for name, tensor in read_safetensors_header(file).items():
            if name in found:
                raise ModelCorrupt(f"{file}: {name} is in {found[name].chunks[0].file} too")
            shape = tuple(tensor["shape"])
            chunk = Chunk(file.name, data + tensor["data_offsets"][0], (0,) * len(shape), shape, 0)
            found[name] = StoredTensor(str(tensor["dtype"]), shape, (chunk,))
    return found
