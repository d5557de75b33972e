"""File descriptors: how many this process may have open, and how many connections that carries.

Many systems start programs with 1024 (the soft limit, kept low for programs that use select), and let them raise it.
"""

from __future__ import annotations

import resource

MAX_DESCRIPTORS = 65_536
"""More is of no use; some programs that engines run close every descriptor they might have, one by one."""
RESERVED = 128
"""For the state file, the journal, logs, launchers, the parts of the standard library."""


def raise_limit() -> int:
    """Raise the soft limit as far as the system lets us. Returns how many descriptors may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


def num_connections(num_descriptors: int) -> int:
    """Clients that can be served at once with so many descriptors: each may need a second one, to its engine."""
    return max(16, (num_descriptors - RESERVED) // 2)
