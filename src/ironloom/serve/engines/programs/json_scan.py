"""Reads `{"name": …, "arguments": {…}}` as it comes in, so that a call's arguments can be streamed as they are written.

It follows strings, escapes and nesting only. The arguments pass through byte for byte: whether they are good JSON is
between the model and the caller, as with OpenAI.
"""

from __future__ import annotations

import json
from enum import Enum, auto

_ARGUMENTS = frozenset({"arguments", "parameters"})
_SPACE = " \t\r\n"
_AFTER_SCALAR = frozenset("," + _SPACE)


class Malformed(ValueError):
    """This is no call object."""


class _State(Enum):
    START = auto()
    KEY_OR_END = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    AFTER = auto()
    END = auto()


class CallScanner:
    """One call object. Feed it text until `done`; what follows the object stays in `rest`."""

    __slots__ = (
        "_depth",
        "_escaped",
        "_in_string",
        "_key",
        "_state",
        "_streams",
        "_token",
        "_value",
        "arguments",
        "name",
        "rest",
    )

    def __init__(self) -> None:
        self.name: str | None = None
        self.arguments = ""
        """What is known of the arguments' text, as written."""
        self.rest = ""
        self._state = _State.START
        self._key = ""
        self._token = ""
        self._value: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._streams = False
        """True while the value being read is the arguments' object, shown as it comes."""

    @property
    def done(self) -> bool:
        """True once the object's closing brace was read."""
        return self._state is _State.END

    @property
    def value_ended(self) -> bool:
        """True right after a value, before the comma or brace that follows it."""
        return self._state is _State.AFTER

    def feed(self, text: str) -> None:
        """Read on. Raises Malformed when this cannot be a call."""
        for at, char in enumerate(text):
            if self._state is _State.END:
                self.rest = text[at:]
                return
            self._step(char)

    def _step(self, char: str) -> None:
        state = self._state
        if state is _State.IN_VALUE:
            self._in_value(char)
        elif state is _State.KEY:
            self._token += char
            if self._string_ends(char):
                self._key = str(_loads(self._token))
                self._state = _State.COLON
        elif char in _SPACE:
            return
        elif state is _State.START and char == "{":
            self._state = _State.KEY_OR_END
        elif state in {_State.KEY_OR_END, _State.AFTER} and char == "}":
            if self.name is None:
                raise Malformed("a call without a name")
            self._state = _State.END
        elif state is _State.AFTER and char == ",":
            self._state = _State.KEY_OR_END
        elif state is _State.KEY_OR_END and char == '"':
            self._state, self._token, self._in_string = _State.KEY, char, True
        elif state is _State.COLON and char == ":":
            self._state = _State.VALUE
        elif state is _State.VALUE:
            self._state, self._depth, self._in_string, self._escaped = _State.IN_VALUE, 0, False, False
            self._value = []
            self._streams = char in "{[" and self._key in _ARGUMENTS
            self._in_value(char)
        else:
            raise Malformed(f"unexpected {char!r} in a call")

    def _string_ends(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            return True
        return False

    def _in_value(self, char: str) -> None:
        if self._in_string:
            self._take(char)
            if self._string_ends(char) and self._depth == 0:
                self._end_value()
        elif char == '"':
            self._in_string = True
            self._take(char)
        elif char in "{[":
            self._depth += 1
            self._take(char)
        elif char in "}]":
            if self._depth == 0:
                self._end_value()
                self._step(char)
                return
            self._depth -= 1
            self._take(char)
            if self._depth == 0:
                self._end_value()
        elif self._depth == 0 and char in _AFTER_SCALAR:
            self._end_value()
            self._step(char)
        else:
            self._take(char)

    def _take(self, char: str) -> None:
        self._value.append(char)
        if self._streams:
            self.arguments += char

    def _end_value(self) -> None:
        self._state = _State.AFTER
        text = "".join(self._value)
        if self._key == "name":
            name = _loads(text)
            if not isinstance(name, str) or not name:
                raise Malformed("a call whose name is no text")
            self.name = name
        elif self._key in _ARGUMENTS and text.startswith('"'):
            # Some models write the arguments as a text that holds JSON, as OpenAI's wire does.
            self.arguments = str(_loads(text))
        elif self._key in _ARGUMENTS and not self._streams:
            self.arguments = "{}" if text == "null" else text


def _loads(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except ValueError as error:
        raise Malformed(f"{text!r} is not JSON") from error
