"""Start an engine's process as its adapter says, wait until it answers, end it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironloom.serve.engines.base import Engine, Launch, LaunchOrder, LocalModel
from ironloom.workload.serving import Serving


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(
    engine: Engine,
    model: LocalModel,
    cache_dir: Path,
    *,
    name: str = "tiny",
    engine_args: tuple[str, ...] = (),
    gpu_indexes: tuple[int, ...] = (),
    env: dict[str, str] | None = None,
    patience_s: float = 60.0,
    log: Path | None = None,
) -> Iterator[str]:
    """Its base URL."""
    port = free_port()
    serving = Serving(name=name, kind="InferenceService", model_uri=model.uri, engine_args=engine_args, env=env or {})
    order = LaunchOrder(model=model, serving=serving, port=port, gpu_indexes=gpu_indexes, cache_dir=cache_dir)
    launch = engine.launch(order)
    with started(launch, port, patience_s=patience_s, log=log) as url:
        yield url


@contextmanager
def started(launch: Launch, port: int, *, patience_s: float, log: Path | None = None) -> Iterator[str]:
    """A process of this launch, ended by its id and with its group."""
    url = f"http://127.0.0.1:{port}"
    with (log or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen(
            launch.argv,
            env={**os.environ, **launch.env},
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (one system call, and no other thread is about)
        )
        try:
            deadline = time.monotonic() + patience_s
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")[-3000:] if log else ""
                    raise AssertionError(f"the engine did not start (status {process.poll()}):\n{said}")
                time.sleep(0.05)
            yield url
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _end_with_parent() -> None:
    """A test run that is killed leaves no engine behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False
