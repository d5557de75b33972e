"""What a gateway asks of an API server: names, help texts and definitions here and nowhere else, and their Prometheus
text.

docs/reference/metrics.md is made from METRICS.
"""

from __future__ import annotations

from ironloom.backends.kubernetes.traffic import Traffic
from ironloom.serve.gateway.metrics import Metric

REQUESTS = Metric(
    name="ironloom_kubernetes_requests_total",
    type="counter",
    labels=("verb", "resource"),
    help="Requests to the cluster's API server, each try counted. Verbs and resources are those of its access rules; "
    "a watch is counted when it begins.",
)
WATCH_EVENTS = Metric(
    name="ironloom_kubernetes_watch_events_total",
    type="counter",
    labels=("resource",),
    help="Events that watches brought, bookmarks included.",
)
WATCH_BYTES = Metric(
    name="ironloom_kubernetes_watch_bytes_total",
    type="counter",
    labels=("resource",),
    help="Bytes of those events.",
)
METRICS: tuple[Metric, ...] = (REQUESTS, WATCH_EVENTS, WATCH_BYTES)


def render(traffic: Traffic) -> bytes:
    """The counts in Prometheus' text format."""
    lines = _head(REQUESTS)
    for (verb, resource), number in sorted(traffic.requests.items()):
        lines.append(f'{REQUESTS.name}{{verb="{verb}",resource="{resource}"}} {number}')
    for metric, counts in ((WATCH_EVENTS, traffic.events), (WATCH_BYTES, traffic.event_bytes)):
        lines += _head(metric)
        lines += [f'{metric.name}{{resource="{resource}"}} {number}' for resource, number in sorted(counts.items())]
    return ("\n".join(lines) + "\n").encode()


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.type}"]
