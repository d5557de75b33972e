"""The model that a run starts from, as a folder of safetensors: fetched where it is not here, converted from a GGUF.

Every rank of a machine may ask; locks see to it that the work is done once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ironloom.errors import ModelRefused
from ironloom.serve.engines.base import ModelFormat
from ironloom.serve.engines.gguf_conversion import refuses_gguf, safetensors_folder, to_safetensors
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.progress import Progress
from ironloom.serve.models.pull import pull
from ironloom.serve.models.source import SourceKind, parse_model
from ironloom.units import format_bytes


def shape_folder(model: str) -> Path | None:
    """The local folder of a model's shape: a config.json (and a tokenizer), which is all that new weights need. None
    where it is no such folder."""
    source = parse_model(model, shorthands=True)
    folder = Path(source.path).expanduser()
    return folder if source.kind is SourceKind.FILE and (folder / "config.json").is_file() else None


def model_folder(
    model: str, cache_dir: Path, say: Callable[[str], None], *, is_from_scratch: bool = False
) -> tuple[Path, str]:
    """The folder, and what a person must know of it (empty, where there is nothing).

    With `is_from_scratch` a local folder needs no weights.
    Raises UsageError, ModelNotFound, ModelRefused, ModelCorrupt, DiskFull, ModelError, EngineUnavailable.
    """

    if is_from_scratch and (folder := shape_folder(model)) is not None:
        return folder, ""

    def report(progress: Progress) -> None:
        parts = [progress.phase, progress.message]
        if progress.total_bytes:
            parts.append(f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}")
        say(" ".join(part for part in parts if part))

    found = pull(parse_model(model, shorthands=True).uri, cache_dir=cache_dir, progress=report)
    if found.format is ModelFormat.OPENVINO:
        raise ModelRefused(
            f"{model} is in OpenVINO's form, which cannot be trained", hint="train from the safetensors it was made of"
        )
    if (why_not := refuses_gguf(found)) is not None:
        raise ModelRefused(f"{model} cannot be trained: {why_not}")
    conversion = to_safetensors(found, cache_dir)
    if conversion is not None:
        run_conversion(conversion, cache_dir, report)
    note = f"The model {found.note}: its weights are those, dequantised." if found.note else ""
    return safetensors_folder(found, cache_dir), note


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelRefused where there is none, or it is no JSON object."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder} has no config.json that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{folder / 'config.json'} is no JSON object")
    return found
