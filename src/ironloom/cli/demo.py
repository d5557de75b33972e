"""`ironloom demo`: the whole story on this machine in under three minutes, and nothing left behind but the cache."""

from __future__ import annotations

import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ironloom.backends.local import procfs
from ironloom.cli.client import Client
from ironloom.cli.demo_story import tell
from ironloom.cli.launch import start, stop
from ironloom.cli.manifests import service_name
from ironloom.cli.output import output_option, put, put_data, say, table
from ironloom.errors import DaemonError
from ironloom.units import format_duration

DEFAULT_MODEL = "smollm2-135m-instruct"
SHUTDOWN_S = 30.0
MARK_VARIABLE = "IRONLOOM_DEMO"


@click.command()
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="The model to serve.")
@click.option(
    "--streams", type=click.IntRange(1, 64), default=8, show_default=True, help="Requests at once in the load."
)
@output_option("table", "json", "yaml")
def demo(model: str, streams: int, output: str) -> None:
    """Show the whole story: serve a model, ask it, load it, let it go to zero, and bring it back.

    It runs a daemon of its own on a free port with a state folder of its own, and removes both at the end, also when
    it is interrupted. The model stays in the ordinary cache.
    """
    began_s = time.monotonic()
    with _own_daemon() as client:
        figures = tell(client, model, streams)
    if output == "table":
        say()
        put(table(("MEASURED HERE, JUST NOW", "", "WHAT IT IS"), figures.rows()))
        say(f"\nThat took {format_duration(time.monotonic() - began_s)}. The daemon is stopped and its folder removed.")
        say(f"\nGo on:\n{_next_steps(model)}")
    else:
        put_data(figures.as_data(), output)


def _next_steps(model: str) -> str:
    steps = {
        f"ironloom serve {model}": "the same, to stay",
        f"ironloom chat {service_name(model)}": "talk with it",
        "ironloom get -w": "watch it go to zero and back",
        "ironloom --help": "everything else",
    }
    width = max(map(len, steps))
    return "\n".join(f"  {command.ljust(width)}   {what}" for command, what in steps.items())


@contextmanager
def _own_daemon() -> Iterator[Client]:
    """A daemon of the demo's own. At the end, however it comes, it and what it started are gone, and its folder.

    What it started is told by a variable that only this demo's daemon has, and that all its children inherit.
    """
    process: subprocess.Popen[bytes] | None = None
    mark = secrets.token_hex(16)
    with _signals_interrupt(), tempfile.TemporaryDirectory(prefix="ironloom-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            client, process = start(folder, ["--port", "0"], env={MARK_VARIABLE: mark})
            say(f"A daemon of the demo's own runs at {client.to.url}.")
            yield client
        finally:
            # A second Ctrl-C must not leave half of it running.
            with _signals_ignored():
                if process is not None:
                    _end(client, process)
                procfs.kill_carriers(MARK_VARIABLE, mark)  # they outlive a daemon that was killed


def _end(client: Client, process: subprocess.Popen[bytes]) -> None:
    """Stop the daemon with its replicas. One that was killed is not asked: a child that it had just forked may hold
    its socket, and would never answer."""
    if process.poll() is not None:
        return
    with suppress(DaemonError):
        client.shutdown(stop_replicas=True, timeout_s=SHUTDOWN_S)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SHUTDOWN_S)
    if process.poll() is None:
        stop(process)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: by way of its cleaning up."""
    with _handled(_interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _signals_ignored() -> Iterator[None]:
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
