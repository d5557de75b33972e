"""The trained model as Hugging Face's safetensors: what Transformers, vLLM and `ironloom serve` load.

Parameters are gathered one at a time, so that no rank ever holds the whole model; the first rank writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.distributed.tensor import DTensor

from ironloom.errors import CheckpointError
from ironloom.serve.models.inspect import TOKENIZERS
from ironloom.train.checkpoint.files import Part, sync_folder, write_safetensors
from ironloom.train.checkpoint.names import base_of, rows_of_parameter
from ironloom.train.checkpoint.ranks import Ranks
from ironloom.train.checkpoint.state import model_tensors, plain_name
from ironloom.train.checkpoint.storage import dtype_name, tensor_bytes
from ironloom.train.model.nf4 import Nf4Linear, dequantised, nf4_layers
from ironloom.train.step.lora import adapters, merged

MAX_FILE_BYTES = 5 * 10**9
"""As Transformers shards: a file ends before the tensor that would take it beyond this."""
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_KEPT = (
    *TOKENIZERS,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Of the model that the run started from: these are not trained."""
Change = Callable[[str, torch.Tensor], torch.Tensor]
"""A tensor of the folder by name, as it is to be written: with an adapter merged into it, say."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What rows are taken from."""

    shape: tuple[int, ...]
    gather: Callable[[], torch.Tensor]
    """The whole of it, on every rank."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to write: rows of a parameter."""

    hf_name: str
    shape: tuple[int, ...]
    parameter: str
    begin: int

    def num_bytes(self, dtype: torch.dtype) -> int:
        return prod(self.shape) * dtype.itemsize


