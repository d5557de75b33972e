from __future__ import annotations

import json

import pytest
import yaml
from fake_control import FakeControl, Run, event, replica, request, service

from ironloom.cli import get as get_module


def test_services_are_listed_as_kubectl_lists_pods(fake: FakeControl, run: Run) -> None:
    starting = replica("slow-xyzab", state="starting", phase="loading")
    fake.services = {
        "chat": service(),
        "slow": service("slow", state="waking", replicas=[starting], in_flight=0, held=12),
        "asleep": service("asleep", state="zero", replicas=[], engine="", in_flight=0, held=0, created_s=0),
    }
    result = run("get")
    assert result.status == 0
    assert result.err == ""
    assert result.out == (
        "NAME     STATE      READY   ENGINE     IN FLIGHT   HELD   AGE\n"
        "asleep   zero       0/0     -          0           0      -\n"
        "chat     ready      1/1     openvino   2           1      10m\n"
        "slow     waking     0/1     openvino   0           12     10m\n"
    )


def test_wide_adds_kind_model_rate_url_and_reason(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    head, row = run("get", "-o", "wide").out.splitlines()
    assert head.endswith("AGE   KIND               MODEL                                      TOKENS/S   URL"
                         "                         REASON")  # fmt: skip
    assert row.split()[-5:] == [
        "InferenceService", "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "12.2", "http://127.0.0.1:11500/v1", "-",
    ]  # fmt: skip


def test_json_is_a_list_even_of_one_and_keeps_fields_this_version_does_not_know(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service(new_in_a_later_version=7)}
    for args in ([], ["chat"], ["service", "chat"], ["service/chat"], ["services"]):
        data = json.loads(run("get", *args, "-o", "json").out)
        assert data == [fake.services["chat"]]
    assert yaml.safe_load(run("get", "-o", "yaml").out) == [fake.services["chat"]]
    assert json.loads(run("get", "replicas", "-o", "json").out)[0]["service"] == "chat"


def test_nothing_there_is_an_empty_list_for_programs_and_a_hint_for_people(fake: FakeControl, run: Run) -> None:
    assert run("get", "-o", "json").out == "[]\n"
    result = run("get")
    assert (result.status, result.out) == (0, "")
    assert result.err == "No services.\n\nhint: `ironloom serve MODEL` makes one.\n"
    assert run("get", "events").err == "No events.\n"


def test_replicas_events_and_requests_have_their_own_columns(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service(replicas=[replica(), replica("chat-fghij", state="starting", phase="loading")])}
    fake.events = [event(1), event(2, kind="daemon.started", service="", replica="", reason="", message="0.1.0 runs")]
    fake.requests = [request(1), request(2, outcome=None, status=0, duration_s=None, ttft_s=None)]
    assert run("get", "replicas").out == (
        "NAME         SERVICE   STATE                ENGINE     PID    PORT    DEVICES   AGE\n"
        "chat-abcde   chat      ready                openvino   4711   40001   cpu       5m\n"
        "chat-fghij   chat      starting (loading)   openvino   4711   40001   cpu       5m\n"
    )
    assert run("get", "events").out == (
        "AGE   REASON           OBJECT               MESSAGE\n"
        "4m    Ready            replica/chat-abcde   the engine answers after 1.2s\n"
        "4m    daemon.started   daemon               0.1.0 runs\n"
    )
    assert run("get", "requests", "chat").out == (
        "REQUEST   SERVICE   OUTCOME   STATUS   TOKENS   TTFT   TOOK   AGE\n"
        "req-1     chat      ok        200      12+34    50ms   1.5s   60s\n"
        "req-2     chat      running   -        12+34    -      -      60s\n"
    )


def test_a_limit_keeps_the_newest_of_events_and_requests(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service(), "other": service("other")}
    fake.events = [event(seq, service=name) for seq, name in enumerate(["chat", "other"] * 3, 1)]
    fake.requests = [request(seq) for seq in range(1, 7)]
    for args, newest in (
        (["events", "--limit", "2"], [5, 6]),
        (["events", "chat", "--limit", "2"], [3, 5]),
        (["events", "chat", "other", "--limit", "3"], [4, 5, 6]),
        (["requests", "--limit", "1"], [6]),
        (["requests", "chat", "--limit", "9"], [1, 2, 3, 4, 5, 6]),
    ):
        assert [one["seq"] for one in json.loads(run("get", *args, "-o", "json").out)] == newest


@pytest.mark.parametrize("limit", ["0", "100001", "two"])
def test_a_limit_that_is_none_is_refused_with_what_is_allowed(limit: str, fake: FakeControl, run: Run) -> None:
    result = run("get", "events", "--limit", limit)
    assert (result.status, result.out, fake.calls) == (2, "", [])
    assert "--limit" in result.err
    assert limit in result.err


def test_names_are_printed_in_a_form_that_other_commands_take(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    assert run("get", "-o", "name").out == "service/chat\n"
    assert run("describe", "service/chat").status == 0
    assert run("get", "replicas", "-o", "name").out == "replica/chat-abcde\n"


def test_the_reason_of_a_failed_service_is_told_beside_the_table(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service(state="failed", reason="the engine ended with status 1", replicas=[])}
    result = run("get")
    assert result.out.splitlines()[1].split()[:2] == ["chat", "failed"]
    assert result.err == (
        "\nchat failed: the engine ended with status 1\n\nhint: `ironloom describe chat` says all of it.\n"
    )


def test_a_reason_of_many_lines_keeps_tables_in_their_lines(fake: FakeControl, run: Run) -> None:
    reason = "the engine ended with status 1; its last lines:\nloading\nValueError: no such layer"
    told = "the engine ended with status 1: ValueError: no such layer"
    broken = replica(state="failed", reason=reason)
    fake.services = {"chat": service(state="failed", reason=reason, replicas=[broken])}
    fake.events = [event(1, kind="service.failed", replica="", reason="StartFailed", message=reason)]
    result = run("get", "-o", "wide")
    assert result.out.splitlines()[1].endswith(told)
    assert result.err.startswith(f"\nchat failed: {told}\n")
    for args in (["-o", "wide"], ["replicas", "-o", "wide"], ["events"]):
        assert len(run("get", *args).out.splitlines()) == 2
    assert run("get", "events").out.endswith(f"   {told}\n")
    assert json.loads(run("get", "-o", "json").out)[0]["reason"] == reason


def test_a_service_that_is_not_there_is_an_error_with_those_that_are(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    result = run("get", "caht")
    assert (result.status, result.out) == (1, "")
    assert result.err == "There is no service 'caht'.\n\nhint: services are: chat.\n"


def test_watching_prints_a_row_again_when_it_changes_and_no_other(
    fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.services = {"chat": service(), "other": service("other")}
    steps = iter(
        [
            lambda: fake.services["chat"].update(tokens_per_s=99.0),  # rates alone are no change
            lambda: fake.services["chat"].update(state="zero", replicas=[], in_flight=0, held=0),
            lambda: fake.services.pop("other"),
        ]
    )

    def tick(_seconds: float) -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(get_module.time, "sleep", tick)
    result = run("get", "-w")
    assert result.status == 130
    assert [line.split()[:3] for line in result.out.splitlines()] == [
        ["NAME", "STATE", "READY"],
        ["chat", "ready", "1/1"],
        ["other", "ready", "1/1"],
        ["chat", "zero", "0/0"],
        ["other", "gone"],
    ]
    assert result.err.strip() == ""


def test_watching_as_json_prints_one_object_a_line(
    fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.services = {"chat": service()}

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(get_module.time, "sleep", stop)
    assert [json.loads(line)["name"] for line in run("get", "-w", "-o", "json").out.splitlines()] == ["chat"]


def test_what_a_replica_waits_for_is_told_once(fake: FakeControl, run: Run) -> None:
    why = "Unschedulable: 0/3 nodes are available"
    fake.services = {"chat": service(state="waking", replicas=[replica(state="starting", phase=why, reason=why)])}
    page = run("describe", "chat").out
    assert page.count(why) == 1
    assert f"  chat-abcde: {why}" in page
