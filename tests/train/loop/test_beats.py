"""Which rank is the slow one, and the watch that asks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ironloom.train.loop import watch as watching
from ironloom.train.loop.beats import Beat, name_slow, read_beats, write_beat
from ironloom.train.loop.exits import HUNG
from ironloom.train.loop.records import Records, path_of, read_records
from ironloom.train.loop.watch import HangWatch

NOW_S = 1000.0
AT, WAIT = "the forward of step 7", ", and the others wait in the"
GONE, NETWORK = "stopped, swapped out or gone, last heard of", "a collective does not end (the network?)"


def beat(rank: int, part: str = "forward", *, step: int = 7, age_s: float = 0.5, since_s: float = 30.0) -> Beat:
    return Beat(rank=rank, pid=100 + rank, step=step, part=part, part_since_s=NOW_S - since_s, beat_s=NOW_S - age_s)


@pytest.mark.parametrize(
    ("beats", "ranks", "said"),
    [
        ([beat(0), beat(1, "data"), beat(2)], (1,), f"rank 1 is in the data of step 7 for 30 s{WAIT} forward of step 7"),  # noqa: E501
        ([beat(0, step=8), beat(1, step=8), beat(2)], (2,), f"rank 2 is in {AT} for 30 s{WAIT} forward of step 8"),
        ([beat(0), beat(1), beat(2, age_s=20)], (2,), f"no sign of life from rank 2 (pid 102, 20 s): {GONE} in {AT}"),
        ([beat(0), beat(1)], (2,), "rank 2 never gave a sign of life"),
        ([beat(0), beat(1), beat(2)], (), f"all 3 ranks are in {AT} and alive: {NETWORK}"),
    ],
)  # fmt: skip
def test_the_rank_that_the_others_wait_for_is_named(beats: list[Beat], ranks: tuple[int, ...], said: str) -> None:
    assert name_slow(beats, 3, NOW_S) == (ranks, said)


def test_one_rank_alone_is_told_by_what_it_does() -> None:
    assert name_slow([beat(0, "data")], 1, NOW_S) == ((0,), "it is in the data of step 7 for 30 s")


def test_beats_are_read_as_they_were_written_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    for one in (beat(1), beat(0)):
        write_beat(tmp_path, one)
    (tmp_path / "beat-7.json").write_text("{")
    (tmp_path / "beat-8.json").write_text('{"rank": 8}')
    assert read_beats(tmp_path) == [beat(0), beat(1)]


def test_a_step_that_takes_too_long_leaves_stacks_and_ends_the_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BEAT_S", 0.01)
    monkeypatch.setattr(watching, "FIRST_STEP_FACTOR", 1.0)
    ended: list[int] = []
    records = Records(tmp_path, 0)
    watch = HangWatch(tmp_path, records, rank=0, num_ranks=1, timeout_s=0.05, end=ended.append)
    watch.start()
    watch.begin_step(3)
    watch.enter("data")
    give_up_s = time.monotonic() + 10
    while not ended and time.monotonic() < give_up_s:
        time.sleep(0.01)
    watch.close()
    assert ended == [HUNG]
    (record,), _ = read_records(path_of(tmp_path, 0))
    assert record["kind"] == "hung"
    assert record["slow_ranks"] == [0]
    assert record["message"].startswith("step 3 did not end in ")
    stacks = (tmp_path / "stacks-rank-0.txt").read_text()
    assert "the data of step 3" in stacks
    assert "test_a_step_that_takes_too_long" in stacks


def test_what_takes_as_long_as_it_takes_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BEAT_S", 0.01)
    ended: list[int] = []
    watch = HangWatch(tmp_path, Records(tmp_path, 0), rank=0, num_ranks=1, timeout_s=0.02, end=ended.append)
    watch.start()
    for number in (1, 2, 3):
        watch.begin_step(number)
    with watch.patiently("evaluation"):
        time.sleep(0.15)
    watch.close()
    assert ended == []
