"""Reads a request's fields one by one, and refuses what nobody read: no parameter is ever silently dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ironloom.errors import RequestError


def invalid(param: str, message: str, *, code: str = "invalid_value") -> RequestError:
    """A 400 that names the parameter."""
    return RequestError(400, message, param=param, code=code)


def unsupported(param: str, why: str) -> RequestError:
    """A 400 for a parameter that is known and cannot be honoured here."""
    return RequestError(400, f"{param} is not supported here: {why}", param=param, code="unsupported_parameter")


def unknown(param: str) -> RequestError:
    """A 400 for a parameter that nobody has heard of."""
    return invalid(param, f"unknown parameter: {param}", code="unknown_parameter")


class Fields:
    """A request's JSON object. Each reader takes its field away; `end` refuses what is left."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        """A field that is null counts as absent, as with OpenAI."""
        self._left = {name: value for name, value in body.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, default: Any = None) -> Any:
        """The value as it is."""
        return self._left.pop(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._left.pop(name, default)
        if not isinstance(value, bool):
            raise invalid(name, f"{name} is {value!r}; it must be true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self._left.pop(name, default)
        if not isinstance(value, str):
            raise invalid(name, f"{name} must be a text")
        return value

    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number in [low, high]."""
        value = self._left.pop(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(name, f"{name} is {value!r}; it must be a whole number")
        if not low <= value <= high:
            raise invalid(name, f"{name} is {value}; it must be {_range(low, high)}")
        return value

    def number(self, name: str, default: float, low: float, high: float, *, above_low: bool = False) -> float:
        """A number in [low, high], or in (low, high]."""
        value = self._left.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise invalid(name, f"{name} is {value!r}; it must be a number")
        if not low <= value <= high or (above_low and value == low):
            allowed = f"greater than {low:g} and at most {high:g}" if above_low else _range(low, high)
            if above_low and math.isinf(high):
                allowed = f"greater than {low:g}"
            raise invalid(name, f"{name} is {value:g}; it must be {allowed}")
        return float(value)

    def texts(self, name: str, max_items: int) -> tuple[str, ...]:
        """A text or a list of texts, none of them empty."""
        value = self._left.pop(name, ())
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise invalid(name, f"{name} must be a text or a list of texts")
        items = [item for item in items if item]
        if len(items) > max_items:
            raise invalid(name, f"{name} has {len(items)} entries; at most {max_items} are allowed")
        return tuple(items)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object; empty when absent."""
        value = self._left.pop(name, {})
        if not isinstance(value, dict):
            raise invalid(name, f"{name} must be an object")
        return value

    def ignore(self, *names: str) -> None:
        """Fields that ask nothing of the engine."""
        for name in names:
            self._left.pop(name, None)

    def end(self, refusals: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
        """Refuse what is left. `refusals` has, for names that are known, the values that ask nothing, and why not."""
        for name, value in self._left.items():
            known = refusals.get(name)
            if known is None:
                raise unknown(name)
            neutral, why = known
            if not any(value == harmless and type(value) is type(harmless) for harmless in neutral):
                raise unsupported(name, why)


def _range(low: float, high: float) -> str:
    if math.isinf(high) or high >= 2**31 - 1:
        return f"at least {low:g}"
    return f"between {low:g} and {high:g}"
