"""What a run leaves in its output folder: the model in Hugging Face's form and, of adapters, PEFT's form beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ironloom.train.checkpoint.export import export
from ironloom.train.loop.setup import Parts
from ironloom.train.step.lora import merged, peft_config, peft_state
from ironloom.workload.training import Method

ADAPTER = "adapter"
"""The folder with the adapter alone, in the output."""


def export_result(parts: Parts) -> None:
    """Every rank calls it. Raises CheckpointError where the disk refuses."""
    training = parts.training
    if training.method is Method.FULL:
        export(parts.model, parts.config, parts.source, parts.output)
        return
    # The adapters are gathered on every rank; what is merged is the model, which any engine serves.
    export(parts.model, parts.config, parts.source, parts.output, change=merged(parts.model, _whole))
    state = {name: tensor.cpu().contiguous() for name, tensor in peft_state(parts.model, _whole).items()}
    if parts.ranks.is_first:
        _write_adapter(parts.output / ADAPTER, state, peft_config(training.lora, training.model.removeprefix("hf://")))


def _write_adapter(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    partial = folder / "adapter_model.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.replace(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
