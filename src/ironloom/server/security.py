"""Which browsers and which keys may reach what: pure decisions on a request's head.

A daemon on loopback asks for no key, so the browser on the same machine is the danger: any web page may send it
requests to 127.0.0.1, and one whose host name is re-pointed to 127.0.0.1 (DNS rebinding) may read the answers too.
Three checks stop both. Host must be a name of loopback: a rebound page sends its own. Origin, where there is one,
must be the one asked: another page's requests carry theirs. Sec-Fetch-Site catches what comes without Origin
(images, scripts). State-changing control calls need `Content-Type: application/json` besides, which no plain form can
send. Off loopback a key is needed, which a foreign page does not have; Origin is checked all the same.

Programs (curl, SDKs) send neither Origin nor Sec-Fetch-Site and notice nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from ironloom.errors import RequestError
from ironloom.serve.gateway.keys import Key, KeyRing, Scope, is_ours, token_of
from ironloom.server.control import key_not_allowed

_DEFAULT_PORTS = {"http": 80, "https": 443}

PAGE_HEADERS: tuple[tuple[str, str], ...] = (
    (
        "content-security-policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),
)
"""Headers of the page's files: nothing from elsewhere, nothing inline, in no frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """The rules of one listening address."""

    loopback: bool
    """It listens on loopback only, so Host must be a name of loopback."""
    keys_required: bool
    """Every door but the page's files and /healthz wants a key. Always true off loopback."""
    allowed_hosts: frozenset[str] = frozenset()
    """Further host names (without port) that Host may have on loopback, e.g. a local reverse proxy's."""
    allowed_origins: frozenset[str] = frozenset()
    """Origins of other pages that may use the inference API, e.g. `http://localhost:3000`. None by default."""

    def refusal(self, method: str, headers: Mapping[bytes, bytes], *, control: bool = False) -> RequestError | None:
        """Why a request is not let in by its Host, Origin and Sec-Fetch-Site; None when it is.

        `control` says that it asks for the control API, which allowed_origins do not reach.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if self.loopback and host and not self._is_own_name(host):
            return RequestError(
                403,
                f"Host is {host[:100]!r}, and this daemon listens on loopback only",
                type="permission_error",
                code="host_not_allowed",
                hint="use http://127.0.0.1 or http://localhost",
            )
        origin = headers.get(b"origin")
        if origin is not None:
            text = origin.decode("latin-1")
            if _same_authority(text, host) or (not control and text in self.allowed_origins):
                return None
            return _foreign(f"a web page of {text[:100]!r}")
        site = headers.get(b"sec-fetch-site")
        if site is None or site in (b"same-origin", b"none"):
            return None
        if method == "GET" and headers.get(b"sec-fetch-dest") == b"document":
            return None  # a link that a person followed: it shows the answer to them and to no other page
        return _foreign("a web page of another origin")

    def control_key(self, headers: Mapping[bytes, bytes], ring: KeyRing) -> Key | None:
        """The key of a control call, None where none is needed. Raises RequestError 401 or 403."""
        key = self._key(headers, ring)
        if key is not None and self.keys_required and key.scope is not Scope.CONTROL:
            raise key_not_allowed("a key of scope control")
        return key

    def inference_key(self, headers: Mapping[bytes, bytes], ring: KeyRing) -> Key | None:
        """The key of an inference call, None where none is needed. Raises RequestError 401."""
        return self._key(headers, ring)

    def _key(self, headers: Mapping[bytes, bytes], ring: KeyRing) -> Key | None:
        token = token_of(headers)
        key = ring.check(token)
        if key is None and (self.keys_required or is_ours(token)):
            raise RequestError(
                401,
                "this key is not valid: it is unknown or was revoked" if token else "a key is needed and none was sent",
                type="authentication_error",
                code="invalid_api_key" if token else "missing_api_key",
                hint="send it as `Authorization: Bearer il-…`; `ironloom key create NAME` makes one",
            )
        return key

    def _is_own_name(self, host: str) -> bool:
        name = _host_name(host)
        return name is not None and (is_loopback(name) or name in self.allowed_hosts)


def door_notes(host: str, *, tls: bool) -> tuple[str, ...]:
    """What a person must know of a daemon that listens on `host`, in sentences; none for loopback."""
    if is_loopback(host):
        return ()
    keys = (
        f"Other machines reach {host}, so every request needs an API key, also one from this machine; "
        "`ironloom key create NAME` makes one."
    )
    plain = (
        "Without a certificate it speaks plain HTTP: keys and texts can be read on their way; "
        "--tls-cert and --tls-key give it one."
    )
    return (keys,) if tls else (keys, plain)


@lru_cache(maxsize=256)  # asked on every request, mostly with the same few names
def is_loopback(host: str) -> bool:
    """True for `localhost`, names under `.localhost`, 127.0.0.0/8 and ::1 (no look-up of names)."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _host_name(host: str) -> str | None:
    """The name in a Host header, without port and brackets, in lower case; None when it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or "@" in host or "\\" in host:
        return None
    return parts.hostname


def _same_authority(origin: str, host: str) -> bool:
    """True when an Origin header names the host and port that Host names. `null` names none."""
    try:
        parts = urlsplit(origin)
        other = urlsplit(f"//{host}")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            return False
        default = _DEFAULT_PORTS[parts.scheme]
        return (parts.hostname, parts.port or default) == (other.hostname, other.port or default)
    except ValueError:
        return False


def _foreign(who: str) -> RequestError:
    return RequestError(
        403,
        f"{who} may not use this API",
        type="permission_error",
        code="origin_not_allowed",
        hint="send the request from a program, or from the page at / of this address",
    )
