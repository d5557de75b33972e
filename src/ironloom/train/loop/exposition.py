"""What a step's record is in Prometheus' text format: names, help texts and definitions, here and nowhere else.

The daemon's /metrics has them for its runs, a loop of one's own for itself. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.serve.gateway.metrics import Metric, escaped

_RUN = ("run",)


def _gauge(name: str, text: str) -> Metric:
    return Metric(name=f"ironloom_run_{name}", type="gauge", labels=_RUN, help=text)


def _counter(name: str, text: str) -> Metric:
    return Metric(name=f"ironloom_run_{name}", type="counter", labels=_RUN, help=text)


STEP = _gauge("step", "Optimizer steps that a run has done.")
STEPS = _gauge("steps", "Optimizer steps that a run is to do in all.")
TOKENS = _counter("tokens_total", "Tokens trained on, over all ranks.")
PARTS = Metric(
    name="ironloom_run_step_part_seconds",
    type="gauge",
    labels=("run", "part"),
    help="Seconds of one part of the mean step since the last one that was told; they add up to "
    "ironloom_run_step_seconds. communication is what was exposed: computing stood still for other ranks.",
)
OF_RECORDS: tuple[tuple[str, Metric], ...] = (
    ("loss", _gauge("loss", "Mean loss over the targets of the last step that was told, before its update.")),
    ("grad_norm", _gauge("grad_norm", "Global norm of the gradients before clipping.")),
    ("learning_rate", _gauge("learning_rate", "Learning rate of the last step that was told.")),
    ("samples", _counter("samples_total", "Samples trained on, over all ranks, where a loop counts samples.")),
    ("samples_per_s", _gauge("samples_per_second", "Samples a second over the last 20 steps.")),
    ("tokens_per_s", _gauge("tokens_per_second", "Tokens a second over the last 20 steps.")),
    (
        "mfu",
        _gauge(
            "mfu",
            "Model FLOP/s utilisation of one GPU by torchtitan's convention, 0 to 1; on GPUs of the catalog only.",
        ),
    ),
    ("step_s", _gauge("step_seconds", "Mean seconds of a step, with what was done between steps.")),
    ("num_stalls", _counter("stalls_total", "Steps that took more than twice the median of those before them.")),
    ("stall_s", _counter("stall_seconds_total", "Seconds of stalls beyond the median step.")),
    ("steal_fraction", _gauge("steal_fraction", "Share of CPU time that a hypervisor gave to others, 0 to 1.")),
    (
        "peak_memory_bytes",
        _gauge("peak_memory_bytes", "Most memory that rank 0 had: reserved on its GPU, resident on a CPU."),
    ),
    ("remaining_s", _gauge("remaining_seconds", "Seconds to the last step, by the last 20.")),
)
"""By the record's field."""
METRICS: tuple[Metric, ...] = (STEP, STEPS, TOKENS, *(metric for _, metric in OF_RECORDS), PARTS)


def head(metric: Metric) -> list[str]:
    """Its HELP and TYPE lines."""
    return [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.type}"]


def sample(metric: Metric, run: str, value: object) -> Iterator[str]:
    """Its line; none where there is no number."""
    if isinstance(value, int | float):
        yield f'{metric.name}{{run="{escaped(run)}"}} {value:.10g}'


def parts_samples(run: str, record: Mapping[str, Any]) -> Iterator[str]:
    """A line a part of the step."""
    for part, seconds in (record.get("parts_s") or {}).items():
        yield f'{PARTS.name}{{run="{escaped(run)}",part="{escaped(part)}"}} {seconds:.10g}'


def step_text(run: str, record: Mapping[str, Any]) -> str:
    """One step's record as a whole page."""
    values = {STEP.name: record.get("step"), STEPS.name: record.get("num_steps"), TOKENS.name: record.get("tokens")}
    values |= {metric.name: record.get(field) for field, metric in OF_RECORDS}
    lines: list[str] = []
    for metric in METRICS:
        samples = list(parts_samples(run, record) if metric is PARTS else sample(metric, run, values[metric.name]))
        lines += [*head(metric), *samples] if samples else []
    return "\n".join(lines) + "\n"
