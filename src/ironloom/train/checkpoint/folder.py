"""A run's checkpoints on disk. What bears a step's name is whole.

    CHECKPOINTS/
      step-00000500/           a checkpoint: its files, and checkpoint.json, which was written last
      step-00001000.partial/   one that is being written; renamed when every byte is on the disk
      step-00000250.removed/   one that is being removed: it loses its name first
      step-00000750.damaged/   one that could not be loaded; an older one was taken

A kill at any instant leaves the names of whole checkpoints alone; what else it leaves goes with the next start.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ironloom.errors import CheckpointError
from ironloom.train.checkpoint import files
from ironloom.train.checkpoint.index import FILE
from ironloom.workload.training import CheckpointPolicy

_NAME = re.compile(r"step-(\d{8,})")
_LEFT = re.compile(r"step-\d{8,}\.(partial|removed)")
PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".distcp"})


def step_folder(folder: Path, step: int) -> Path:
    """Where a step's checkpoint lies."""
    return folder / f"step-{step:08d}"


def partial_folder(folder: Path, step: int) -> Path:
    """Where a step's checkpoint is written before it is one."""
    return folder / f"step-{step:08d}.partial"


def steps(folder: Path) -> list[int]:
    """The steps with a checkpoint, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        int(match[1])
        for entry in folder.iterdir()
        if (match := _NAME.fullmatch(entry.name)) and (entry / FILE).is_file()
    )


def begin(folder: Path, step: int) -> Path:
    """An empty folder to write a step's checkpoint into. Raises OSError."""
    partial = partial_folder(folder, step)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def finish(folder: Path, step: int) -> Path:
    """Gives what was written its name. Raises OSError."""
    partial = partial_folder(folder, step)
    files.sync_folder(partial)
    partial.rename(step_folder(folder, step))
    files.sync_folder(folder)
    return step_folder(folder, step)


def set_aside(folder: Path, step: int) -> None:
    """Takes the name from a checkpoint that cannot be loaded; its files stay until the next one is written."""
    damaged = folder / f"step-{step:08d}.damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    step_folder(folder, step).rename(damaged)


def clear(folder: Path) -> None:
    """Removes what a killed run left half written or half removed."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _LEFT.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def prune(folder: Path, policy: CheckpointPolicy, losses: Mapping[int, float] | None = None) -> list[int]:
    """Removes the checkpoints that the policy does not keep, and those set aside; returns their steps."""
    gone = superfluous(steps(folder), policy, losses or {})
    for step in gone:
        removed = folder / f"step-{step:08d}.removed"
        shutil.rmtree(removed, ignore_errors=True)
        step_folder(folder, step).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
    for damaged in folder.glob("step-*.damaged"):
        shutil.rmtree(damaged, ignore_errors=True)
    return gone


def superfluous(there: Iterable[int], policy: CheckpointPolicy, losses: Mapping[int, float]) -> list[int]:
    """The steps that go: all but the last ones, those at the multiples that stay for good and, of those with a loss,
    the one of the lowest; of equal ones the first."""
    ordered = sorted(there)
    kept = set(ordered[-max(1, policy.keep_last) :])
    if known := [step for step in ordered if step in losses]:
        kept.add(min(known, key=lambda step: losses[step]))
    if policy.keep_every_steps:
        kept |= {step for step in ordered if step % policy.keep_every_steps == 0}
    return [step for step in ordered if step not in kept]


def refuse_pickles(folder: Path) -> None:
    """Raises CheckpointError for a folder that holds checkpoints as pickles: loading one can run any code."""
    if not folder.is_dir():
        return
    for entry in sorted(folder.rglob("*")):
        if entry.suffix in PICKLES or entry.name == ".metadata":
            raise CheckpointError(
                f"{entry} is a pickle, and loading one can run any code; checkpoints here are safetensors and JSON",
                hint="export the model as safetensors with the program that wrote it, and start from that",
            )
