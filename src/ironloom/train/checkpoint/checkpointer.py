"""Takes and loads a run's checkpoints.

    checkpointer = Checkpointer(folder, policy, identity={…})
    extra = checkpointer.load(model, optimizer)     # None where there is none
    checkpointer.prepare(model, optimizer)          # buffers and plans, before the first step
    for step in …:
        …                                           # forward, backward
        checkpointer.before_update()                # waits until the last checkpoint's copy is out of the way
        optimizer.step()
        checkpointer.save(step, model, optimizer, extra)
    outcome = checkpointer.close()

An asynchronous save copies the state into prepared (on a GPU, pinned) host memory on a stream and a thread of its own,
beside the next step's forward and backward, which change no weight; a second thread writes it. A save that fails (a
full disk, say) is an outcome that the run tells, not its end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from ironloom.errors import CheckpointError
from ironloom.train.checkpoint import folder as folders
from ironloom.train.checkpoint.host_memory import memory_of, memory_wanted
from ironloom.train.checkpoint.index import (
    Index,
    first_difference,
    first_identity_difference,
    read_index,
    write_index,
)
from ironloom.train.checkpoint.randomness import random_state, restore_random_state
from ironloom.train.checkpoint.ranks import Ranks
from ironloom.train.checkpoint.state import MODEL, plain_values_of, restore_plain_values, settle, tensors_of
from ironloom.train.checkpoint.storage import Plan, WrittenFile, described, read_into, stored_tensors
from ironloom.units import format_bytes
from ironloom.workload.training import CheckpointPolicy

State = dict[str, torch.Tensor]
_NUM_WRITERS = 4
"""Files that a rank writes at once: one core sums about 1 GB/s of CRC-32, a local disk takes more."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is whole."""

    step: int
    path: Path
    num_bytes: int
    write_s: float
    """From the copy's end until it bore its name."""
    removed_steps: tuple[int, ...] = ()
    """Older ones that the policy did not keep."""


@dataclass(frozen=True, slots=True)
class NotSaved:
    """A checkpoint that could not be written; the older ones are as they were."""

    step: int
    reason: str


Outcome = Saved | NotSaved


