"""`ironloom up`, `down`, `status`: the daemon on this machine."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from ironloom.backends.local import procfs
from ironloom.cli import settings
from ironloom.cli.client import API, Client, DaemonNotRunning
from ironloom.cli.launch import POLL_S, let_go, start
from ironloom.cli.output import age, output_option, plural, put, put_data, result_option, say, tell
from ironloom.cli.progress import Line
from ironloom.errors import DaemonError, UsageError
from ironloom.server.control import StatusView
from ironloom.units import format_bytes

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.kubeconfig import Target

DRAIN_DEADLINE_S = 330.0
"""A stopping daemon waits for the requests in flight, which may take a service's whole timeout (300 s)."""


_state_option = click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), help="State folder. [default: IRONLOOM_HOME]"
)


@click.command()
@click.option("--host", default=settings.DEFAULT_HOST, show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [default: 11500]")
@_state_option
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate, as PEM.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its key, as PEM.")
@click.option("--require-keys", is_flag=True, help="Want an API key on loopback too; elsewhere one is always wanted.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="A web origin whose pages may call; repeatable.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A host name that requests on loopback may carry.")
@click.option("--context", metavar="NAME", help="Run replicas as pods of this kubeconfig context's cluster.")
@click.option("--in-cluster", is_flag=True, help="Run replicas as pods of the cluster that this daemon is a pod of.")
@click.option("-n", "--namespace", metavar="NAME", help="Of the pods. [default: the context's, the daemon's own]")
@click.option("--shared", is_flag=True, help="One of several gateways of a cluster: a Lease says which decides.")
@click.option("--control-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="A control key made elsewhere, in a file: a mounted Secret's.")  # fmt: skip
@click.option("--url", default="", metavar="URL", help="Where clients reach it. [default: where it listens]")
@click.option("--detach", is_flag=True, help="Start it in the background, and return once it takes requests.")
@result_option
def up(
    host: str,
    port: int | None,
    state: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    require_keys: bool,
    allow_origin: tuple[str, ...],
    allow_host: tuple[str, ...],
    context: str | None,
    in_cluster: bool,
    namespace: str | None,
    shared: bool,
    control_key_file: Path | None,
    url: str,
    detach: bool,
    output: str,
) -> int:
    """Start the daemon: the gateway, the autoscaler, the control API and the page, on one port.

    It stays in the foreground, and ends on SIGTERM or Ctrl-C once no request is in flight. Replicas that a killed
    daemon left behind are taken up again.
    """
    if (tls_cert is None) != (tls_key is None):
        raise UsageError(
            "--tls-cert and --tls-key are needed together.",
            hint="both are PEM files: the certificate, and its key without a passphrase.",
        )
    if output != "text" and not detach:
        raise UsageError(
            f"-o {output} is for --detach: in the foreground the output is the daemon's own.",
            hint="`ironloom status -o json` asks a daemon that runs.",
        )
    state_dir = state.expanduser().absolute() if state else settings.state_dir()
    port = settings.port() if port is None else port
    url = _reached_at(url)
    cluster = _cluster(context, in_cluster=in_cluster, namespace=namespace)
    if shared and cluster is None:
        raise UsageError("--shared says nothing without --context or --in-cluster", hint="leave it out")
    if not detach:
        from ironloom.server.daemon import Options, run

        return run(
            Options(
                host=host,
                port=port,
                state_dir=state_dir,
                cert=tls_cert,
                key=tls_key,
                require_keys=require_keys,
                allow_origins=allow_origin,
                allow_hosts=allow_host,
                cluster=cluster,
                control_key_file=control_key_file,
                url=url,
                is_shared=shared,
                keeps_replicas=in_cluster or shared,
            )
        )
    if (running := _running(state_dir)) is not None:
        words = f"The daemon already runs at {running.url} (pid {running.pid})."
        tell(words, msgspec.to_builtins(running), output)
        return 0
    args = ["--host", host, "--port", str(port)]
    args += ["--tls-cert", str(tls_cert), "--tls-key", str(tls_key)] if tls_cert and tls_key else []
    args += ["--require-keys"] if require_keys else []
    for origin in allow_origin:
        args += ["--allow-origin", origin]
    for name in allow_host:
        args += ["--allow-host", name]
    args += ["--context", context] if context is not None else []
    args += ["--in-cluster"] if in_cluster else []
    args += ["--namespace", namespace] if namespace is not None else []
    args += ["--shared"] if shared else []
    args += ["--control-key-file", str(control_key_file.absolute())] if control_key_file is not None else []
    args += ["--url", url] if url else []
    from ironloom.server.security import door_notes

    client, process = start(state_dir, args)
    if output == "text":
        put(f"The daemon runs at {client.to.url} (pid {client.to.pid}).")
    else:
        put_data(client.call("GET", f"{API}/status"), output)
    let_go(process)
    for note in door_notes(host, tls=tls_cert is not None):
        say(f"note: {note}")
    if state_dir != settings.state_dir():
        say(f"\nhint: IRONLOOM_HOME={state_dir} lets the other commands find it.")
    return 0


def _reached_at(url: str) -> str:
    """A URL as it is shown. Raises UsageError for one that is none."""
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query):
        raise UsageError(f"--url {url} is no address.", hint="http://HOST:PORT or https://HOST, without a path")
    return url.rstrip("/")


def _cluster(context: str | None, *, in_cluster: bool, namespace: str | None) -> Target | None:
    """Where pods run; None for this machine. Raises UsageError for options that contradict each other, and whatever a
    kubeconfig's reading raises."""
    if context is None and not in_cluster:
        if namespace is not None:
            raise UsageError("--namespace says nothing without --context or --in-cluster", hint="leave it out")
        return None
    if context is not None and in_cluster:
        raise UsageError("--context and --in-cluster name two clusters", hint="a daemon has one")
    from ironloom.backends.kubernetes.kubeconfig import load, of_pod

    target = load().target(context) if context is not None else of_pod()
    return replace(target, namespace=namespace) if namespace is not None else target


@click.command()
@_state_option
@click.option("--keep-replicas", is_flag=True, help="Leave the engines running; the next `ironloom up` takes them up.")
@click.option("--timeout", type=click.FloatRange(min=0), default=DRAIN_DEADLINE_S, show_default=True, metavar="SECONDS",
              help="How long to wait for requests in flight.")  # fmt: skip
@result_option
def down(state: Path | None, keep_replicas: bool, timeout: float, output: str) -> None:
    """Stop the daemon: requests in flight are answered first, and its engines end with it.

    The services stay applied. The next `ironloom up` has them again, and starts what they want.
    """
    client = _client(state)
    try:
        status = client.status()
        client.shutdown(stop_replicas=not keep_replicas)
    except DaemonNotRunning:
        words = f"No daemon runs at {client.to.url}; nothing to stop."
        tell(words, {"url": client.to.url, "pid": None, "stopped": False}, output)
        return
    with Line("Stopping the daemon") as line:
        give_up_s = time.monotonic() + timeout
        while _lives(client, status.pid):
            if time.monotonic() > give_up_s:
                raise DaemonError(
                    f"The daemon (pid {status.pid}) still runs after {timeout:.0f} s.",
                    hint=f"requests may be in flight; `kill -9 {status.pid}` ends it without waiting.",
                )
            line.show("waiting for requests in flight")
            time.sleep(POLL_S)
    words = f"The daemon at {client.to.url} has stopped."
    tell(words, {"url": client.to.url, "pid": status.pid, "stopped": True}, output)


@click.command()
@_state_option
@output_option("table", "json", "yaml")
def status(state: Path | None, output: str) -> None:
    """Say whether the daemon runs, where, and on what machine."""
    client = _client(state)
    if output != "table":
        put_data(client.call("GET", f"{API}/status"), output)
        return
    view = client.status()
    machine = view.machine
    memory = f"{format_bytes(machine.available_memory_bytes)} of {format_bytes(machine.memory_bytes)} memory free"
    gpus = ", ".join(f"gpu:{gpu.index} {gpu.name}" for gpu in machine.gpus) or "no GPU"
    put(f"Ironloom {view.version} runs at {client.to.url} (pid {view.pid}, up {age(view.started_s)}).")
    put(f"State folder: {view.state_dir}")
    put(f"Machine:      {machine.name}, {plural(machine.num_cpus, 'CPU')}, {memory}, {gpus}")
    put(f"Services:     {view.num_services}")


def _client(state: Path | None) -> Client:
    """The daemon of a state folder that was named, else the one that every command acts on."""
    if state is None:
        return Client()
    found = settings.running(state.expanduser().absolute(), os.environ.get("IRONLOOM_API_KEY"))
    if found is None:
        raise DaemonNotRunning(
            f"No daemon holds the state folder {state}.", hint=f"`ironloom up --state {state}` starts one."
        )
    return Client(found)


def _running(state_dir: Path) -> StatusView | None:
    """The daemon that holds a state folder and answers, or None."""
    found = settings.running(state_dir, os.environ.get("IRONLOOM_API_KEY"))
    if found is None:
        return None
    try:
        return Client(found).status()
    except DaemonNotRunning:
        return None


def _lives(client: Client, pid: int) -> bool:
    if client.to.remote:
        try:
            client.ready()
        except DaemonError:
            return False
        return True
    with suppress(ChildProcessError):  # a child of this very process is there until it is waited for
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # One that ended stays visible until its parent asks after it, and not every parent does.
    return procfs.identity(pid) is not None or not procfs.PROC.is_dir()
