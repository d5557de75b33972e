"""Starts that the world spoils: a port that another program took, model files that are not what they say."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Running, fake_manifest
from tests.fakes.weights import config, gguf_file, safetensors_file


def test_a_port_that_another_program_takes_during_a_start_costs_only_another_try(daemon: Running) -> None:
    daemon.apply(args=("--start-delay-s=1",))
    port = daemon.until(
        lambda: next((r["port"] for r in daemon.service()["replicas"] if r["pid"]), None), "a replica with a port"
    )
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        assert daemon.chat()[0] == 200
        (replica,) = daemon.service()["replicas"]
        assert replica["port"] != port
    assert "replica.failed" not in daemon.events("demo")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon with a good service, to which the bad ones come and go."""
    daemon = Running(tmp_path_factory.mktemp("bad") / "state").start()
    daemon.apply("good", min_replicas=1)
    yield daemon
    assert daemon.stop() == 0


_GGUF = gguf_file({"general.architecture": "llama", "llama.context_length": 512})
_SAFETENSORS = safetensors_file({"model.weight": (64, 64)})


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        pytest.param("model.gguf", _GGUF[: len(_GGUF) // 2], "model.gguf", id="GGUF cut"),
        pytest.param("model.gguf", _GGUF[:6], "model.gguf", id="GGUF cut in its head"),
        pytest.param("model.gguf", b"GGML" + _GGUF[4:], "model.gguf", id="GGUF with another magic"),
        pytest.param("model.gguf", _GGUF[:8] + b"\xff" * 16 + _GGUF[24:], "model.gguf", id="GGUF with absurd counts"),
        pytest.param("model.gguf", b"", "model.gguf", id="GGUF empty"),
        pytest.param("model.safetensors", _SAFETENSORS[:-100], "model.safetensors", id="safetensors cut"),
        pytest.param("model.safetensors", _SAFETENSORS[:20], "model.safetensors", id="safetensors cut in its head"),
        pytest.param("model.safetensors", b"\xff" * 8 + _SAFETENSORS[8:], "model.safetensors", id="absurd head length"),
        pytest.param("model.safetensors", b"", "model.safetensors", id="safetensors empty"),
        pytest.param("pytorch_model.bin", b"\x80\x04.", "pickle", id="a pickle"),
    ],
)
def test_a_corrupt_model_file_is_refused_and_nothing_is_applied(
    shared: Running, tmp_path: Path, name: str, data: bytes, told: str
) -> None:
    manifest = _of_file(tmp_path / "model", name, data)
    status, answer = shared.request("POST", "/api/v1/apply", {"manifests": [fake_manifest("beside"), manifest]})
    assert status == 400
    assert told in answer["error"]["message"]
    assert [service["name"] for service in shared.get("/api/v1/services")] == ["good"]
    assert "Traceback" not in shared.log()


def _of_file(folder: Path, name: str, data: bytes, service: str = "bad") -> dict[str, Any]:
    """A service at zero, of a model that has this file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    if not name.endswith("gguf"):
        (folder / "config.json").write_bytes(config())
    manifest = fake_manifest(
        service, annotations={"ironloom.dev/engine": "openvino", "autoscaling.knative.dev/initial-scale": "0"}
    )
    path = folder / name if name.endswith("gguf") else folder
    manifest["spec"]["predictor"]["model"]["storageUri"] = f"file://{path}"
    return manifest


@pytest.mark.parametrize(("name", "right"), [("model.gguf", _GGUF), ("model.safetensors", _SAFETENSORS)])
def test_a_model_that_was_spoiled_after_its_apply_is_told_at_once_and_not_tried_again(
    shared: Running, tmp_path: Path, name: str, right: bytes
) -> None:
    bad = name.replace(".", "-")
    manifest = _of_file(tmp_path / "model", name, right, bad)
    assert shared.request("POST", "/api/v1/apply", {"manifests": [manifest]})[0] == 200
    (tmp_path / "model" / name).write_bytes(right[:20])
    for _ in range(3):
        status, answer = shared.chat(bad, timeout_s=10)
        assert (status, answer["error"]["code"]) == (503, "start_failed")
        assert name in answer["error"]["message"]
    seen = shared.service(bad)
    assert seen["state"] == "failed"
    assert "it is not tried again until it is applied again" in seen["reason"]
    assert "Traceback" not in seen["reason"]
    assert "internal error" not in seen["reason"]
    assert shared.events(bad).count("replica.failed") == 1
    assert shared.request("POST", "/api/v1/apply", {"manifests": [manifest]})[1]["services"][0]["action"] == "unchanged"
    assert shared.chat(bad, timeout_s=10)[0] == 503
    assert shared.events(bad).count("replica.failed") == 2
    manifest["metadata"]["annotations"]["ironloom.dev/engine"] = "fake"
    assert shared.request("POST", "/api/v1/apply", {"manifests": [manifest]})[0] == 200
    assert shared.chat(bad)[0] == 200
    assert shared.chat("good")[0] == 200
    assert shared.request("DELETE", f"/api/v1/services/{bad}")[0] == 200
    assert "Traceback" not in shared.log()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("pvc://claim/model", "no folder is given for it"),
        ("file:///nowhere/model", "there is no folder or file /nowhere/model"),
        ("ftp://host/model", 'has the scheme "ftp"'),
    ],
)
def test_a_model_that_is_not_there_is_refused_and_nothing_is_applied(shared: Running, uri: str, told: str) -> None:
    manifest = fake_manifest("bad", annotations={"ironloom.dev/engine": "openvino"})
    manifest["spec"]["predictor"]["model"]["storageUri"] = uri
    status, answer = shared.request("POST", "/api/v1/apply", {"manifests": [manifest]})
    assert status == 400
    assert told in answer["error"]["message"]
    assert [service["name"] for service in shared.get("/api/v1/services")] == ["good"]


def test_a_service_whose_engine_was_corrupt_comes_up_once_its_manifest_is_right(daemon: Running) -> None:
    daemon.apply(min_replicas=1, args=("--crash-at-start=4",))
    daemon.wait_for("demo", "failed")
    daemon.apply(min_replicas=1)
    pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert daemon.chat()[0] == 200
