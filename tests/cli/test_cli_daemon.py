from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import FakeControl, Run

from ironloom.cli import launch
from ironloom.cli.client import Client
from ironloom.errors import DaemonError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder, and a program that stands for the daemon; what was started is ended."""
    monkeypatch.setattr(launch, "PROGRAM", (sys.executable, str(Path(__file__).with_name("stand_in_daemon.py"))))
    folder = tmp_path / "home"
    yield folder
    if (folder / "daemon.json").exists():
        pid = json.loads((folder / "daemon.json").read_text())["pid"]
        try:
            os.kill(pid, 15)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_up_detached_returns_once_it_answers_and_a_second_one_says_so(home: Path, run: Run) -> None:
    result = run("up", "--detach", "--port", "0")
    found = json.loads((home / "daemon.json").read_text())
    assert (result.status, result.err) == (0, "")
    assert result.out == f"The daemon runs at {found['url']} (pid {found['pid']}).\n"
    assert os.getsid(found["pid"]) == found["pid"], "a closed terminal must not end it"
    assert "args: --state" in (home / "logs" / "daemon.log").read_text()
    assert run("get", "-o", "json").out == "[]\n", "the state file alone leads other commands to it"
    assert run("up", "--detach").out == f"The daemon already runs at {found['url']} (pid {found['pid']}).\n"


def test_options_of_up_reach_the_detached_daemon(home: Path, run: Run, tmp_path: Path) -> None:
    pem = tmp_path / "cert.pem"
    pem.write_text("")
    other = tmp_path / "other"
    args = [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--require-keys",
        "--allow-origin",
        "http://a",
        "--allow-origin",
        "http://b",
        "--allow-host",
        "ai.local",
        "--allow-host",
        "ai.lan",
        "--url",
        "https://ai.example.com/",
    ]
    result = run("up", "--detach", "--state", str(other), "--tls-cert", str(pem), "--tls-key", str(pem), *args)
    os.kill(json.loads((other / "daemon.json").read_text())["pid"], 15)
    assert (other / "logs" / "daemon.log").read_text().strip() == (
        f"args: --state {other} --host 127.0.0.1 --port 0 --tls-cert {pem} --tls-key {pem} "
        "--require-keys --allow-origin http://a --allow-origin http://b --allow-host ai.local --allow-host ai.lan "
        "--url https://ai.example.com"
    )
    assert result.err == f"\nhint: IRONLOOM_HOME={other} lets the other commands find it.\n"


@pytest.mark.parametrize("url", ["ai.example.com", "ftp://a", "http://", "http://a/v1", "http://a?b=c"])
def test_a_url_that_is_no_address_is_refused(home: Path, run: Run, url: str) -> None:
    result = run("up", "--url", url)
    assert result.status == 2
    assert result.err == f"--url {url} is no address.\n\nhint: http://HOST:PORT or https://HOST, without a path.\n"


def test_a_daemon_that_other_machines_reach_says_that_keys_are_wanted_and_what_is_not_encrypted(
    home: Path, run: Run, tmp_path: Path
) -> None:
    keys, plain = run("up", "--detach", "--port", "0", "--host", "0.0.0.0").err.splitlines()
    assert keys.startswith("note: Other machines reach 0.0.0.0, so every request needs an API key")
    assert plain.startswith("note: Without a certificate it speaks plain HTTP")
    run("down")
    pem = tmp_path / "cert.pem"
    pem.write_text("")
    tls = ["--tls-cert", str(pem), "--tls-key", str(pem)]
    assert run("up", "--detach", "--port", "0", "--host", "0.0.0.0", *tls).err.splitlines() == [keys]


def test_a_daemon_that_ends_as_it_starts_shows_its_last_lines(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "daemon.log").write_text("from an earlier run\n")
    monkeypatch.setenv("FAKE_DAEMON", "fail Port 11500 is taken.")
    result = run("up", "--detach")
    assert result.status == 1
    assert result.err == (
        "The daemon ended as it started, with status 1. Its last lines:\n  Port 11500 is taken.\n"
        f"\nhint: its whole log is {home / 'logs' / 'daemon.log'}.\n"
    )


def test_a_daemon_that_never_answers_is_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DAEMON", "silent")
    with pytest.raises(DaemonError, match="took no requests within 0 s, and was stopped"):
        launch.start(home, [], deadline_s=0.3)


def test_a_state_folder_that_cannot_be_written_is_named(home: Path, run: Run) -> None:
    home.write_text("a file stands where the folder should be")
    result = run("up", "--detach")
    assert result.status == 1
    assert result.err.startswith(f"The state folder {home} cannot be written (")


def test_down_waits_until_the_daemon_is_gone(home: Path, run: Run) -> None:
    run("up", "--detach", "--port", "0")
    found = json.loads((home / "daemon.json").read_text())
    result = run("down")
    assert (result.status, result.out, result.err) == (0, f"The daemon at {found['url']} has stopped.\n", "")
    assert run("down").out == f"No daemon runs at {found['url']}; nothing to stop.\n"


def test_up_and_down_tell_programs_the_same_as_people(home: Path, run: Run) -> None:
    made = json.loads(run("up", "--detach", "--port", "0", "-o", "json").out)
    found = json.loads((home / "daemon.json").read_text())
    assert (made["url"], made["pid"]) == (found["url"], found["pid"])
    assert json.loads(run("up", "--detach", "-o", "json").out)["pid"] == found["pid"]
    ended = {"url": found["url"], "pid": found["pid"], "stopped": True}
    assert json.loads(run("down", "-o", "json").out) == ended
    assert json.loads(run("down", "-o", "json").out) == ended | {"pid": None, "stopped": False}


def test_a_daemon_in_the_foreground_has_no_output_format(home: Path, run: Run) -> None:
    result = run("up", "-o", "json")
    assert (result.status, home.exists()) == (2, False)
    assert result.err.startswith("-o json is for --detach")


def test_down_names_the_process_that_does_not_end(fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("down", "--keep-replicas", "--timeout", "0")
    assert result.status == 1
    assert result.err.startswith("The daemon (pid 4194305) still runs after 0 s.\n\nhint: ")
    assert ("POST", "/api/v1/shutdown", {"stop_replicas": False}) in fake.calls


def test_a_named_state_folder_that_nobody_holds(run: Run, tmp_path: Path) -> None:
    result = run("status", "--state", str(tmp_path))
    assert result.status == 1
    assert result.err == (
        f"No daemon holds the state folder {tmp_path}.\n\nhint: `ironloom up --state {tmp_path}` starts one.\n"
    )


def test_status_is_four_lines_for_people_and_all_fields_for_programs(fake: FakeControl, run: Run) -> None:
    assert run("status").out == (
        f"Ironloom 0.1.0 runs at {fake.url} (pid 4194305, up 5m).\n"
        "State folder: /home/me/.local/state/ironloom\n"
        "Machine:      laptop, 8 CPUs, 5.0 GiB of 16.0 GiB memory free, no GPU\n"
        "Services:     0\n"
    )
    assert json.loads(run("status", "-o", "json").out) == fake.status()


def test_both_halves_of_tls_are_needed(run: Run, tmp_path: Path) -> None:
    pem = tmp_path / "cert.pem"
    pem.write_text("")
    result = run("up", "--tls-cert", str(pem))
    assert (result.status, result.err) == (
        2,
        (
            "--tls-cert and --tls-key are needed together.\n\n"
            "hint: both are PEM files: the certificate, and its key without a passphrase.\n"
        ),
    )


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://127.0.0.1:7", "http://127.0.0.1:7"),
        ("http://0.0.0.0:7", "http://127.0.0.1:7"),
        ("https://[::]:7", "https://[::1]:7"),
        ("http://node.example:7", "http://node.example:7"),
    ],
)
def test_the_state_file_says_where_the_daemon_is(url: str, reached: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "daemon.json").write_text(json.dumps({"pid": 1, "url": url, "started": 1.0, "key": "il-own"}))
    to = Client().to
    assert (to.url, to.key) == (reached, "il-own")


def test_a_port_in_the_environment_outranks_the_state_file_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "daemon.json").write_text(json.dumps({"pid": 1, "url": "https://127.0.0.1:7", "key": "il-own"}))
    monkeypatch.setenv("IRONLOOM_PORT", "8")
    assert (Client().to.url, Client().to.key) == ("http://127.0.0.1:8", None)
    monkeypatch.setenv("IRONLOOM_PORT", "7")
    assert Client().to.url == "https://127.0.0.1:7"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 3}', '{"url": "http://h:x"}', '{"url": "http://h"}'])
def test_a_damaged_state_file_is_as_none(text: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "daemon.json").write_text(text)
    assert Client().to.url == "http://127.0.0.1:11500"


def test_options_of_a_cluster_reach_the_detached_daemon(
    home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    key = tmp_path / "token"
    key.write_text("il-0")
    result = run(
        *("up", "--detach", "--port", "0", "--context", "prod", "--namespace", "models", "--shared"),
        *("--control-key-file", str(key)),
    )
    assert (result.status, result.err) == (0, "")
    assert (
        (home / "logs" / "daemon.log")
        .read_text()
        .strip()
        .endswith(f"--port 0 --context prod --namespace models --shared --control-key-file {key}")
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--shared"], "--shared says nothing without --context or --in-cluster"),
        (["--namespace", "a"], "--namespace says nothing without --context or --in-cluster"),
        (["--in-cluster", "--context", "prod"], "--context and --in-cluster name two clusters"),
        (["--in-cluster"], "This is no pod of a cluster, or one without a service account's token"),
    ],
)
def test_options_of_a_cluster_that_mean_nothing_are_refused(
    args: list[str], said: str, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = run("up", "--port", "0", *args)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"{said}")
    assert "\n\nhint: " in result.err
    assert not (home / "daemon.json").exists()


def test_a_control_key_file_that_is_not_there_is_named(home: Path, run: Run, tmp_path: Path) -> None:
    result = run("up", "--port", "0", "--control-key-file", str(tmp_path / "none"))
    assert (result.status, result.out) == (2, "")
    assert str(tmp_path / "none") in result.err
    assert not (home / "daemon.json").exists()
