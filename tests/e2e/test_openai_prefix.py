"""Every path of `/v1` under `/openai/v1` too, as KServe's Hugging Face server has them: the same answers, through the
real daemon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.e2e.running import Running

TURN = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
ROW = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": %b}\n'
CHAT_BODY = b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}'

Call = tuple[str, str, Any]
"""Method, path with the names of `made` in it, JSON body."""

CALLS: list[Call] = [
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/{model}", None),
    ("GET", "/v1/models/nobody", None),
    ("POST", "/v1/chat/completions", TURN),
    ("POST", "/v1/chat/completions", {**TURN, "stream": True}),
    ("POST", "/v1/chat/completions", {**TURN, "model": "nobody"}),
    ("POST", "/v1/completions", {"model": "demo", "prompt": "hi", "max_tokens": 4}),
    ("POST", "/v1/embeddings", {"model": "demo", "input": "hi"}),
    ("POST", "/v1/responses", {"model": "demo", "input": "hi", "max_output_tokens": 4}),
    ("POST", "/v1/responses", {"model": "demo", "input": "hi", "stream": True, "max_output_tokens": 4}),
    ("POST", "/v1/responses", {"model": "demo", "input": "hi", "store": True}),
    ("POST", "/v1/messages", TURN),
    ("POST", "/v1/messages", {**TURN, "stream": True}),
    ("POST", "/v1/messages", {"model": "demo"}),
    ("POST", "/v1/messages/count_tokens", {"model": "demo", "messages": TURN["messages"]}),
    ("POST", "/tokenize", {"model": "demo", "prompt": "hi"}),
    ("POST", "/detokenize", {"model": "demo", "tokens": [1]}),
    ("GET", "/v1/files", None),
    ("GET", "/v1/files/{file}", None),
    ("GET", "/v1/files/{file}/content", None),
    ("GET", "/v1/files/file-none", None),
    ("GET", "/v1/batches", None),
    ("GET", "/v1/batches/{batch}", None),
    ("GET", "/v1/batches/batch-none", None),
    ("POST", "/v1/batches", {"input_file_id": "file-none"}),
    ("POST", "/v1/batches/{batch}/cancel", None),
]
UPLOADS = {("POST", "/v1/files"), ("DELETE", "/v1/files/{id}")}
"""Calls that `batch_through` and its test make under both prefixes."""


def still(answer: Any, *, key: str = "") -> Any:
    """An answer without what differs from one call to the next: ids, and times."""
    if isinstance(answer, dict):
        return {name: still(value, key=name) for name, value in answer.items()}
    if isinstance(answer, list):
        return [still(value) for value in answer]
    if isinstance(answer, bytes):  # an event stream: the kinds of its events
        return [line for line in answer.decode().splitlines() if not line.startswith("data: {")]
    is_time = key.endswith("_at") or key == "created"
    is_id = key == "id" and isinstance(answer, str) and answer != "demo"
    return type(answer).__name__ if is_time or is_id else answer


def batch_through(daemon: Running, prefix: str) -> dict[str, str]:
    """Upload a file, run it as a batch until it is done, and read it; the ids. Every call under the prefix."""
    file = daemon.upload(ROW % CHAT_BODY, prefix=prefix)
    order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    status, batch = daemon.request("POST", f"{prefix}/v1/batches", order)
    assert status == 200, batch
    path = f"{prefix}/v1/batches/{batch['id']}"
    done = daemon.until(lambda: (b := daemon.get(path))["status"] == "completed" and b, "the batch", 60)
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert b'"custom_id":"a"' in daemon.get(f"{prefix}/v1/files/{done['output_file_id']}/content").replace(b" ", b"")
    return {"model": "demo", "file": file, "batch": batch["id"]}


def test_each_path_answers_under_openai_as_it_does_without(daemon: Running) -> None:
    described = daemon.get("/openapi.json")["paths"]
    served = {(method.upper(), path) for path in described if path.startswith("/v1/") for method in described[path]}
    called = {(method, re.sub("{file}|{batch}", "{id}", path)) for method, path, _ in CALLS}
    assert served - called - UPLOADS == set(), "a path that is new stands in the table too"

    daemon.apply("demo")
    made = batch_through(daemon, "")
    for method, path, body in CALLS:
        plain = daemon.request(method, path.format(**made), body)
        twin = daemon.request(method, "/openai" + path.format(**made), body)
        assert (twin[0], still(twin[1])) == (plain[0], still(plain[1])), f"{method} {path}"
        assert plain[0] < 500, f"{method} {path}: {plain[1]}"


def test_a_batch_goes_from_upload_to_answers_under_openai_alone(daemon: Running) -> None:
    daemon.apply("demo")
    made = batch_through(daemon, "/openai")
    assert daemon.get(f"/v1/batches/{made['batch']}")["id"] == made["batch"], "one batch, under both names"
    status, gone = daemon.request("DELETE", f"/openai/v1/files/{made['file']}")
    assert (status, gone["deleted"]) == (200, True)
    assert daemon.request("GET", f"/v1/files/{made['file']}")[0] == 404


def test_the_doors_under_openai_want_the_same_key(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state", "--require-keys").start()
    try:
        for method, path, body in CALLS:
            for prefix in ("", "/openai"):
                nobody = {"Authorization": "Bearer none"}
                assert daemon.request(method, prefix + path, body, headers=nobody)[0] == 401, f"{method} {prefix}{path}"
    finally:
        daemon.stop()
