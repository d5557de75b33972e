"""A refusal for time is told by the API server's clock, and a clock here that is wrong is told with it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ironloom.backends.kubernetes import failures
from ironloom.backends.kubernetes.credentials import Proof
from ironloom.backends.kubernetes.kubeconfig import Target, User

THERE = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
TARGET = Target(context="prod", server="https://a:6443", user=User(name="ada"), file="config")
WRONG = "this machine's clock is "


def refused(
    monkeypatch: pytest.MonkeyPatch, here: datetime, *, token: str = "opaque", date: str | None = None
) -> tuple[str, str]:
    """(sentence, hint) of a 401 that the API server sent at noon."""
    monkeypatch.setattr(failures, "clock", lambda: here)
    said = format_datetime(THERE, usegmt=True) if date is None else date
    error = failures.of_status(401, b"", TARGET, Proof(token=token), "list pods", date=said)
    return error.message, error.hint or ""


def ending(at: datetime) -> str:
    """A JWT that ends then."""
    parts = (json.dumps({"alg": "none"}), json.dumps({"exp": at.timestamp()}), "signature")
    return ".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize(
    ("ahead", "how"),
    [
        (timedelta(hours=3), f"{WRONG}3h ahead of that of the API server"),
        (timedelta(minutes=-2), f"{WRONG}2m behind that of the API server"),
    ],
)
def test_a_clock_that_is_wrong_is_told_with_how_much(
    monkeypatch: pytest.MonkeyPatch, ahead: timedelta, how: str
) -> None:
    sentence, hint = refused(monkeypatch, THERE + ahead)
    assert "it does not know the credentials of user ada" in sentence
    assert sentence.endswith(how)
    assert hint.endswith("; set the clock that is wrong")


@pytest.mark.parametrize("seconds", [-60, -1, 0, 30, 60])
def test_clocks_that_differ_as_clocks_do_are_not_told(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    sentence, hint = refused(monkeypatch, THERE + timedelta(seconds=seconds))
    assert WRONG not in sentence
    assert "clock" not in hint


@pytest.mark.parametrize("date", ["", "yesterday", "Sat, 99 Nov 2026 12:00:00 GMT"])
def test_an_answer_without_a_date_says_nothing_of_clocks(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    assert WRONG not in refused(monkeypatch, THERE + timedelta(days=1), date=date)[0]


def test_a_token_has_expired_by_the_servers_clock_and_not_by_a_wrong_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = THERE - timedelta(hours=2)
    sentence, _ = refused(monkeypatch, behind, token=ending(THERE - timedelta(hours=1)))
    assert "the token of user ada expired 60m ago" in sentence
    assert f"{WRONG}2h behind" in sentence
    ahead = THERE + timedelta(hours=2)
    sentence, _ = refused(monkeypatch, ahead, token=ending(THERE + timedelta(hours=1)))
    assert "expired" not in sentence
    assert f"{WRONG}2h ahead of" in sentence
