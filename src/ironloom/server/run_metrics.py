"""The metrics of training runs: names, help texts and definitions here and nowhere else, and their Prometheus text.

docs/reference/metrics.md is made from METRICS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironloom.serve.gateway.metrics import Metric, escaped
from ironloom.train.run_state import RunReport, RunState

_RUN = ("run",)
STATE = Metric(
    name="ironloom_run_state",
    type="gauge",
    labels=("run", "state"),
    help="1 for the state that a training run is in, 0 for the others.",
)
STEP = Metric(name="ironloom_run_step", type="gauge", labels=_RUN, help="Optimizer steps that a run has done.")
STEPS = Metric(name="ironloom_run_steps", type="gauge", labels=_RUN, help="Optimizer steps that a run is to do in all.")
LOSS = Metric(
    name="ironloom_run_loss",
    type="gauge",
    labels=_RUN,
    help="Mean loss over the targets of the last step that was told, before its update.",
)
EVAL_LOSS = Metric(
    name="ironloom_run_eval_loss",
    type="gauge",
    labels=_RUN,
    help="Mean loss over the held-out targets.",
)
GRAD_NORM = Metric(
    name="ironloom_run_grad_norm", type="gauge", labels=_RUN, help="Global norm of the gradients before clipping."
)
LEARNING_RATE = Metric(
    name="ironloom_run_learning_rate", type="gauge", labels=_RUN, help="Learning rate of the last step that was told."
)
TOKENS = Metric(
    name="ironloom_run_tokens_total",
    type="counter",
    labels=_RUN,
    help="Tokens trained on, over all ranks.",
)
TOKENS_PER_S = Metric(
    name="ironloom_run_tokens_per_second", type="gauge", labels=_RUN, help="Tokens a second over the last 20 steps."
)
MFU = Metric(
    name="ironloom_run_mfu",
    type="gauge",
    labels=_RUN,
    help="Model FLOP/s utilisation of one GPU by torchtitan's convention, 0 to 1; on GPUs of the catalog only.",
)
MEMORY = Metric(
    name="ironloom_run_peak_memory_bytes",
    type="gauge",
    labels=_RUN,
    help="Most memory that rank 0 had: reserved on its GPU, resident on a CPU.",
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
METRICS: tuple[Metric, ...] = (
    STATE, STEP, STEPS, LOSS, EVAL_LOSS, GRAD_NORM, LEARNING_RATE, TOKENS, TOKENS_PER_S, MFU, MEMORY, CHECKPOINT,
    ATTEMPTS, SKIPPED, DEVICE_SECONDS,
)  # fmt: skip


def render(reports: Sequence[RunReport]) -> bytes:
    """The metrics of all runs in Prometheus' text format; nothing where there is no run."""
    if not reports:
        return b""
    lines: list[str] = []
    for metric in METRICS:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.type}"]
        for report in reports:
            lines += _samples(metric, report)
    return ("\n".join(lines) + "\n").encode()


def _samples(metric: Metric, report: RunReport) -> Iterator[str]:
    label = f'run="{escaped(report.name)}"'
    if metric is STATE:
        for state in RunState:
            yield f'{metric.name}{{{label},state="{state.value}"}} {int(report.state is state)}'
        return
    value = _value(metric, report)
    if isinstance(value, int | float):
        yield f"{metric.name}{{{label}}} {value:.10g}"


def _value(metric: Metric, report: RunReport) -> object:
    progress = report.progress
    last = progress.last
    values: dict[str, object] = {
        STEP.name: progress.step,
        STEPS.name: progress.num_steps or None,
        LOSS.name: last.get("loss"),
        EVAL_LOSS.name: progress.eval_loss.latest[1] if progress.eval_loss.latest else None,
        GRAD_NORM.name: last.get("grad_norm"),
        LEARNING_RATE.name: last.get("learning_rate"),
        TOKENS.name: progress.tokens,
        TOKENS_PER_S.name: last.get("tokens_per_s"),
        MFU.name: last.get("mfu"),
        MEMORY.name: last.get("peak_memory_bytes"),
        CHECKPOINT.name: progress.checkpoint_step,
        ATTEMPTS.name: report.attempt,
        SKIPPED.name: progress.num_skipped,
        DEVICE_SECONDS.name: report.device_s,
    }
    return values[metric.name]
