"""From zero to the first streamed token, beside the bare engine's own cold start.

    python bench/zero.py --rounds 30 --write zero-to-first-token

Interleaved rounds of four things, on one machine, with the page cache warm:

  bare      the engine's own command in a fresh process: process start to the first streamed token, its /health
            asked every 10 ms, the request sent at once when it answers
  stopped   a service at zero, stopped: request sent to the gateway, to the first streamed token
  parked    the same service, parked
  ready     the same request to the ready service

It also tells the memory (proportional set size) of the engine's process ready and parked. The goals: stopped no more
than bare + 0.1 s; stopped at most 1.0 s; parked at most 0.5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import loadclient
import record
from chaos import HOST, Daemon, manifest

BODY = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 4,
    "temperature": 0,
    "stream": True,
}


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def first_token_s(port: int, model: str, timeout_s: float = 120.0) -> float:
    """Seconds from the request to its first token. Raises when there is none."""
    body = {**BODY, "model": model}
    answer = asyncio.run(loadclient.send(HOST, port, "/v1/chat/completions", body, timeout_s=timeout_s))
    if not answer.done or answer.first_token_s is None:
        raise SystemExit(f"no token: status {answer.status} {answer.error} {answer.body[:300]!r} {answer.events[-1:]}")
    return answer.first_token_s


def bare(command: list[str], env: dict[str, str], name: str) -> float:
    """Start the engine's own command and time it from its start to the first token."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    words = list(command)
    words[words.index("--port") + 1] = str(port)
    started = time.monotonic()
    process = subprocess.Popen(words, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                if process.poll() is not None:
                    raise SystemExit(f"the engine ended: {words}") from None
                time.sleep(0.01)
        waited = time.monotonic() - started
        return waited + first_token_s(port, name)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def replica(daemon: Daemon, name: str) -> dict[str, Any] | None:
    """The service's replica, if it has one."""
    found: list[dict[str, Any]] = daemon.get(f"/api/v1/services/{name}")["replicas"]
    return found[0] if found else None


def wait_for(daemon: Daemon, name: str, state: str, patience_s: float = 60.0) -> None:
    """Wait until the service is in this state."""
    for _ in range(int(patience_s / 0.02)):
        service = daemon.get(f"/api/v1/services/{name}")
        settled = state != "parked" or {replica["state"] for replica in service["replicas"]} == {"parked"}
        if service["state"] == state and settled:
            return
        time.sleep(0.02)
    raise SystemExit(f"{name} did not become {state}: {daemon.get(f'/api/v1/services/{name}')}")


def launch_of(engine_name: str, uri: str, name: str) -> tuple[list[str], dict[str, str]]:
    """The command that starts the engine by itself, as its adapter says it for this machine."""
    from ironloom.fleet.machine import this_machine
    from ironloom.serve.engines import engine
    from ironloom.serve.engines.base import LaunchOrder
    from ironloom.serve.models.cache import default_cache_dir
    from ironloom.serve.models.pull import locate
    from ironloom.workload.serving import Serving

    cache_dir = default_cache_dir()
    model = locate(uri, cache_dir=cache_dir)
    if model is None:
        raise SystemExit(f"{uri} is not in the cache")
    order = LaunchOrder(
        model=model,
        serving=Serving(name=name, kind="InferenceService", model_uri=uri),
        port=1,
        num_threads=this_machine().num_physical_cpus,
        cache_dir=cache_dir,
    )
    launch = engine(engine_name).launch(order)
    return list(launch.argv), dict(launch.env)


def main() -> int:
    """Run the rounds and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--model", default="hf://HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"bare": [], "stopped": [], "parked": [], "ready": []}
    memory: dict[str, list[int]] = {"ready": [], "parked": []}
    with tempfile.TemporaryDirectory(prefix="ironloom-zero-") as folder:
        daemon = Daemon(Path(folder))
        daemon.start()
        name = "zero"
        try:
            declared = manifest(name, options.engine, options.model, max_replicas=1, timeout_s=240)
            declared["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "10m"
            daemon.post("/api/v1/apply", {"manifests": [declared]})
            first_token_s(daemon.port, name)
            command, env = launch_of(options.engine, options.model, name)
            for number in range(options.rounds):
                times["ready"].append(first_token_s(daemon.port, name))
                memory["ready"].append(pss_bytes((replica(daemon, name) or {})["pid"]))
                daemon.post(f"/api/v1/services/{name}/scale", {"replicas": 0, "park": True})
                wait_for(daemon, name, "parked")
                memory["parked"].append(pss_bytes((replica(daemon, name) or {})["pid"]))
                times["parked"].append(first_token_s(daemon.port, name))
                daemon.post(f"/api/v1/services/{name}/scale", {"replicas": 0, "park": False})
                wait_for(daemon, name, "zero")
                times["bare"].append(bare(command, env, name))
                times["stopped"].append(first_token_s(daemon.port, name))
                print(f"round {number + 1}: " + ", ".join(f"{key} {value[-1]:.3f}" for key, value in times.items()))
        finally:
            daemon.stop()
    summary = {
        key: {
            "median_s": round(record.quantile(values, 0.5), 4),
            "min_s": round(min(values), 4),
            "p90_s": round(record.quantile(values, 0.9), 4),
            "n": len(values),
            "raw_s": [round(value, 4) for value in values],
        }
        for key, values in times.items()
    }
    added = [a - b for a, b in zip(times["stopped"], times["bare"], strict=True)]
    results = {
        "seconds": summary,
        "stopped_minus_bare_median_s": round(record.quantile(added, 0.5), 4),
        "pss_mib": {key: round(record.quantile(values, 0.5) / 2**20, 1) for key, values in memory.items()},
        "engine": options.engine,
        "model": options.model,
    }
    print(json.dumps({**results, "seconds": {k: {**v, "raw_s": "…"} for k, v in summary.items()}}, indent=1))
    if options.write:
        print(record.write(options.write, results, distributions=["openvino-genai", "uvloop"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
