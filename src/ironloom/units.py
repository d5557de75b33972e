"""Bytes, seconds, money and quantities. Nothing else in the package invents 1024**3.

Inside the package: bytes as int, seconds as float, money as USD float. Units are parsed and printed at the edges.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4
KB = 1000
MB = 1000**2
GB = 1000**3

Source = Literal["measured", "interpolated", "modelled"]

_SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(KIB),
    "Mi": Decimal(MIB),
    "Gi": Decimal(GIB),
    "Ti": Decimal(TIB),
    "Pi": Decimal(1024) ** 5,
    "Ei": Decimal(1024) ** 6,
}
_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """A number that says what it is: value, unit, definition, band and source.

    `low` and `high` are the ends of a 90 % band; for a measurement they are the spread that was seen.
    """

    value: float
    unit: str
    low: float
    high: float
    source: Source
    definition: str


def parse_quantity(text: str | int | float) -> Decimal:
    """A Kubernetes resource quantity (`16`, `500m`, `128Gi`, `1e3`) as an exact number.

    Raises ValueError when it is none.
    Source of the grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a quantity")
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write a number with a suffix such as 500m, 2, 16Gi")
    try:
        return Decimal(match[1]) * _SUFFIXES[match[2]]
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a quantity") from error


def parse_bytes(text: str | int | float) -> int:
    """Bytes of a Kubernetes quantity, rounded up to a whole byte. Raises ValueError when negative or none."""
    value = parse_quantity(text)
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


def format_bytes(num_bytes: int | float) -> str:
    """Bytes as a person reads them, in powers of 1024: `1.5 GiB`."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_duration_s(text: str | int | float) -> float:
    """Seconds of a Go-style duration (`90s`, `1h30m`, `250ms`); a bare number is seconds.

    Raises ValueError when it is none or negative.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a duration")
    if isinstance(text, int | float):
        if text < 0:
            raise ValueError(f"{text!r} is negative")
        return float(text)
    stripped = text.strip()
    if re.fullmatch(r"\d+(?:\.\d*)?|\.\d+", stripped):
        return float(stripped)
    total, end = 0.0, 0
    for part in _DURATION_PART.finditer(stripped):
        if part.start() != end:
            break
        total += float(part[1]) * _DURATION_UNITS[part[2]]
        end = part.end()
    if end != len(stripped) or end == 0:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 10m or 1h30m")
    return total


def format_duration(seconds: float) -> str:
    """Seconds as kubectl prints an age: `45s`, `12m`, `5h30m`, `3d4h`; below a minute with one digit if < 10 s."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}s"
    minutes, sec = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{sec}s" if sec else f"{minutes}m"
    if minutes < 120:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"
