"""A GGUF's vocabulary: the bytes that each token stands for, its special tokens, its chat template.

Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (tokenizer.ggml.*). Token types are
llama.cpp's: 3 control, 4 defined by the user, 6 a byte. Byte-level vocabularies (gpt2) write bytes as GPT-2's letters;
SentencePiece's (llama) write a space as U+2581 and a byte as <0xNN>.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ironloom.workload.shapes.gguf_header import GgufHeader, Value, read_gguf_header

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
_HEX = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MAX_SPLIT_BYTES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Of one GGUF file."""

    pieces: tuple[bytes, ...]
    """By token id."""
    control: frozenset[int]
    """Tokens that are not text: <|im_end|>, <s>, …"""
    ids: Mapping[bytes, int]
    """The first token that stands for these bytes, control tokens left out."""
    bos_token: str
    eos_token: str
    chat_template: str | None


def read_vocabulary(file: Path) -> tuple[GgufHeader, Vocabulary]:
    """The header with it, which has been read anyway. Raises ModelCorrupt; ValueError without a vocabulary."""
    header = read_gguf_header(file, keep=(_TOKENS, _TYPES))
    tokens = header.metadata.get(_TOKENS)
    if not isinstance(tokens, tuple) or not tokens:
        raise ValueError(f"{file} has no {_TOKENS}, so it has no tokenizer")
    names = tuple(str(token) for token in tokens)
    types = header.metadata.get(_TYPES)
    kinds = tuple(types) if isinstance(types, tuple) and len(types) == len(names) else (1,) * len(names)
    is_gpt2 = header.metadata.get("tokenizer.ggml.model") == "gpt2"
    pieces = tuple(piece_of(name, int(kind), is_gpt2=is_gpt2) for name, kind in zip(names, kinds, strict=True))
    control = frozenset(index for index, kind in enumerate(kinds) if kind == _CONTROL)
    ids: dict[bytes, int] = {}
    for index, piece in enumerate(pieces):
        if piece and index not in control:
            ids.setdefault(piece, index)
    template = header.metadata.get("tokenizer.chat_template")
    return header, Vocabulary(
        pieces=pieces,
        control=control,
        ids=ids,
        bos_token=_name(names, header.metadata.get("tokenizer.ggml.bos_token_id")),
        eos_token=_name(names, header.metadata.get("tokenizer.ggml.eos_token_id")),
        chat_template=template if isinstance(template, str) else None,
    )


def piece_of(name: str, kind: int, *, is_gpt2: bool) -> bytes:
    """The bytes that a token stands for, from its name in the file."""
    if kind in (_CONTROL, _USER_DEFINED):
        return name.encode()
    if kind == _BYTE and (match := _HEX.fullmatch(name)):
        return bytes([int(match[1], 16)])
    if is_gpt2:
        try:
            return bytes(_GPT2_BYTES[letter] for letter in name)
        except KeyError:
            return name.encode()
    return name.replace("\u2581", " ").encode()


def split_bytes(data: bytes, num_pieces: int, ids: Mapping[bytes, int]) -> list[int] | None:
    """Exactly so many tokens that together stand for these bytes, or None. Shorter first pieces are tried first."""
    if num_pieces > len(data) or len(data) > MAX_SPLIT_BYTES or (num_pieces == 0) != (not data):
        return None
    dead: set[tuple[int, int]] = set()

    def split(at: int, left: int) -> list[int] | None:
        if left == 0:
            return [] if at == len(data) else None
        if (at, left) in dead:
            return None
        for end in range(at + 1, len(data) - left + 2):
            token_id = ids.get(data[at:end])
            if token_id is not None and (rest := split(end, left - 1)) is not None:
                return [token_id, *rest]
        dead.add((at, left))
        return None

    return split(0, num_pieces)


def _name(names: Sequence[str], index: Value | None) -> str:
    return names[index] if isinstance(index, int) and 0 <= index < len(names) else ""


def _gpt2_bytes() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the rest for U+0100 and on.

    Source: https://github.com/openai/gpt-2 (encoder.py, bytes_to_unicode).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_GPT2_BYTES = _gpt2_bytes()
