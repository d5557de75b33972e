"""The shape of a model on this machine: a folder with config.json and safetensors, or a GGUF file.

Headers alone are read. What is packed in a file (8 bits and less) is counted as it lies there; numbers of 16 and 32
bits are counted in the type that the engine computes with.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from ironloom.errors import ModelCorrupt, ModelError, ModelNotFound, ModelRefused
from ironloom.workload.shapes.config import shape_of_config
from ironloom.workload.shapes.gguf import shape_of_gguf
from ironloom.workload.shapes.model import ModelShape, Weight
from ironloom.workload.shapes.safetensors_header import read_safetensors_header

INDEX = "model.safetensors.index.json"
MAX_CONFIG_BYTES = 4_000_000
"""The largest that is public, with each skipped module by name, is a tenth of it."""
MAX_INDEX_BYTES = 100_000_000
UNPACKED = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of tensors that an engine converts as it loads."""
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_PARTS = re.compile(
    r"\.(weight|weight_scale(_inv|_2)?|weight_packed|weight_shape|weight_zero_point|input_scale|qweight|qzeros|scales"
    r"|g_idx|blocks|bias)$|_(blocks|scales)$"
)
"""What a module's tensors end in, however it is quantized."""


def shape_of_path(path: Path) -> ModelShape:
    """The shape of a folder or a GGUF file.

    Raises ModelNotFound for nothing there, ModelRefused for a model whose tensors are not known, ModelCorrupt for a
    file that is damaged.
    """
    if path.is_file():
        return shape_of_gguf(path)
    if not path.is_dir():
        raise ModelNotFound(f"there is no folder or file {path}")
    config = path / "config.json"
    if config.is_file():
        return _of_folder(path, _json(config, MAX_CONFIG_BYTES))
    found = sorted(file for file in path.glob("*.gguf") if not re.search(r"-0*([2-9]|\d{2,})-of-\d+\.gguf$", file.name))
    if len(found) == 1:
        return shape_of_gguf(found[0])
    raise ModelRefused(f"{path} has no config.json and {len(found)} GGUF files, so nothing says what the model is")


def _of_folder(folder: Path, config: Mapping[str, Any]) -> ModelShape:
    shape = shape_of_config(config, folder.name, source=str(folder / "config.json"))
    tensors: dict[str, tuple[str, int]] = {}
    missing = 0
    for file in _weight_files(folder):
        if not file.is_file():
            missing += 1
            continue
        for name, tensor in read_safetensors_header(file).items():
            start, end = tensor["data_offsets"]
            tensors[name] = (str(tensor.get("dtype")), end - start)
    if not tensors or missing:
        return replace(shape, checkpoint_bytes=_total_size(folder))
    stored = _stored(tensors)
    weights = tuple(part for weight in shape.weights for part in _with_stored(weight, stored))
    return replace(shape, weights=weights, checkpoint_bytes=sum(size for _, size in tensors.values()))


def _stored(tensors: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Bytes of each module whose weight is packed, all its tensors together."""
    sizes: dict[str, int] = defaultdict(int)
    packed: set[str] = set()
    for name, (dtype, size) in tensors.items():
        if name.endswith(".bias"):
            continue
        module = _PARTS.sub("", name)
        sizes[module] += size
        if dtype not in UNPACKED and not name.endswith((".g_idx", ".weight_shape")):
            packed.add(module)
    return {module: sizes[module] for module in packed}


def _with_stored(weight: Weight, stored: Mapping[str, int]) -> Iterator[Weight]:
    """The weight with what one copy of it takes in the files; parted where its layers differ."""
    if not weight.is_linear or not stored:
        yield weight
        return
    name = _PARTS.sub("", weight.name)
    by_size: dict[int, list[int]] = defaultdict(list)
    for layer in weight.layers:
        own = name.replace("{layer}", str(layer))
        copies = [own.replace("{expert}", str(expert)) for expert in range(weight.num_experts)] or [own]
        if weight.is_stacked:
            copies = [own]
        found = [stored.get(copy, 0) for copy in copies]
        by_size[-(-sum(found) // len(found)) if all(found) else 0].append(layer)
    for size, layers in by_size.items():
        yield replace(weight, stored_bytes=size, layers=tuple(layers))


def _weight_files(folder: Path) -> list[Path]:
    """As the folder's index names them, or all there are but a second copy in Mistral's own form."""
    index = folder / INDEX
    if index.is_file():
        names = _json(index, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(names, dict):
            raise ModelCorrupt(f"{index} has no weight_map")
        return [folder / Path(str(name)).name for name in sorted({str(value) for value in names.values()})]
    found = sorted(folder.glob("*.safetensors"))
    return [file for file in found if not file.name.startswith("consolidated")] or found


def _total_size(folder: Path) -> int:
    """Of an index whose files are not there."""
    try:
        metadata = _json(folder / INDEX, MAX_INDEX_BYTES).get("metadata")
    except ModelError:
        return 0
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, int | float) and 0 < size < 1 << 50 else 0


def _json(file: Path, most: int) -> dict[str, Any]:
    """A JSON object. Raises ModelNotFound, or ModelCorrupt when it is none or larger than `most` bytes."""
    try:
        if file.stat().st_size > most:
            raise ModelCorrupt(f"{file} has more than {most} bytes, which is no {file.name}")
        return _decode_object(file.read_bytes())
    except OSError as error:
        raise ModelNotFound(f"{file} cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelCorrupt(f"{file} is no JSON object ({error})") from error
