"""/metrics in Prometheus' text format, under vLLM's names where the definition is vLLM's."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from ironloom.serve.engines.programs.generation import Stats

_TTFT_BUCKETS_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_E2E_BUCKETS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)


class Histogram:
    """Counts by upper bound, and a sum."""

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self._help = help_text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, label: str) -> list[str]:
        """In text format, cumulative."""
        out = [f"# HELP {self.name} {self._help}", f"# TYPE {self.name} histogram"]
        total = 0
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            total += count
            edge = "+Inf" if bound is None else f"{bound:g}"
            out.append(f'{self.name}_bucket{{{label},le="{edge}"}} {total}')
        return [*out, f"{self.name}_count{{{label}}} {total}", f"{self.name}_sum{{{label}}} {self._sum:.6f}"]


class Metrics:
    """What the server counts itself."""

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter()
        self.ttft_s = Histogram(
            "vllm:time_to_first_token_seconds", "Arrival at the engine to the first token.", _TTFT_BUCKETS_S
        )
        self.e2e_s = Histogram(
            "vllm:e2e_request_latency_seconds", "Arrival at the engine to the last token.", _E2E_BUCKETS_S
        )

    def render(self, stats: Stats, *, model: str, asleep: bool) -> bytes:
        """The whole page."""
        escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        label = f'model_name="{escaped}"'
        lines: list[str] = []
        for name, kind, help_text, value in (
            ("vllm:num_requests_running", "gauge", "Sequences in the model's batch.", stats.num_requests_running),
            ("vllm:num_requests_waiting", "gauge", "Sequences waiting for a place.", stats.num_requests_waiting),
            ("vllm:kv_cache_usage_perc", "gauge", "KV cache in use; 1 is all.", stats.kv_cache_usage_fraction),
            ("vllm:prompt_tokens_total", "counter", "Prompt tokens processed.", stats.prompt_tokens_total),
            ("vllm:generation_tokens_total", "counter", "Tokens generated.", stats.generation_tokens_total),
            ("ironloom_engine_parked", "gauge", "1 while weights and KV cache are given back.", int(asleep)),
        ):
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name}{{{label}}} {value}"]
        lines += [
            "# HELP vllm:request_success_total Requests by how they ended.",
            "# TYPE vllm:request_success_total counter",
            *(
                f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {count}'
                for reason, count in sorted(self.finished.items())
            ),
            *self.ttft_s.lines(label),
            *self.e2e_s.lines(label),
            "",
        ]
        return "\n".join(lines).encode()
