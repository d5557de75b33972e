"""Waiting until a training run has ended, and saying meanwhile how far it is."""

from __future__ import annotations

import time

import msgspec

from ironloom.cli.client import ApiError, Client
from ironloom.cli.output import say
from ironloom.cli.progress import Line
from ironloom.cli.run_views import progress_text
from ironloom.server.control import RunStateName, RunView

POLL_S = 0.5
ENDED: dict[str, RunStateName] = {"succeeded": "succeeded", "failed": "failed", "stopped": "stopped"}


def until_ended(client: Client, name: str) -> RunView:
    """The run as it ended, where it was deleted meanwhile too. Its notes and evaluations are said as they come."""
    told: set[str] = set()
    num_evaluations = 0
    view: RunView | None = None
    with Line(f"Training {name}") as line:
        while True:
            try:
                view = client.run(name)
            except ApiError as error:
                if view is None or error.error_code != "run_not_found":
                    raise
                return _deleted(client, view)
            for note in view.notes:
                if note not in told:
                    told.add(note)
                    say(f"note: {note}")
            for step, loss in view.eval_curve[num_evaluations:]:
                say(f"step {step:.0f}: evaluation loss {loss:.4f}")
            num_evaluations = max(num_evaluations, len(view.eval_curve))
            if view.state in ENDED:
                return view
            line.show(progress_text(view))
            time.sleep(POLL_S)


def _deleted(client: Client, last: RunView) -> RunView:
    """A run that is gone, as the last event of its end tells it: by which checkpoint it can go on."""
    ends = [
        (ENDED[state], event.message)
        for event in client.events(service=last.name)
        if (state := event.kind.removeprefix("run.")) in ENDED
    ]
    state, reason = ends[-1] if ends else ("stopped", "the run was deleted")
    return msgspec.structs.replace(last, state=state, reason=reason)