class Checkpointer:
    """A run's checkpoints in one folder. Made by all ranks; every method is called by all ranks, in the same order.

    `identity` is what the model is, in words that a person can compare: a checkpoint that says otherwise is refused.
    """

    def __init__(self, folder: Path, policy: CheckpointPolicy, *, identity: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.policy = policy
        self.is_async = policy.is_async
        self._identity = identity or {}
        self._ranks = Ranks()
        self._plan: Plan | None = None
        self._stager: DefaultStager | None = None
        self._copying: Future[State] | None = None
        self._writing: Future[Outcome] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        if self._ranks.is_first:
            folders.clear(folder)

    def refuse_another_model(self) -> None:
        """Looks at the newest checkpoint's identity alone, before anything is loaded. Raises CheckpointError."""
        failure = None
        if self._ranks.is_first and (there := folders.steps(self.folder)):
            path = folders.step_folder(self.folder, there[-1])
            try:
                difference = first_identity_difference(read_index(path).identity, self._identity)
            except CheckpointError:  # damaged: `load` takes the one before it
                difference = None
            failure = _another(path, difference) if difference else None
        if (told := self._ranks.from_first(failure)) is not None:
            raise told

    def load(self, model: torch.nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> Any | None:
        """Reads the newest checkpoint into the model and the optimizer, at whatever number of ranks it was written.

        Returns the `extra` that was saved, None where there is no checkpoint. One that is damaged is set aside, and the
        one before it is taken. Random numbers go on where they stood, on as many ranks as then. Raises CheckpointError
        for another model's or another optimizer's checkpoint, for pickles, and where all are damaged.
        """
        there = self._ranks.from_first(self._steps() if self._ranks.is_first else None)
        if isinstance(there, CheckpointError):
            raise there
        if not there:
            return None
        optimizers = _sequence(optimizer)
        state = tensors_of(model, optimizers)
        failures = []
        for step in reversed(there):
            try:
                index = self._read(step, state)
            except _Damaged as error:
                failures.append(str(error))
                if self._ranks.is_first:
                    folders.set_aside(self.folder, step)
                continue
            settle(model, {name.removeprefix(MODEL): t for name, t in state.items() if name.startswith(MODEL)})
            for one, values in zip(optimizers, index.optimizers, strict=True):
                restore_plain_values(one, values)
            if index.world == self._ranks.world:
                restore_random_state(index.ranks[self._ranks.rank])
            self.damaged = tuple(failures)
            return index.extra
        raise CheckpointError(
            f"no checkpoint of {self.folder} can be loaded: {failures[0]}",
            hint="start a new run in another folder, or bring the files back",
        )

    def load_model(self, steps: Sequence[int], model: torch.nn.Module) -> int | None:
        """Reads the model's tensors alone, of the first of these steps whose checkpoint is there and whole; optimizers
        and random numbers stay. Returns the step, None where there is none: then the model is as it was.

        A damaged one is set aside. Raises CheckpointError for another model's checkpoint, and where one cannot be read
        that was whole a moment before.
        """
        self._join()
        there = self._ranks.from_first(folders.steps(self.folder) if self._ranks.is_first else None)
        state = tensors_of(model, ())
        failures = []
        found = None
        for step in steps:
            if step not in there:
                continue
            try:
                self._read(step, state, owners=("model",), is_trial=True)
            except _Damaged as error:
                failures.append(str(error))
                if self._ranks.is_first:
                    folders.set_aside(self.folder, step)
                continue
            try:
                self._read(step, state, owners=("model",))
            except _Damaged as error:
                raise CheckpointError(str(error)) from error
            settle(model, {name.removeprefix(MODEL): tensor for name, tensor in state.items()})
            found = step
            break
        self.damaged = tuple(failures)
        return found

    damaged: tuple[str, ...] = ()
    """What was wrong with the checkpoints that the last load set aside, a sentence each."""

    def prepare(self, model: torch.nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Lays out the host memory and the plans, so that the first save is as quick as the others. Where a machine has
        not the memory for its ranks' copies, checkpoints are taken synchronously, and `note` says so."""
        state = tensors_of(model, _sequence(optimizer))
        self._planned(state)
        if self.is_async:
            self.note = self._ranks.from_first(memory_wanted(self._ranks.gather(memory_of(state))))
            self.is_async = not self.note
        if self.is_async:
            self._copy(state).result()

    note: str = ""
    """Why checkpoints that were to be asynchronous are not; a sentence, or nothing."""

    def save(
        self,
        step: int,
        model: torch.nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        extra: Any = None,
        *,
        losses: Mapping[int, float] | None = None,
    ) -> None:
        """Takes a checkpoint of the state as it is now. What came of it is told by `wait` and `poll`.

        Waits for the one before, where that is still being written. A step that has its checkpoint is not taken twice.
        `losses` are evaluations by step: of the checkpoints that are there, this one among them, the one of the lowest
        stays whatever the policy says.
        """
        self._join()
        state = tensors_of(model, _sequence(optimizer))
        plan = self._planned(state)
        kept = {
            "extra": extra if extra is not None else {},
            "optimizers": [plain_values_of(one) for one in _sequence(optimizer)],
            "random": random_state(),
            "losses": dict(losses or {}),
        }
        if self.is_async:
            self._copying = self._copy(state)
            self._writing = self._writer.submit(self._write, plan, self._copying, step, kept)
        else:
            done: Future[State] = Future()
            done.set_result(state)
            self._writing = Future()
            self._writing.set_result(self._write(plan, done, step, kept))

    def before_update(self) -> None:
        """Waits until the last save has its copy: from here on weights may change."""
        if self._copying is not None:
            self._copying.result()
            self._copying = None

    def poll(self) -> Outcome | None:
        """What came of the last save, once, when it is known; never waits."""
        if self._writing is None or not self._writing.done():
            return None
        return self.wait()

    def wait(self) -> Outcome | None:
        """What came of the last save; waits for it. None where there was none since."""
        self._join()
        outcome, self._outcome = self._outcome, None
        return outcome

    _outcome: Outcome | None = None

    def close(self) -> Outcome | None:
        """Waits for the last save, and gives the buffers and the threads back."""
        outcome = self.wait()
        self._writer.shutdown(wait=True)
        if self._stager is not None:
            vars(self._stager._state_dict_stager).pop("close", None)
            self._stager.close()
            self._stager = None
        return outcome

    def _join(self) -> None:
        self.before_update()
        if self._writing is not None:
            self._outcome = self._writing.result()
            self._writing = None

    def _steps(self) -> list[int] | CheckpointError:
        try:
            folders.refuse_pickles(self.folder)
        except CheckpointError as error:
            return error
        return folders.steps(self.folder)

    def _read(
        self, step: int, state: State, *, owners: Sequence[str] = ("model", "optimizer"), is_trial: bool = False
    ) -> Index:
        """Raises _Damaged on every rank where it is so on one. A trial changes nothing."""
        path = folders.step_folder(self.folder, step)
        index: Index | None = None
        failure: CheckpointError | None = None
        try:
            index = read_index(path)
        except CheckpointError as error:
            failure = error
        self._agree(failure)
        assert index is not None
        self._refuse_another(path, index, state, owners)
        try:
            read_into(state, index.tensors, path, is_trial=is_trial)
        except CheckpointError as error:
            failure = error
        except OSError as error:
            failure = CheckpointError(f"{path} cannot be read ({error.strerror or error})")
        self._agree(failure)
        return index

    def _agree(self, failure: CheckpointError | None) -> None:
        told = [text for text in self._ranks.gather(str(failure) if failure else "") if text]
        if told:
            raise _Damaged(told[0])

    def _refuse_another(self, path: Path, index: Index, state: State, owners: Sequence[str]) -> None:
        saved = {name: (tensor.dtype, tensor.shape) for name, tensor in index.tensors.items()}
        if difference := first_identity_difference(index.identity, self._identity):
            raise _another(path, difference)
        for owner in owners:
            there, here = (
                {name: of[name] for name in of if name.startswith(f"{owner}.")} for of in (saved, described(state))
            )
            if difference := first_difference(there, here):
                raise _another(path, difference, owner)

    def _planned(self, state: State) -> Plan:
        if self._plan is None or self._plan.signature != described(state):
            plan = Plan(state, is_coordinator=self._ranks.is_first)
            plans = self._ranks.to_first(plan.local)
            plan.take(self._ranks.scatter(plan.agree(plans) if self._ranks.is_first else []))
            self._plan = plan
        return self._plan

    def _copy(self, state: State) -> Future[State]:
        if self._stager is None:
            has_gpu = torch.cuda.is_available()
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=has_gpu,
                    use_shared_memory=False,
                    use_async_staging=True,
                    use_non_blocking_copy=has_gpu,
                )
            )
            # torch 2.11 gives the buffers back after every copy, and then cannot copy again; ours serve until `close`
            self._stager._state_dict_stager.close = lambda: None
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the copy's stream does not wait for the update's kernels
        copying = self._stager.stage(state)
        assert isinstance(copying, Future)
        return copying

    def _write(self, plan: Plan, copying: Future[State], step: int, kept: dict[str, Any]) -> Outcome:
        """Every rank's part in a checkpoint. What the disk refuses is an outcome, the same on every rank."""
        state = copying.result()
        begin_s = time.monotonic()
        early = self._ranks.from_first(self._begin(state, step) if self._ranks.is_first else None)
        if early is not None:
            return early
        partial = folders.partial_folder(self.folder, step)
        written: list[WrittenFile] | str
        try:
            written = plan.write(
                state, partial, rank=self._ranks.rank, world=self._ranks.world, num_writers=_NUM_WRITERS
            )
        except OSError as error:
            written = _told(error, partial)
        except RuntimeError as error:  # of torch: a rank that left would have the others wait
            written = f"rank {self._ranks.rank} cannot write its part: {error}"
        gathered = self._ranks.to_first((written, kept["random"]))
        if not self._ranks.is_first:
            return self._ranks.from_first(None)
        return self._ranks.from_first(self._finish(plan, step, kept, gathered, begin_s))

    def _begin(self, state: State, step: int) -> Outcome | None:
        """Makes the folder; or says what came of the checkpoint already."""
        path = folders.step_folder(self.folder, step)
        if step in folders.steps(self.folder):
            return Saved(step, path, sum(file.stat().st_size for file in path.iterdir()), 0.0)
        needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        try:
            folders.begin(self.folder, step)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return NotSaved(step, _told(error, self.folder))
        if free < needed:
            shutil.rmtree(folders.partial_folder(self.folder, step), ignore_errors=True)
            return NotSaved(
                step, f"{self.folder} has {format_bytes(free)} free, and a checkpoint takes {format_bytes(needed)}"
            )
        return None

    def _finish(
        self,
        plan: Plan,
        step: int,
        kept: dict[str, Any],
        gathered: list[tuple[list[WrittenFile] | str, dict[str, Any]]],
        begin_s: float,
    ) -> Outcome:
        partial = folders.partial_folder(self.folder, step)
        failures = [result for result, _ in gathered if isinstance(result, str)]
        written = [file for result, _ in gathered if not isinstance(result, str) for file in result]
        if not failures:
            failures = [
                f"{partial / file.name}, which a rank wrote, is not there: the ranks do not share {self.folder}"
                for file in written
                if not (partial / file.name).is_file()
            ]
        if failures:
            shutil.rmtree(partial, ignore_errors=True)
            return NotSaved(step, failures[0])
        index = Index(
            step=step,
            world=self._ranks.world,
            num_bytes=sum(file.num_bytes for file in written),
            identity=self._identity,
            extra=kept["extra"],
            optimizers=kept["optimizers"],
            ranks=[state for _, state in gathered],
            files={file.name: file.num_bytes for file in written},
            tensors=stored_tensors(written, plan.signature),
        )
        try:
            write_index(partial, index)
            path = folders.finish(self.folder, step)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            return NotSaved(step, _told(error, partial))
        removed: list[int] = []
        with suppress(OSError):  # an older one that cannot be removed is no failure of this one
            removed = folders.prune(self.folder, self.policy, kept["losses"])
        return Saved(step, path, index.num_bytes, time.monotonic() - begin_s, tuple(removed))


class _Damaged(Exception):
    """A checkpoint that cannot be loaded, and an older one may."""


def _told(error: OSError, path: Path) -> str:
    return f"{path} cannot be written: {error.strerror or error}"


def _sequence(optimizer: Optimizer | Sequence[Optimizer] | None) -> Sequence[Optimizer]:
    if optimizer is None:
        return ()
    return (optimizer,) if isinstance(optimizer, Optimizer) else optimizer


def _another(path: Path, difference: str, owner: str = "model") -> CheckpointError:
    return CheckpointError(
        f"{path} is another {owner}'s checkpoint: {difference}",
        hint="give the model and the optimizer as they were, or write into another folder",
    )
