"""How a rank ends, as its exit status; whoever started it decides by that whether another attempt makes sense."""

from __future__ import annotations

DONE = 0
FAILED = 1
"""Something broke; another attempt goes on from the last checkpoint."""
REFUSED = 2
"""The configuration, the data or the model is wrong, or does not fit: the same again ends the same."""
BAD_LOSS = 3
"""The loss went bad and the rule says stop: the same again ends the same."""
HUNG = 4
"""A step took longer than `watch.hang_timeout_s`."""
PEER_LOST = 5
"""Another rank went away in the middle of a step."""
PREEMPTED = 143
"""Asked to end (SIGTERM), it took a checkpoint first. As the shell shows a SIGTERM: 128 + 15."""

FINAL = frozenset({REFUSED, BAD_LOSS})
"""No further attempt is made after these."""
