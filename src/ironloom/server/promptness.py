"""How the daemon's process keeps its event loop prompt beside its own threads and its own garbage.

Both settings are the process's, so they stand where the process begins, and the benchmark of the gateway takes them
from here too.
"""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.000_5
"""How long a thread that imports events into SQLite may hold the interpreter while the loop waits for it; Python's own
5 ms would be added to the answers that come just then."""
_YOUNG_OBJECTS = 10_000
"""New objects between two collections; Python's own 700 are fewer than one turn of a busy loop makes."""


def be_prompt() -> None:
    """Call it once, when everything is imported and nothing runs yet."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what is there now lives as long as the process: no collection need look at it
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
