"""How fast the OpenVINO engine starts, parks and wakes: the lean form and the launcher beside the plain form and a
fresh process; the swap beside letting go of the model.

    python bench/engine_start.py --rounds 30 --throughput-rounds 5 --write engine-start

Interleaved rounds on one machine, the page cache warm, no gateway between. The kinds of start:

  fork lean     forked from the daemon's own launcher, which has the imports done; the lean form
  fork plain    the same with the form that openvino-genai writes
  fresh lean    the engine's command in a fresh process
  fresh plain   what there was before

Of each: the start to /health's 200, and to the first streamed token of a request that is sent then, and the processor
time that the process took until then (which other work on the machine moves less). Of each forked one also: memory
when ready (after that token) and parked, the park, and the wake to the first streamed token. `fork lean` parks by
swap, once and again; `fork plain` lets go of the model and loads it again. Throughput: both forms loaded, one after
the other in each round, tokens a second of 64-token answers at 1, 8 and 32 streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import loadclient
import record
from ironloom.backends.local.launcher import Launcher
from ironloom.backends.local.ports import Ports
from ironloom.backends.local.spawn import Process, spawn
from ironloom.serve.engines import engine
from ironloom.serve.engines.base import Launch, LaunchOrder, LocalModel
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.progress import silent
from ironloom.serve.models.pull import locate, pull
from ironloom.serve.models.source import parse_model
from ironloom.workload.serving import Serving

HOST, NAME = "127.0.0.1", "bench"
BODY = {
    "model": NAME,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 4,
    "temperature": 0,
    "stream": True,
}
STREAMS = (1, 8, 32)
ANSWER_TOKENS = 64
STATE_ID = "bench-engine-start"


class Bench:
    """The model and the launcher."""

    def __init__(self, model: LocalModel, cache_dir: Path, folder: Path) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self._folder = folder
        self._ports = Ports()
        self._num_started = 0
        self.launcher: Launcher | None = None
        self.preload_s = 0.0

    def launch(self, form: str, port: int) -> Launch:
        """The adapter's own; the plain form is started without what is new."""
        serving = Serving(name=NAME, kind="InferenceService", model_uri=self._model.uri)
        order = LaunchOrder(model=self._model, serving=serving, port=port, cache_dir=self._cache_dir)
        launch = engine("openvino").launch(order)
        if form == "lean":
            if "--lean" not in launch.args:
                raise SystemExit("the model has no lean form here")
            return launch
        args = list(launch.args)
        for name in ("--lean", "--swap-dir"):
            at = args.index(name)
            del args[at : at + 2]
        return Launch(argv=(*launch.argv[:3], *args), env=launch.env, module=launch.module, args=tuple(args))

    @asynccontextmanager
    async def started(self, how: str, form: str) -> AsyncIterator[tuple[Process, int, float]]:
        """A process, its port and when it was started; ended afterwards."""
        port = self._ports.take()
        launch = self.launch(form, port)
        env = {**os.environ, **launch.env}
        log = self._folder / "engine.log"
        self._num_started += 1
        begin_s = time.monotonic()
        if how == "fork":
            assert self.launcher is not None
            assert launch.module is not None
            process = await self.launcher.fork(
                replica=f"{NAME}-{self._num_started}",
                module=launch.module,
                args=launch.args,
                env=env,
                log_path=log,
                record=_nothing,
            )
        else:
            process = spawn(launch.argv, env, log)
        try:
            yield process, port, begin_s
        finally:
            process.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(20):
                    await asyncio.shield(process.ended)
            except TimeoutError:
                process.kill_group()
                await process.ended
            self._ports.give_back(port)

    async def start_launcher(self) -> None:
        """With the modules that the adapter names."""
        launch = self.launch("lean", 1)
        begin_s = time.monotonic()
        self.launcher = await Launcher.start(
            sys.executable, launch.preload, os.environ, state_id=STATE_ID, log_path=self._folder / "launcher.log"
        )
        self.preload_s = time.monotonic() - begin_s


async def _nothing(_: Process) -> None:
    """The bench keeps no record of processes."""


async def until_healthy(process: Process, port: int) -> None:
    """/health asked every 5 ms."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = await reader.read(64)
            writer.close()
            if b" 200 " in answer:
                return
        except OSError:
            pass
        if process.ended.done():
            raise SystemExit("the engine ended")
        await asyncio.sleep(0.005)


async def first_token_s(port: int) -> float:
    """Seconds from the request to its first token."""
    answer = await loadclient.send(HOST, port, "/v1/chat/completions", BODY)
    if not answer.done or answer.first_token_s is None:
        raise SystemExit(f"no token: status {answer.status} {answer.error} {answer.body[:300]!r}")
    return answer.first_token_s


async def post(port: int, path: str) -> float:
    """Seconds that it took."""
    answer = await loadclient.send(HOST, port, path, {})
    if answer.status != 200:
        raise SystemExit(f"{path}: status {answer.status} {answer.error}")
    return answer.ended_s


def cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc(5), /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> dict[str, float]:
    """Resident and proportional set size."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in {"Rss", "Pss"}:
            found[name.lower()] = int(rest.split()[0]) / 1024
    return found


async def one_start(bench: Bench, how: str, form: str) -> dict[str, float]:
    """Start, first token; of a forked one also park and wake."""
    async with bench.started(how, form) as (process, port, begin_s):
        await until_healthy(process, port)
        found = {"health_s": time.monotonic() - begin_s}
        found["first_token_s"] = time.monotonic() - begin_s + await first_token_s(port)
        found["cpu_to_first_token_s"] = cpu_s(process.pid)
        if how == "fork":
            await first_token_s(port)
            found |= {f"ready_{name}_mib": value for name, value in memory_mib(process.pid).items()}
            for cycle in ("first", "later") if form == "lean" else ("first",):
                found[f"{cycle}_park_s"] = await post(port, "/sleep?level=1")
                await asyncio.sleep(0.1)
                found |= {f"parked_{name}_mib": value for name, value in memory_mib(process.pid).items()}
                wake_s = await post(port, "/wake_up")
                found[f"{cycle}_wake_to_first_token_s"] = wake_s + await first_token_s(port)
        return found


