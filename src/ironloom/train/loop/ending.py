"""What a run leaves in its output folder: the model in Hugging Face's form and, of adapters, PEFT's form beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ironloom.train.checkpoint.adapter import export_adapter
from ironloom.train.checkpoint.export import export
from ironloom.train.loop.best import Exported, better_than, losses_by_step
from ironloom.train.loop.setup import Parts
from ironloom.workload.training import Method

ADAPTER = "adapter"
"""The folder with the adapter alone, in the output."""


def export_result(
    parts: Parts, step: int, evaluated: Sequence[tuple[int, float]], note: Callable[[str], None]
) -> Exported:
    """Every rank calls it once the last checkpoint is written, at the run's last step, with its evaluations as (step,
    loss). Adapters are merged into the model, which any engine serves. Raises CheckpointError where the disk refuses.

    Where the best evaluation's model is exported, the model is that one afterwards, and of no use for further steps.
    """
    training = parts.training
    exported = _choose(parts, step, losses_by_step(evaluated), note)
    export(parts.model, parts.config, parts.source, parts.output)
    if training.method is not Method.FULL:
        export_adapter(parts.model, training.lora, training.model.removeprefix("hf://"), parts.output / ADAPTER)
    return exported


def _choose(parts: Parts, step: int, losses: dict[int, float], note: Callable[[str], None]) -> Exported:
    """Has the model be the one that is exported: where an earlier one is better, its checkpoint is read."""
    wanted = better_than(losses, step) if parts.training.watch.exports_best else []
    if wanted:
        found = parts.checkpointer.load_model(wanted, parts.model)
        for one in parts.checkpointer.damaged:
            note(f"A checkpoint was set aside: {one}.")
        step = step if found is None else found
        if step != wanted[0]:
            note(
                f"The best evaluation was {losses[wanted[0]]:.4f} at step {wanted[0]}, of which there is no checkpoint "
                f"that can be read: the model of step {step} is exported."
            )
    return Exported(step=step, eval_loss=losses.get(step))
