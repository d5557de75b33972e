"""One manifest, down to zero and back, through a real daemon and real processes of the fake engine."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.e2e.running import Running, fake_manifest


def test_a_new_service_answers_and_its_request_stands_in_the_log(daemon: Running) -> None:
    applied = daemon.apply()
    assert (applied["action"], applied["generation"]) == ("created", 1)
    status, answer = daemon.chat(max_tokens=3)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 3
    (row,) = daemon.requests("demo")
    assert (row["outcome"], row["status"], row["completion_tokens"]) == ("ok", 200, 3)
    assert {"service.applied", "replica.starting", "replica.ready"} <= set(daemon.events("demo"))


@pytest.mark.parametrize("park", [False, True], ids=["stopped", "parked"])
def test_at_zero_a_request_is_held_and_answered(daemon: Running, park: bool) -> None:
    daemon.apply(annotations={"ironloom.dev/park-for": "5m"})
    first = daemon.wait_for("demo", "ready")["replicas"][0]
    daemon.scale("demo", 0, park=park)
    daemon.wait_for("demo", "parked" if park else "zero")
    assert "demo" in [model["id"] for model in daemon.get("/v1/models")["data"]]
    status, _ = daemon.chat()
    assert status == 200
    again = daemon.service("demo")["replicas"][0]
    assert (again["pid"] == first["pid"]) is park
    assert ("replica.waking" in daemon.events("demo")) is park


def test_many_requests_at_zero_make_one_start_and_all_are_answered(daemon: Running) -> None:
    daemon.apply(annotations={"autoscaling.knative.dev/initial-scale": "0"})
    assert daemon.service("demo")["state"] == "zero"
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(daemon.chat()[0])

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 30
    assert daemon.events("demo").count("replica.starting") == 1
    assert sorted({row["outcome"] for row in daemon.requests("demo")}) == ["ok"]


@pytest.mark.slow
def test_an_idle_service_goes_to_zero_by_its_window_and_comes_back(daemon: Running) -> None:
    daemon.apply(annotations={"autoscaling.knative.dev/window": "6s"})
    assert daemon.chat()[0] == 200
    daemon.wait_for("demo", "zero", timeout_s=30)
    daemon.until(lambda: daemon.events("demo").count("replica.stopped") == 1, "the stop in the event log")
    assert daemon.chat()[0] == 200


@pytest.mark.slow
def test_a_service_never_goes_to_zero_with_a_stream_in_flight(daemon: Running) -> None:
    daemon.apply(args=("--token-delay-s=1", "--num-tokens=12"), annotations={"autoscaling.knative.dev/window": "6s"})
    status, text = daemon.chat(max_tokens=12, stream=True, timeout_s=60)
    assert status == 200
    assert text.rstrip().endswith(b"data: [DONE]")
    assert "replica.stopping" not in daemon.events("demo")


def test_a_start_that_fails_is_told_to_the_request_and_to_describe(daemon: Running) -> None:
    daemon.apply(args=("--crash-at-start=3",), annotations={"autoscaling.knative.dev/initial-scale": "0"})
    status, body = daemon.chat(timeout_s=60)
    assert status == 503
    assert body["error"]["source"] == "engine"
    assert body["error"]["code"] == "start_failed"
    service = daemon.service("demo")
    assert service["state"] == "failed"
    assert "status 3" in service["reason"]


def test_an_engine_that_dies_before_its_first_byte_costs_the_client_nothing(daemon: Running) -> None:
    daemon.apply(args=("--crash-after-requests=1", "--preload=false"))
    assert daemon.chat()[0] == 200
    assert daemon.chat(timeout_s=60)[0] == 200
    outcomes = [row["outcome"] for row in daemon.requests("demo")]
    assert outcomes == ["ok", "ok"]


def test_an_engine_that_dies_in_a_stream_is_named_in_its_last_event(daemon: Running) -> None:
    daemon.apply(args=("--signal-after-tokens=3", "--num-tokens=10"))
    status, text = daemon.chat(max_tokens=10, stream=True)
    assert status == 200
    last = text.strip().rpartition(b"data: ")[2]
    assert b'"source":"engine"' in last
    (row,) = daemon.requests("demo")
    assert row["outcome"] == "engine_failed"
    daemon.until(lambda: "replica.failed" in daemon.events("demo"), "the crash in the event log")


def test_a_changed_manifest_rolls_out_with_the_new_ready_before_the_old_stops(daemon: Running) -> None:
    daemon.apply(min_replicas=1)
    old = daemon.wait_for("demo", "ready")["replicas"][0]["id"]
    applied = daemon.apply(min_replicas=1, args=("--num-tokens=5",))
    assert (applied["action"], applied["generation"]) == ("configured", 2)

    def rolled() -> Any:
        replicas = daemon.service("demo")["replicas"]
        assert any(replica["state"] == "ready" for replica in replicas), "there was a moment without a ready replica"
        return [replica["generation"] for replica in replicas] == [2]

    daemon.until(rolled, "the new generation")
    order = [
        (event["kind"], event["replica"] == old)
        for event in daemon.get("/api/v1/events?service=demo&limit=1000")
        if event["kind"] in ("replica.ready", "replica.stopping")
    ]
    assert order == [("replica.ready", True), ("replica.ready", False), ("replica.stopping", True)]


def test_a_new_generation_that_fails_leaves_the_old(daemon: Running) -> None:
    daemon.apply(min_replicas=1)
    old = daemon.wait_for("demo", "ready")["replicas"][0]["id"]
    daemon.apply(min_replicas=1, args=("--crash-at-start=9",))
    daemon.until(lambda: "replica.failed" in daemon.events("demo"), "the failed start")
    service = daemon.service("demo")
    assert service["state"] == "ready"
    assert "status 9" in service["reason"]
    assert old in [replica["id"] for replica in service["replicas"]]
    assert daemon.chat()[0] == 200


def test_what_only_the_autoscaler_reads_changes_without_a_new_replica(daemon: Running) -> None:
    daemon.apply(min_replicas=1)
    pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
    applied = daemon.apply(min_replicas=1, annotations={"autoscaling.knative.dev/window": "30s"})
    assert (applied["action"], applied["generation"]) == ("configured", 1)
    service = daemon.service("demo")
    assert service["scaling"]["stable_window_s"] == 30
    assert [replica["pid"] for replica in service["replicas"]] == [pid]
    assert daemon.apply(min_replicas=1, annotations={"autoscaling.knative.dev/window": "30s"})["action"] == "unchanged"


def test_a_pinned_count_holds_and_is_given_back(daemon: Running) -> None:
    daemon.apply(max_replicas=3)
    daemon.scale("demo", 2)
    daemon.until(lambda: len([r for r in daemon.service()["replicas"] if r["state"] == "ready"]) == 2, "two replicas")
    assert daemon.service()["scaling"]["pinned"] == 2
    assert daemon.scale("demo", None)["scaling"]["pinned"] is None


def test_a_deleted_service_is_gone_with_its_processes(daemon: Running) -> None:
    daemon.apply()
    daemon.wait_for("demo", "ready")
    assert daemon.request("DELETE", "/api/v1/services/demo")[0] == 200
    assert daemon.request("GET", "/api/v1/services/demo")[0] == 404
    assert daemon.chat()[0] == 404
    assert daemon.events("demo")[-1] == "service.deleted"
    assert daemon.apply()["action"] == "created"


def test_bad_input_changes_nothing(daemon: Running) -> None:
    daemon.apply()
    good = daemon.service()["manifest"]
    bad = {**good, "spec": {"predictor": {"minReplica": 0, "model": good["spec"]["predictor"]["model"]}}}
    other = {**good, "metadata": {"name": "other", "annotations": {"ironloom.dev/engine": "fake"}}}
    status, body = daemon.request("POST", "/api/v1/apply", {"manifests": [other, bad]})
    assert status == 400
    assert "minReplica" in body["error"]["message"]
    assert [service["name"] for service in daemon.get("/api/v1/services")] == ["demo"]
    assert daemon.service()["manifest"] == good


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {"model": "nobody", "messages": []}, 404),
        ("/v1/messages", {"model": "nobody", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}, 404),
        ("/v1/messages", {"model": "nobody"}, 400),
        ("/v1/responses", {"model": "nobody", "input": "hi"}, 404),
        ("/v1/responses", {"input": 3}, 400),
    ],
)
def test_a_refused_request_stands_in_the_log_once(daemon: Running, path: str, body: Any, status: int) -> None:
    assert daemon.request("POST", path, body)[0] == status
    assert [(row["outcome"], row["status"]) for row in daemon.requests()] == [("rejected", status)]


def test_a_request_that_the_engine_refuses_is_answered_at_once(daemon: Running) -> None:
    daemon.apply(min_replicas=1)
    status, _ = daemon.request("POST", "/v1/completions", {"model": "demo", "prompt": "x", "max_tokens": ["a"]})
    assert status == 400
    (row,) = daemon.requests("demo")
    assert (row["outcome"], row["status"]) == ("ok", 400)


def test_gpus_that_are_not_there_are_said_at_the_apply_and_once(daemon: Running) -> None:
    manifest = fake_manifest("demo")
    manifest["spec"]["predictor"]["model"]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}
    status, body = daemon.request("POST", "/api/v1/apply", {"manifests": [manifest]})
    assert status == 200
    said = "2 GPUs (nvidia.com/gpu) asked for; this machine has none, so it runs on the CPU"
    assert body["services"][0]["notes"] == [said]
    assert daemon.wait_for("demo", "ready")["notes"] == [said]
