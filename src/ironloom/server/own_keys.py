"""Keys that the daemon itself brings: that of this user's own commands, and that of an installation."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.serve.gateway.keys import KeyRing, Scope
from ironloom.server.state_dir import write_private


async def own_key(ring: KeyRing, state_dir: Path) -> str:
    """The control key of this user's own commands: made once, kept where only the user can read it."""
    file = state_dir / "control.key"
    with contextlib.suppress(OSError):
        token = file.read_text().strip()
        if ring.check(token.encode()) is not None:
            return token
    _, token = await ring.create("commands on this machine", Scope.CONTROL, stays_here=True)
    write_private(file, token)
    return token


async def admit_key(ring: KeyRing, file: Path) -> str:
    """Let in the control key that a file holds, as a mounted Secret does. Raises UsageError for a file that holds
    none."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The control key file {file} cannot be read: {error}") from error
    await ring.admit(token, "the installation's", Scope.CONTROL)
    return token
