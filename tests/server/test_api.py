"""The control API over a real socket, with a fake Control behind it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import Running, running, service_view

from ironloom.server.control import EventView


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("api"), services=[service_view("small"), service_view("large")]) as daemon:
        yield daemon


def test_services_come_in_order_with_their_manifests(daemon: Running) -> None:
    status, body, _ = daemon.ask("GET", "/api/v1/services")
    assert status == 200
    assert [service["name"] for service in body] == ["large", "small"]
    assert body[0]["replicas"][0]["pid"] == 4242
    assert body[0]["manifest"]["kind"] == "InferenceService"


def test_a_service_that_is_not_there_is_404_and_names_those_that_are(daemon: Running) -> None:
    status, body, _ = daemon.ask("GET", "/api/v1/services/nope")
    assert status == 404
    assert body["error"]["code"] == "service_not_found"
    assert body["error"]["param"] == "name"
    assert "large, small" in body["error"]["hint"]


def test_apply_declares_and_a_manifest_error_names_its_place(daemon: Running) -> None:
    manifest = {"kind": "InferenceService", "metadata": {"name": "fresh"}}
    status, body, _ = daemon.ask("POST", "/api/v1/apply", {"manifests": [manifest], "pvc": {"claim": "/models"}})
    assert (status, body["services"][0]["action"]) == (200, "created")
    assert daemon.control.asked[-1] == ("apply", [manifest], {"claim": "/models"})
    status, body, _ = daemon.ask("POST", "/api/v1/apply", {"manifests": [{"metadata": {}}]})
    assert status == 400
    assert body["error"]["code"] == "manifest_invalid"
    assert body["error"]["param"] == "metadata.name"
    assert daemon.ask("DELETE", "/api/v1/services/fresh")[:2] == (200, {"name": "fresh"})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/api/v1/apply", {"manifests": []}, "manifests"),
        ("/api/v1/apply", {"manifests": [1]}, "manifests[0]"),
        ("/api/v1/apply", {"manifests": [{}], "dry": 1}, "dry"),
        ("/api/v1/services/small/scale", {"replicas": -1}, "replicas"),
        ("/api/v1/services/small/scale", {"replicas": 1001}, "replicas"),
        ("/api/v1/services/small/scale", {"replicas": True}, "replicas"),
        ("/api/v1/services/small/scale", {"replicas": 1, "park": True}, "park"),
        ("/api/v1/services/small/scale", {}, "replicas"),
        ("/api/v1/runs/tuned/profile", {"steps": 0}, "steps"),
        ("/api/v1/runs/tuned/profile", {"steps": 101}, "steps"),
        ("/api/v1/runs/tuned/profile", {"step": 1}, "step"),
        ("/api/v1/keys", {"name": "k", "scope": "root"}, None),
        ("/api/v1/shutdown", {"stop_replicas": "yes"}, "stop_replicas"),
    ],
)
def test_a_wrong_body_is_400_and_changes_nothing(daemon: Running, path: str, body: Any, param: str | None) -> None:
    before = list(daemon.control.asked)
    status, answer, _ = daemon.ask("POST", path, body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert daemon.control.asked == before


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'"x"'])
def test_a_body_that_is_no_json_object_is_400(daemon: Running, body: bytes) -> None:
    for path in ("/api/v1/apply", "/api/v1/keys", "/api/v1/shutdown", "/v1/batches"):
        assert daemon.ask("POST", path, body, {"Content-Type": "application/json"})[0] == 400


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_state_changing_call_needs_a_content_type_that_no_form_can_send(daemon: Running, media_type: str) -> None:
    body = b'{"stop_replicas": true}'
    assert daemon.ask("POST", "/api/v1/shutdown", body, {"Content-Type": media_type})[0] == 415
    assert not any(asked[0] == "shutdown" for asked in daemon.control.asked)


def test_scale_pins_frees_and_goes_to_zero(daemon: Running) -> None:
    for body in ({"replicas": 2}, {"replicas": None}, {"replicas": 0, "park": True}):
        assert daemon.ask("POST", "/api/v1/services/small/scale", body)[0] == 200
    assert daemon.control.asked[-3:] == [
        ("scale", "small", 2, False),
        ("scale", "small", None, False),
        ("scale", "small", 0, True),
    ]


def test_logs_are_one_json_object_a_line(daemon: Running) -> None:
    _, raw, headers = daemon.ask("GET", "/api/v1/services/small/logs?tail=2")
    assert headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["line"] for line in raw.splitlines()] == ["line 1", "line 2"]
    assert daemon.ask("GET", "/api/v1/services/small/logs?tail=many")[0] == 400
    assert daemon.ask("GET", "/api/v1/services/nope/logs")[0] == 404


def test_followed_logs_come_at_once_and_go_on(daemon: Running) -> None:
    with urllib.request.urlopen(f"{daemon.url}/api/v1/services/small/logs?follow=1&tail=1", timeout=5) as stream:
        assert json.loads(stream.readline())["line"] == "line 2"


def test_events_after_a_number(daemon: Running) -> None:
    daemon.control.event_list = [
        EventView(seq=seq, wall_time_s=float(seq), kind="replica.ready", service="small") for seq in range(1, 6)
    ]
    _, body, _ = daemon.ask("GET", "/api/v1/events?after=2&limit=2")
    assert [event["seq"] for event in body] == [4, 5]
    assert daemon.ask("GET", "/api/v1/events?service=large")[1] == []
    assert daemon.ask("GET", "/api/v1/events?limit=0")[0] == 400
    assert daemon.ask("GET", "/api/v1/events?after=99999999999999999999")[0] == 400


def test_the_stream_tells_services_without_their_manifests(daemon: Running) -> None:
    with urllib.request.urlopen(f"{daemon.url}/api/v1/stream", timeout=5) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [stream.readline() for _ in range(3)]
    snapshot = json.loads(lines[0].removeprefix(b"data: "))
    assert snapshot["services"][0]["manifest"] == {}
    assert b"hf_secret" not in lines[0]
    assert snapshot["totals"]["num_services"] == len(daemon.control.by_name)
    assert lines[2].startswith(b"data: ")


def test_keys_are_made_shown_once_listed_and_revoked(daemon: Running) -> None:
    status, made, _ = daemon.ask("POST", "/api/v1/keys", {"name": "ci", "services": ["small"]})
    assert status == 200
    assert made["key"].startswith("il-")
    _, listed, _ = daemon.ask("GET", "/api/v1/keys")
    assert [(key["id"], key["services"]) for key in listed] == [(made["id"], ["small"])]
    assert made["key"] not in json.dumps(listed)
    assert daemon.ask("DELETE", f"/api/v1/keys/{made['id']}")[0] == 200
    assert daemon.ask("DELETE", f"/api/v1/keys/{made['id']}")[0] == 404
    assert daemon.ask("GET", "/api/v1/keys")[1] == []


def test_paths_and_methods_that_are_not_there_say_so(daemon: Running) -> None:
    status, body, _ = daemon.ask("GET", "/api/v1/nothing")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, body, headers = daemon.ask("POST", "/api/v1/status", {})
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in headers["allow"]


def test_a_bug_behind_the_api_is_500_without_its_details(daemon: Running, caplog: pytest.LogCaptureFixture) -> None:
    daemon.control.status = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    try:
        status, body, _ = daemon.ask("GET", "/api/v1/status")
    finally:
        del daemon.control.status  # type: ignore[method-assign]
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "division" not in json.dumps(body)
    for _ in range(100):
        if "ZeroDivisionError" in caplog.text:
            break
        time.sleep(0.01)
    assert "ZeroDivisionError" in caplog.text


def test_the_page_is_served_with_a_strict_policy(daemon: Running) -> None:
    for path, media_type in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, body, headers = daemon.ask("GET", path)
        assert status == 200
        assert body
        assert headers["content-type"].startswith(media_type)
        policy = headers["content-security-policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"):
            assert rule in policy
        assert "unsafe" not in policy


def test_off_loopback_control_needs_a_control_key(tmp_path: Path) -> None:
    with running(tmp_path, services=[service_view("small")], keys_required=True) as daemon:
        _, inference = daemon.run(daemon.ring.create("i", "inference"))
        _, control = daemon.run(daemon.ring.create("c", "control"))
        for path in ("/api/v1/status", "/api/v1/services", "/api/v1/keys", "/api/v1/stream", "/api/v1/events"):
            status, body, headers = daemon.ask("GET", path)
            assert (status, body["error"]["code"]) == (401, "missing_api_key")
            assert headers["www-authenticate"] == "Bearer"
            assert daemon.ask("GET", path, None, {"Authorization": "Bearer il-wrong"})[0] == 401
            status, body, _ = daemon.ask("GET", path, None, {"Authorization": f"Bearer {inference}"})
            assert (status, body["error"]["code"]) == (403, "insufficient_scope")
        assert daemon.ask("GET", "/api/v1/status", None, {"x-api-key": control})[0] == 200
        assert daemon.ask("GET", "/", None)[0] == 200
        for path in ("/v1/files", "/v1/batches"):
            assert daemon.ask("GET", path)[0] == 401
            assert daemon.ask("GET", path, None, {"api-key": inference})[0] == 200
