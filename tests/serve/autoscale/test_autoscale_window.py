"""Averages over the last W seconds. Times are seconds; each test says its load as pieces (start, end, value)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.autoscale.window import Window


def window(span_s: float, *pieces: tuple[float, float, float]) -> Window:
    made = Window(span_s)
    for start_s, end_s, value in pieces:
        made.record(start_s, end_s, value)
    return made


def test_no_piece_ever_is_no_data_rather_than_no_load() -> None:
    assert Window(60).average(100) is None


def test_a_short_history_is_averaged_over_its_own_length() -> None:
    assert window(60, (100, 106, 4)).average(106) == 4


def test_a_full_window_forgets_what_is_older_than_it() -> None:
    load = window(60, (0, 60, 10), (60, 90, 0))
    assert load.average(90) == 5
    assert window(60, (0, 60, 10), (60, 120, 0)).average(120) == 0


def test_load_stays_seen_until_a_whole_window_has_passed_it() -> None:
    load = window(60, (0, 1, 1))
    for second in range(1, 70):
        load.record(second, second + 1, 0)
        average = load.average(second + 1)
        assert average is not None
        assert (average > 0) == (second + 1 < 61)


def test_a_gap_inside_counts_as_no_load() -> None:
    assert window(60, (0, 10, 6), (30, 40, 6)).average(40) == 3


def test_silence_at_the_end_is_left_out() -> None:
    load = window(60, (0, 60, 6))
    assert load.average(90) == 6


def test_silence_of_a_whole_window_is_no_load() -> None:
    assert window(60, (0, 60, 6)).average(120) == 0


def test_a_piece_after_a_silent_window_begins_a_new_history() -> None:
    load = window(60, (0, 60, 6), (130, 132, 8))
    assert load.average(132) == 8


def test_pieces_that_overlap_count_once() -> None:
    assert window(60, (0, 10, 2), (5, 10, 100)).average(10) == 2
    assert window(60, (0, 10, 2), (5, 20, 2)).average(20) == 2


def test_a_steady_load_does_not_ask_for_more_by_rounding() -> None:
    load = Window(60)
    for tick in range(100):
        load.record(tick * 2.003, (tick + 1) * 2.003, 0.7)
    assert load.average(200.3) == 0.7


def test_the_shortest_request_is_not_rounded_away() -> None:
    load = window(3600, (0, 3600, 1e-9))
    assert load.average(3600) == pytest.approx(1e-6)


def test_a_narrower_window_forgets_at_once_and_a_wider_one_knows_no_more_than_was_kept() -> None:
    load = window(60, (0, 40, 0), (40, 60, 9))
    load.resize(20)
    assert load.average(60) == 9
    load = window(10, (0, 50, 0), (50, 60, 9))
    load.resize(60)
    assert load.average(60) == 9


@pytest.mark.parametrize("span_s", [0, -1, float("nan")])
def test_a_span_that_is_no_time_is_refused(span_s: float) -> None:
    with pytest.raises(ValueError, match="span_s"):
        Window(span_s)
    with pytest.raises(ValueError, match="span_s"):
        Window(1).resize(span_s)


pieces = st.lists(
    st.tuples(st.floats(0.05, 7), st.floats(0, 50)), min_size=1, max_size=60
)  # (length in seconds, value)


@given(pieces, st.sampled_from([6.0, 20.0, 60.0]))
def test_the_average_is_the_integral_of_the_last_seconds(loads: list[tuple[float, float]], span_s: float) -> None:
    load = Window(span_s)
    at, spans = 1000.0, []
    for length_s, value in loads:
        load.record(at, at + length_s, value)
        spans.append((at, at + length_s, value))
        at += length_s
    begin = max(1000.0, at - span_s)
    # Load inside one bucket counts as even, so the oldest bucket may be off by its share of one second.
    exact = sum(max(0.0, end - max(start, begin)) * value for start, end, value in spans) / (at - begin)
    average = load.average(at)
    assert average is not None
    assert average == pytest.approx(exact, abs=50 * 1.0 / (at - begin) + 1e-6)
    assert min(value for _, value in loads) - 1e-6 <= average <= max(value for _, value in loads) + 1e-6
