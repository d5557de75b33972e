"""What a plain scalar of YAML means, as Kubernetes' clients read it.

kubectl reads YAML through go-yaml v2 (sigs.k8s.io/yaml) into JSON, which is YAML 1.1 less what JSON has no word for:
`yes` and `on` are true, `0777` is octal, a date stays text, `1e3` is a number.
Source: https://github.com/kubernetes-sigs/yaml/blob/master/goyaml.v2/resolve.go
"""

from __future__ import annotations

import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {text: True for word in ("true", "yes", "on") for text in (word, word.capitalize(), word.upper())}
_WORDS |= {text: False for word in ("false", "no", "off") for text in (word, word.capitalize(), word.upper())}
_NUMBER_START = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[+-]?(?:0[bB][01]+|0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][+-]?[0-9]+)?")
MAX_DIGITS = 100
"""A longer run of digits stays text: no field of a manifest has such a number."""


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START or len(text) > MAX_DIGITS:
        return text
    plain = text.replace("_", "") if "_" in text else text
    if _INTEGER.fullmatch(plain):
        return _integer(plain)
    if _FLOAT.fullmatch(plain):
        number = float(plain)
        # What is too large for a float would be "Infinity", which JSON has not.
        return number if abs(number) != float("inf") else text
    return text


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if len(digits) > 1 and digits[0] == "0":
        if digits[1] in "bB":
            return sign * int(digits[2:], 2)
        if digits[1] in "xX":
            return sign * int(digits[2:], 16)
        return sign * int(digits[1:].lstrip("oO"), 8)
    return sign * int(digits)
