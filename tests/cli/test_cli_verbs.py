"""describe, logs, scale, delete, key, completion: what each prints, and what it asks of the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_control import NOW_S, FakeControl, Run, event, replica, service

from ironloom.cli import cluster_gateway, cluster_nodes
from ironloom.cli.client import Client


def test_describe_is_a_page_with_replicas_notes_and_events(fake: FakeControl, run: Run) -> None:
    fake.services = {
        "chat": service(
            model={"uri": "hf://a/b", "note": "holds the Q4_1 form"},
            notes=["spec.predictor.nodeSelector: this machine has no node labels"],
            replicas=[
                replica(),
                replica("chat-fghij", state="failed", reason="exit status 1", pid=None, port=0, generation=2),
            ],
        )
    }
    fake.events = [event(1, kind="replica.starting", reason="Started", message="the load asks for it"), event(2)]
    result = run("describe", "chat")
    assert result.status == 0
    assert (
        result.out
        == """\
Name:        chat
Namespace:   default
Kind:        InferenceService
State:       ready
URL:         http://127.0.0.1:11500/v1
Model:       hf://a/b
             holds the Q4_1 form
Engine:      openvino
Generation:  1
Created:     2026-11-24 05:50:00 (10m ago)
Scaling:     0 to 4, for 8 requests at once each, window 60s
Load:        2 in flight, 1 held, 0.5 requests/s, 12.2 tokens/s
Replicas (1/2 ready):
  NAME         STATE    PID    PORT    DEVICES   GENERATION   IN FLIGHT   AGE
  chat-abcde   ready    4711   40001   cpu       1            0           5m
  chat-fghij   failed   -      -       cpu       2            0           5m
  chat-fghij: exit status 1
Notes:
  - spec.predictor.nodeSelector: this machine has no node labels
Events:
  AGE   REASON    OBJECT               MESSAGE
  4m    Started   replica/chat-abcde   the load asks for it
  4m    Ready     replica/chat-abcde   the engine answers after 1.2s
