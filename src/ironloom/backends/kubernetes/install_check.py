"""What a person may name when a gateway is installed: refused here in a sentence, before a cluster is asked of it."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ironloom.errors import UsageError
from ironloom.units import MIB, format_bytes, parse_bytes

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABEL_RE: Final = re.compile(_LABEL)
_SUBDOMAIN_RE: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_SUBDOMAIN_CHARS: Final = 253
"""Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/"""
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE_RE: Final = re.compile(
    rf"(?P<name>(?:(?:{_HOST}(?:\.{_HOST})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?{_PART}(?:/{_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?"
)
"""Source: https://github.com/distribution/reference/blob/v0.6.0/regexp.go"""
_MAX_IMAGE_CHARS: Final = 255
MIN_STATE_BYTES: Final = 64 * MIB
"""Less than that is a number whose suffix was forgotten."""


def check_namespace(name: str) -> None:
    """Raises UsageError for what is no name of a namespace."""
    if not _LABEL_RE.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a namespace", hint="lower-case letters, digits and '-', 63 of them at most"
        )


def check_image(image: str) -> None:
    """Raises UsageError for what is no reference of an image."""
    found = _IMAGE_RE.fullmatch(image)
    if found is None or len(found["name"]) > _MAX_IMAGE_CHARS:
        raise UsageError(
            f"{image!r} is no image",
            hint="HOST/NAME:TAG or HOST/NAME@sha256:…, the name in lower case: registry.example.com/ironloom:0.1.0",
        )


def check_gateway(gateway: str) -> None:
    """`NAME` or `NAMESPACE/NAME` of a Gateway. Raises UsageError."""
    namespace, slash, name = gateway.rpartition("/")
    if slash:
        check_namespace(namespace)
    if not _is_subdomain(name):
        raise UsageError(
            f"{gateway!r} names no Gateway", hint="[NAMESPACE/]NAME, as `kubectl get gateways -A` lists them"
        )


def check_host(host: str) -> None:
    """The host of an Ingress, a `*.` before it or not. Raises UsageError: an Ingress has no address for a host."""
    hint = "a name as chat.example.com or *.example.com, in lower case, without https:// and port"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _is_subdomain(host.removeprefix("*.")):
            return
        raise UsageError(f"{host!r} is no host name", hint=hint) from None
    raise UsageError(f"{host} is an address, and an Ingress leads in from a host name", hint=hint)


def check_state(size: str, storage_class: str) -> None:
    """The size of a gateway's volume, and its StorageClass; both may be empty. Raises UsageError."""
    if storage_class and not size:
        raise UsageError("--state-class says nothing without --state-size", hint="--state-size 10Gi asks for a volume")
    if storage_class and not _is_subdomain(storage_class):
        raise UsageError(
            f"{storage_class!r} is no name of a StorageClass", hint="`kubectl get storageclasses` lists them"
        )
    if not size:
        return
    hint = f"a quantity of Kubernetes as 10Gi, {format_bytes(MIN_STATE_BYTES)} at least"
    try:
        num_bytes = parse_bytes(size)
    except ValueError:
        num_bytes = -1
    if num_bytes < 0 or size != size.strip() or not size.isascii():
        raise UsageError(f"--state-size: {size!r} is no size of a volume", hint=hint)
    if num_bytes < MIN_STATE_BYTES:
        raise UsageError(f"--state-size: {size!r} is too small for a gateway's state", hint=hint)


def _is_subdomain(name: str) -> bool:
    return len(name) <= _MAX_SUBDOMAIN_CHARS and _SUBDOMAIN_RE.fullmatch(name) is not None
