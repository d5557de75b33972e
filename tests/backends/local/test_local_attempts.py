"""What follows an attempt of a training run that ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.local.attempts import (
    Again,
    GiveUp,
    RankEnd,
    after_failure,
    fewer_ranks,
    first_cause,
    fitting_ranks,
)
from ironloom.backends.local.backoff import BackoffLimits
from ironloom.train.loop import exits
from ironloom.workload.training import Training
from ironloom.workload.training_job import TrainingJob

LIMITS = BackoffLimits(first_s=1.0, max_s=300.0)


def job(*, batch: int = 12, elastic: bool = False, restarts: int = 3, least: int = 1) -> TrainingJob:
    training = Training(
        name="a", model="m", output="/o", global_batch_size=batch, is_elastic=elastic, max_restarts=restarts
    )
    return TrainingJob(name="a", kind="TrainJob", training=training, num_ranks=4, min_ranks=least)


def decided(
    *ends: RankEnd, of: TrainingJob | None = None, failures: int = 0, checkpoint: bool = False
) -> Again | GiveUp:
    return after_failure(
        of or job(), ends, num_ranks=4, num_failures=failures, made_checkpoint=checkpoint, limits=LIMITS
    )


KILLED = RankEnd(rank=2, status=-9)
LOST = RankEnd(rank=0, status=exits.PEER_LOST, code="peer_lost", message="another rank went away: connection reset")
ENDED = RankEnd(rank=1, status=-9, was_killed_by_us=True)
WRONG = RankEnd(rank=3, status=exits.REFUSED, message="the tokenizer is another model's", is_final=True)
HUNG = RankEnd(rank=1, status=exits.HUNG, message="step 7 did not end in 600s: rank 2 is in the data of step 7")


def test_what_would_mend_the_cause_is_told_with_the_end() -> None:
    told = decided(replace(WRONG, hint="the model's own"))
    assert isinstance(told, GiveUp)
    assert told.hint == "the model's own"
    broken = RankEnd(rank=0, status=exits.FAILED, message="the disk is full", hint="free some of it")
    last = decided(broken, of=job(restarts=0))
    assert isinstance(last, GiveUp)
    assert last.hint == "free some of it"


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([LOST, KILLED, ENDED], KILLED),
        ([LOST, ENDED], LOST),
        ([ENDED, HUNG, LOST], HUNG),
        ([KILLED, WRONG], WRONG),
        ([LOST, RankEnd(rank=2, status=1, message="a bug")], RankEnd(rank=2, status=1, message="a bug")),
        ([RankEnd(rank=0, status=exits.BAD_LOSS), KILLED], RankEnd(rank=0, status=exits.BAD_LOSS)),
    ],
)
def test_the_end_that_the_others_followed_from_is_told(ends: list[RankEnd], cause: RankEnd) -> None:
    assert first_cause(ends) == cause


def test_a_killed_rank_is_followed_by_another_attempt_on_as_many() -> None:
    again = decided(LOST, KILLED)
    assert again == Again(delay_s=1.0, num_ranks=4, num_failures=1, reason="rank 2 was killed by SIGKILL")


def test_the_wait_doubles_from_failure_to_failure() -> None:
    waits = [decided(KILLED, of=job(restarts=99), failures=number) for number in range(12)]
    assert [one.delay_s for one in waits if isinstance(one, Again)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_what_the_same_again_would_not_mend_is_given_up_at_once() -> None:
    assert decided(WRONG) == GiveUp(reason="rank 3 failed: the tokenizer is another model's", num_failures=1)
    assert isinstance(decided(RankEnd(rank=0, status=exits.BAD_LOSS)), GiveUp)


def test_a_checkpoint_since_the_last_failure_starts_the_count_anew() -> None:
    assert isinstance(decided(KILLED, failures=3), GiveUp)
    again = decided(KILLED, failures=3, checkpoint=True)
    assert isinstance(again, Again)
    assert again.num_failures == 1


def test_without_restarts_the_first_failure_is_the_last() -> None:
    given_up = decided(KILLED, of=job(restarts=0))
    assert given_up == GiveUp(
        reason="the attempt failed without a new checkpoint; the last: rank 2 was killed by SIGKILL", num_failures=1
    )


def test_an_elastic_run_takes_fewer_ranks_from_its_second_failure_in_a_row_on() -> None:
    first, second = (decided(KILLED, of=job(elastic=True), failures=number) for number in (0, 1))
    assert [one.num_ranks for one in (first, second) if isinstance(one, Again)] == [4, 3]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_ranks_that_are_chosen_divide_the_batch_and_are_within_bounds(batch: int, most: int, least: int) -> None:
    wanted = job(batch=batch, elastic=True, least=least)
    chosen = fitting_ranks(wanted, most)
    if chosen:
        assert least <= chosen <= most
        assert batch % chosen == 0
    else:
        assert all(batch % ranks for ranks in range(least, most + 1))


def test_a_run_at_its_least_ranks_stays_there() -> None:
    assert fewer_ranks(job(elastic=True, least=4), 4) == 4
