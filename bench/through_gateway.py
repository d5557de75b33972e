"""Through the gateway against the bare engine: the same requests to both doors of one engine, in turns.

    python bench/through_gateway.py --rounds 15 --write through-gateway

One daemon, one ready replica of OpenVINO with the default model. Each round sends the same load first to one door and
then to the other (the order alternates): streams of chat completions at 1, 8 and 32 at a time. What is compared is
tokens a second and the time to the first token. Goals: at least 0.98x the bare engine's tokens a second; added time to
the first token below 2 ms at the median.
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

import loadclient
import record
from chaos import HOST, Daemon, manifest
from zero import first_token_s

NAME = "door"


async def load(port: int, width: int, num_requests: int, max_tokens: int, salt: int) -> tuple[float, list[float]]:
    """Send the requests, `width` at a time. Returns tokens a second and the times to the first token."""
    gate = asyncio.Semaphore(width)
    answers: list[loadclient.Answer] = []

    async def one(number: int) -> None:
        # Each prompt is new, so that the engine's prefix cache helps neither door; both doors get the same ones.
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": f"Story {salt}-{number}: write about number {number}."}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.7,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with gate:
            answers.append(await loadclient.send(HOST, port, "/v1/chat/completions", body))

    started = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(num_requests)))
    seconds = time.monotonic() - started
    bad = [answer for answer in answers if not answer.done or answer.usage is None]
    if bad:
        raise SystemExit(f"a request failed: {bad[0].status} {bad[0].error} {bad[0].body[:200]!r}")
    tokens = sum((answer.usage or {})["completion_tokens"] for answer in answers)
    return tokens / seconds, [answer.first_token_s or 0.0 for answer in answers]


def main() -> int:
    """Run the rounds and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default="hf://HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    raw: dict[int, list[dict[str, Any]]] = {1: [], 8: [], 32: []}
    with tempfile.TemporaryDirectory(prefix="ironloom-door-") as folder:
        daemon = Daemon(Path(folder))
        daemon.start()
        try:
            declared = manifest(NAME, options.engine, options.model, max_replicas=1, timeout_s=240)
            declared["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "30m"
            daemon.post("/api/v1/apply", {"manifests": [declared]})
            first_token_s(daemon.port, NAME)
            engine_port = daemon.get(f"/api/v1/services/{NAME}")["replicas"][0]["port"]
            doors = {"bare": engine_port, "gateway": daemon.port}
            for port in doors.values():
                asyncio.run(load(port, 32, 32, options.max_tokens, -1))
            for number in range(options.rounds):
                order = list(doors.items()) if number % 2 else list(reversed(doors.items()))
                for width, rows in raw.items():
                    row: dict[str, Any] = {}
                    for door, port in order:
                        salt = number * 2 + (door == "bare")
                        speed, firsts = asyncio.run(
                            load(port, width, max(2, width), options.max_tokens, 1000 * width + salt)
                        )
                        row[door] = {
                            "tokens_per_s": round(speed, 2),
                            "first_token_s": [round(value, 5) for value in firsts],
                        }
                    rows.append(row)
                    ratio = row["gateway"]["tokens_per_s"] / row["bare"]["tokens_per_s"]
                    print(f"round {number + 1}, {width} streams: {ratio:.3f}x")
            small = asyncio.run(ttft_only(doors))
        finally:
            daemon.stop()
    summary = {}
    for width, rows in raw.items():
        ratios = [row["gateway"]["tokens_per_s"] / row["bare"]["tokens_per_s"] for row in rows]
        summary[str(width)] = {
            "ratio_median": round(record.quantile(ratios, 0.5), 4),
            "ratio_min": round(min(ratios), 4),
            "ratio_max": round(max(ratios), 4),
            "bare_tokens_per_s_median": record.quantile([row["bare"]["tokens_per_s"] for row in rows], 0.5),
            "gateway_tokens_per_s_median": record.quantile([row["gateway"]["tokens_per_s"] for row in rows], 0.5),
        }
    results = {"throughput": summary, "first_token": small, "raw": raw}
    print(
        json.dumps({"throughput": summary, "first_token": {k: v for k, v in small.items() if k != "raw_s"}}, indent=1)
    )
    if options.write:
        print(record.write(options.write, results, distributions=["openvino-genai", "uvloop", "httptools"]))
    return 0


async def ttft_only(doors: dict[str, int], pairs: int = 300) -> dict[str, Any]:
    """One short request at a time, the doors in turns: what the gateway adds to the time to the first token."""
    raw: dict[str, list[float]] = {door: [] for door in doors}
    for number in range(pairs):
        order = list(doors.items()) if number % 2 else list(reversed(doors.items()))
        for door, port in order:
            body = {
                "model": NAME,
                "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 2,
                "temperature": 0,
                "stream": True,
            }
            answer = await loadclient.send(HOST, port, "/v1/chat/completions", body)
            raw[door].append(answer.first_token_s or 0.0)
    medians = {door: record.quantile(values, 0.5) for door, values in raw.items()}
    differences = [g - b for g, b in zip(raw["gateway"], raw["bare"], strict=True)]
    return {
        "pairs": pairs,
        "bare_median_s": round(medians["bare"], 5),
        "gateway_median_s": round(medians["gateway"], 5),
        "added_p50_s": round(medians["gateway"] - medians["bare"], 5),
        "paired_difference_p50_s": round(record.quantile(differences, 0.5), 5),
        "paired_difference_p99_s": round(record.quantile(differences, 0.99), 5),
        "raw_s": {door: [round(value, 5) for value in values] for door, values in raw.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
