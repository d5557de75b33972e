"""What a run leaves in its output folder: the model in Hugging Face's form and, of adapters, PEFT's form beside it."""

from __future__ import annotations

from ironloom.train.checkpoint.adapter import export_adapter
from ironloom.train.checkpoint.export import export
from ironloom.train.loop.setup import Parts
from ironloom.workload.training import Method

ADAPTER = "adapter"
"""The folder with the adapter alone, in the output."""


def export_result(parts: Parts) -> None:
    """Every rank calls it. Adapters are merged into the model, which any engine serves. Raises CheckpointError where
    the disk refuses."""
    training = parts.training
    export(parts.model, parts.config, parts.source, parts.output)
    if training.method is not Method.FULL:
        export_adapter(parts.model, training.lora, training.model.removeprefix("hf://"), parts.output / ADAPTER)
