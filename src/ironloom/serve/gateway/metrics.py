"""The gateway's metrics: names, help texts and definitions here and nowhere else, and their Prometheus text.

docs/reference/metrics.md is made from METRICS.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import ReplicaState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histograms' buckets, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ("service",)


REQUESTS = Metric(
    name="ironloom_requests_total",
    type="counter",
    labels=("service", "code"),
    help="Inference requests that have ended, by the status the client got; 499 is a client that went before it. "
    "Requests that name no service have an empty service.",
)
IN_FLIGHT = Metric(name="ironloom_requests_in_flight", type="gauge", help="Requests that a replica is working on.")
HELD = Metric(name="ironloom_requests_held", type="gauge", help="Requests that wait for a replica.")
HELD_BYTES = Metric(name="ironloom_held_bytes", type="gauge", help="Bytes of the bodies of held requests.")
TTFT = Metric(
    name="ironloom_time_to_first_token_seconds",
    type="histogram",
    help="Arrival of the request's head at the gateway to the first event of a stream, or to the first byte of another "
    "answer's body; holding included. Requests that the engine answered.",
)
DURATION = Metric(
    name="ironloom_request_duration_seconds",
    type="histogram",
    help="Arrival of the request's head at the gateway to the answer's end; holding included. Every request.",
)
HOLD = Metric(
    name="ironloom_hold_seconds",
    type="histogram",
    help="How long requests were held. Requests that had to wait for a replica only.",
)
PROMPT_TOKENS = Metric(
    name="ironloom_prompt_tokens_total",
    type="counter",
    help="Prompt tokens, as the engine reported them.",
)
COMPLETION_TOKENS = Metric(
    name="ironloom_completion_tokens_total",
    type="counter",
    help="Completion tokens, as the engine reported them; of a stream that ended early, its events.",
)
RETRIES = Metric(
    name="ironloom_retries_total",
    type="counter",
    help="Requests sent again because an engine or its connection ended before the answer's first byte.",
)
CUT = Metric(
    name="ironloom_requests_cut_total",
    type="counter",
    help="Answers that an engine's end, or the service's timeout, cut off after their first byte.",
)
REPLICAS = Metric(
    name="ironloom_replicas",
    type="gauge",
    labels=("service", "state"),
    help="Replicas by state.",
)
CONNECTIONS = Metric(
    name="ironloom_connections",
    type="gauge",
    labels=(),
    help="Open connections of clients.",
)
REFUSED = Metric(
    name="ironloom_http_refused_total",
    type="counter",
    labels=(),
    help="Requests refused before they were whole: not valid HTTP, too large, too slow, too many connections.",
)

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    IN_FLIGHT,
    HELD,
    HELD_BYTES,
    TTFT,
    DURATION,
    HOLD,
    PROMPT_TOKENS,
    COMPLETION_TOKENS,
    RETRIES,
    CUT,
    REPLICAS,
    CONNECTIONS,
    REFUSED,
)


class Histogram:
    """Counts of observations by bucket. Seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class ServiceMetrics:
    """The counters of one service."""

    __slots__ = ("by_code", "completion_tokens", "duration", "hold", "num_cut", "num_retries", "prompt_tokens", "ttft")

    def __init__(self) -> None:
        self.by_code: defaultdict[int, int] = defaultdict(int)
        self.ttft = Histogram()
        self.duration = Histogram()
        self.hold = Histogram()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.num_retries = 0
        self.num_cut = 0


def render(
    services: dict[str, ServiceMetrics],
    pools: dict[str, ServicePool],
    *,
    num_connections: int,
    num_refused: int,
) -> bytes:
    """All metrics in Prometheus' text format."""
    lines: list[str] = []
    for metric in METRICS:
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {metric.type}")
        if metric is CONNECTIONS:
            lines.append(f"{metric.name} {num_connections}")
        elif metric is REFUSED:
            lines.append(f"{metric.name} {num_refused}")
        else:
            lines.extend(_of_pools(metric, pools))
            lines.extend(_of_services(metric, services))
    return ("\n".join(lines) + "\n").encode()


def _of_services(metric: Metric, services: dict[str, ServiceMetrics]) -> Iterator[str]:
    for name, service in services.items():
        if not name and metric is not REQUESTS:
            continue  # what was refused before it had a service has no times and no tokens
        label = f'service="{escaped(name)}"'
        if metric is REQUESTS:
            for code, count in sorted(service.by_code.items()):
                yield f'{metric.name}{{{label},code="{code}"}} {count}'
        elif metric in (TTFT, DURATION, HOLD):
            yield from _of_histogram(metric.name, label, _histogram(metric, service))
        else:
            value = _counter(metric, service)
            if value is not None:
                yield f"{metric.name}{{{label}}} {value}"


def _histogram(metric: Metric, service: ServiceMetrics) -> Histogram:
    return service.ttft if metric is TTFT else service.duration if metric is DURATION else service.hold


def _counter(metric: Metric, service: ServiceMetrics) -> int | None:
    if metric is PROMPT_TOKENS:
        return service.prompt_tokens
    if metric is COMPLETION_TOKENS:
        return service.completion_tokens
    if metric is RETRIES:
        return service.num_retries
    if metric is CUT:
        return service.num_cut
    return None


def _of_histogram(name: str, label: str, histogram: Histogram) -> Iterable[str]:
    total = 0
    for bound, count in zip((*LATENCY_BUCKETS_S, float("inf")), histogram.counts, strict=True):
        total += count
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield f'{name}_bucket{{{label},le="{le}"}} {total}'
    yield f"{name}_sum{{{label}}} {histogram.total_s:.9g}"
    yield f"{name}_count{{{label}}} {total}"


def _of_pools(metric: Metric, pools: dict[str, ServicePool]) -> Iterator[str]:
    for name, pool in pools.items():
        label = f'service="{escaped(name)}"'
        if metric is IN_FLIGHT:
            yield f"{metric.name}{{{label}}} {pool.in_flight}"
        elif metric is HELD:
            yield f"{metric.name}{{{label}}} {pool.num_held}"
        elif metric is HELD_BYTES:
            yield f"{metric.name}{{{label}}} {pool.held_bytes}"
        elif metric is REPLICAS:
            for state in ReplicaState:
                count = sum(1 for replica in pool.report.replicas if replica.state is state)
                yield f'{metric.name}{{{label},state="{state}"}} {count}'


def escaped(value: str) -> str:
    """A label's value as the text format writes it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
