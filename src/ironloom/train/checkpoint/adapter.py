"""The adapter alone, in PEFT's format: what PEFT loads, and vLLM serves beside its base model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import torch

from ironloom.errors import CheckpointError
from ironloom.train.checkpoint.export import put_in_place, whole
from ironloom.train.checkpoint.files import Part, write_safetensors
from ironloom.train.checkpoint.names import base_of
from ironloom.train.checkpoint.ranks import Ranks
from ironloom.train.checkpoint.storage import dtype_name, tensor_bytes
from ironloom.train.step.lora import peft_config, peft_state
from ironloom.workload.training import Lora

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def export_adapter(model: torch.nn.Module, lora: Lora, base_model: str, out: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json into `out`; every rank calls this.

    `base_model` is the name of the model below, as PEFT looks for it. Raises CheckpointError on every rank where the
    disk refuses.
    """
    ranks = Ranks()
    state = peft_state(base_of(model), whole)
    failure = ""
    if ranks.is_first:
        try:
            with put_in_place(out, last=CONFIG) as folder:
                parts = [
                    Part(name, dtype_name(tensor.dtype), tuple(tensor.shape), partial(tensor_bytes, tensor))
                    for name, tensor in sorted(state.items())
                ]
                write_safetensors(folder / WEIGHTS, parts, {"format": "pt"})
                config = msgspec.json.encode(peft_config(lora, base_model))
                (folder / CONFIG).write_bytes(msgspec.json.format(config) + b"\n")
        except OSError as error:
            failure = f"the adapter cannot be written to {out}: {error.strerror or error}"
    failure = ranks.from_first(failure)
    if failure:
        raise CheckpointError(failure, hint="make room, and export the last checkpoint")
