"""Faults: requests against services that go 0-1-0 while their engines are killed at random moments.

    python bench/chaos.py --requests 10000 --openvino 2000 --cycles 200

Starts a daemon on a free loopback port and a temporary state folder, applies services of the fake engine and one of
OpenVINO with the default model, and drives three things at once: clients that send requests (plain and streamed, each
with an id of its own), a hand that takes services to zero (stopped or parked, in turns), and a killer that sends
SIGKILL to engine processes, each kill in a log.

Afterwards the event log is held against what the clients and the killer saw:

  lost            a request that was neither answered whole nor told of a failure: none
  answered twice  a request id with two ends: none
  ended once      every request of the clients stands in the event log exactly once, with an outcome
  tokens          the tokens of the answers that carried a usage are the tokens of the log
  kills           every kill of a replica that was alive has its `replica.failed`

Bounded: it ends by itself after --deadline seconds, stops the daemon by its process id, and removes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import loadclient
import record

HOST = "127.0.0.1"


@dataclass
class Sent:
    """One request and what its client saw."""

    id: str
    service: str
    stream: bool
    answer: loadclient.Answer


@dataclass
class Story:
    """What the clients, the hand and the killer did."""

    sent: list[Sent] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    stops_asked: int = 0
    parks_asked: int = 0


class Daemon:
    """`ironloom up` in a process of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "ironloom.cli", "up", "--port", str(self.port), "--state", str(self.state)]
        with (self.state / "chaos-daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(300):
            try:
                self.get("/readyz")
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise SystemExit("the daemon did not come up: see " + str(self.state / "chaos-daemon.log"))

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text[:1] in b"[{" else text

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://{HOST}:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())


def manifest(name: str, engine: str, model: str, *, max_replicas: int, timeout_s: int) -> dict[str, Any]:
    """An InferenceService that goes to zero."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "annotations": {
                "autoscaling.knative.dev/window": "6s",
                "autoscaling.knative.dev/initial-scale": "0",
                "ironloom.dev/park-for": "5m",
                "ironloom.dev/engine": engine,
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 0,
                "maxReplicas": max_replicas,
                "timeout": timeout_s,
                "model": {"modelFormat": {"name": "huggingface"}, "storageUri": model},
            }
        },
    }


async def client(daemon: Daemon, service: str, number: int, story: Story, rng: random.Random, *, tokens: int) -> None:
    """Send one request and keep what came back."""
    request_id = f"chaos-{service}-{number}"
    stream = rng.random() < 0.5
    body: dict[str, Any] = {
        "model": service,
        "messages": [{"role": "user", "content": f"Count to {number % 50}."}],
        "max_tokens": rng.randint(1, tokens),
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = await loadclient.send(
        HOST, daemon.port, "/v1/chat/completions", body, headers={"X-Request-Id": request_id}, timeout_s=300
    )
    story.sent.append(Sent(request_id, service, stream, answer))


async def clients(daemon: Daemon, work: list[tuple[str, int, int]], story: Story, seed: int, *, width: int) -> None:
    """Send all requests, `width` at a time, in bursts with pauses between, so that services fall idle."""
    gate = asyncio.Semaphore(width)
    rng = random.Random(seed)

    async def one(service: str, number: int, tokens: int) -> None:
        async with gate:
            await client(daemon, service, number, story, rng, tokens=tokens)

    tasks = []
    for service, number, tokens in work:
        tasks.append(asyncio.create_task(one(service, number, tokens)))
        if rng.random() < 0.02:
            await asyncio.sleep(rng.random())
        while sum(not task.done() for task in tasks[-4 * width :]) > 2 * width:
            await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    story.sent.sort(key=lambda sent: sent.id)


async def hand(daemon: Daemon, services: list[str], story: Story, seed: int, done: asyncio.Event) -> None:
    """Take services to zero, parked and stopped in turns, until the clients are done."""
    rng = random.Random(seed)
    turn = 0
    while not done.is_set():
        service = rng.choice(services)
        park = turn % 2 == 0
        try:
            await asyncio.to_thread(daemon.post, f"/api/v1/services/{service}/scale", {"replicas": 0, "park": park})
        except OSError as error:
            print(f"scale {service}: {error}", file=sys.stderr)
        story.parks_asked += park
        story.stops_asked += not park
        turn += 1
        await asyncio.sleep(rng.uniform(0.05, 0.3))


async def killer(daemon: Daemon, story: Story, seed: int, every_s: float, done: asyncio.Event) -> None:
    """Kill an engine now and then."""
    rng = random.Random(seed)
    while not done.is_set():
        await asyncio.sleep(rng.expovariate(1 / every_s))
        listed = await asyncio.to_thread(daemon.get, "/api/v1/services")
        alive = [
            (service["name"], replica)
            for service in listed
            for replica in service["replicas"]
            if replica["pid"] and replica["state"] in ("starting", "ready", "parking", "parked", "waking")
        ]
        if not alive:
            continue
        service, replica = rng.choice(alive)
        try:
            os.kill(replica["pid"], signal.SIGKILL)
        except ProcessLookupError:
            continue
        story.kills.append(
            {"at_s": time.time(), "service": service, "replica": replica["id"], "state": replica["state"]}
        )


def audit(state: Path, story: Story) -> dict[str, Any]:
    """Hold the event log against what was seen. Returns the counts; `faults` is empty when all is well."""
    connection = sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    rows: dict[str, list[sqlite3.Row]] = {}
    for row in connection.execute("SELECT * FROM requests WHERE request_id LIKE 'chaos-%'"):
        rows.setdefault(row["request_id"], []).append(row)
    events = list(connection.execute("SELECT * FROM events ORDER BY seq"))
    connection.close()
    faults: list[str] = []
    outcomes: Counter[str] = Counter()
    client_side: Counter[str] = Counter()
    client_tokens = log_tokens = 0
    for sent in story.sent:
        answer = sent.answer
        seen = "answered" if answer.done else "told" if answer.told else "lost"
        client_side[seen] += 1
        if seen == "lost":
            faults.append(f"{sent.id} was lost: status {answer.status}, {answer.error or 'cut'}, {answer.events[-1:]}")
        ended = rows.get(sent.id, [])
        if len(ended) != 1:
            faults.append(f"{sent.id} stands {len(ended)} times in the event log")
            continue
        row = ended[0]
        outcomes[str(row["outcome"])] += 1
        if (row["outcome"] == "ok") != (seen == "answered"):
            faults.append(f"{sent.id}: the client was {seen}, the log says {row['outcome']} ({answer.status})")
        if seen == "answered":
            usage = answer.usage or {}
            client_tokens += usage.get("completion_tokens", 0)
            log_tokens += row["completion_tokens"]
            if usage.get("completion_tokens") != row["completion_tokens"]:
                faults.append(f"{sent.id}: the client got {usage}, the log has {row['completion_tokens']}")
    failed = Counter(event["replica"] for event in events if event["kind"] == "replica.failed")
    ended_by_us = Counter(
        event["replica"] for event in events if event["kind"] in ("replica.stopping", "replica.stopped")
    )
    unmatched = [kill for kill in story.kills if not failed[kill["replica"]] and not ended_by_us[kill["replica"]]]
    faults += [f"the kill of {kill['replica']} ({kill['state']}) is not in the event log" for kill in unmatched]
    faults += [f"{replica} failed {count} times" for replica, count in failed.items() if count > 1]
    kinds = Counter(event["kind"] for event in events)
    return {
        "requests": len(story.sent),
        "client": dict(client_side),
        "outcomes": dict(outcomes),
        "completion_tokens": {"clients": client_tokens, "event_log": log_tokens},
        "kills": len(story.kills),
        "kills_by_state": dict(Counter(kill["state"] for kill in story.kills)),
        "replicas_failed": sum(failed.values()),
        "stopped": kinds["replica.stopped"],
        "parked": kinds["replica.parked"],
        "started": kinds["replica.starting"],
        "woken": kinds["replica.waking"],
        "ready": kinds["replica.ready"],
        "retries": sum(row["num_retries"] or 0 for ended in rows.values() for row in ended),
        "faults": faults,
    }


async def run(options: argparse.Namespace, daemon: Daemon, fake_model: Path) -> Story:
    """The story, bounded by the deadline."""
    fakes = [f"fake-{number}" for number in range(options.services)]
    manifests = [
        manifest(name, "fake", f"file://{fake_model}", max_replicas=1 + number % 2, timeout_s=120)
        for number, name in enumerate(fakes)
    ]
    services = list(fakes)
    if options.openvino:
        manifests.append(manifest("real", "openvino", options.model, max_replicas=1, timeout_s=240))
        services.append("real")
    daemon.post("/api/v1/apply", {"manifests": manifests})
    rng = random.Random(options.seed)
    work = [(rng.choice(fakes), number, 24) for number in range(options.requests - options.openvino)]
    real = [("real", number, 6) for number in range(options.openvino)]
    story, done = Story(), asyncio.Event()
    hands = [
        asyncio.create_task(hand(daemon, services, story, options.seed + 1, done)),
        asyncio.create_task(killer(daemon, story, options.seed + 2, options.kill_every, done)),
    ]
    try:
        async with asyncio.timeout(options.deadline):
            await asyncio.gather(
                clients(daemon, work, story, options.seed + 3, width=32),
                clients(daemon, real, story, options.seed + 4, width=8),
            )
            while options.cycles and min(story.parks_asked, story.stops_asked) < options.cycles:
                await asyncio.sleep(0.5)
    finally:
        done.set()
        for task in hands:
            task.cancel()
        await asyncio.gather(*hands, return_exceptions=True)
    return story


def main() -> int:
    """Run it, print the audit, and fail when there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=10_000, help="requests in all")
    parser.add_argument("--openvino", type=int, default=2_000, help="of them, to OpenVINO")
    parser.add_argument("--services", type=int, default=6, help="services of the fake engine")
    parser.add_argument("--cycles", type=int, default=200, help="go on until so many parks and stops were asked for")
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds between kills, on average")
    parser.add_argument("--deadline", type=float, default=1800.0)
    parser.add_argument("--model", default="hf://HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ironloom-chaos-") as folder:
        state = Path(folder) / "state"
        state.mkdir()
        fake_model = Path(folder) / "fake.json"
        fake_model.write_text(json.dumps({"token_delay_s": 0.002}))
        daemon = Daemon(state)
        daemon.start()
        started = time.monotonic()
        try:
            story = asyncio.run(run(options, daemon, fake_model))
        finally:
            status = daemon.stop()
        result = audit(state, story)
        result["seconds"] = round(time.monotonic() - started, 1)
        result["daemon_exit_status"] = status
        if result["faults"]:
            tail = (state / "chaos-daemon.log").read_text(errors="replace").splitlines()[-30:]
            print("\n".join(tail), file=sys.stderr)
    print(json.dumps({**result, "faults": result["faults"][:20]}, indent=1))
    if options.write:
        print(
            record.write(options.write, {**result, "faults": result["faults"][:200]}, distributions=["openvino-genai"])
        )
    return 1 if result["faults"] or status else 0


if __name__ == "__main__":
    sys.exit(main())
