"""The gateway beside nginx and LiteLLM as proxies of one fake engine: CPU per request, and latency added.

    apt-get install -y nginx-light wrk     (Debian; gcc builds the fake engine and the open-loop client)
    python bench/gateway/race.py [--quick] [--rounds N] [--only json,streams,latency,limits] [--without litellm]

The proxy is pinned to core 0; the engine and the load to core 1. Rounds are interleaved: each starts every proxy
afresh, in an order that turns. LiteLLM is installed with pip into .cache/gateway-race/litellm.

    json      wrk, 32 connections, closed loop: requests per CPU-second (user + system time of the proxy's processes)
    streams   wrk, 64 connections, 128 chunks 1 ms apart: streams per CPU-second
    latency   500 requests a second, open loop, 64 connections: what the proxy adds to the engine alone,
              with nothing else, and beside 32 streams at 1 ms (about 30,000 chunks a second); and the time to the first
              byte of a stream, 100 streams a second
    limits    a proxy that cannot reach 500 a second, at a rate that it can
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from record import quantile, write

CACHE = ROOT / ".cache" / "gateway-race"
LITELLM = "litellm[proxy]==1.106.2"
PROXY_CORE, LOAD_CORE = "0", "1"
ENGINE_PORT, PROXY_PORT = 18480, 18481
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."},
        {"role": "user", "content": "Tell me about the history of looms and weaving in the north of England. " * 3},
    ],
    "temperature": 0.7,
    "max_tokens": 128,
}
NGINX_CONF = """
worker_processes 1;
daemon off;
pid {state}/nginx.pid;
error_log {state}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {state}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {state}/body; proxy_temp_path {state}/proxy; fastcgi_temp_path {state}/f;
  uwsgi_temp_path {state}/u; scgi_temp_path {state}/s;
  client_body_buffer_size 256k;
  keepalive_requests 100000000;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
LITELLM_CONF = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
general_settings: {{master_key: sk-race}}
litellm_settings: {{set_verbose: false, telemetry: false, request_timeout: 60}}
"""


def set_up(*, with_litellm: bool) -> dict[str, str]:
    """Build and install what the race needs; returns versions. nginx and wrk must be there (apt-get, see above)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "openloop"):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(CACHE / name), str(HERE / f"{name}.c")], check=True)
    for tool in ("nginx", "wrk"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None:
            sys.exit(f"{tool} is not installed: apt-get install -y nginx-light wrk")
    venv = CACHE / "litellm"
    if with_litellm and not (venv / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", LITELLM], check=True)
    nginx = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    return {"nginx": nginx.strip().rpartition("/")[2], "wrk": wrk[:40], "litellm": LITELLM.rpartition("=")[2]}


@dataclass
class Proxy:
    """A proxy that runs."""

    pid: int
    port: int
    key: str


def free(port: int) -> None:
    """Wait until nothing listens on the port."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    sys.exit(f"port {port} is taken")


def wait_for(port: int, process: subprocess.Popen[Any], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"{process.args!r} did not listen on {port}")


@contextmanager
def running(command: list[str], core: str, *, env: dict[str, str] | None = None, out: Any = None) -> Iterator[Any]:
    process = subprocess.Popen(
        ["taskset", "-c", core, *command],
        stdout=out or subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def engine(delay_us: int) -> Iterator[None]:
    free(ENGINE_PORT)
    with running([str(CACHE / "upstream"), str(ENGINE_PORT), str(delay_us)], LOAD_CORE) as process:
        wait_for(ENGINE_PORT, process, 5)
        yield


@contextmanager
def proxy(name: str) -> Iterator[Proxy]:
    """Start one of: direct, nginx, ironloom, litellm."""
    if name == "direct":
        yield Proxy(0, ENGINE_PORT, "none")
        return
    free(PROXY_PORT)
    state = Path(tempfile.mkdtemp(prefix="race-"))
    try:
        if name == "nginx":
            conf = state / "nginx.conf"
            conf.write_text(NGINX_CONF.format(state=state, port=PROXY_PORT, engine=ENGINE_PORT))
            with running(["/usr/sbin/nginx", "-c", str(conf), "-p", str(state)], PROXY_CORE) as process:
                wait_for(PROXY_PORT, process, 5)
                yield Proxy(process.pid, PROXY_PORT, "none")
        elif name == "ironloom":
            program = [sys.executable, str(HERE / "serve_gateway.py")]
            with running([*program, str(PROXY_PORT), str(ENGINE_PORT), str(state)], PROXY_CORE, out=-1) as process:
                wait_for(PROXY_PORT, process, 15)
                yield Proxy(process.pid, PROXY_PORT, process.stdout.readline().decode().strip())
        elif name == "litellm":
            conf = state / "litellm.yaml"
            conf.write_text(LITELLM_CONF.format(engine=ENGINE_PORT))
            env = os.environ | {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "NO_DOCS": "True"}
            program = [str(CACHE / "litellm" / "bin" / "litellm"), "--config", str(conf), "--host", "127.0.0.1"]
            with running([*program, "--port", str(PROXY_PORT), "--num_workers", "1"], PROXY_CORE, env=env) as process:
                wait_for(PROXY_PORT, process, 120)
                time.sleep(2)
                yield Proxy(process.pid, PROXY_PORT, "sk-race")
    finally:
        shutil.rmtree(state, ignore_errors=True)


def cpu_s(pid: int) -> float:
    """User and system time of a process and all below it, dead children included."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    pids = [pid]
    while pids:
        pid = pids.pop()
        pids += parents.get(pid, [])
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / ticks


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and its children."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if int(path.parent.name) != pid and parent != pid:
                continue
            pss = re.search(r"^Pss:\s+(\d+)", (path.parent / "smaps_rollup").read_text(), re.MULTILINE)
            total += int(pss[1]) if pss else 0
        except OSError:
            continue
    return round(total / 1024, 1)


def wrk_script(key: str, *, stream: bool) -> Path:
    body = json.dumps(BODY | ({"stream": True} if stream else {}), separators=(",", ":"))
    path = CACHE / f"wrk-{'stream' if stream else 'json'}.lua"
    path.write_text(
        f'wrk.method="POST"\nwrk.body=[[{body}]]\nwrk.headers["Content-Type"]="application/json"\n'
        f'wrk.headers["Authorization"]="Bearer {key}"\n'
    )
    return path


def wrk_command(proxy: Proxy, *, stream: bool, connections: int, seconds: float) -> list[str]:
    url = f"http://127.0.0.1:{proxy.port}/v1/chat/completions"
    script = wrk_script(proxy.key, stream=stream)
    load = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), url]
    return ["taskset", "-c", LOAD_CORE, *load]


