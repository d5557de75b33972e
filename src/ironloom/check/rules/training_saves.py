"""Checkpoints by Lightning and Fabric, whose saving is a collective of its own."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, shown
from ironloom.workload.scripts.model import Script
from ironloom.workload.scripts.ranks import is_for_first_rank

_PACKAGES = ("lightning", "lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric")
_SAVES = frozenset(
    {f"{package}.Trainer().save_checkpoint" for package in _PACKAGES}
    | {f"{package}.Fabric().save" for package in _PACKAGES}
)
_FIT = """\
import lightning as L

from mine import Data, Model

trainer = L.Trainer(accelerator="gpu", devices=4, strategy="ddp", max_epochs=10)
trainer.fit(Model(), datamodule=Data())
"""


@rule(
    id="IL744",
    name="framework-save-on-some-ranks",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a save of Lightning or Fabric that only rank 0 comes to",
    why="trainer.save_checkpoint and fabric.save are called by every rank: they gather what is sharded, write on the "
    "right rank, and end in a barrier. Under `if trainer.is_global_zero` the others never come to it. Rank 0 waits "
    "until NCCL's timeout, or meets another collective of the others, and the job ends as failed.",
    bad=_FIT + 'if trainer.is_global_zero:\n    trainer.save_checkpoint("final.ckpt")\n',
    good=_FIT + 'trainer.save_checkpoint("final.ckpt")\n',
    sources=(
        Source(
            "https://github.com/alan-turing-institute/autocast/pull/386", "the barrier, and half an hour at the end"
        ),
        Source("https://github.com/Lightning-AI/pytorch-lightning/issues/19780", "fabric.save without the condition"),
        Source(
            "https://lightning.ai/docs/fabric/stable/guide/checkpoint/checkpoint.html",
            "what it writes, and on which rank",
        ),
    ),
)
def framework_save_on_some_ranks(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.methods("save_checkpoint", "save"):
        guard = script.flow.rank_guard(call.node) if call.names and call.names <= _SAVES else None
        if guard is None or is_for_first_rank(guard) is None or len(call.names) != 1:
            continue
        owner = "Fabric" if "Fabric()" in call.name else "the Trainer"
        yield at(
            script,
            call.node,
            f"{call.attribute} waits for every rank, and not all come here: the job hangs until the timeout",
            path=call.attribute,
            evidence=(f"the condition is {shown(script, guard.test)}",),
            help=f"call it on every rank: {owner} writes on the right one by itself",
        )
