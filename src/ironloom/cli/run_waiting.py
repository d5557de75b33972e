"""Waiting until a training run has ended, and saying meanwhile how far it is."""

from __future__ import annotations

import time

from ironloom.cli.client import Client
from ironloom.cli.output import say
from ironloom.cli.progress import Line
from ironloom.cli.run_views import progress_text
from ironloom.server.control import RunView

POLL_S = 0.5
ENDED = ("succeeded", "failed", "stopped")


def until_ended(client: Client, name: str) -> RunView:
    """The run as it ended. Its notes and evaluations are said as they come."""
    told: set[str] = set()
    num_evaluations = 0
    with Line(f"Training {name}") as line:
        while True:
            view = client.run(name)
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