"""
    )


def test_describe_of_a_service_at_zero_says_none(fake: FakeControl, run: Run) -> None:
    scaling = service()["scaling"] | {"pinned": 0, "max_replicas": 0}
    fake.services = {"chat": service(state="zero", reason="idle for 60s", replicas=[], scaling=scaling, engine="")}
    page = run("describe", "chat").out
    assert "State:       zero: idle for 60s\n" in page
    assert "Engine:      not chosen yet\n" in page
    assert "Scaling:     fixed at 0 by `ironloom scale`; `--auto` frees it\n" in page
    assert "Replicas:    none\n" in page
    assert page.endswith("Events:      none\n")


def test_describe_of_a_service_that_is_not_scaled_says_one_count(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service(scaling=service()["scaling"] | {"min_replicas": 1, "max_replicas": 1})}
    assert "Scaling:     1, for 8 requests at once each, window 60s\n" in run("describe", "chat").out
    fake.services["chat"]["scaling"] |= {"min_replicas": 0, "max_replicas": 0}
    assert "Scaling:     0 to as many as fit, for 8" in run("describe", "chat").out


REASON = (
    "the engine ended with status 1; its last lines:\nTraceback (most recent call last):\n\x1b[1mValueError: no\x1b[0m"
)


def test_describe_tells_a_reason_of_many_lines_in_one_and_then_all_of_it_indented(fake: FakeControl, run: Run) -> None:
    broken = replica(state="failed", reason=REASON, pid=None, port=0)
    fake.services = {"chat": service(state="failed", reason=REASON, replicas=[broken])}
    fake.events = [event(1, kind="replica.failed", reason="EngineExited", message=REASON)]
    page = run("describe", "chat").out
    assert "State:       failed: the engine ended with status 1: ValueError: no\n" in page
    assert (
        "requests/s, 12.2 tokens/s\n"
        "Reason:\n"
        "  the engine ended with status 1; its last lines:\n"
        "  Traceback (most recent call last):\n"
        "  ValueError: no\n"
        "Replicas (0/1 ready):\n"
    ) in page
    assert "  chat-abcde: the engine ended with status 1: ValueError: no\nEvents:\n" in page
    assert page.endswith("replica/chat-abcde   the engine ended with status 1: ValueError: no\n")
    assert json.loads(run("describe", "chat", "-o", "json").out)["reason"] == REASON


def test_describe_leaves_out_the_events_of_a_deleted_service_of_the_same_name(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    old = [event(1, kind="service.applied", reason="Created", message="old"), event(2, message="old")]
    own = [
        event(3, kind="service.applied", reason="Created", replica="", message="a new one"),
        event(4, kind="service.applied", reason="Configured", replica="", message="changed"),
    ]
    fake.events = old + own
    page = run("describe", "chat").out
    assert "old" not in page
    assert [line.split()[1] for line in page.splitlines()[-2:]] == ["Created", "Configured"]
    assert json.loads(run("describe", "chat", "-o", "json").out)["events"] == own
    fake.events = [event(2), own[1]]
    assert len(json.loads(run("describe", "chat", "-o", "json").out)["events"]) == 2, "its creation is long ago"


def test_describe_for_programs_has_the_service_and_its_events(fake: FakeControl, run: Run) -> None:
    fake.services, fake.events = {"chat": service()}, [event(1)]
    for data in (
        json.loads(run("describe", "chat", "-o", "json").out),
        yaml.safe_load(run("describe", "chat", "-o", "yaml").out),
    ):
        assert data == {**fake.services["chat"], "events": [event(1)]}


def test_logs_name_the_replica_when_there_are_several(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    fake.log_lines = [("chat-abcde", "loading"), ("chat-fghij", "ready")]
    assert run("logs", "chat").out == "loading\nready\n"
    fake.services["chat"]["replicas"].append(replica("chat-fghij"))
    assert run("logs", "chat").out == "[chat-abcde] loading\n[chat-fghij] ready\n"
    assert run("logs", "chat", "--no-prefix").out == "loading\nready\n"
    assert run("logs", "chat", "--replica", "chat-fghij", "--tail", "5").out == "ready\n"
    assert fake.calls[-1][1] == "/api/v1/services/chat/logs?replica=chat-fghij&follow=0&tail=5"
    assert run("logs", "-f", "chat").out == "[chat-abcde] loading\n[chat-fghij] ready\n"
    assert "follow=1&" in fake.calls[-1][1]
    assert run("logs", "--follow", "--prefix", "chat").out == "[chat-abcde] loading\n[chat-fghij] ready\n"
    assert "follow=1&" in fake.calls[-1][1]


def test_logs_are_an_object_a_line_for_programs(fake: FakeControl, run: Run) -> None:
    fake.services["chat"] = service("chat", replicas=[replica("chat-abcde"), replica("chat-fghij")])
    fake.log_lines = [("chat-abcde", "loading"), ("chat-fghij", "é: ready")]
    told = [json.loads(line) for line in run("logs", "chat", "-o", "json").out.splitlines()]
    assert told == [{"replica": "chat-abcde", "line": "loading"}, {"replica": "chat-fghij", "line": "é: ready"}]
    assert list(yaml.safe_load_all(run("logs", "chat", "-o", "yaml").out)) == told


@pytest.mark.parametrize("form", ["text", "json"])
def test_output_that_cannot_be_read_is_an_error_once_what_the_others_wrote_is_told(
    fake: FakeControl, run: Run, form: str
) -> None:
    fake.services["chat"] = service("chat", replicas=[replica("chat-abcde"), replica("chat-fghij")])
    fake.log_lines = [("chat-abcde", "ready")]
    fake.log_errors = [("chat-fghij", "the pod is gone"), ("chat-klmno", "no right to pods/log")]
    result = run("logs", "chat", "-o", form)
    assert result.status == 2
    assert result.err == "The pod is gone.\nNo right to pods/log.\n"
    assert result.out in ("[chat-abcde] ready\n", '{"replica": "chat-abcde", "line": "ready"}\n')


def test_logs_of_a_service_that_wrote_none(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    result = run("logs", "chat")
    assert (result.status, result.out, result.err) == (0, "", "chat has written nothing yet.\n")


@pytest.mark.parametrize(
    ("args", "asked", "said"),
    [
        (["2"], {"replicas": 2, "park": False}, "service/chat is fixed at 2 replicas.\n"),
        (["--replicas", "1"], {"replicas": 1, "park": False}, "service/chat is fixed at 1 replica.\n"),
        (
            ["--replicas=0"],
            {"replicas": 0, "park": False},
            "service/chat goes to zero; the next request brings it back.\n",
        ),
        (["0"], {"replicas": 0, "park": False}, "service/chat goes to zero; the next request brings it back.\n"),
        (
            ["--park"],
            {"replicas": 0, "park": True},
            "service/chat is asked to park; the next request brings it back.\n",
        ),
        (["--auto"], {"replicas": None, "park": False}, "service/chat is scaled by its load again.\n"),
    ],
)
def test_scale_asks_for_one_thing(
    args: list[str], asked: dict[str, object], said: str, fake: FakeControl, run: Run
) -> None:
    fake.services = {"chat": service()}
    result = run("scale", "chat", *args)
    assert (result.status, result.out) == (0, said)
    assert fake.calls == [("POST", "/api/v1/services/chat/scale", asked)]


def test_where_nothing_can_be_parked_neither_scale_nor_describe_says_that_it_is(fake: FakeControl, run: Run) -> None:
    made = service()
    fake.services = {"chat": made | {"scaling": made["scaling"] | {"park_for_s": 600.0, "cannot_park": "pods cannot"}}}
    said = "service/chat goes to zero and is not parked: pods cannot; the next request brings it back.\n"
    assert run("scale", "chat", "--park").out == said
    assert run("scale", "chat", "0").out == "service/chat goes to zero; the next request brings it back.\n"
    assert "window 60s, not parked: pods cannot\n" in run("describe", "chat").out


def test_describe_tells_how_long_it_is_parked(fake: FakeControl, run: Run) -> None:
    made = service()
    fake.services = {"chat": made | {"scaling": made["scaling"] | {"park_for_s": 600.0}}}
    assert "window 60s, parked 10m before it stops\n" in run("describe", "chat").out


def test_scale_says_when_the_manifest_allows_less(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    assert run("scale", "chat", "4").err == ""
    assert run("scale", "chat", "5").err == "note: its manifest allows 4 at most, so there will be 4.\n"


@pytest.mark.parametrize("args", [[], ["1", "--auto"], ["0", "--park"], ["1", "--replicas", "1"]])
def test_scale_refuses_none_and_two(args: list[str], fake: FakeControl, run: Run) -> None:
    result = run("scale", "chat", *args)
    assert (result.status, fake.calls) == (2, [])
    assert result.err == (
        "scale takes one of COUNT, --replicas COUNT, --park and --auto.\n"
        "\nhint: `ironloom scale chat 0` sends it to zero.\n"
    )


def test_delete_says_what_went_and_stops_at_what_is_not_there(fake: FakeControl, run: Run) -> None:
    fake.services = {"a": service("a"), "b": service("b")}
    result = run("delete", "a", "service/a", "nope", "b")
    assert (result.status, result.out) == (1, "service/a deleted\n")
    assert result.err == "There is no service 'nope'.\n\nhint: services are: b.\n"
    result = run("delete", "nope", "b", "--ignore-not-found")
    assert (result.status, result.out, result.err) == (0, "service/b deleted\n", "service/nope is not there.\n")


@pytest.mark.parametrize(("args", "pinned"), [(["2"], 2), (["0"], None), (["--park"], None), (["--auto"], None)])
def test_scale_for_programs_is_the_service_as_it_is_then(
    args: list[str], pinned: int | None, fake: FakeControl, run: Run
) -> None:
    fake.services = {"chat": service()}
    for data in (
        json.loads(run("scale", "chat", *args, "-o", "json").out),
        yaml.safe_load(run("scale", "chat", *args, "-o", "yaml").out),
    ):
        assert (data["name"], data["scaling"]["pinned"]) == ("chat", pinned)


def test_delete_for_programs_says_what_went_also_before_what_is_not_there(fake: FakeControl, run: Run) -> None:
    fake.services = {"a": service("a"), "b": service("b")}
    result = run("delete", "a", "nope", "b", "-o", "json")
    assert (result.status, json.loads(result.out)) == (1, [{"name": "a", "deleted": True}])
    result = run("delete", "nope", "b", "--ignore-not-found", "-o", "yaml")
    assert result.status == 0
    assert yaml.safe_load(result.out) == [{"name": "nope", "deleted": False}, {"name": "b", "deleted": True}]
    assert run("delete", "--all", "-o", "json").out == "[]\n"


def test_delete_all_and_delete_nothing(fake: FakeControl, run: Run) -> None:
    fake.services = {"a": service("a"), "b": service("b")}
    assert run("delete").status == 2
    assert run("delete", "--all", "a").status == 2
    assert run("delete", "--all").out == "service/a deleted\nservice/b deleted\n"
    assert run("delete", "--all").err == "No services and no runs.\n"


def test_a_new_key_alone_is_on_stdout(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    result = run("key", "create", "laptop", "--service", "chat")
    assert (result.status, result.out) == (0, "il-secret\n")
    assert "This is key key-1 (laptop), with scope inference, for chat. It is not shown again." in result.err
    assert fake.calls[0][2] == {"name": "laptop", "scope": "inference", "services": ["chat"]}
    assert json.loads(run("key", "create", "ci", "--scope", "control", "-o", "json").out)["key"] == "il-secret"


def test_a_key_for_a_service_that_is_not_there_yet_is_made_and_says_so(fake: FakeControl, run: Run) -> None:
    fake.services = {"chat": service()}
    result = run("key", "create", "laptop", "--service", "chat", "--service", "nope")
    assert (result.status, result.out) == (0, "il-secret\n")
    assert "note: there is no service nope yet; the key is good for it once it is there.\n" in result.err
    assert "no service chat" not in result.err


def test_keys_are_listed_and_revoked_by_id_or_name(fake: FakeControl, run: Run) -> None:
    assert run("key", "list").err == "No keys.\n\nhint: `ironloom key create NAME` makes one.\n"
    fake.keys = [
        {"id": "k1", "name": "laptop", "scope": "inference", "services": ["chat"], "created_s": NOW_S - 3600,
         "last_used_s": NOW_S - 5},
        {"id": "k2", "name": "ci", "scope": "control", "services": [], "created_s": NOW_S - 60},
        {"id": "k3", "name": "ci", "scope": "control", "services": [], "created_s": NOW_S - 60},
    ]  # fmt: skip
    assert run("key", "list").out == (
        "ID   NAME     SCOPE       SERVICES   AGE   LAST USED\n"
        "k1   laptop   inference   chat       60m   5s\n"
        "k2   ci       control     all        60s   never\n"
        "k3   ci       control     all        60s   never\n"
    )
    assert [key["id"] for key in json.loads(run("key", "list", "-o", "json").out)] == ["k1", "k2", "k3"]
    assert run("key", "revoke", "laptop").out == "key/k1 (laptop) revoked\n"
    result = run("key", "revoke", "ci")
    assert (result.status, result.err) == (2, "2 keys are named 'ci': k2, k3.\n\nhint: name one by its id.\n")
    assert run("key", "revoke", "k3").out == "key/k3 (ci) revoked\n"
    assert run("key", "revoke", "laptop").err == "There is no key 'laptop'.\n\nhint: `ironloom key list` shows them.\n"


def test_revoke_for_programs_says_what_it_revoked_also_before_what_is_not_there(fake: FakeControl, run: Run) -> None:
    fake.keys = [{"id": "k1", "name": "ci", "scope": "control", "services": [], "created_s": NOW_S}]
    result = run("key", "revoke", "ci", "nope", "-o", "json")
    assert (result.status, json.loads(result.out)) == (2, [{"id": "k1", "name": "ci"}])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back(shell: str, run: Run) -> None:
    result = run("completion", shell)
    assert result.status == 0
    assert "_IRONLOOM_COMPLETE" in result.out


def _complete(words: list[str], environ: dict[str, str]) -> list[str]:
    """What a bash would be offered for the last word."""
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli"],
        env={**os.environ, **environ, "_IRONLOOM_COMPLETE": "bash_complete",
             "COMP_WORDS": " ".join(["ironloom", *words]), "COMP_CWORD": str(len(words))},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_of_services_complete(fake: FakeControl) -> None:
    fake.services = {"chat": service(), "chef": service("chef"), "other": service("other")}
    here = {"IRONLOOM_URL": fake.url}
    assert _complete(["describe", "ch"], here) == ["chat", "chef"]
    assert _complete(["get", "re"], here) == ["replicas", "requests"]
    assert _complete(["de"], here) == ["delete", "describe", "demo"]
    assert "--replicas" in _complete(["scale", "--re"], here)
    assert _complete(["serve", "a/b", "--engine", ""], here) == ["openvino", "llamacpp", "transformers", "vllm"]


def test_without_a_daemon_completion_is_silent() -> None:
    assert _complete(["describe", "ch"], {"IRONLOOM_URL": "http://127.0.0.1:1"}) == []


def test_the_bash_script_is_bash(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "ironloom.bash"
    script.write_text(run("completion", "bash").out)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_describe_of_a_clusters_service_says_what_its_nodes_cost_and_whether_more_can_come(
    fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def told(context: str, namespace: str | None, name: str) -> tuple[str, ...]:
        asked.append((context, namespace, name))
        return ("Pool h100 (coreweave) can still give 2 nodes; 1 node is there.", "An empty node of it costs money.")

    monkeypatch.setattr(cluster_gateway, "services_or_runs", lambda *_: Client())
    monkeypatch.setattr(cluster_nodes, "nodes_told", told)
    fake.services = {"chat": service()}
    where = ("--context", "prod", "--namespace", "models")
    page = run("describe", "chat", *where).out
    assert "Nodes:\n  - Pool h100 (coreweave) can still give 2 nodes; 1 node is there.\n  - An empty node" in page
    assert json.loads(run("describe", "chat", *where, "-o", "json").out)["nodes"] == list(told("", None, ""))
    assert asked[0] == ("prod", "models", "chat")
    assert "Nodes:" not in run("describe", "chat").out
