"""When a certificate begins and ends to be good: what a person wants to know of a refused one.

Source: RFC 5280, section 4.1 (Certificate > tbsCertificate > validity), in DER.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def validity(pem: bytes) -> tuple[datetime, datetime] | None:
    """(notBefore, notAfter) of the first certificate in PEM; None for what is none."""
    text = pem.decode("ascii", "replace")
    start, end = text.find(_BEGIN), text.find(_END)
    if start < 0 or end < start:
        return None
    try:
        return _validity(ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)]))
    except (ValueError, IndexError):
        return None


def _validity(der: bytes) -> tuple[datetime, datetime] | None:
    _, certificate, _ = _element(der, 0)
    _, tbs, _ = _element(certificate, 0)
    place = 0
    tag, _, after = _element(tbs, place)
    place = after if tag == _VERSION else 0
    for _ in range(3):  # serialNumber, signature, issuer
        _, _, place = _element(tbs, place)
    tag, validity, _ = _element(tbs, place)
    if tag != _SEQUENCE:
        return None
    begin_tag, begin, place = _element(validity, 0)
    end_tag, end, _ = _element(validity, place)
    return _time(begin_tag, begin), _time(end_tag, end)


def _time(tag: int, data: bytes) -> datetime:
    text = data.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280: 50 to 99 are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("it is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(data: bytes, place: int) -> tuple[int, bytes, int]:
    """(tag, content, place after it) of the DER element at a place."""
    tag, length = data[place], data[place + 1]
    place += 2
    if length & 0x80:
        num_bytes = length & 0x7F
        length = int.from_bytes(data[place : place + num_bytes], "big")
        place += num_bytes
    if place + length > len(data):
        raise ValueError("the element is longer than what holds it")
    return tag, data[place : place + length], place + length
