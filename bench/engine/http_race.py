"""What the engine's HTTP layer costs: streams through our server against the same pipeline called in-process.

    python bench/engine/http_race.py [--rounds 7] [--tokens 128] [--model FOLDER]

Two processes hold the same model with the same settings; each round runs the same prompts through one and then the
other, order alternating, at 1, 8 and 32 streams. A round's figure is completion tokens by wall time, from the first
request sent to the last token received, prefill included; and completion tokens by the CPU time that the process took,
which says the same where the machine is shared with others. In-process means: add_request, step, read, decode; nothing
else. The client is a few lines on epoll, so that as little as possible of the two cores goes to it; what it takes
counts against the server. Goal: 0.95 of the in-process figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from tests.fakes.smollm2 import openvino_model, openvino_server

import record

STREAMS = (1, 8, 32)
GOAL = 0.95


def prompts(first: int, count: int) -> list[str]:
    """No two the same, so that the prefix cache helps neither side more than the other."""
    return [f"Write a story about number {first + n}. Once upon a time" for n in range(count)]


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has taken, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_process(folder: Path) -> None:
    """The child that holds the bare pipeline: reads {"first", "count", "tokens"}, writes the seconds it took."""
    import openvino_genai

    from ironloom.serve.engines.programs import openvino_pipeline
    from ironloom.serve.engines.programs import openvino_server as server
    from ironloom.serve.engines.programs.model_facts import read_facts

    facts = read_facts(folder)
    options = server.parser().parse_args(["--model", str(folder), "--served-name", "m", "--port", "0"])
    loaded = openvino_pipeline.load(server.settings_of(options, facts), facts)
    pipeline, tokenizer = loaded.pipeline, loaded.tokenizer
    next_id = 0
    print("{}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        handles = []
        for prompt in prompts(order["first"], order["count"]):
            next_id += 1
            config = openvino_genai.GenerationConfig(
                max_new_tokens=order["tokens"], ignore_eos=True, do_sample=True, temperature=0.7, rng_seed=next_id
            )
            handles.append((pipeline.add_request(next_id, prompt, config), []))
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle, ids in handles:
                while handle.can_read():
                    ids += handle.read()[0].generated_ids
        texts = [tokenizer.decode(ids) for _, ids in handles]
        taken_s = time.perf_counter() - start
        assert all(len(ids) == order["tokens"] for _, ids in handles)
        assert all(texts)
        print(json.dumps({"seconds": taken_s}), flush=True)


def through_http(port: int, first: int, count: int, tokens: int, *, stream: bool) -> float:
    """Seconds for the same work through the server."""
    selector = selectors.DefaultSelector()
    requests = []
    for prompt in prompts(first, count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.7}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        requests.append((sock, head.encode() + data))
    start = time.perf_counter()
    received: dict[socket.socket, list[bytes]] = {}
    for sock, request in requests:
        sock.sendall(request)
        received[sock] = []
        selector.register(sock, selectors.EVENT_READ)
    left = count
    while left:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if piece := sock.recv(65536):
                received[sock].append(piece)
            else:
                selector.unregister(sock)
                sock.close()
                left -= 1
    taken_s = time.perf_counter() - start
    for pieces in received.values():
        match = re.search(rb'"completion_tokens": ?(\d+)', b"".join(pieces))
        assert match is not None
        assert int(match[1]) == tokens, f"{match[1]!r} of {tokens} tokens"
    return taken_s


def ratio(rates: dict[str, list[float]], way: str) -> float:
    """Median of the rounds' own ratios to in-process."""
    return statistics.median(a / b for a, b in zip(rates[way], rates["in_process"], strict=True))


def main() -> None:
    """Run it, and write bench/results/engine_http.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.model or openvino_model()
    if options.in_process:
        in_process(folder)
        return
    command = [sys.executable, __file__, "--in-process", "--model", str(folder)]
    with (
        openvino_server(folder) as (url, server_pid),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        port = int(url.rsplit(":", 1)[1])
        results: dict[str, Any] = {}
        first = 10_000

        def run(way: str, first: int, count: int, tokens: int) -> float:
            if way != "in_process":
                return through_http(port, first, count, tokens, stream=way == "http_stream")
            child.stdin.write(json.dumps({"first": first, "count": count, "tokens": tokens}) + "\n")
            child.stdin.flush()
            return float(json.loads(child.stdout.readline())["seconds"])

        ways = ("in_process", "http_stream", "http_whole")
        for way in ways:
            run(way, 900_000, 8, 16)
        for count in STREAMS:
            by_wall: dict[str, list[float]] = {way: [] for way in ways}
            by_cpu: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(options.rounds):
                for way in ways[turn % 3 :] + ways[: turn % 3]:
                    pid = child.pid if way == "in_process" else server_pid
                    first += count
                    before_s = cpu_s(pid)
                    taken_s = run(way, first, count, options.tokens)
                    by_wall[way].append(count * options.tokens / taken_s)
                    by_cpu[way].append(count * options.tokens / (cpu_s(pid) - before_s))
            shown: dict[str, Any] = {"goal": GOAL}
            for name, rates in (("tokens_per_s", by_wall), ("tokens_per_cpu_s", by_cpu)):
                shown[name] = {way: [round(rate, 1) for rate in found] for way, found in rates.items()}
                shown[f"median_ratio_{name}"] = {way: round(ratio(rates, way), 4) for way in ways[1:]}
            results[str(count)] = shown
            print(count, "streams:", {name: value for name, value in shown.items() if name.startswith("median")})
        child.stdin.close()
    path = record.write(
        "engine_http",
        results,
        distributions=("openvino-genai", "uvloop", "httptools"),
        notes=(
            "SmolLM2 135M Instruct, Q4_1; tokens are completion tokens, prefill included in the time",
            "ratios are medians of the rounds' own ratios: rounds are interleaved",
        ),
    )
    print(path)


if __name__ == "__main__":
    main()
