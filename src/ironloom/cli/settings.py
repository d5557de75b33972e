"""Where the daemon is: the environment, and the state file that a running daemon leaves.

A daemon writes `daemon.json` into its state folder, readable by its user alone: `pid`, `url`, `started`; `key`, which
opens the control API to this user's own commands where keys are wanted; `cert`, the certificate it serves TLS with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ironloom.errors import UsageError

if TYPE_CHECKING:
    import ssl

DEFAULT_PORT = 11500
DEFAULT_HOST = "127.0.0.1"
_EVERY_ADDRESS = {"0.0.0.0": DEFAULT_HOST, "::": "::1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The daemon that a command speaks to."""

    url: str
    """Scheme, host and port, without a path."""
    key: str | None = None
    cert: Path | None = None
    """Trusted in place of the system's authorities: the very certificate that the daemon serves."""
    remote: bool = False
    """Named by IRONLOOM_URL: not ours to start."""
    pid: int | None = None
    """The daemon's process, where its state folder tells."""
    prefix: str = ""
    """Before every path: an API server's proxy of the gateway's pod."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """With every request."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """What to trust and show; None for the system's authorities or `cert`."""
    tls_name: str = ""
    """The name that the server's certificate is for, where it is not the URL's."""
    place: str = ""
    """How to name it where its URL is only the way to it."""
    options: str = ""
    """Those of a command that reach it again, after a blank: ` --context NAME -n NAMESPACE`."""


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder: IRONLOOM_HOME, else `ironloom` in XDG_STATE_HOME, else ~/.local/state/ironloom."""
    if home := environ.get("IRONLOOM_HOME"):
        return Path(home).expanduser().absolute()
    base = environ.get("XDG_STATE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".local" / "state") / "ironloom"


def port(environ: Mapping[str, str] = os.environ) -> int:
    """The port: IRONLOOM_PORT, else 11500. Raises UsageError when it is none."""
    text = environ.get("IRONLOOM_PORT", "")
    if not text:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UsageError(
            f"IRONLOOM_PORT is {text!r}, and must be a port number from 1 to 65535.",
            hint=f"unset it, and the port is {DEFAULT_PORT}.",
        )
    return int(text)


def target(environ: Mapping[str, str] = os.environ) -> Target:
    """The daemon to speak to: IRONLOOM_URL; else the one that holds the state folder, unless IRONLOOM_PORT names
    another port; else the port on loopback. Raises UsageError for a value that means nothing."""
    key = environ.get("IRONLOOM_API_KEY") or None
    if url := environ.get("IRONLOOM_URL"):
        return Target(url=_origin(url), key=key, remote=True)
    wanted = port(environ)
    found = running(state_dir(environ), key)
    if found is not None and (not environ.get("IRONLOOM_PORT") or urlsplit(found.url).port == wanted):
        return found
    return Target(url=f"http://{DEFAULT_HOST}:{wanted}", key=key)


def running(folder: Path, key: str | None = None) -> Target | None:
    """The daemon that last announced itself in a state folder, or None. After a kill -9 it is gone all the same."""
    try:
        state = json.loads((folder / "daemon.json").read_text())
        parts = urlsplit(state["url"])
        host, number = parts.hostname, parts.port
        pid, own_key, cert = state.get("pid"), state.get("key"), state.get("cert")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not host or number is None:
        return None
    host = _EVERY_ADDRESS.get(host, host)
    url = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{number}"
    return Target(url=url, key=key or own_key, cert=Path(cert) if cert else None, pid=pid)


def _origin(url: str) -> str:
    """Scheme, host and port of IRONLOOM_URL; the /v1 that OpenAI's clients want is taken off."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") not in ("", "/v1"):
        raise UsageError(
            f"IRONLOOM_URL is {url!r}, and must be http://HOST:PORT or https://HOST:PORT.",
            hint="a daemon on this machine needs no IRONLOOM_URL.",
        )
    return f"{parts.scheme}://{parts.netloc}"
