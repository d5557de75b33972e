"""Memory of the daemon: idle, with a parked service, and while 100,000 requests go through it.

    python bench/memory.py --write memory

One daemon with all its duties (keys wanted, event log on), one service of the fake engine. Clients keep their
connections and send plain requests and streams in turns. Memory is read from /proc when nothing is in flight:

  rss        resident, files that are mapped included (the programs' own code, the journal's segments)
  pss        the same, what is shared counted in parts
  anonymous  the part that is the process's own: here a leak shows

Warm-up is the first --warm-up requests (20,000): in them the allocator's pools, SQLite's page cache, the event log's
first segments, the largest batch of records on its way to SQLite and the buckets of the metrics reach their size. From
there on anonymous memory may grow by --allowed-growth MiB in all: a batch that is larger than all before, because the
machine was busy, may show once; a leak shows in every reading.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record
from chaos import HOST, Daemon, manifest

MIB = 1024**2
WIDTH = 16
SETTLE_S = 3.0


def memory_of(pid: int) -> dict[str, float]:
    """In MiB, from smaps_rollup."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) / 1024
    return {
        "rss_mib": round(fields["Rss"], 2),
        "pss_mib": round(fields["Pss"], 2),
        "anonymous_mib": round(fields["Anonymous"], 2),
        "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def children_of(state: Path) -> dict[str, int]:
    """Processes that the daemon started, by what they are: a launcher, or a replica's id."""
    marker = (state / "id").read_text().strip().encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            variables = dict(part.partition(b"=")[::2] for part in environ.split(b"\0"))
            if b"IRONLOOM_REPLICA" in variables and marker in environ:
                found[variables[b"IRONLOOM_REPLICA"].decode()] = int(entry.name)
    return found


class Load:
    """Clients with connections of their own that they keep."""

    def __init__(self, port: int, key: str, service: str) -> None:
        self._port = port
        self._requests = [_request(port, key, service, stream=stream) for stream in (False, True)]
        self.num_sent = 0

    async def send(self, num_requests: int) -> None:
        """So many requests in all, half of them streams."""
        share, rest = divmod(num_requests, WIDTH)
        await asyncio.gather(*(self._client(share + (number < rest)) for number in range(WIDTH)))
        self.num_sent += num_requests

    async def _client(self, num_requests: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        for number in range(num_requests):
            writer.write(self._requests[number % 2])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"the daemon answered {head!r}")
            if number % 2:
                answer = await reader.readuntil(b"\r\n0\r\n\r\n")
                if b"data: [DONE]" not in answer:
                    raise SystemExit(f"a stream was cut: {answer[-300:]!r}")
            else:
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()


def _request(port: int, key: str, service: str, *, stream: bool) -> bytes:
    body = {"model": service, "messages": [{"role": "user", "content": "Count to eight."}], "stream": stream}
    text = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: Bearer {key}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


def wait_for(daemon: Daemon, service: str, state: str) -> None:
    give_up = time.monotonic() + 30
    while daemon.get(f"/api/v1/services/{service}")["state"] != state:
        if time.monotonic() > give_up:
            raise SystemExit(f"{service} is not {state}")
        time.sleep(0.05)


async def measure(options: argparse.Namespace, daemon: Daemon, fake_model: Path) -> dict[str, Any]:
    """The story; a reading at each step."""
    assert daemon.process is not None
    pid = daemon.process.pid
    result: dict[str, Any] = {}

    def read(name: str, *, children: bool = False) -> None:
        result[name] = memory_of(pid)
        if children:
            kinds = {
                "launcher" if name.startswith("launcher") else "replica": memory_of(child)
                for name, child in children_of(daemon.state).items()
            }
            result[name]["children"] = kinds
        print(name, json.dumps(result[name]), flush=True)

    await asyncio.sleep(SETTLE_S)
    read("idle, no service", children=True)
    wanted = manifest("demo", "fake", f"file://{fake_model}", max_replicas=1, timeout_s=60)
    wanted["metadata"]["annotations"] |= {"autoscaling.knative.dev/window": "1h"}
    daemon.post("/api/v1/apply", {"manifests": [wanted]})
    key = daemon.post("/api/v1/keys", {"name": "load", "scope": "inference", "services": ["demo"]})["key"]
    load = Load(daemon.port, key, "demo")
    await load.send(WIDTH)
    daemon.post("/api/v1/services/demo/scale", {"replicas": 0, "park": True})
    wait_for(daemon, "demo", "parked")
    await asyncio.sleep(SETTLE_S)
    read("one service, parked", children=True)
    readings = []
    began_s = time.monotonic()
    for target in range(options.step, options.requests + 1, options.step):
        await load.send(target - load.num_sent)
        await asyncio.sleep(SETTLE_S)
        read(f"after {target} requests")
        readings.append((target, result[f"after {target} requests"]["anonymous_mib"]))
    took_s = time.monotonic() - began_s - SETTLE_S * len(readings)
    warm = [mib for target, mib in readings if target >= options.warm_up]
    result["requests"] = load.num_sent
    result["requests_per_s"] = round(load.num_sent / took_s)
    result["warm_up_requests"] = options.warm_up
    result["growth_after_warm_up_mib"] = round(warm[-1] - warm[0], 2)
    result["growth_bytes_per_request_after_warm_up"] = round(
        (warm[-1] - warm[0]) * MIB / max(1, options.requests - options.warm_up), 2
    )
    rows = daemon.get("/api/v1/requests?limit=1")
    result["requests_in_the_event_log"] = rows[0]["seq"]
    return result


def main() -> int:
    """Measure, print, and fail when memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=20_000, help="read the memory after so many, again and again")
    parser.add_argument("--warm-up", type=int, default=20_000)
    parser.add_argument("--allowed-growth", type=float, default=2.0, help="MiB after the warm-up")
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ironloom-memory-") as folder:
        state = Path(folder) / "state"
        state.mkdir()
        fake_model = Path(folder) / "fake.json"
        fake_model.write_text(json.dumps({"num_tokens": 8}))
        daemon = Daemon(state, "--require-keys")
        daemon.start()
        try:
            result = asyncio.run(measure(options, daemon, fake_model))
        finally:
            status = daemon.stop()
    grew = result["growth_after_warm_up_mib"] > options.allowed_growth
    whole = result["requests_in_the_event_log"] == result["requests"]
    print(json.dumps({name: result[name] for name in list(result)[-6:]}, indent=1))
    if options.write:
        notes = [" ".join(paragraph.split()) for paragraph in (__doc__ or "").split("\n\n")[2:]]
        print(record.write(options.write, result, distributions=["uvloop", "httptools", "msgspec"], notes=notes))
    return 1 if grew or status or not whole else 0


if __name__ == "__main__":
    sys.exit(main())
