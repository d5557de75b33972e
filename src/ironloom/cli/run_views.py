"""How training runs look: rows of a table, the page of one, the line while it goes on, the sentence at its end."""

from __future__ import annotations

from typing import Any

import msgspec

from ironloom.cli.output import age, moment, plural, table
from ironloom.serve.reason import one_line
from ironloom.server.control import EventView, RunView
from ironloom.train.loop.report import exported_line
from ironloom.train.run_state import ENDED_STATES
from ironloom.units import format_bytes, format_duration

RUN_HEAD = ("NAME", "STATE", "STEP", "LOSS", "TOKENS/S", "LEFT", "RANKS", "AGE")
RUN_WIDE_HEAD = ("MODEL", "METHOD", "ATTEMPT", "DEVICE TIME", "OUTPUT", "REASON")


def run_row(item: dict[str, Any]) -> tuple[str, ...]:
    """A run's cells, those of the wide table last."""
    view = msgspec.convert(item, RunView)
    steps = "-"
    if view.num_steps:  # a folder's checkpoint may be of more steps than are asked for
        steps = f"{view.step}/{view.num_steps}" if view.step <= view.num_steps else str(view.step)
    rate = view.last.get("tokens_per_s")
    wide = (view.model, view.method, str(view.attempt), format_duration(view.device_s), view.output)
    return (
        view.name,
        view.state.ljust(len("succeeded")),  # the widest, so that a watched table keeps its columns
        steps,
        number(view.last.get("loss")),
        f"{rate:,.0f}" if isinstance(rate, int | float) else "-",
        left(view),
        str(view.num_ranks),
        age(view.created_s),
        *wide,
        one_line(view.reason) or "-",
    )


def left(view: RunView) -> str:
    """The time to its end, while it runs."""
    seconds = view.last.get("remaining_s")
    return format_duration(seconds) if view.state == "running" and isinstance(seconds, int | float) else "-"


def number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def progress_text(view: RunView) -> str:
    """What a run does now, for a line that is written again and again."""
    if view.state != "running":
        said = view.phase if view.state == "starting" and view.phase else one_line(view.reason)
        return f"{view.state}: {said}" if said and said != view.state else view.state
    parts = [f"step {view.step}/{view.num_steps}", f"loss {number(view.last.get('loss'))}"]
    if isinstance(rate := view.last.get("tokens_per_s"), int | float):
        parts.append(f"{rate:,.0f} tokens/s")
    if view.eval_curve:
        parts.append(f"evaluation {view.eval_curve[-1][1]:.4f}")
    if (rest := left(view)) != "-":
        parts.append(f"{rest} left")
    return "  ".join(parts)


def ending(view: RunView) -> str:
    """How it ended, in sentences."""
    if view.state != "succeeded":
        told = f"{view.name} {view.state}: {view.reason or 'no reason is known'}"
        return f"{told}\n\nhint: {view.hint}" if view.hint else told
    report = view.report or {}
    steps, device_time = plural(view.step, "step"), f"{format_duration(view.device_s)} of device time"
    if not view.last and not view.num_skipped:  # the report's losses and tokens are an earlier run's
        told = f"nothing was left to train after the {steps} that were done in {view.output} before, {device_time}"
        exported = exported_line(report)
        return f"{view.name} succeeded: {told}." + (f"\nExported is {exported}." if exported else "")
    work = f"{steps}, {report.get('num_tokens', 0):,} tokens, {device_time}"
    lines = [f"{view.name} succeeded: {work}. The model is in {view.output}."]
    loss, evaluated = report.get("loss") or {}, report.get("eval_loss") or {}
    if loss.get("first") is not None and loss.get("last") is not None:
        lines.append(f"Training loss {loss['first']:.4f} → {loss['last']:.4f}.")
    if evaluated.get("first") is not None and evaluated.get("last") is not None:
        lines.append(f"Evaluation loss {evaluated['first']:.4f} → {evaluated['last']:.4f}.")
    if exported := exported_line(report):
        lines.append(f"Exported is {exported}.")
    return "\n".join(lines)


