"""What the gateway reads of an inference request, and the little that it changes: as few bytes as routing needs."""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Any
from zlib import crc32

import msgspec

from ironloom.errors import RequestError

INFERENCE_PATHS: dict[str, str] = {
    prefix + path: path
    for prefix in ("", "/openai")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
}
"""Path as asked to path at the engine. KServe's Hugging Face server has the same API under /openai."""
STREAMING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})

_MAX_PREFIX_BYTES = 8192
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,127}")
_INCLUDE_USAGE = b'{"stream_options":{"include_usage":true},'


class InferenceHead(msgspec.Struct):
    """The fields of an inference request that the gateway acts on."""

    model: str
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None


_decode_head = msgspec.json.Decoder(InferenceHead).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def read_head(body: bytes) -> InferenceHead:
    """The routing fields of a request's JSON body. Raises RequestError 400."""
    try:
        return _decode_head(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    except UnicodeDecodeError:
        raise _not_utf8() from None
    except RecursionError:
        raise RequestError(400, "the body is nested too deeply", code="invalid_json") from None


def _not_utf8() -> RequestError:
    return RequestError(400, "the body is not valid JSON: it is not UTF-8", code="invalid_json")


def _invalid(message: str) -> RequestError:
    """An OpenAI-shaped error from msgspec's message, which ends in `- at `$.field`` or names a missing field."""
    field = re.search(r"`\$\.([a-z_]+)|field `([a-z_]+)`", message)
    param = (field[1] or field[2]) if field else None
    return RequestError(400, message, code="invalid_value" if param else "invalid_json", param=param)


def with_usage(body: bytes, options: dict[str, Any] | None) -> tuple[bytes, bool]:
    """(the body, changed so that the engine reports the stream's usage; whether the client did not ask for that).

    Raises RequestError 400 for a body that is not UTF-8 (the check is the decoder's, where one is needed).
    """
    if options is None:
        # JSON objects with a repeated key mean their last one, so a `"stream_options": null` would undo a prefix.
        if b'"stream_options"' not in body:
            return _INCLUDE_USAGE + body[body.index(b"{") + 1 :], True
    elif options.get("include_usage") is True:
        return body, False
    try:
        whole = _decode_any(body)
    except UnicodeDecodeError:
        raise _not_utf8() from None
    whole["stream_options"] = {**(options or {}), "include_usage": True}
    return _encode(whole), True


def prefix_hash(body: bytes) -> int | None:
    """A hash of how a prompt begins: up to the end of the first user message of a chat, so that a conversation's
    turns share it; the first kilobyte of a plain prompt. None when the body has neither."""
    start = body.find(b'"messages"')
    if start < 0:
        start = body.find(b'"prompt"')
        return crc32(body[start : start + 1024]) if start >= 0 else None
    end = body.find(b"}", body.find(b'"user"', start))
    return crc32(body[start : end if end - start < _MAX_PREFIX_BYTES else start + _MAX_PREFIX_BYTES])


class RequestIds:
    """X-Request-Id: the client's where it is a sane one, else one of ours, unique for ever."""

    def __init__(self) -> None:
        self._prefix = f"req-{secrets.token_hex(6)}-"
        self._numbers = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}{next(self._numbers):x}"

    @staticmethod
    def given(headers: dict[bytes, bytes]) -> str:
        """The client's own, where it is a sane one; else empty."""
        given = headers.get(b"x-request-id")
        return given.decode("ascii") if given is not None and _REQUEST_ID.fullmatch(given) is not None else ""
