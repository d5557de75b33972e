"""A training run as the rest of the program sees it, and the Protocol of what runs one. Imports no torch.

    queued ──► starting ──► running ──► succeeded
       ▲          │            │
       │          ├────────────┴──► waiting ──► queued      an attempt failed; the next one comes after a while
       │          │            │
       │          └────────────┴──► stopping ──► stopped    suspended: it took a checkpoint
       └───────────────────────────────────────────┘        and goes on where that left off

`failed` comes from queued, starting, running and waiting: no further attempt makes sense, or none is left. A run that
is applied anew leaves stopped, failed and succeeded for queued.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ironloom.train.loop.profile_ask import Ask
from ironloom.train.loop.progress import RunProgress
from ironloom.workload.training_job import TrainingJob


class RunState(StrEnum):
    QUEUED = "queued"
    """Waits for devices."""
    STARTING = "starting"
    """Its ranks run; no step has ended yet."""
    RUNNING = "running"
    WAITING = "waiting"
    """An attempt failed; the next one comes after a while."""
    STOPPING = "stopping"
    """Its ranks were asked to take a checkpoint and end."""
    STOPPED = "stopped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


LIVE_STATES = frozenset({RunState.QUEUED, RunState.STARTING, RunState.RUNNING, RunState.WAITING})
ENDED_STATES = frozenset({RunState.STOPPED, RunState.SUCCEEDED, RunState.FAILED})
_LIVE_NEXT = {RunState.STOPPING, RunState.FAILED}
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.STARTING, RunState.WAITING, *_LIVE_NEXT}),
    RunState.STARTING: frozenset({RunState.RUNNING, RunState.WAITING, RunState.SUCCEEDED, *_LIVE_NEXT}),
    RunState.RUNNING: frozenset({RunState.WAITING, RunState.SUCCEEDED, *_LIVE_NEXT}),
    RunState.WAITING: frozenset({RunState.QUEUED, *_LIVE_NEXT}),
    RunState.STOPPING: frozenset({RunState.STOPPED, RunState.SUCCEEDED, RunState.FAILED}),
    RunState.STOPPED: frozenset({RunState.QUEUED}),
    RunState.SUCCEEDED: frozenset({RunState.QUEUED}),
    RunState.FAILED: frozenset({RunState.QUEUED}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One process of a run, as it is now."""

    rank: int
    pid: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A backend's report on one run."""

    name: str
    state: RunState
    reason: str = ""
    """Why it is in this state, for a person."""
    hint: str = ""
    """What would mend a failure, where that is known."""
    since_s: float = 0.0
    """Wall clock of the last change of state."""
    attempt: int = 0
    """Attempts so far, the present one among them."""
    num_failures: int = 0
    """In a row, without a checkpoint between them."""
    retry_at_s: float | None = None
    """Wall clock of the next attempt, while it waits for it."""
    ranks: tuple[Rank, ...] = ()
    num_ranks: int = 0
    """Of the present attempt, or the last one."""
    devices: tuple[str, ...] = ()
    device_s: float = 0.0
    """Seconds that devices (a rank on CPU counts as one) were held for it, over all attempts."""
    progress: RunProgress = field(default_factory=RunProgress)
    notes: tuple[str, ...] = ()


class RunBackend(Protocol):
    """Runs training runs, somewhere. All methods are called from the daemon's event loop; none blocks it."""

    async def open(self, *, on_change: Callable[[RunReport], None]) -> None:
        """Take up what already runs. Call once, before the rest. `on_change` is called at each change of a run."""
        ...

    async def check(self, job: TrainingJob, *, beside: Sequence[TrainingJob] = ()) -> None:
        """Look at a run before it is applied: raises IronloomError for what is known to be wrong without fetching.
        `beside`: the runs that are applied at once with it, itself among them or not."""
        ...

    async def apply(self, job: TrainingJob) -> None:
        """Declare a run; idempotent. One that has ended or failed goes on from its last checkpoint; one that is
        suspended takes a checkpoint and ends; one whose configuration changed is stopped and goes on with the new."""
        ...

    async def take_up(self, job: TrainingJob) -> None:
        """A run that an earlier daemon had: adopted where its ranks still run, gone on with where they ended without
        having been asked to, left as it is where it had ended."""
        ...

    def report(self, name: str) -> RunReport | None:
        """A run as it is now, None where there is none."""
        ...

    async def ask_profile(self, name: str, ask: Ask) -> None:
        """Have a run that steps write a profile of its next steps; what came of it is in its progress. Returns at once.
        Raises OSError where its output cannot be written."""
        ...

    async def delete(self, name: str) -> None:
        """Have it take a checkpoint, end it and forget it; its output stays. Returns when its ranks are gone."""
        ...

    def logs(self, name: str, rank: str | None, *, follow: bool, tail: int) -> AsyncIterator[tuple[str, str]]:
        """Lines of (rank-K, text), oldest first; with `follow` until the run has ended or the caller stops."""
        ...

    async def close(self, *, stop: bool) -> None:
        """Let go; with `stop` have each run take a checkpoint and end first: the next daemon goes on with it."""
        ...
