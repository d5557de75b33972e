"""Bytes, durations and quantities, in and out."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.units import format_bytes, format_duration, parse_bytes, parse_duration_s, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", "16"), ("500m", "0.5"), ("128Gi", str(128 * 1024**3)), ("1e3", "1000"), ("1.5k", "1500"), (".5", "0.5")],
)
def test_a_kubernetes_quantity_is_an_exact_number(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1GB", "--1", "1e", "nan", "inf", "1KI", "1e9999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


def test_bytes_are_rounded_up_and_never_negative() -> None:
    assert parse_bytes("100m") == 1
    with pytest.raises(ValueError, match="negative"):
        parse_bytes("-1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("45", 45), (3, 3), ("1.5m", 90), ("2d", 172800)],
)
def test_a_duration_is_seconds(text: str | int, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "1h 5m", "-3s", "1h-5m", -1, True])
def test_what_is_no_duration_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"),
        (2.34, "2.3s"),
        (45, "45s"),
        (119.6, "2m"),
        (750, "12m"),
        (5400, "90m"),
        (19800, "5h30m"),
        (90000 * 3, "3d3h"),
    ],
)
def test_an_age_reads_as_kubectl_prints_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("num", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**3, "3.0 GiB")])
def test_bytes_read_in_powers_of_1024(num: int, text: str) -> None:
    assert format_bytes(num) == text


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration_s(text) >= 0


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_quantity(text)
