"""vLLM behind Ironloom on a GPU: start, park, wake, first token, and tokens a second beside the bare engine.

    python bench/gpu/serve_vllm.py --size tiny --rounds 5 --cycles 5 --write serve-vllm [--contract] [--out FOLDER]
    python bench/gpu/serve_vllm.py --engine fake --rounds 1 --cycles 1        (a dry run without a GPU)

Writes a Llama of random weights (random_llama.py), starts a daemon on a free port and a temporary state folder, and
serves the model through the vLLM engine. Then, in this order:

  contract   the engine contract's checks against a vLLM of their own (tests/serve/engines/test_vllm.py), if asked for
  start      apply to ready, the first time (compiled graphs and all)
  load       rounds at 1, 8 and 32 streams, the engine's port and the gateway in turns: tokens a second, first tokens
  parked     cycles: park (sleep level 1), GPU memory before and after, a request that wakes it, its first token
  stopped    stop, then a request that starts it anew (caches of compiled graphs warm), its first token
  bare       the engine's own command in a fresh process, from its start to the first token, the same caches

Needs vllm (IRONLOOM_VLLM names its command where it is not beside this Python), torch and transformers, and what the
base install needs. No network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench/gpu"), str(ROOT / "src")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))

import loadclient
import record
from chaos import HOST, Daemon, manifest
from zero import bare, first_token_s, replica, wait_for

NAME = "walk"
STREAMS = (1, 8, 32)
START_S = 500
"""A first start compiles and captures graphs: minutes for a model of 8 billion parameters."""


def gpu_memory_used_mib() -> int | None:
    """Of all GPUs that nvidia-smi shows; None where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(int(line) for line in done.stdout.split() if line.isdigit())


def gpu_name() -> str | None:
    """The first GPU and its driver."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def declared(options: argparse.Namespace, folder: Path, args: list[str]) -> dict[str, Any]:
    """The service: it goes to zero only when told."""
    made = manifest(NAME, options.engine, f"file://{folder}", max_replicas=1, timeout_s=START_S)
    made["metadata"]["annotations"] |= {"autoscaling.knative.dev/window": "60m", "ironloom.dev/park-for": "60m"}
    model = made["spec"]["predictor"]["model"]
    model["args"] = args
    if options.engine == "vllm":
        model["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    return made


def arguments(options: argparse.Namespace) -> list[str]:
    """The engine's."""
    if options.engine == "fake":
        return ["--token-delay-s=0.002", "--max-concurrency=64", "--park-delay-s=0.1", "--wake-delay-s=0.1"]
    args = ["--max-model-len=4096", "--max-num-seqs=64"]
    if options.size == "8b":
        args.append("--load-format=dummy")
    return args


async def load(port: int, width: int, num_tokens: int, salt: str) -> dict[str, Any]:
    """`width` streams at once, each of `num_tokens`: tokens a second by wall time, and the first tokens."""
    body = {"model": NAME, "max_tokens": num_tokens, "ignore_eos": True, "temperature": 0.7, "stream": True}
    started_s = time.monotonic()
    answers = await asyncio.gather(
        *(
            loadclient.send(
                HOST,
                port,
                "/v1/chat/completions",
                {
                    **body,
                    "messages": [{"role": "user", "content": f"Story {salt}-{number} of a long walk."}],
                    "seed": number,
                    "stream_options": {"include_usage": True},
                },
                timeout_s=300,
            )
            for number in range(width)
        )
    )
    seconds = time.monotonic() - started_s
    for answer in answers:
        if not answer.done or answer.usage is None:
            raise SystemExit(f"a request failed: {answer.status} {answer.error} {answer.body[:300]!r}")
    tokens = sum((answer.usage or {})["completion_tokens"] for answer in answers)
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "first_token_s": [round(answer.first_token_s or 0.0, 5) for answer in answers],
    }


def race(daemon: Daemon, options: argparse.Namespace) -> dict[str, Any]:
    """The engine's port and the gateway in turns. Returns medians and the rows."""
    engine_port = (replica(daemon, NAME) or {})["port"]
    doors = {"bare": engine_port, "gateway": daemon.port}
    for port in doors.values():
        for width in STREAMS:
            asyncio.run(load(port, width, 16, "warm"))
    summary: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for width in STREAMS:
        rows[str(width)] = []
        for number in range(options.rounds):
            order = list(doors.items()) if number % 2 else list(reversed(doors.items()))
            row = {
                door: asyncio.run(load(port, width, options.tokens, f"{width}-{number}-{door}")) for door, port in order
            }
            rows[str(width)].append(row)
        ratios = [row["gateway"]["tokens_per_s"] / row["bare"]["tokens_per_s"] for row in rows[str(width)]]
        summary[str(width)] = {
            "ratio_median": round(record.quantile(ratios, 0.5), 4),
            "ratio_min": round(min(ratios), 4),
            "ratio_max": round(max(ratios), 4),
            **{
                f"{door}_{what}": record.quantile(values, 0.5)
                for door in doors
                for what, values in {
                    "tokens_per_s": [row[door]["tokens_per_s"] for row in rows[str(width)]],
                    "first_token_s": [value for row in rows[str(width)] for value in row[door]["first_token_s"]],
                }.items()
            },
        }
        print(f"{width} streams: {summary[str(width)]}", flush=True)
    return {"summary": summary, "raw": rows}


