from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from fake_control import FakeControl, Run, service

import ironloom
from ironloom.cli import client as client_module
from ironloom.cli.main import COMMANDS, cli
from ironloom.errors import ManifestError

NOT_OURS = """\
What answers there is no Ironloom daemon: its answer is not JSON.

hint: `ironloom status` says where it is looked for.
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_table_says_what_each_command_says_of_itself(name: str) -> None:
    entry = COMMANDS[name]
    command = getattr(import_module(entry.module), entry.attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help, f"{name} has no help"
    assert len(entry.help) <= 56, "the help page has one line for each command"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_takes_debug_after_its_name(name: str, run: Run) -> None:
    result = run(name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: ironloom {name}")
    assert "--debug" in result.out


def test_the_help_page_lists_every_command(run: Run) -> None:
    page = run("--help").out
    assert all(f"\n  {name} " in page for name in COMMANDS)


def test_the_help_page_says_on_what_a_command_acts(run: Run) -> None:
    page = " ".join(run("--help").out.split())
    assert "Commands act on this machine, or with --context on a Kubernetes cluster" in page
    assert "IRONLOOM_URL" in page


def test_without_a_command_the_help_page_goes_to_stderr(run: Run) -> None:
    result = run()
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("Usage: ironloom [OPTIONS] COMMAND")


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"ironloom {ironloom.__version__}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["gte"], "There is no command 'gte'; did you mean 'get'?\n\nhint: `ironloom --help` shows what there is.\n"),
        (["frobnicate"], "There is no command 'frobnicate'.\n\nhint: `ironloom --help` shows what there is.\n"),
        (["describe"], "Missing argument 'NAME'.\n\nhint: `ironloom describe --help` shows what there is.\n"),
        (["key", "create"], "Missing argument 'NAME'.\n\nhint: `ironloom key create --help` shows what there is.\n"),
    ],
)
def test_bad_use_is_one_sentence_and_a_hint(args: list[str], said: str, run: Run) -> None:
    result = run(*args)
    assert (result.status, result.out, result.err) == (2, "", said)


def test_an_unknown_option_is_named(run: Run) -> None:
    result = run("get", "--nmae", "x")
    assert result.status == 2
    assert "--nmae" in result.err
    assert result.err.endswith("\n\nhint: `ironloom get --help` shows what there is.\n")


def test_no_daemon_is_told_with_what_starts_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONLOOM_PORT", "1")  # nobody listens there
    result = run("get")
    assert (result.status, result.out) == (1, "")
    assert result.err == "No daemon answers at http://127.0.0.1:1.\n\nhint: `ironloom up` starts it.\n"


def test_a_daemon_elsewhere_that_does_not_answer_is_not_ours_to_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONLOOM_URL", "http://127.0.0.1:1/v1")
    result = run("get")
    assert result.status == 1
    assert "hint: IRONLOOM_URL names that place" in result.err


@pytest.mark.parametrize(
    ("variable", "value"),
    [("IRONLOOM_PORT", "0"), ("IRONLOOM_PORT", "http"), ("IRONLOOM_PORT", "99999"), ("IRONLOOM_URL", "localhost:1"),
     ("IRONLOOM_URL", "http://h/api")],
)  # fmt: skip
def test_an_environment_variable_that_means_nothing_is_named(
    variable: str, value: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = run("get")
    assert result.status == 2
    assert result.err.startswith(f"{variable} is {value!r}, and must be ")


def test_a_fault_of_ours_is_a_sentence_and_with_debug_a_traceback(
    fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("wires crossed")

    monkeypatch.setattr(client_module.Client, "call", broken)
    result = run("get")
    assert result.status == 1
    assert result.err == (
        "Something went wrong inside ironloom (RuntimeError: wires crossed).\n"
        "\nhint: run it again with --debug for the traceback.\n"
    )
    for args in (["--debug", "get"], ["get", "--debug"]):
        assert "Traceback (most recent call last)" in run(*args).err
    monkeypatch.setenv("IRONLOOM_DEBUG", "1")
    assert "Traceback (most recent call last)" in run("get").err


def test_what_the_world_refuses_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("IRONLOOM_PORT", "9")  # no daemon of this machine is asked
    result = run("models", "rm", "smollm2-135m-instruct")
    assert result.status == 1
    assert result.err.startswith(f"{tmp_path}/file")
    assert "directory" in result.err


def test_an_expected_error_has_no_traceback_and_keeps_its_exit_status(
    fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object, **_kwargs: object) -> None:
        raise ManifestError("no kind", file="a.yaml", line=3, column=1, hint="write one")

    monkeypatch.setattr(client_module.Client, "call", refused)
    result = run("get")
    assert (result.status, result.err) == (2, "a.yaml:3:1: no kind\n\nhint: write one.\n")


def test_ctrl_c_is_quiet(fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_module.Client, "call", interrupted)
    result = run("get")
    assert (result.status, result.out, result.err.strip()) == (130, "", "")


def test_a_reader_that_goes_away_is_met_with_silence(fake: FakeControl) -> None:
    fake.services = {f"chat-{i}": service(f"chat-{i}") for i in range(400)}  # more than a pipe holds
    process = subprocess.Popen(
        [sys.executable, "-m", "ironloom.cli", "get", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "IRONLOOM_URL": fake.url, "PYTHONUNBUFFERED": ""},  # unbuffered, Python drops what is left
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"[\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ((500, {"error": {"message": "disk full", "hint": "make room"}}), 1, "disk full.\n\nhint: make room.\n"),
        ((400, {"error": {"message": "no kind", "code": "manifest_invalid"}}), 2, "No kind.\n"),
        ((502, b"<html>"), 1, NOT_OURS),
        ((503, {}), 1, "The daemon answered with status 503.\n"),
        ((401, {"error": {"message": "a key is needed", "code": "x"}}), 1,
         "A key is needed.\n\nhint: IRONLOOM_API_KEY holds the key; `ironloom key create NAME` makes one.\n"),
    ],
)  # fmt: skip
def test_an_error_of_the_daemon_reaches_the_person_with_its_hint(
    answer: tuple[int, object], status: int, said: str, fake: FakeControl, run: Run
) -> None:
    fake.answers["GET", "/api/v1/services"] = answer
    result = run("get")
    assert (result.status, result.out, result.err) == (status, "", said)


def test_the_key_is_sent_and_never_shown(fake: FakeControl, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api_key = "il-topsecret"
    assert run("get").status == 1
    monkeypatch.setenv("IRONLOOM_API_KEY", "il-topsecret")
    result = run("get", "--debug")
    assert result.status == 0
    assert fake.authorizations[-1] == "Bearer il-topsecret"
    assert "topsecret" not in result.out + result.err


def test_shells_complete_commands_without_loading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [item.value for item in cli.shell_complete(click.Context(cli), "d")]
    assert names == ["delete", "describe", "down", "demo"]
