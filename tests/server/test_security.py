"""Who may come in: names of loopback, origins, and what a browser sends for another page."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_daemon import running, service_view
from hypothesis import given
from hypothesis import strategies as st

from ironloom.server.security import Guard, door_notes, is_loopback

LOCAL = Guard(loopback=True, keys_required=False)
FAR = Guard(loopback=False, keys_required=True)


def code(guard: Guard, method: str, headers: dict[str, str], *, control: bool = True) -> str | None:
    raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    refusal = guard.refusal(method, raw, control=control)
    return None if refusal is None else refusal.error_code


def test_what_listens_on_loopback_has_nothing_to_tell_and_what_others_reach_has() -> None:
    assert door_notes("127.0.0.1", tls=False) == door_notes("localhost", tls=False) == ()
    assert len(door_notes("10.1.2.3", tls=True)) == 1
    keys, plain = door_notes("0.0.0.0", tls=False)
    assert "reach 0.0.0.0, so every request needs an API key" in keys
    assert "`ironloom key create NAME`" in keys
    assert "plain HTTP" in plain
    assert "--tls-cert and --tls-key" in plain


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:11500", "127.8.9.1:1", "localhost", "LOCALHOST:80", "[::1]:11500", "box.localhost:11500"],
)
def test_names_of_loopback_are_let_in(host: str) -> None:
    assert code(LOCAL, "POST", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11500",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.5:11500",
        "0.0.0.0:11500",
        "evil@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil",
        "127.0.0.1:port",
        "[::1",
        "evil.example\\127.0.0.1",
        "2130706433",
    ],
)
def test_a_rebound_host_is_refused_on_loopback(host: str) -> None:
    assert code(LOCAL, "GET", {"host": host}) == "host_not_allowed"


def test_off_loopback_any_host_will_do_because_a_key_is_needed() -> None:
    assert code(FAR, "POST", {"host": "ai.example.com"}) is None


def test_a_host_named_by_the_user_is_let_in() -> None:
    guard = Guard(loopback=True, keys_required=False, allowed_hosts=frozenset({"ai.local"}))
    assert code(guard, "GET", {"host": "ai.local:8080"}) is None
    assert code(guard, "GET", {"host": "evil.local"}) == "host_not_allowed"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:11500", "127.0.0.1:11500"),
        ("http://localhost", "localhost:80"),
        ("http://localhost:80", "localhost"),
        ("http://LOCALHOST:11500", "localhost:11500"),
    ],
)
def test_the_page_of_this_address_is_let_in(origin: str, host: str) -> None:
    assert code(LOCAL, "POST", {"host": host, "origin": origin, "sec-fetch-site": "same-origin"}) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost:3000",
        "http://127.0.0.1:11501",
        "null",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:11500.evil.example",
        "http://[",
        "",
    ],
)
@pytest.mark.parametrize("guard", [LOCAL, FAR])
def test_a_page_of_another_origin_is_refused(origin: str, guard: Guard) -> None:
    headers = {"host": "127.0.0.1:11500", "origin": origin}
    assert code(guard, "POST", headers) == "origin_not_allowed"
    assert code(guard, "POST", headers, control=False) == "origin_not_allowed"


def test_an_allowed_origin_may_infer_and_not_control() -> None:
    guard = Guard(loopback=True, keys_required=False, allowed_origins=frozenset({"http://localhost:3000"}))
    headers = {"host": "localhost:11500", "origin": "http://localhost:3000"}
    assert code(guard, "POST", headers, control=False) is None
    assert code(guard, "POST", headers, control=True) == "origin_not_allowed"


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, "origin_not_allowed"),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-dest": "script"}, "origin_not_allowed"),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, "origin_not_allowed"),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, "origin_not_allowed"),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, None),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-dest": "document"}, None),
        ("GET", {"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, None),
        ("GET", {}, None),
    ],
)
def test_what_a_browser_sends_without_origin(method: str, headers: dict[str, str], expected: str | None) -> None:
    assert code(LOCAL, method, {"host": "127.0.0.1:11500", **headers}) == expected


@given(st.text(max_size=40), st.text(max_size=60))
def test_no_header_crashes_the_guard(host: str, origin: str) -> None:
    raw = {b"host": host.encode(), b"origin": origin.encode()}
    refusal = LOCAL.refusal("GET", raw)
    assert refusal is None or refusal.status == 403


@given(st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){1,3}", fullmatch=True))
def test_a_name_with_a_dot_is_of_loopback_only_below_localhost_or_as_its_address(name: str) -> None:
    expected = name.endswith(".localhost") or (name.startswith("127.") and name.count(".") == 3 and is_loopback(name))
    assert is_loopback(name) == expected


def test_an_allowed_page_may_read_answers_of_inference_and_no_other_page_may(tmp_path: Path) -> None:
    mine, other = "http://localhost:3000", "http://localhost:4000"
    guard = Guard(loopback=True, keys_required=False, allowed_origins=frozenset({mine}))
    body = {"model": "small", "input": "Hi"}
    with running(tmp_path, services=[service_view("small")], guard=guard) as daemon:
        for path in ("/v1/responses", "/v1/files"):
            asked = {"Origin": mine, "Access-Control-Request-Method": "POST"}
            status, _, headers = daemon.ask("OPTIONS", path, None, asked)
            assert (status, headers["access-control-allow-origin"]) == (204, mine)
            assert daemon.ask("OPTIONS", path, None, asked | {"Origin": other})[0] == 403
        status, _, headers = daemon.ask("POST", "/v1/responses", body, {"Origin": mine})
        assert (status, headers["access-control-allow-origin"]) == (200, mine)
        status, _, headers = daemon.ask("GET", "/api/v1/services", None, {"Origin": mine})
        assert status == 403
        assert "access-control-allow-origin" not in headers
        assert "access-control-allow-origin" not in daemon.ask("POST", "/v1/responses", body)[2]


def test_a_key_of_ours_that_opens_nothing_is_refused_on_loopback_too_and_another_word_is_none(tmp_path: Path) -> None:
    with running(tmp_path, services=[service_view("small")]) as daemon:
        for path in ("/api/v1/services", "/v1/files"):
            status, body, _ = daemon.ask("GET", path, None, {"Authorization": "Bearer il-revoked"})
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            assert daemon.ask("GET", path, None, {"Authorization": "Bearer none"})[0] == 200


def test_a_rebound_host_reaches_nothing_over_the_socket(tmp_path: Path) -> None:
    with running(tmp_path, services=[service_view("small")]) as daemon:
        for path in ("/", "/api/v1/services", "/v1/models", "/v1/files", "/openapi.json"):
            status, body, _ = daemon.ask("GET", path, None, {"Host": "evil.example:80"})
            assert (status, body["error"]["code"]) == (403, "host_not_allowed")
