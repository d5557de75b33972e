"""Faults: requests against services that go 0-1-0 while their engines are killed at random moments.

    python bench/chaos.py --requests 10000 --openvino 2000 --parks 200 --stops 200 --write chaos

Starts a daemon on a free loopback port and a temporary state folder and applies services of the fake engine and one
of OpenVINO with the default model. Each service lives in cycles: a burst of requests (plain and streamed, each with an
id of its own, a few of whose clients hang up), then a hand that takes it to zero, parked or stopped in turns; mostly it
waits until the service is there, sometimes the next burst comes while it is on its way. A killer sends SIGKILL to
engines in every state, at random moments, each kill in a list.

Afterwards the event log is held against what the clients and the killer saw:

  lost            a request that was neither answered whole nor told of a failure: none
  answered twice  an answer with more than one end, with parts of another answer, or with bytes after its end: none
  ended once      every request of the clients stands in the event log exactly once, with the outcome its client saw
  tokens          the log's tokens of each request are those that its client got: by the usage report, or, where the
                  answer was cut, by the events that came
  kills           every kill has its `replica.failed` with signal 9, or the `replica.stopped` that was on its way; and
                  no replica failed that was not killed
  left            no process of the daemon's, no error in its log

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
class Life:
    """A service, and what it gets."""

    name: str
    engine: str
    num_requests: int
    tokens: int
    """At most so many are asked for."""
    width: int
    """Requests at a time."""


@dataclass
class Sent:
    """One request and what its client saw."""

    id: str
    service: str
    stream: bool
    leaves: bool
    """Its client hangs up early."""
    answer: loadclient.Answer = field(default_factory=loadclient.Answer)

    @property
    def seen(self) -> str:
        if self.answer.done:
            return "answered"
        return "told" if self.answer.told else "left" if self.leaves else "lost"

    @property
    def num_tokens(self) -> int:
        """By the usage report; of an answer that was cut, one for each event."""
        if self.answer.usage is not None:
            return self.answer.usage["completion_tokens"]
        return sum(not text.startswith('{"error"') and text != "[DONE]" for text in self.answer.events)


@dataclass
class Story:
    """What the clients and the killer did, and what is wanted."""

    num_parks_wanted: int
    num_stops_wanted: int
    num_services: int
    leave_fraction: float
    sent: list[Sent] = field(default_factory=list)
    kills: list[dict[str, Any]] = field(default_factory=list)
    num_parks: int = 0
    num_stops: int = 0
    """By the event log."""
    is_late: bool = False

    def has_enough(self) -> bool:
        return self.num_parks >= self.num_parks_wanted and self.num_stops >= self.num_stops_wanted

    def lacks_both(self) -> bool:
        return (self.num_parks >= self.num_parks_wanted) == (self.num_stops >= self.num_stops_wanted)


class Daemon:
    """`ironloom up` in a process of its own."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.options = options
        self.key = ""
        """The control key, where keys are wanted."""
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "ironloom.cli", "up", "--port", str(self.port), "--state", str(self.state)]
        command += self.options
        with (self.state / "chaos-daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(300):
            try:
                self.get("/readyz")
            except OSError:
                time.sleep(0.1)
            else:
                self.key = json.loads((self.state / "daemon.json").read_text()).get("key") or ""
                return
        said = (self.state / "chaos-daemon.log").read_text(errors="replace")[-2000:]
        raise SystemExit(f"the daemon did not come up:\n{said}")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(f"http://{HOST}:{self.port}{path}"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask(
            urllib.request.Request(
                f"http://{HOST}:{self.port}{path}",
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
        )

    def _ask(self, request: urllib.request.Request) -> Any:
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read()
        return json.loads(text) if text[:1] in b"[{" else text


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


def plan(options: argparse.Namespace) -> list[Life]:
    """The services and how many requests each gets."""
    lives = [Life(f"fake-{number}", "fake", 0, tokens=24, width=12) for number in range(options.services)]
    for number in range(options.requests - options.openvino):
        lives[number % len(lives)].num_requests += 1
    if options.openvino:
        lives.append(Life("real", "openvino", options.openvino, tokens=6, width=8))
    return lives


async def client(daemon: Daemon, life: Life, number: int, story: Story, rng: random.Random) -> None:
    """Send one request and keep what came back."""
    stream = rng.random() < 0.5
    body: dict[str, Any] = {
        "model": life.name,
        "messages": [{"role": "user", "content": f"Count to {number % 50}."}],
        "max_tokens": rng.randint(1, life.tokens),
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    leaves = rng.random() < story.leave_fraction
    sent = Sent(f"chaos-{life.name}-{number}", life.name, stream, leaves)
    story.sent.append(sent)
    sent.answer = await loadclient.send(
        HOST,
        daemon.port,
        "/v1/chat/completions",
        body,
        headers={"X-Request-Id": sent.id},
        timeout_s=rng.uniform(0.002, 0.1) if leaves else 300,
    )


async def live(daemon: Daemon, life: Life, story: Story, seed: int) -> None:
    """Bursts of requests, each followed by a way to zero, until all was sent and there were enough of both."""
    rng = random.Random(seed)
    number = turn = 0
    num_cycles = max(1, story.num_parks_wanted + story.num_stops_wanted)
    mean = max(1, life.num_requests * story.num_services // num_cycles)
    while number < life.num_requests or not story.has_enough():
        left = max(1, life.num_requests - number)
        size = min(left, rng.randint(1, 2 * mean))
        gate = asyncio.Semaphore(life.width)

        async def one(number: int, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                await client(daemon, life, number, story, rng)

        await asyncio.gather(*(one(number + place) for place in range(size)))
        number += size
        if not await reaches(daemon, life.name, {"ready"}, 30.0):
            continue
        park = turn % 2 == 0 if story.lacks_both() else story.num_parks < story.num_parks_wanted
        turn += 1
        path = f"/api/v1/services/{life.name}/scale"
        await asyncio.to_thread(daemon.post, path, {"replicas": 0, "park": park})
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 0.1))  # the next burst meets it on its way down
        else:
            await reaches(daemon, life.name, {"parked"} if park else {"zero"}, 15.0)


async def reaches(daemon: Daemon, service: str, states: set[str], patience_s: float) -> bool:
    """Wait until the service is in one of these states, with nothing to do."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        seen = await asyncio.to_thread(daemon.get, f"/api/v1/services/{service}")
        if seen["state"] in states and not seen["in_flight"] and not seen["held"]:
            return True
        await asyncio.sleep(0.05)
    return False


async def watch(daemon: Daemon, story: Story) -> None:
    """Count parks and stops as the event log has them."""
    after = 0
    while True:
        events = await asyncio.to_thread(daemon.get, f"/api/v1/events?after={after}&limit=1000")
        assert len(events) < 1000, "more events between two looks than one look shows"
        for event in events:
            story.num_parks += event["kind"] == "replica.parked"
            story.num_stops += event["kind"] == "replica.stopped"
            after = event["seq"]
        await asyncio.sleep(0.5)


async def killer(daemon: Daemon, story: Story, seed: int, prefix: str, every_s: float) -> None:
    """Kill an engine of the services with this prefix now and then.

    States that pass quickly would hardly ever be hit, so each state that is there has the same chance. A service whose
    start was killed is let become ready once before the next kill: a loop of failing starts is another test's matter.
    """
    rng = random.Random(seed)
    killed: set[str] = set()
    spared: set[str] = set()
    while True:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        listed = await asyncio.to_thread(daemon.get, "/api/v1/services")
        spared -= {service["name"] for service in listed if service["state"] in ("ready", "parked")}
        alive = [
            (service["name"], replica)
            for service in listed
            for replica in service["replicas"]
            if service["name"].startswith(prefix)
            and service["name"] not in spared
            and replica["pid"]
            and replica["state"] not in ("stopped", "failed")
            and replica["id"] not in killed
        ]
        if not alive:
            continue
        state = rng.choice(sorted({replica["state"] for _, replica in alive}))
        service, replica = rng.choice([one for one in alive if one[1]["state"] == state])
        try:
            environ = Path(f"/proc/{replica['pid']}/environ").read_bytes()
            if f"IRONLOOM_REPLICA={replica['id']}".encode() not in environ:
                continue  # gone since, its id another's
            os.kill(replica["pid"], signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            continue
        killed.add(replica["id"])
        if state in ("starting", "waking"):
            spared.add(service)
        story.kills.append({"at_s": time.time(), "service": service, "replica": replica["id"], "state": state})


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
    seen_by_clients, outcomes, told = Counter[str](), Counter[str](), Counter[str]()
    client_tokens = log_tokens = 0
    for sent in story.sent:
        seen = sent.seen
        seen_by_clients[seen] += 1
        if seen == "lost":
            faults.append(f"{sent.id} was lost: {sent.answer}")
        faults += [f"{sent.id}: {fault}" for fault in doubled(sent)]
        ended = rows.get(sent.id, [])
        if len(ended) != 1:
            if ended or seen != "left":  # who hangs up early enough was never a request
                faults.append(f"{sent.id} stands {len(ended)} times in the event log; its client was {seen}")
            continue
        (row,) = ended
        outcome = str(row["outcome"])
        outcomes[outcome] += 1
        if seen == "told":
            told[f"{sent.answer.status} {outcome}"] += 1
        failures = {"engine_failed", "timed_out", "rejected"}
        allowed = {"answered": {"ok"}, "told": failures, "left": {"client_gone", "ok", *failures}}
        if outcome not in allowed.get(seen, set()):
            faults.append(f"{sent.id}: the client was {seen}, the log says {outcome} ({sent.answer})")
        if seen in ("answered", "told"):
            client_tokens += sent.num_tokens
            log_tokens += row["completion_tokens"]
            if sent.num_tokens != row["completion_tokens"]:
                faults.append(f"{sent.id}, {seen}: the client got {sent.num_tokens} tokens, the log says {dict(row)}")
    stray = sorted(set(rows) - {sent.id for sent in story.sent})
    faults += [f"{request_id} stands in the event log, and nobody sent it" for request_id in stray]
    kinds = Counter(event["kind"] for event in events)
    matched, kill_faults = match_kills(story, events)
    return {
        "requests": len(story.sent),
        "requests_by_engine": dict(Counter("openvino" if s.service == "real" else "fake" for s in story.sent)),
        "clients": dict(seen_by_clients),
        "told": dict(told),
        "outcomes": dict(outcomes),
        "completion_tokens": {"clients": client_tokens, "event_log": log_tokens},
        "kills": len(story.kills),
        "kills_by_state": dict(Counter(kill["state"] for kill in story.kills)),
        "kills_by_engine": dict(Counter("openvino" if k["service"] == "real" else "fake" for k in story.kills)),
        "kills_in_event_log": matched,
        "events": {kind: kinds[kind] for kind in sorted(kinds) if kind.startswith("replica.")},
        "openvino_events": dict(Counter(e["kind"] for e in events if e["service"] == "real")),
        "retries": sum(row["num_retries"] or 0 for ended in rows.values() for row in ended),
        "faults": faults + kill_faults,
    }


def doubled(sent: Sent) -> list[str]:
    """What shows that an answer was given more than once, or mixed from two."""
    answer = sent.answer
    faults = []
    if answer.num_extra_bytes:
        faults.append(f"{answer.num_extra_bytes} bytes after the answer's end")
    if answer.events.count("[DONE]") > 1:
        faults.append("more than one [DONE]")
    ids = {json.loads(text).get("id") for text in answer.events if text.startswith('{"id"')}
    if len(ids) > 1:
        faults.append(f"parts of several answers: {ids}")
    if answer.done and answer.told:
        faults.append("answered and told of a failure")
    return faults


def match_kills(story: Story, events: list[sqlite3.Row]) -> tuple[dict[str, int], list[str]]:
    """Each kill by the event that ended its replica, and what does not match."""
    ends: dict[str, list[sqlite3.Row]] = {}
    for event in events:
        if event["kind"] in ("replica.failed", "replica.stopped"):
            ends.setdefault(event["replica"], []).append(event)
    matched: Counter[str] = Counter()
    faults = [f"{replica} ended {len(found)} times" for replica, found in ends.items() if len(found) > 1]
    for kill in story.kills:
        found = ends.get(kill["replica"], [])
        if not found:
            faults.append(f"the kill of {kill['replica']} ({kill['state']}) is not in the event log")
            continue
        matched[found[0]["kind"]] += 1
        if found[0]["kind"] == "replica.failed" and json.loads(found[0]["data"]).get("exit_status") != -9:
            faults.append(f"{kill['replica']} was killed, and the log says: {found[0]['message'][:200]}")
    killed = {kill["replica"] for kill in story.kills}
    for replica, found in ends.items():
        if replica not in killed and found[0]["kind"] == "replica.failed":
            faults.append(f"{replica} failed, and nobody killed it: {found[0]['message'][:400]}")
    begun = {event["replica"] for event in events if event["kind"] == "replica.starting"}
    faults += [f"{replica} never ended" for replica in sorted(begun - ends.keys())]
    return dict(matched), faults


def left_behind(state: Path) -> list[str]:
    """Processes that carry the state folder's mark, and errors that the daemon logged."""
    marker = (state / "id").read_text().strip().encode()
    faults = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"IRONLOOM_REPLICA=" in environ and marker in environ:
                faults.append(f"process {entry.name} was left: {command.replace(bytes(1), b' ').decode()[:200]}")
    log = (state / "chaos-daemon.log").read_text(errors="replace").splitlines()
    return faults + [f"the daemon says: {line}" for line in log if "Traceback" in line or " ERROR " in line]


async def run(options: argparse.Namespace, daemon: Daemon, fake_model: Path) -> Story:
    """The story, bounded by the deadline."""
    lives = plan(options)
    manifests = [
        manifest(
            life.name,
            life.engine,
            f"file://{fake_model}" if life.engine == "fake" else options.model,
            max_replicas=1 + number % 2 if life.engine == "fake" else 1,
            timeout_s=240,
        )
        for number, life in enumerate(lives)
    ]
    await asyncio.to_thread(daemon.post, "/api/v1/apply", {"manifests": manifests})
    story = Story(
        num_parks_wanted=options.parks,
        num_stops_wanted=options.stops,
        num_services=len(lives),
        leave_fraction=options.leave,
    )
    background = [
        asyncio.create_task(watch(daemon, story)),
        asyncio.create_task(killer(daemon, story, options.seed, "fake-", options.kill_every)),
        asyncio.create_task(killer(daemon, story, options.seed, "real", 8 * options.kill_every)),
    ]
    try:
        async with asyncio.timeout(options.deadline):
            await asyncio.gather(
                *(live(daemon, life, story, options.seed + number) for number, life in enumerate(lives, 1))
            )
    except TimeoutError:
        print(f"not done after {options.deadline} s: {len(story.sent)} requests sent", file=sys.stderr)
        story.is_late = True
    finally:
        for task in background:
            task.cancel()
        for result in await asyncio.gather(*background, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                print(f"a watcher failed: {result!r}", file=sys.stderr)
                story.is_late = True
    return story


def main() -> int:
    """Run it, print the audit, and fail when there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=10_000, help="requests in all")
    parser.add_argument("--openvino", type=int, default=2_000, help="of them, to OpenVINO")
    parser.add_argument("--services", type=int, default=6, help="services of the fake engine")
    parser.add_argument("--parks", type=int, default=200, help="go on until so many replicas were parked")
    parser.add_argument("--stops", type=int, default=200, help="go on until so many were stopped")
    parser.add_argument("--leave", type=float, default=0.02, help="fraction of clients that hang up early")
    parser.add_argument(
        "--kill-every",
        type=float,
        default=0.5,
        help="seconds between kills of fake engines, on average; of OpenVINO 8 times as long",
    )
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
        result["faults"] += left_behind(state)
        if story.is_late:
            result["faults"].append("not all was done in time")
        result["seconds"] = round(time.monotonic() - started, 1)
        result["daemon_exit_status"] = status
        if result["faults"]:
            print("\n".join(result["faults"][20:60]), file=sys.stderr)
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
