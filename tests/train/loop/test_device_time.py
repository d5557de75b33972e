"""Device time counts start-up, lost work and every attempt."""

from __future__ import annotations

import json
from pathlib import Path

from ironloom.train.loop.device_time import process_age_s, rank_seconds, seconds_before


def test_each_attempt_counts_from_its_process_s_start_to_its_last_record() -> None:
    first = [{"t": 110.0, "process_s": 10.0, "num_ranks": 4}, {"t": 130.0}]
    second = [{"t": 205.0, "process_s": 5.0, "num_ranks": 2}, {"t": 240.0}]
    assert rank_seconds(first) == 30 * 4
    assert rank_seconds([*first, *second]) == 30 * 4 + 40 * 2
    assert rank_seconds([{"t": 1.0}, *first]) == 30 * 4, "a file of an older version begins without"
    assert rank_seconds([]) == 0


def test_a_file_is_read_whole_and_a_torn_line_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.jsonl"
    assert seconds_before(path) == 0
    lines = [
        {"kind": "phase", "t": 10.0, "process_s": 2.0, "num_ranks": 3},
        {"kind": "step", "t": 20.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    assert seconds_before(path) == 12 * 3


def test_a_process_knows_its_age() -> None:
    before_s = process_age_s()
    assert 0 < before_s <= process_age_s()
