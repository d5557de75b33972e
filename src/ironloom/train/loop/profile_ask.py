"""How a run that goes on is asked for a profile: a file in its logs, which rank 0 looks for between steps.

    echo 3 > OUTPUT/logs/profile-ask        # of the next three steps

`ironloom profile NAME` writes the same. Imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAME = "profile-ask"
MAX_STEPS = 100
"""A trace of a step takes from one to hundreds of megabytes."""
LOOK_S = 0.5
"""How often it is looked for: a shared file system may take milliseconds to say that there is none."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What was asked for."""

    num_steps: int
    id: str = ""
    """Who asked finds the answer by it."""


def ask(logs: Path, wanted: Ask) -> None:
    """Write it down, whole or not at all. Raises OSError."""
    partial = logs / f"{NAME}.part"
    partial.write_text(f"{wanted.num_steps} {wanted.id}\n")
    partial.replace(logs / NAME)


class Asked:
    """Rank 0's side."""

    def __init__(self, logs: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """What an earlier attempt was asked for, and did not come to, is forgotten."""
        self._path = logs / NAME
        self._clock = clock
        self._next_s = 0.0
        self._path.unlink(missing_ok=True)

    def take(self) -> Ask | str | None:
        """What is asked for, once; a sentence where that cannot be read; None where nothing is."""
        now_s = self._clock()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + LOOK_S
        try:
            text = self._path.read_text(errors="replace")[:200]
            if not text:  # a shell has made the file, and writes into it next
                return None
            self._path.unlink()
        except OSError:
            return None
        words = text.split()
        if not words or not words[0].isdecimal() or not 1 <= int(words[0]) <= MAX_STEPS:
            return (
                f"No profile: {self._path} says {text.strip()!r}, and a number of steps from 1 to {MAX_STEPS} is meant."
            )
        return Ask(int(words[0]), words[1] if len(words) > 1 else "")
