"""The request target and the Host header: what llhttp leaves unchecked."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from ironloom.errors import RequestError

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=256)
def host_is_valid(host: bytes) -> bool:
    """True for a name, an IPv4 address or a bracketed IPv6 address, with or without a port."""
    return _HOST.fullmatch(host) is not None


@lru_cache(maxsize=256)
def split_target(target: bytes) -> tuple[str, str, bytes | None]:
    """(percent-decoded path, query, authority of an absolute target). Raises RequestError 400.

    A path with a `..` segment, a NUL or bytes that are not UTF-8 is refused: no client needs one, and a prefix that
    lets a request in must mean what it says.
    """
    authority = None
    if not target.startswith(b"/"):
        if target == b"*":
            return "*", "", None
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise RequestError(400, "the request target is not a path", code="bad_http")
        authority, target = absolute[1], absolute[2]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise RequestError(400, "the path is not UTF-8", code="bad_http") from None
    if "\0" in text or (".." in text and ".." in text.split("/")):
        raise RequestError(400, "the path has a part that is not allowed", code="bad_http")
    return text, query.decode("ascii"), authority
