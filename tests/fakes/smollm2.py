"""The default model in OpenVINO's form, and its engine server, for tests that start a real engine."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironloom.serve.engines.openvino import ENGINE
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.progress import silent
from ironloom.serve.models.pull import locate, pull
from ironloom.serve.models.source import parse_model

NAME = "smollm2-135m-instruct"


def openvino_model() -> Path:
    """Its folder: fetched into the cache and converted at first use."""
    cache_dir = default_cache_dir()
    uri = parse_model(NAME, shorthands=True).uri
    model = locate(uri, cache_dir=cache_dir) or pull(uri, cache_dir=cache_dir, progress=silent)
    conversion = ENGINE.conversion(model, cache_dir)
    if conversion is not None:
        run_conversion(conversion, cache_dir, silent)
    return ENGINE.folder(model, cache_dir)


@contextmanager
def openvino_server(
    folder: Path, *arguments: str, name: str = "m", log: Path | None = None
) -> Iterator[tuple[str, int]]:
    """A server process; gives its URL and pid, and ends it."""
    port = free_port()
    command = [
        sys.executable, "-m", "ironloom.serve.engines.programs.openvino_server",
        "--model", str(folder), "--served-name", name, "--port", str(port), *arguments,
    ]  # fmt: skip
    with log.open("wb") if log else open("/dev/null", "wb") as output:  # noqa: PTH123
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health", process)
            yield url, process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], patience_s: float = 120.0) -> None:
    """Until it answers 200. Raises RuntimeError when the process ends before, TimeoutError when it takes too long."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url} answered {error.code}") from error
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(url)


def free_port() -> int:
    """A port that nothing listens on now."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