def throughput(proxy: Proxy, *, stream: bool, connections: int, seconds: float) -> dict[str, float]:
    """Closed loop: answers per second of the proxy's CPU time."""
    command = wrk_command(proxy, stream=stream, connections=connections, seconds=1 if seconds < 4 else 2)
    subprocess.run(command, capture_output=True, check=True)  # warm up
    before = cpu_s(proxy.pid)
    command = wrk_command(proxy, stream=stream, connections=connections, seconds=seconds)
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used_s = cpu_s(proxy.pid) - before
    found = re.search(r"(\d+) requests in ([\d.]+)(m?s)", out)
    if found is None or "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"wrk saw errors:\n{out}")
    num = int(found[1])
    return {"answers": num, "cpu_s": round(used_s, 2), "per_cpu_s": round(num / used_s, 1) if used_s else 0.0}


def open_loop(proxy: Proxy, *, rate: float, seconds: float, connections: int, stream: bool) -> dict[str, Any]:
    """Open loop: milliseconds to the first and to the last byte of each answer, from when it was due."""
    body = CACHE / "body.json"
    body.write_text(json.dumps(BODY | ({"stream": True} if stream else {}), separators=(",", ":")))
    command = ["taskset", "-c", LOAD_CORE, str(CACHE / "openloop")]
    command += [str(proxy.port), str(rate), str(seconds), str(connections), proxy.key, str(body)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    answered = [tuple(map(int, line.split())) for line in lines if line != "- -"]
    first = [one[0] / 1000 for one in answered]
    last = [one[1] / 1000 for one in answered]
    return {
        "n": len(answered),
        "failed": len(lines) - len(answered),
        "first_p50_ms": round(quantile(first, 0.5), 3),
        "first_p99_ms": round(quantile(first, 0.99), 3),
        "p50_ms": round(quantile(last, 0.5), 3),
        "p99_ms": round(quantile(last, 0.99), 3),
        "max_ms": round(max(last), 3),
    }


def latency(proxy: Proxy, *, seconds: float, rate: float = 500.0) -> dict[str, Any]:
    """Alone, beside streams, and of streams' first bytes."""
    open_loop(proxy, rate=min(rate, 100.0), seconds=1, connections=8, stream=False)  # warm up
    result: dict[str, Any] = {
        "alone": open_loop(proxy, rate=rate, seconds=seconds, connections=64, stream=False),
        "ttft": open_loop(proxy, rate=rate / 5, seconds=seconds, connections=64, stream=True),
    }
    background = subprocess.Popen(
        wrk_command(proxy, stream=True, connections=32, seconds=seconds + 2), stdout=subprocess.PIPE, text=True
    )
    time.sleep(1)
    result["beside_streams"] = open_loop(proxy, rate=rate, seconds=seconds, connections=64, stream=False)
    out = background.communicate()[0]
    streams = re.search(r"(\d+) requests in ([\d.]+)s", out)
    if streams:
        result["beside_streams"]["chunks_per_s"] = round(int(streams[1]) * 129 / float(streams[2]))
    return result


def summary(rounds: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Medians over the rounds, and each proxy beside the others."""
    result: dict[str, Any] = {}
    for kind in ("json", "streams"):
        rates = {
            name: [each[kind][name]["per_cpu_s"] for each in rounds if name in each.get(kind, {})] for name in names
        }
        medians = {name: statistics.median(values) for name, values in rates.items() if values}
        if medians:
            result[kind] = {"per_cpu_s": medians, "all": rates}
            for peer in ("nginx", "litellm"):
                if peer in medians and "ironloom" in medians:
                    pairs = [a / b for a, b in zip(rates["ironloom"], rates[peer], strict=False)]
                    result[kind][f"ironloom_over_{peer}"] = {
                        "of_medians": round(medians["ironloom"] / medians[peer], 3),
                        "median_of_rounds": round(statistics.median(pairs), 3),
                        "low": round(min(pairs), 3),
                        "high": round(max(pairs), 3),
                    }
    for where, key in (("alone", "p"), ("beside_streams", "p"), ("ttft", "first_p")):
        added = {}
        for name in names:
            of = [each["latency"] for each in rounds if name in each.get("latency", {})]
            if not of or name == "direct":
                continue
            added[name] = {
                f"added_p{q}_ms": round(
                    statistics.median(
                        each[name][where][f"{key}{q}_ms"] - each["direct"][where][f"{key}{q}_ms"] for each in of
                    ),
                    3,
                )
                for q in (50, 99)
            }
        if added:
            result[f"latency_{where}"] = added
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds without LiteLLM, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="json,streams,latency,limits")
    parser.add_argument("--without", default="")
    options = parser.parse_args()
    kinds = options.only.split(",")
    num_rounds = 2 if options.quick else options.rounds
    names = ["nginx", "ironloom"]
    if not options.quick and "litellm" not in options.without:
        names.append("litellm")
    versions = set_up(with_litellm="litellm" in names)
    seconds = 2.0 if options.quick else 3.0
    rounds: list[dict[str, Any]] = []
    for i in range(num_rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        this: dict[str, Any] = {"order": order}
        for kind, stream, connections in (("json", False, 32), ("streams", True, 64)):
            if kind not in kinds:
                continue
            this[kind] = {}
            with engine(1000):
                for name in order:
                    slow = name == "litellm"
                    with proxy(name) as running_proxy:
                        this[kind][name] = throughput(
                            running_proxy,
                            stream=stream,
                            connections=4 if slow else connections,
                            seconds=6.0 if slow else seconds,
                        ) | {"memory_mib": memory_mib(running_proxy.pid)}
                    print(i, kind, name, this[kind][name], flush=True)
        if "latency" in kinds:
            this["latency"] = {}
            with engine(1000):
                for name in ["direct", *(name for name in order if name != "litellm")]:
                    with proxy(name) as running_proxy:
                        this["latency"][name] = latency(running_proxy, seconds=seconds)
                    print(i, "latency", name, json.dumps(this["latency"][name]), flush=True)
        if "limits" in kinds and "litellm" in names:
            with engine(1000), proxy("litellm") as running_proxy:
                at_its_limit = open_loop(running_proxy, rate=20, seconds=16, connections=64, stream=False)
                this["limits"] = {"litellm_at_20_per_s": at_its_limit}
            print(i, "limits", this["limits"], flush=True)
        rounds.append(this)
    results = {
        "summary": summary(rounds, ["direct", *names]),
        "rounds": rounds,
        "peers": versions,
        "body_bytes": len(json.dumps(BODY)),
    }
    print(json.dumps(results["summary"], indent=1))
    if not options.quick:
        notes = [
            "the proxy is pinned to core 0, the engine and the load to core 1 of a machine with two",
            "ironloom: keys, event log in SQLite, metrics, four replica entries",
            "nginx: one worker, upstream keepalive, no buffering, buffered access log; no keys, no routing by model",
            "litellm: 4 connections, one worker; it cannot reach 500 requests a second",
        ]
        distributions = ["uvloop", "httptools", "msgspec"]
        print(
            write(
                "gateway" if len(kinds) == 4 else "gateway-" + "-".join(kinds),
                results,
                distributions=distributions,
                notes=notes,
            )
        )


if __name__ == "__main__":
    main()
