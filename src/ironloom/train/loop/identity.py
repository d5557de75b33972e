"""What a run's checkpoints are of, in words that a person can compare: shape, positions, weights and adapters."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ironloom.serve.models.inspect import weight_files
from ironloom.workload.shapes.safetensors_header import read_safetensors_header
from ironloom.workload.training import Method, Training

_OF_CONFIG = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "rms_norm_eps",
)
"""Names of config.json without which the same weights would be another model."""
_SAMPLE_BYTES = 4096


def identity_of(training: Training, config: dict[str, Any], source: Path) -> dict[str, Any]:
    """As plain JSON, for a checkpoint to keep. `source` is the folder with the weights that the run began with.

    Raises ModelCorrupt for files that are no safetensors.
    """
    found: dict[str, Any] = {"method": training.method.value, "is_from_scratch": training.is_from_scratch}
    found |= {name: config[name] for name in _OF_CONFIG if name in config}
    if training.method is not Method.FULL:
        lora = training.lora
        found |= {"lora.rank": lora.rank, "lora.alpha": lora.alpha, "lora.targets": sorted(lora.targets)}
    if not training.is_from_scratch:
        found["digest of the first weights"] = digest_of(source)
    return found


def digest_of(folder: Path) -> str:
    """Of every tensor's name, type, shape and first 4 KiB: another training changes them, and all of an 8B's bytes
    would take some ten seconds to read. The same however the tensors are divided over files."""
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for file in weight_files(folder):
        with file.open("rb") as stream:
            data = 8 + int.from_bytes(stream.read(8), "little")
        places |= {name: (file, data, tensor) for name, tensor in read_safetensors_header(file).items()}
    digest = hashlib.sha256()
    for name, (file, data, tensor) in sorted(places.items()):
        digest.update(f"{name} {tensor['dtype']} {list(tensor['shape'])}\n".encode())
        begin, end = tensor["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(data + begin)
            digest.update(stream.read(min(_SAMPLE_BYTES, end - begin)))
    return digest.hexdigest()[:16]