async def tokens_per_s(port: int, num_streams: int, seed: int) -> float:
    """Of one burst of streams, each with a prompt of its own, so that no prefix is shared."""
    words = random.Random(seed)

    def body(index: int) -> dict[str, Any]:
        text = f"{words.getrandbits(48):x} {index}: write a long story about a lighthouse."
        extra = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": False}
        return {**BODY, **extra, "messages": [{"role": "user", "content": text}]}

    begin_s = time.monotonic()
    answers = await asyncio.gather(
        *(loadclient.send(HOST, port, "/v1/chat/completions", body(index)) for index in range(num_streams))
    )
    took_s = time.monotonic() - begin_s
    if not all(answer.done for answer in answers):
        raise SystemExit("a request of the load failed")
    return sum((answer.usage or {})["completion_tokens"] for answer in answers) / took_s


async def throughput(bench: Bench, num_rounds: int) -> dict[str, Any]:
    """Both forms, interleaved."""
    found: dict[str, dict[str, list[float]]] = {form: {str(n): [] for n in STREAMS} for form in ("lean", "plain")}
    async with bench.started("fork", "lean") as lean, bench.started("fork", "plain") as plain:
        ports = {"lean": lean[1], "plain": plain[1]}
        for process, port, _ in (lean, plain):
            await until_healthy(process, port)
            await first_token_s(port)
        # A parked and woken engine is what serves most of the time.
        await post(ports["lean"], "/sleep?level=1")
        await post(ports["lean"], "/wake_up")
        for number in range(num_rounds):
            for streams in STREAMS:
                for form in ("lean", "plain") if number % 2 else ("plain", "lean"):
                    found[form][str(streams)].append(await tokens_per_s(ports[form], streams, number * 100 + streams))
            print(f"throughput round {number + 1}: " + json.dumps(_last(found)), flush=True)
    medians = {form: {n: record.quantile(values, 0.5) for n, values in of.items()} for form, of in found.items()}
    ratios = {
        n: record.quantile([a / b for a, b in zip(found["lean"][n], found["plain"][n], strict=True)], 0.5)
        for n in medians["lean"]
    }
    return {"tokens_per_s_median": medians, "lean_over_plain_median": ratios, "raw": found}


def _last(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {form: {n: round(values[-1], 1) for n, values in of.items() if values} for form, of in found.items()}


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Median, least and p90 of each number, and all of them."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        found[name] = {
            "median": round(record.quantile(values, 0.5), 4),
            "min": round(min(values), 4),
            "p90": round(record.quantile(values, 0.9), 4),
            "n": len(values),
            "raw": [round(value, 4) for value in values],
        }
    return found


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    cache_dir = default_cache_dir()
    uri = parse_model(options.model, shorthands=True).uri
    model = locate(uri, cache_dir=cache_dir) or pull(uri, cache_dir=cache_dir, progress=silent)
    conversion = engine("openvino").conversion(model, cache_dir)
    if conversion is not None:
        run_conversion(conversion, cache_dir, silent)
    kinds = [(how, form) for how in ("fork", "fresh") for form in ("lean", "plain")]
    rounds: dict[str, list[dict[str, float]]] = {f"{how} {form}": [] for how, form in kinds}
    with tempfile.TemporaryDirectory(prefix="ironloom-start-") as folder:
        bench = Bench(model, cache_dir, Path(folder))
        await bench.start_launcher()
        assert bench.launcher is not None
        try:
            for number in range(-1, options.rounds):  # the first round warms the page cache and is not counted
                for how, form in kinds:
                    if how == "fresh" and number % options.fresh_every:
                        continue
                    found = await one_start(bench, how, form)
                    if number >= 0:
                        rounds[f"{how} {form}"].append(found)
                print(f"round {number + 1}: " + ", ".join(_short(k, v) for k, v in rounds.items() if v), flush=True)
            load = await throughput(bench, options.throughput_rounds) if options.throughput_rounds else {}
        finally:
            await bench.launcher.close()
    starts = {kind: summary(values) for kind, values in rounds.items() if values}
    return {"model": uri, "launcher_ready_s": round(bench.preload_s, 3), "starts": starts, "throughput": load}


def _short(kind: str, values: list[dict[str, float]]) -> str:
    last = values[-1]
    woke = f", woke {last['later_wake_to_first_token_s']:.3f}" if "later_wake_to_first_token_s" in last else ""
    return f"{kind} {last['health_s']:.2f}/{last['first_token_s']:.2f}{woke}"


def main() -> int:
    """Run it and print or write what was measured."""
    parser = argparse.ArgumentParser(description="Starts, parks and wakes of the OpenVINO engine.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--fresh-every", type=int, default=1, help="start fresh processes in each so manieth round")
    parser.add_argument("--throughput-rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    results = asyncio.run(run(options))
    shown = {
        kind: {name: {k: v for k, v in value.items() if k != "raw"} for name, value in of.items()}
        for kind, of in results["starts"].items()
    }
    load = {key: value for key, value in results["throughput"].items() if key != "raw"}
    print(json.dumps({**results, "starts": shown, "throughput": load}, indent=1))
    if options.write:
        print(record.write(options.write, results, distributions=["openvino", "openvino-genai", "numpy", "uvloop"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
