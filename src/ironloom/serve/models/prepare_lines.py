"""The lines that `python -m ironloom.serve.models.prepare` prints: progress, and last the model or the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ironloom.errors import (
    DiskFull,
    EngineUnavailable,
    IronloomError,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelRefused,
    UsageError,
)
from ironloom.serve.engines.base import LocalModel
from ironloom.serve.models.progress import Progress

_ERRORS: dict[str, type[IronloomError]] = {
    kind.code: kind
    for kind in (ModelError, ModelNotFound, ModelRefused, ModelCorrupt, DiskFull, UsageError, EngineUnavailable)
}


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of the three is set."""

    progress: Progress | None = None
    model: LocalModel | None = None
    error: _Failure | None = None


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


_decode_line = msgspec.json.Decoder(_Line, dec_hook=_path).decode


def encode_line(said: Progress | LocalModel | IronloomError) -> bytes:
    """One line, with its newline."""
    match said:
        case Progress():
            line = _Line(progress=said)
        case LocalModel():
            line = _Line(model=said)
        case _:
            line = _Line(error=_Failure(said.code, said.message, said.hint))
    return msgspec.json.encode(line, enc_hook=str) + b"\n"


def decode_line(data: bytes) -> Progress | LocalModel | IronloomError | None:
    """What a line says; None for one that is not ours (a library's chatter)."""
    try:
        line = _decode_line(data)
    except msgspec.DecodeError:
        return None
    if line.error is not None:
        return _ERRORS.get(line.error.code, ModelError)(line.error.message, hint=line.error.hint)
    return line.model or line.progress
