"""A chat page's server asks for the list of models every so often (Open WebUI does), with a key and without Origin."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.running import Running

POLL_S = 0.02


@contextmanager
def polling(daemon: Running, key: str) -> Iterator[list[tuple[int, Any]]]:
    """Each answer to GET /v1/models while the block runs."""
    answers: list[tuple[int, Any]] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            answers.append(daemon.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}))
            done.wait(POLL_S)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def test_a_list_that_is_polled_starts_nothing_and_names_the_service_at_zero_and_while_it_starts(
    tmp_path: Path,
) -> None:
    daemon = Running(tmp_path / "state", "--require-keys").start()
    try:
        status, made = daemon.request("POST", "/api/v1/keys", {"name": "page", "scope": "inference", "services": []})
        assert status == 200, made
        key = made["key"]
        daemon.apply(
            args=("--start-delay-s=0.5", "--preload=false"), annotations={"autoscaling.knative.dev/initial-scale": "0"}
        )
        with polling(daemon, key) as answers:
            daemon.until(lambda: len(answers) >= 20, "twenty polls")
            assert daemon.service("demo")["state"] == "zero"
            assert "replica.starting" not in daemon.events("demo")
            num_at_zero, began_s = len(answers), time.monotonic()
            assert daemon.chat()[0] == 200
            assert time.monotonic() - began_s > 0.4, "it was held while the engine loaded"
            num_while_starting = len(answers) - num_at_zero
        assert num_while_starting >= 3
        assert {status for status, _ in answers} == {200}
        assert {tuple(model["id"] for model in body["data"]) for _, body in answers} == {("demo",)}
        assert daemon.events("demo").count("replica.starting") == 1
        assert [row["path"] for row in daemon.requests("demo")] == ["/v1/chat/completions"]
    finally:
        daemon.stop()
