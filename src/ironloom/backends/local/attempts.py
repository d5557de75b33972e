"""What to do when an attempt of a training run has ended. Pure.

Whether another attempt makes sense is the ranks' own word: an exit status that says that the same again ends the same
(a wrong setting, data that cannot be used, memory that is not there, a loss that went bad) ends the run. Everything
else is tried again from the last checkpoint, after 1 s, 2 s, 4 s … up to 5 minutes; a checkpoint taken since the last
failure starts that anew. Where the run is elastic and fails twice in a row without one, it goes on with fewer ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.backends.local.backoff import BackoffLimits
from ironloom.backends.local.spawn import describe_exit
from ironloom.train.loop import exits
from ironloom.workload.training_job import TrainingJob


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    status: int | None
    """As in subprocess; None is not known."""
    code: str = ""
    """Of the failure that it wrote down last, if it did."""
    message: str = ""
    hint: str = ""
    is_final: bool = False
    was_killed_by_us: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """Another attempt."""

    delay_s: float
    num_ranks: int
    num_failures: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """No other attempt."""

    reason: str
    num_failures: int
    hint: str = ""
    """What would mend the cause, where the rank knew it."""


def after_failure(
    job: TrainingJob,
    ends: Sequence[RankEnd],
    *,
    num_ranks: int,
    num_failures: int,
    made_checkpoint: bool,
    limits: BackoffLimits,
) -> Again | GiveUp:
    """`ends` in the order in which they came; `num_failures` before this one, in a row without a checkpoint."""
    cause = first_cause(ends)
    why = describe(cause)
    number = 1 if made_checkpoint else num_failures + 1
    if cause.is_final or cause.status in exits.FINAL:
        return GiveUp(reason=why, num_failures=number, hint=cause.hint)
    if number > job.training.max_restarts:
        attempts = f"{number} attempts in a row" if number > 1 else "the attempt"
        told = f"{attempts} failed without a new checkpoint; the last: {why}"
        return GiveUp(reason=told, num_failures=number, hint=cause.hint)
    ranks = num_ranks
    if job.training.is_elastic and number >= 2:
        ranks = fewer_ranks(job, num_ranks)
    delay_s = min(limits.max_s, limits.first_s * 2.0 ** min(number - 1, 30))
    return Again(delay_s=delay_s, num_ranks=ranks, num_failures=number, reason=why)


def first_cause(ends: Sequence[RankEnd]) -> RankEnd:
    """The end that the others followed from: a final one, else one that a signal of someone else brought about, else
    the first that is no mere loss of a peer."""

    def order(end: RankEnd) -> int:
        if end.is_final or end.status in exits.FINAL:
            return 0
        if end.was_killed_by_us:
            return 5
        if end.status is not None and end.status < 0:
            return 1
        if end.status == exits.HUNG:
            return 2
        return 4 if end.status == exits.PEER_LOST or end.code == "peer_lost" else 3

    return min(ends, key=order)


def describe(end: RankEnd) -> str:
    """An end as a sentence's words."""
    who = f"rank {end.rank} "
    if end.message:
        return f"{who}failed: {end.message}"
    return f"{who}{describe_exit(end.status)}"


def fitting_ranks(job: TrainingJob, most: int) -> int:
    """The largest number of ranks up to `most` that the batch divides by; 0 where none from `min_ranks` on does."""
    training = job.training
    for ranks in range(most, job.min_ranks - 1, -1):
        if ranks >= 1 and training.global_batch_size % (training.micro_batch_size * ranks) == 0:
            return ranks
    return 0


def fewer_ranks(job: TrainingJob, num_ranks: int) -> int:
    """The next smaller number that works, or the same."""
    return fitting_ranks(job, num_ranks - 1) or num_ranks
