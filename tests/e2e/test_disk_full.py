"""A full disk under the state folder, and under the models: told with numbers, survived, and nothing lost."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.e2e.running import Running, fake_manifest, processes_of
from tests.fakes.hub import fake_hub
from tests.fakes.weights import config, safetensors_file


class SmallDisk:
    """A file system of a few MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Until nothing more fits."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        assert os.statvfs(self.path).f_bavail == 0

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk to fill: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_with_a_full_disk_requests_are_answered_changes_are_refused_and_the_log_is_whole_after(
    small_disk: SmallDisk,
) -> None:
    daemon = Running(small_disk.path / "state").start()
    try:
        daemon.apply(min_replicas=1)
        daemon.apply("zero", annotations={"autoscaling.knative.dev/initial-scale": "0"})
        daemon.wait_for("demo", "ready")
        small_disk.fill()
        for number in range(400):
            assert daemon.chat(request_id=f"full-{number}", max_tokens=2)[0] == 200
        daemon.until(lambda: daemon.get("/api/v1/status")["problems"], "the status to tell of it")
        assert "full" in daemon.get("/api/v1/status")["problems"][0]
        for path, body in (
            ("/api/v1/keys", {"name": "k", "scope": "inference", "services": []}),
            ("/api/v1/apply", {"manifests": [fake_manifest("new")]}),
            ("/api/v1/services/demo/scale", {"replicas": 1}),
        ):
            status, answer = daemon.request("POST", path, body)
            assert (status, answer["error"]["code"]) == (507, "disk_full"), answer
        assert daemon.request("GET", "/api/v1/services/new")[0] == 404
        assert daemon.service()["scaling"]["pinned"] is None
        status, answer = daemon.chat("zero")
        assert status == 503
        assert "cannot be written down" in answer["error"]["message"]
        small_disk.free()
        assert daemon.chat("zero")[0] == 200
        daemon.until(lambda: not daemon.get("/api/v1/status")["problems"], "the end of the problem")
        assert daemon.scale("demo", 1)["scaling"]["pinned"] == 1
        told = [event for event in daemon.get("/api/v1/events?limit=1000") if event["kind"] == "log.recovered"]
        assert [event["data"] for event in told] == [{"dropped": 0}]
        assert daemon.stop() == 0
        with closing(sqlite3.connect(daemon.state / "state.db")) as connection:
            rows = connection.execute("SELECT request_id, outcome FROM requests WHERE request_id LIKE 'full-%'")
            assert Counter(rows) == {(f"full-{number}", "ok"): 1 for number in range(400)}
        assert "Traceback" not in daemon.log()
    finally:
        daemon.stop()


def test_after_kill_9_on_a_full_disk_a_start_says_so_and_works_again_once_there_is_room(small_disk: SmallDisk) -> None:
    daemon = Running(small_disk.path / "state").start()
    try:
        daemon.apply(min_replicas=1)
        pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
        small_disk.fill()
        for number in range(200):
            assert daemon.chat(request_id=f"full-{number}", max_tokens=2)[0] == 200
        # A kill may come between an answer and its record: this one's, not those of the requests before it.
        assert daemon.chat(request_id="last", max_tokens=2)[0] == 200
        daemon.kill()
        with pytest.raises(AssertionError, match=r"cannot be (written|used)(.|\n)*hint: free disk space"):
            daemon.start()
        os.kill(pid, 0)
        small_disk.free()
        daemon.start()
        assert [replica["pid"] for replica in daemon.service()["replicas"]] == [pid]
        rows = Counter((row["request_id"], row["outcome"]) for row in daemon.requests("demo"))
        assert rows.pop(("last", "ok"), 0) + rows.pop(("last", "cut"), 0) == 1
        assert rows == {(f"full-{number}", "ok"): 1 for number in range(200)}
        assert "Traceback" not in daemon.log()
    finally:
        daemon.stop()
        assert not processes_of(daemon.state)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_model_that_does_not_fit_is_a_sentence_and_no_half_of_it_is_used(
    small_disk: SmallDisk, tmp_path: Path, when: str
) -> None:
    weights = safetensors_file({"model.weight": (2, 1024, 1024)})  # 8 MiB
    with fake_hub() as hub:
        hub.put("tiny/llama", {"config.json": config(), "model.safetensors": weights})
        hub.bytes_per_s = 5e6
        environ = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(small_disk.path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        daemon = Running(tmp_path / "state", environ=environ).start()
        try:
            if when == "before":
                (small_disk.path / "other").write_bytes(bytes(6 << 20))
            manifest = fake_manifest("demo", annotations={"ironloom.dev/engine": "openvino"}, min_replicas=1)
            manifest["spec"]["predictor"]["model"]["storageUri"] = "hf://tiny/llama"
            assert daemon.request("POST", "/api/v1/apply", {"manifests": [manifest]})[0] == 200
            if when == "during":
                daemon.until(lambda: any(small_disk.path.rglob("*.incomplete")), "a download")
                small_disk.fill()
            reason = daemon.wait_for("demo", "failed")["reason"]
            if when == "before":
                assert "8.0 MiB" in reason
                assert "MiB free" in reason
            else:
                assert "the disk filled up" in reason
            status, answer = daemon.chat(timeout_s=60)
            assert (status, answer["error"]["code"]) == (503, "start_failed")
            assert not list(small_disk.path.rglob("*.safetensors"))
            if when == "before":
                assert not list(small_disk.path.rglob("*.incomplete"))
            else:  # what came is kept, and the next try goes on from it
                small_disk.free()
                whole = hashlib.sha256(weights).hexdigest()
                blob = daemon.until(lambda: next(small_disk.path.rglob(whole), None), "the whole file", 40)
                assert blob.read_bytes() == weights
                assert not list(small_disk.path.rglob("*.incomplete"))
        finally:
            daemon.stop()
