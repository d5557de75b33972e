"""The metrics of training runs: what a step's record says (train/loop/exposition.py) and what the daemon adds.

docs/reference/metrics.md is made from METRICS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironloom.serve.gateway.metrics import Metric, escaped
from ironloom.train.loop.exposition import METRICS as OF_STEPS
from ironloom.train.loop.exposition import OF_RECORDS, PARTS, STEP, STEPS, TOKENS, head, parts_samples, sample
from ironloom.train.run_state import RunReport, RunState

_RUN = ("run",)
STATE = Metric(
    name="ironloom_run_state",
    type="gauge",
    labels=("run", "state"),
    help="1 for the state that a training run is in, 0 for the others.",
)
EVAL_LOSS = Metric(
    name="ironloom_run_eval_loss",
    type="gauge",
    labels=_RUN,
    help="Mean loss over the held-out targets.",
)
CHECKPOINT = Metric(
    name="ironloom_run_checkpoint_step", type="gauge", labels=_RUN, help="Step of the newest checkpoint that is whole."
)
ATTEMPTS = Metric(
    name="ironloom_run_attempts_total", type="counter", labels=_RUN, help="Times that a run's ranks were started."
)
SKIPPED = Metric(
    name="ironloom_run_skipped_steps_total",
    type="counter",
    labels=_RUN,
    help="Steps skipped for a bad loss.",
)
DEVICE_SECONDS = Metric(
    name="ironloom_run_device_seconds_total",
    type="counter",
    labels=_RUN,
    help="Seconds that devices were held for a run, over all attempts; a rank on CPU counts as one device.",
)
METRICS: tuple[Metric, ...] = (STATE, *OF_STEPS, EVAL_LOSS, CHECKPOINT, ATTEMPTS, SKIPPED, DEVICE_SECONDS)


def render(reports: Sequence[RunReport]) -> bytes:
    """The metrics of all runs in Prometheus' text format; nothing where there is no run."""
    if not reports:
        return b""
    values = [(report, _values(report)) for report in reports]
    lines: list[str] = []
    for metric in METRICS:
        lines += head(metric)
        for report, known in values:
            lines += _samples(metric, report, known)
    return ("\n".join(lines) + "\n").encode()


def _samples(metric: Metric, report: RunReport, known: dict[str, object]) -> Iterator[str]:
    if metric is STATE:
        for state in RunState:
            label = f'run="{escaped(report.name)}",state="{state.value}"'
            yield f"{metric.name}{{{label}}} {int(report.state is state)}"
    elif metric is PARTS:
        yield from parts_samples(report.name, report.progress.last)
    else:
        yield from sample(metric, report.name, known[metric.name])


def _values(report: RunReport) -> dict[str, object]:
    progress = report.progress
    return {metric.name: progress.last.get(field) for field, metric in OF_RECORDS} | {
        STEP.name: progress.step,
        STEPS.name: progress.num_steps or None,
        TOKENS.name: progress.tokens,
        EVAL_LOSS.name: progress.eval_loss.latest[1] if progress.eval_loss.latest else None,
        CHECKPOINT.name: progress.checkpoint_step,
        ATTEMPTS.name: report.attempt,
        SKIPPED.name: progress.num_skipped,
        DEVICE_SECONDS.name: report.device_s,
    }