def export(
    model: torch.nn.Module,
    config: dict[str, Any],
    tokenizer_folder: Path | None,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes weights, config.json and the tokenizer's files into `out`. Every rank calls this; one process alone may.

    `config` is the model's config.json; weights get `dtype`, by default the config's own, as what serves them reads it.
    Adapters are merged into what they stand beside; a base in NF4 is written as what its codes stand for.

    What `out` held of an earlier export is replaced; config.json comes last, so that a kill leaves no half model that
    loads. Raises CheckpointError on every rank where the disk refuses.
    """
    ranks = Ranks()
    sources = _sources(model)
    dtype = dtype or _dtype_of(config) or next(iter(model_tensors(model, with_frozen=True).values())).dtype
    base = base_of(model)
    change = merged(base, whole) if any(adapters(base)) else None
    gathered = _Gathered(sources)
    shards = _shards(_tensors(model, sources), dtype)
    order = [tensor for shard in shards for tensor in shard]
    failure = ""
    if ranks.is_first:
        gathering = iter(order)
        try:
            with put_in_place(out, last=CONFIG) as partial:
                _write_weights(partial, shards, dtype, lambda tensor: gathered.of(_next_is(gathering, tensor)), change)
                _write_rest(partial, config, dtype, tokenizer_folder)
        except OSError as error:
            failure = f"the model cannot be written to {out}: {error.strerror or error}"
        for tensor in gathering:  # the other ranks gather all of them, whatever the disk said
            gathered.of(tensor)
    else:
        for tensor in order:
            gathered.of(tensor)
    failure = ranks.from_first(failure)
    if failure:
        raise CheckpointError(failure, hint="make room, and export the last checkpoint")


def _next_is(gathering: Iterator[_Tensor], tensor: _Tensor) -> _Tensor:
    """The next one of the order that all ranks keep; it is this one."""
    following = next(gathering)
    assert following is tensor, "tensors are written in the order in which they are gathered"
    return following


class _Gathered:
    """Whole parameters, the last one kept: a fused one is several tensors in a row."""

    def __init__(self, sources: dict[str, _Source]) -> None:
        self._sources = sources
        self._last: tuple[str, torch.Tensor] | None = None

    @torch.no_grad()
    def of(self, tensor: _Tensor) -> torch.Tensor:
        if self._last is None or self._last[0] != tensor.parameter:
            self._last = None
            self._last = (tensor.parameter, self._sources[tensor.parameter].gather())
        parameter = self._last[1]
        return parameter.narrow(0, tensor.begin, tensor.shape[0]) if tensor.shape else parameter


def _sources(model: torch.nn.Module) -> dict[str, _Source]:
    """What is written, by the parameter's name that the folder's tensors are rows of. Every rank has the same order."""
    sources: dict[str, _Source] = {}
    layers = {plain_name(name): layer for name, layer in nf4_layers(model)}
    for name, parameter in model_tensors(model, with_frozen=True).items():
        layer = layers.get(name.rpartition(".")[0])
        if layer is None or name.endswith(".bias"):
            sources[name] = _Source(tuple(parameter.shape), partial(whole, parameter))
        elif name.endswith(".codes"):
            shape = (layer.out_features, layer.in_features)
            sources[f"{name.removesuffix('.codes')}.weight"] = _Source(shape, partial(_whole_of_nf4, layer))
    return sources


def _whole_of_nf4(layer: Nf4Linear) -> torch.Tensor:
    codes, scales, ranges = (whole(part.detach()) for part in (layer.codes, layer.scales, layer.ranges))
    return dequantised(codes, scales, ranges, layer.in_features, torch.float32)


def _tensors(model: torch.nn.Module, sources: dict[str, _Source]) -> list[_Tensor]:
    return [
        _Tensor(rows.hf_name, (rows.num_rows, *source.shape[1:]) if source.shape else (), name, rows.begin)
        for name, source in sources.items()
        for rows in rows_of_parameter(model, name, source.shape)
    ]


def _shards(tensors: list[_Tensor], dtype: torch.dtype) -> list[list[_Tensor]]:
    shards: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes(dtype) > MAX_FILE_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes(dtype)
    return shards


def _write_weights(
    folder: Path,
    shards: list[list[_Tensor]],
    dtype: torch.dtype,
    gather: Callable[[_Tensor], torch.Tensor],
    change: Change | None,
) -> None:
    def part(tensor: _Tensor) -> Part:
        def read() -> memoryview:
            rows = gather(tensor)
            return tensor_bytes((change(tensor.hf_name, rows) if change else rows).to(dtype))

        return Part(tensor.hf_name, dtype_name(dtype), tensor.shape, read)

    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, [part(tensor) for tensor in shard], {"format": "pt"})
    if len(shards) > 1:
        weight_map = {tensor.hf_name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.num_bytes(dtype) for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index)))


def _write_rest(folder: Path, config: dict[str, Any], dtype: torch.dtype, tokenizer_folder: Path | None) -> None:
    name = str(dtype).removeprefix("torch.")
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    kept = {key: value for key, value in config.items() if key not in ("quantization_config", "_name_or_path")}
    written = {**kept, key: name}
    (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(written)) + b"\n")
    if tokenizer_folder is not None:
        for file in _KEPT:
            if (tokenizer_folder / file).is_file():
                shutil.copyfile(tokenizer_folder / file, folder / file)


@contextmanager
def put_in_place(out: Path, *, last: str) -> Iterator[Path]:
    """A folder to write into, whose files then take the place of those in `out`: the one without which nothing loads is
    taken away first and comes `last`. What fails leaves `out` as it was. Raises OSError."""
    partial = out / "export.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        new = sorted((file.name for file in partial.iterdir()), key=lambda name: name == last)
        (out / last).unlink(missing_ok=True)
        if last == CONFIG:
            for old in (*out.glob("model*.safetensors"), out / INDEX):
                if old.name not in new:
                    old.unlink(missing_ok=True)
        for name in new:
            (partial / name).replace(out / name)
        sync_folder(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered, on every rank; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _dtype_of(config: dict[str, Any]) -> torch.dtype | None:
    name = config.get("dtype") or config.get("torch_dtype")
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else None