def cycles(daemon: Daemon, number: int) -> list[dict[str, Any]]:
    """Park and wake."""
    rows = []
    for _ in range(number):
        row: dict[str, Any] = {"ready_first_token_s": round(first_token_s(daemon.port, NAME), 4)}
        row["gpu_used_ready_mib"] = gpu_memory_used_mib()
        started_s = time.monotonic()
        daemon.post(f"/api/v1/services/{NAME}/scale", {"replicas": 0, "park": True})
        wait_for(daemon, NAME, "parked", patience_s=300)
        row["park_s"] = round(time.monotonic() - started_s, 3)
        row["gpu_used_parked_mib"] = gpu_memory_used_mib()
        row["parked_first_token_s"] = round(first_token_s(daemon.port, NAME), 4)
        row["wake_s"] = last_event(daemon, "replica.ready").get("wake_s")
        rows.append(row)
        print(f"parked and woken: {row}", flush=True)
    return rows


def last_event(daemon: Daemon, kind: str) -> dict[str, Any]:
    """The data of the newest event of this kind."""
    events = [event for event in daemon.get("/api/v1/events?after=0&limit=1000") if event["kind"] == kind]
    found: dict[str, Any] = events[-1]["data"] if events else {}
    return found


def bare_launch(options: argparse.Namespace, folder: Path, args: list[str]) -> tuple[list[str], dict[str, str]]:
    """The engine's own command, as its adapter says it."""
    from ironloom.serve.engines import engine
    from ironloom.serve.engines.base import LaunchOrder, ModelFormat
    from ironloom.serve.models.inspect import LocalModel, inspect_model
    from ironloom.workload.serving import Serving

    uri = f"file://{folder}"
    model = (
        inspect_model(folder, uri)
        if options.engine != "fake"
        else LocalModel(uri=uri, path=folder, format=ModelFormat.SAFETENSORS, architecture="FakeForCausalLM")
    )
    serving = Serving(
        name=NAME, kind="InferenceService", runtime=options.engine, model_uri=uri, engine_args=tuple(args)
    )
    gpus = (0,) if options.engine == "vllm" else ()
    launch = engine(options.engine).launch(LaunchOrder(model=model, serving=serving, port=1, gpu_indexes=gpus))
    return list(launch.argv), dict(launch.env)


def contract(folder: Path) -> dict[str, Any]:
    """The checks' own words, and whether all passed."""
    checks = "tests/serve/engines/test_vllm.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "vllm", checks],
        cwd=ROOT,
        env={**os.environ, "IRONLOOM_TEST_VLLM_MODEL": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    return {"passed": done.returncode == 0, "said": done.stdout.strip().splitlines()[-1:]}


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm")
    parser.add_argument("--size", choices=("tiny", "1b", "8b"), default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--contract", action="store_true")
    parser.add_argument("--no-bare-start", action="store_true", help="leave out the last two: two starts less")
    parser.add_argument("--write", metavar="NAME")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = {"engine": options.engine, "size": options.size, "gpu": gpu_name()}

    def keep() -> None:
        """What is there so far: a run that is cut short leaves it."""
        if options.write:
            distributions = ["vllm", "torch", "transformers", "uvloop", "httptools"]
            print(record.write(options.write, results, distributions=distributions, folder=options.out), flush=True)

    with tempfile.TemporaryDirectory(prefix="ironloom-gpu-") as temporary:
        folder, state = Path(temporary) / "model", Path(temporary) / "state"
        state.mkdir()
        folder.mkdir()
        if options.engine != "fake":
            import random_llama

            random_llama.write(folder, random_llama.SIZES[options.size])
        if options.contract:
            results["contract"] = contract(folder)
            keep()
        args = arguments(options)
        daemon = Daemon(state)
        daemon.start()
        try:
            started_s = time.monotonic()
            daemon.post("/api/v1/apply", {"manifests": [declared(options, folder, args)]})
            first_s = first_token_s(daemon.port, NAME, timeout_s=START_S)
            results["start"] = {
                "apply_to_first_token_s": round(time.monotonic() - started_s, 2),
                "request_to_first_token_s": round(first_s, 2),
                "start_s": last_event(daemon, "replica.ready").get("start_s"),
            }
            print(results["start"], flush=True)
            keep()
            results["load"] = race(daemon, options)
            keep()
            results["parked"] = cycles(daemon, options.cycles)
            keep()
            if not options.no_bare_start:
                daemon.post(f"/api/v1/services/{NAME}/scale", {"replicas": 0, "park": False})
                wait_for(daemon, NAME, "zero", patience_s=60)
                results["gpu_used_stopped_mib"] = gpu_memory_used_mib()
                results["stopped_first_token_s"] = round(first_token_s(daemon.port, NAME, timeout_s=START_S), 3)
                keep()
                daemon.post(f"/api/v1/services/{NAME}/scale", {"replicas": 0, "park": False})
                wait_for(daemon, NAME, "zero", patience_s=60)
                command, env = bare_launch(options, folder, args)
                results["bare_first_token_s"] = round(bare(command, env, NAME), 3)
        except BaseException:
            with contextlib.suppress(OSError):
                for log in sorted((state / "logs").rglob("*.log"))[-2:]:
                    print(f"-- {log.name}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)
            raise
        finally:
            daemon.stop()
    print(json.dumps({key: value for key, value in results.items() if key != "load"}, indent=1))
    keep()
    return 0 if results.get("contract", {}).get("passed", True) else 1


if __name__ == "__main__":
    sys.exit(main())
