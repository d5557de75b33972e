"""Weights from a folder of safetensors, each rank reading what it holds.

A fused parameter is a tensor in several chunks, as a sharded one is; so the planner of checkpoints reads both.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ironloom.errors import ModelCorrupt, ModelRefused
from ironloom.serve.models.inspect import inspect_model, weight_files
from ironloom.train.checkpoint.index import Chunk, StoredTensor
from ironloom.train.checkpoint.names import rows_of_parameter
from ironloom.train.checkpoint.state import plain_name
from ironloom.train.checkpoint.storage import read_into
from ironloom.workload.shapes.safetensors_header import read_safetensors_header


def load_pretrained(model: torch.nn.Module, folder: Path) -> None:
    """Reads a Hugging Face folder's weights into a model whose parameters have memory, sharded or whole, each in the
    parameter's own dtype.

    Raises ModelNotFound, ModelRefused (pickles alone, another model's tensors) and ModelCorrupt.
    """
    found = tensors_in(folder)
    stored: dict[str, StoredTensor] = {}
    state: dict[str, torch.Tensor] = {}
    for raw_name, parameter in model.named_parameters():
        name = plain_name(raw_name)
        shape = tuple(parameter.shape)
        chunks = []
        dtypes = set()
        places = rows_of_parameter(model, name, shape)
        if not places:
            continue
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
            chunks.append(
                Chunk(chunk.file, chunk.begin, (rows.begin, *(0,) * (len(shape) - 1))[: len(shape)], wanted, 0)
            )
            dtypes.add(tensor.dtype)
        if len(dtypes) > 1:
            raise ModelRefused(f"{folder}: the parts of {name} have different dtypes: {', '.join(sorted(dtypes))}")
        stored[name] = StoredTensor(dtypes.pop(), shape, tuple(chunks))
        state[name] = parameter.detach()
    read_into(state, stored, folder, is_verified=False)


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
