"""A daemon that others can reach wants keys, whatever it was told of them."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.running import Running


def test_off_loopback_both_doors_want_a_key(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state", "--host", "0.0.0.0")
    daemon.start()
    try:
        assert daemon.key, "the daemon's own commands have theirs"
        nobody = {"Authorization": "Bearer none"}
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/api/v1/services")):
            status, _ = daemon.request(method, path, {} if method == "POST" else None, headers=nobody)
            assert status == 401, f"{method} {path}"
        assert daemon.request("GET", "/api/v1/services")[0] == 200
    finally:
        daemon.stop()


def test_on_loopback_a_name_is_let_in_once_it_is_allowed(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state", "--allow-host", "ai.local", "--allow-host", "ai.lan").start()
    try:
        for host, expected in (
            ("ai.local", 200),
            (f"ai.lan:{daemon.port}", 200),
            (f"127.0.0.1:{daemon.port}", 200),
            ("ai.local.evil.example", 403),
            ("evil.example", 403),
        ):
            for path in ("/v1/models", "/api/v1/services", "/"):
                status, answer = daemon.request("GET", path, headers={"Host": host})
                assert status == expected, f"{host} {path}: {answer}"
    finally:
        daemon.stop()