def render_run(view: RunView, events: list[EventView]) -> str:
    """The page of one run that a person reads."""
    last = view.last
    facts = [
        ("Name", view.name),
        ("Namespace", view.namespace),
        ("Kind", view.kind),
        ("State", f"{view.state}: {one_line(view.reason)}" if view.reason else view.state),
        ("Hint", view.hint),
        ("Model", view.model),
        ("Method", view.method),
        ("Output", view.output),
        ("Step", _step(view)),
        ("Loss", number(last["loss"]) if "loss" in last else ""),
        ("Evaluation", ", ".join(f"{loss:.4f} at step {step:.0f}" for step, loss in view.eval_curve[-3:])),
        ("Exported", exported_line(view.report or {})),
        ("Speed", _speed(last)),
        ("Step time", _parts(last)),
        ("Stalls", _stalls(last)),
        ("Skipped", f"{plural(view.num_skipped, 'step')} of a bad loss" if view.num_skipped else ""),
        ("Memory", f"{format_bytes(last['peak_memory_bytes'])} at the most" if last.get("peak_memory_bytes") else ""),
        ("Steal", f"{last['steal_fraction']:.0%} of CPU time went to others" if last.get("steal_fraction") else ""),
        ("Attempt", f"{view.attempt} on {view.num_ranks} rank{'s' if view.num_ranks != 1 else ''}"),
        ("Device time", _device_time(view)),
        ("Created", f"{moment(view.created_s)} ({age(view.created_s)} ago)" if view.created_s else ""),
    ]
    lines = [f"{f'{label}:' if label else '':<13} {text}" for label, text in facts if text]
    if view.ranks:
        rows = [(str(one.rank), str(one.pid or "-"), one.device) for one in view.ranks]
        lines += ["Ranks:", *(f"  {line}" for line in table(("RANK", "PID", "DEVICE"), rows).splitlines())]
    if view.samples:
        lines.append("Samples:")
        lines += [f"  {one.get('prompt', '')!r} → {one.get('text', '')!r}" for one in view.samples]
    if view.profile:
        first, last_step = view.profile.get("first_step"), view.profile.get("last_step")
        lines.append(f"Profile of steps {first} to {last_step}:")
        lines += [f"  {path}" for path in view.profile.get("paths", [])]
    if view.notes:
        lines += ["Notes:", *(f"  {note}" for note in view.notes)]
    if events:
        shown = [(age(event.wall_time_s), event.reason or event.kind, one_line(event.message)) for event in events]
        lines += ["Events:", *(f"  {line}" for line in table(("AGE", "REASON", "MESSAGE"), shown).splitlines())]
    return "\n".join(lines)


def _step(view: RunView) -> str:
    """Nothing, where it did not come to steps."""
    if not view.num_steps:
        return ""
    checkpoint = f", newest checkpoint of step {view.checkpoint_step}" if view.checkpoint_step else ""
    if view.step > view.num_steps:
        return f"{view.step}, more than num_steps={view.num_steps}{checkpoint}"
    return f"{view.step} of {view.num_steps}{checkpoint}"


def _speed(last: dict[str, Any]) -> str:
    rate = last.get("tokens_per_s")
    if not isinstance(rate, int | float):
        return ""
    mfu, causal = last.get("mfu"), last.get("mfu_causal")
    share = f", MFU {mfu:.1%}" if isinstance(mfu, int | float) else ""
    halved = f" ({causal:.1%} with causal attention halved)" if isinstance(causal, int | float) else ""
    return f"{rate:,.0f} tokens/s{share}{halved}"


def _parts(last: dict[str, Any]) -> str:
    if not isinstance(last.get("step_s"), int | float):
        return ""
    parts = last.get("parts_s") or {}
    seen = {name: seconds for name, seconds in parts.items() if seconds >= last["step_s"] / 100}
    told = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in seen.items())
    return f"{format_duration(last['step_s'])}{f' ({told})' if told else ''}"


def _stalls(last: dict[str, Any]) -> str:
    if not last.get("num_stalls"):
        return ""
    return (
        f"{plural(last['num_stalls'], 'step')} of more than twice the median, {format_duration(last['stall_s'])} lost"
    )


def _device_time(view: RunView) -> str:
    rest = view.last.get("remaining_device_s")
    if view.state in ENDED_STATES:
        return format_duration(view.device_s)
    so_far = f"{format_duration(view.device_s)} so far"
    if view.state != "running" or not isinstance(rest, int | float):
        return so_far
    return f"{so_far}, {format_duration(rest)} more to the end"
