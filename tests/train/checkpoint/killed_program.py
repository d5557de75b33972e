"""Takes checkpoints over and over, killed at each call that changes the disk in turn, and loads after each kill.

    python killed_program.py FOLDER

Prints a line of JSON: how many calls there were, and what was loaded after each kill.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from ironloom.train.checkpoint.checkpointer import Checkpointer
from ironloom.workload.training import CheckpointPolicy

CALLS = ("write", "fsync", "rename", "unlink", "rmdir", "mkdir")
POLICY = CheckpointPolicy(keep_last=1, is_async=False)
FIRST, LAST = 1, 3


def model_at(step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model whose every number is its step."""
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float(step))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def save(folder: Path, steps: range) -> None:
    checkpointer = Checkpointer(folder, POLICY)
    for step in steps:
        checkpointer.save(step, *model_at(step), {"step": step})
    checkpointer.close()


def killed_at(number: int) -> None:
    """From now on, the call of this number ends the process instead."""
    calls = 0

    def counted(call: Any) -> Any:
        def instead(*args: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == number:
                os._exit(9)
            calls += 1
            return call(*args, **options)

        return instead

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    loaded: list[int] = []
    for number in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, range(FIRST, FIRST + 1))
        child = os.fork()
        if not child:
            killed_at(number)
            save(folder, range(FIRST + 1, LAST + 1))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        model, optimizer = model_at(0)
        extra: Any = Checkpointer(folder, POLICY).load(model, optimizer)
        assert all((parameter == extra["step"]).all() for parameter in model.parameters())
        assert not [entry for entry in folder.iterdir() if "." in entry.name], "what was left half is still there"
        loaded.append(extra["step"])
        if status == 0:
            break
    print(json.dumps(loaded))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
