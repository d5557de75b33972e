"""The head of a safetensors file, checked against the file's length. Reads no tensor.

Source of the format: https://github.com/huggingface/safetensors (8 bytes of length, JSON, then the data).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ironloom.errors import ModelCorrupt

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
_decode = msgspec.json.Decoder(dict[str, dict[str, Any]]).decode


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Each tensor's dtype, shape and data_offsets. Raises ModelCorrupt, naming the file, when anything is off."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > min(MAX_HEADER_BYTES, file_bytes - 8):
            raise ModelCorrupt(
                f"{path} is no safetensors file, or is cut short: {file_bytes} bytes, with a header of {header_bytes}",
                hint="remove the file and fetch it again",
            )
        raw = file.read(header_bytes)
    try:
        header = _decode(raw)
    except msgspec.DecodeError as error:
        raise ModelCorrupt(f"{path}: the header is no JSON object of tensors ({error})") from error
    header.pop("__metadata__", None)
    end = 0
    for name, tensor in header.items():
        match tensor.get("data_offsets"):
            case [int(start), int(stop)] if 0 <= start <= stop:
                end = max(end, stop)
            case offsets:
                raise ModelCorrupt(f'{path}: tensor "{name}" has data_offsets {offsets!r}; it is damaged')
    if file_bytes != 8 + header_bytes + end:
        raise ModelCorrupt(
            f"{path} should have {8 + header_bytes + end} bytes by its header, and has {file_bytes}",
            hint="remove the file and fetch it again",
        )
    return header
