"""The demo's story, step by step, in calm sentences on stderr; its figures come back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ironloom.cli.client import Client
from ironloom.cli.demo_measure import Load, ask, ask_openai, load, memory_bytes
from ironloom.cli.models import pull_shown
from ironloom.cli.output import say
from ironloom.cli.progress import Line
from ironloom.cli.waiting import until_ready
from ironloom.errors import EngineError, IronloomError
from ironloom.serve.reason import one_line
from ironloom.server.control import ServiceView
from ironloom.units import format_bytes, format_duration

WINDOW_S = 6.0
"""Idle this long, then zero. Knative's least window."""
QUESTION = "What is the capital of France? Answer in one sentence."
STEP_DEADLINE_S = 60.0
POLL_S = 0.05
_LOOK = "serve the model by itself to look closer: `ironloom serve MODEL`, then `ironloom describe NAME`."


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What the demo measured. None: this machine could not show it, and the story says why."""

    model: str
    engine: str
    cold_start_s: float
    ttft_s: float
    load: Load
    to_zero_s: float
    from_zero_s: float
    from_parked_s: float | None
    ready_bytes: int | None
    parked_bytes: int | None

    def rows(self) -> list[tuple[str, str, str]]:
        """The table's rows: name, value, definition."""
        load = self.load
        first = format_duration(load.ttft_p50_s)
        return [
            ("cold start", format_duration(self.cold_start_s), "from apply until a replica is ready"),
            ("first token", format_duration(self.ttft_s), "median of 3 short requests, one at a time"),
            (
                f"{load.num_streams} streams",
                f"{load.tokens_per_s:.0f} tokens/s",
                f"{load.num_tokens} tokens in {format_duration(load.took_s)}, first token {first} (median)",
            ),
            ("to zero", format_duration(self.to_zero_s), f"after the last answer, with a window of {WINDOW_S:.0f}s"),
            ("from zero", format_duration(self.from_zero_s), "a request until its first token, process stopped"),
            ("from parked", _span(self.from_parked_s), "a request until its first token, process parked"),
            ("memory, ready", _bytes(self.ready_bytes), "of the replica's processes (PSS)"),
            ("memory, parked", _bytes(self.parked_bytes), "the same, while parked"),
        ]

    def as_data(self) -> dict[str, object]:
        """The same for programs."""
        return {**asdict(self), "load": {**asdict(self.load), "tokens_per_s": self.load.tokens_per_s}}


def tell(client: Client, model: str, num_streams: int) -> Figures:
    """Tell the whole story on a daemon that has no service yet. Raises IronloomError when a step fails."""
    from ironloom.cli.manifests import inference_service, service_name

    say(f"Looking for {model} in the cache; it is fetched if it is not there.")
    local = pull_shown(model)
    say(f"It is there: {format_bytes(local.size_bytes)}{f'; it {local.note}' if local.note else ''}.")

    name = service_name(model)
    manifest = inference_service(model, name=name, min_replicas=0, max_replicas=1, window_s=WINDOW_S)
    began_s = time.perf_counter()
    applied = client.apply([manifest]).services[0]
    waited = until_ready(client, name, applied.generation, after_seq=0)
    if not waited.ready:
        raise EngineError(f"{name} stayed at zero where it should have started.", hint=_LOOK)
    cold_start_s = time.perf_counter() - began_s
    say(f"{name} is ready on {waited.view.engine} after {format_duration(cold_start_s)}.")

    _question(client, name)
    ttft_s = statistics.median(ask(client, name, f"Say the number {n}.", 4).ttft_s for n in range(3))
    with Line(f"{num_streams} streams at once") as line:
        line.show("asking")
        seen = load(client, name, num_streams=num_streams, num_requests=2 * num_streams, max_tokens=64)
    say(f"{num_streams} streams at once: {seen.tokens_per_s:.0f} tokens/s.")
    ready_bytes = _memory(client.service(name))

    began_s = time.perf_counter()
    say(f"Now nobody asks. After {WINDOW_S:.0f}s without a request it goes to zero by itself.")
    _wait(client, name, "zero", lambda view: view.state == "zero" and not view.replicas)
    to_zero_s = time.perf_counter() - began_s
    say(f"At zero after {format_duration(to_zero_s)}: its process is gone. A request brings it back.")
    from_zero_s = ask(client, name, QUESTION, 16).ttft_s
    say(f"The request was held, and its first token came after {format_duration(from_zero_s)}.")

    from_parked_s, parked_bytes = _park(client, name)
    return Figures(
        model=local.uri,
        engine=waited.view.engine,
        cold_start_s=cold_start_s,
        ttft_s=ttft_s,
        load=seen,
        to_zero_s=to_zero_s,
        from_zero_s=from_zero_s,
        from_parked_s=from_parked_s,
        ready_bytes=ready_bytes,
        parked_bytes=parked_bytes,
    )


def _question(client: Client, name: str) -> None:
    try:
        answer, by = ask_openai(client.url, name, QUESTION, 48), "through the openai client"
    except ImportError:
        answer, by = ask(client, name, QUESTION, 48).text, "with our own HTTP client; the openai package is not here"
    say(f"Asked {by}:\n  > {QUESTION}\n  < {' '.join(answer.split())}")


def _park(client: Client, name: str) -> tuple[float | None, int | None]:
    """Park it and wake it again: (first token, memory while parked)."""
    try:
        client.scale(name, 0, park=True)
        _wait(client, name, "parked", lambda view: [replica.state for replica in view.replicas] == ["parked"])
    except IronloomError as error:
        say(f"Parking is not shown: {error}")
        return None, None
    parked_bytes = _memory(client.service(name))
    kept = f"; its process keeps {format_bytes(parked_bytes)}" if parked_bytes is not None else ""
    say(f"Parked with `ironloom scale {name} --park`{kept}. A request wakes it.")
    from_parked_s = ask(client, name, QUESTION, 16).ttft_s
    say(f"Its first token came after {format_duration(from_parked_s)}.")
    return from_parked_s, parked_bytes


def _wait(client: Client, name: str, what: str, reached: Callable[[ServiceView], bool]) -> None:
    give_up_s = time.monotonic() + STEP_DEADLINE_S
    with Line(f"Waiting until {name} is {what}") as line:
        while True:
            view = client.service(name)
            if reached(view):
                return
            if view.state == "failed":
                raise EngineError(f"{name} failed: {one_line(view.reason) or 'no reason is known'}", hint=_LOOK)
            if time.monotonic() > give_up_s:
                raise EngineError(f"{name} was {view.state}, not {what}, after {STEP_DEADLINE_S:.0f} s.", hint=_LOOK)
            line.show(view.state)
            time.sleep(POLL_S)


def _memory(view: ServiceView) -> int | None:
    pids = [replica.pid for replica in view.replicas if replica.pid]
    found = [memory_bytes(pid) for pid in pids]
    return sum(size for size in found if size is not None) if any(found) else None


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _bytes(size: int | None) -> str:
    return "-" if size is None else format_bytes(size)
