"""Incremental detokenisation: text from tokens as they come, with no character cut in two.

Two ways. `ByteDetokenizer` joins the bytes that each token stands for: exact for byte-level vocabularies, and a list
look-up a token. `WindowDetokenizer` decodes the last few tokens again with each new one: right for every tokenizer
(SentencePiece's leading spaces, WordPiece's joins), and slower. `is_bytewise` says which one a vocabulary needs.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
_UTF8 = codecs.getincrementaldecoder("utf-8")
_PROBE = "Ünïcode  does\n\n\tit's: 你好, 🤗👩‍👧 — (x_1 == 'a')  "


class ByteDetokenizer:
    """Joins tokens' bytes and decodes UTF-8 incrementally."""

    __slots__ = ("_decode", "_piece")

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        """`piece` gives a token's bytes; empty for a token that is not shown."""
        self._piece = piece
        self._decode = _UTF8("replace").decode

    def feed(self, ids: Sequence[int]) -> str:
        if len(ids) == 1:
            return self._decode(self._piece(ids[0]))
        return self._decode(b"".join(map(self._piece, ids)))

    def flush(self) -> str:
        return self._decode(b"", True)


class WindowDetokenizer:
    """Decodes a sliding window of tokens twice, without and with the new ones: the difference is the new text.

    The method of vLLM's and TGI's detokenizers (`prefix_offset`, `read_offset`): the window's first part gives the
    context that SentencePiece needs to put or leave out a space.
    """

    _CONTEXT = 5
    """Tokens of the prompt kept as context, as many as vLLM keeps."""

    __slots__ = ("_decode", "_ids", "_prefix", "_read")

    def __init__(self, decode: Callable[[list[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-self._CONTEXT :])
        self._prefix = 0
        self._read = len(self._ids)

    def feed(self, ids: Sequence[int]) -> str:
        self._ids.extend(ids)
        before = self._decode(self._ids[self._prefix : self._read])
        after = self._decode(self._ids[self._prefix :])
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._prefix = self._read
        self._read = len(self._ids)
        if self._prefix > 64:
            del self._ids[: self._prefix]
            self._read -= self._prefix
            self._prefix = 0
        return after[len(before) :]

    def flush(self) -> str:
        before = self._decode(self._ids[self._prefix : self._read])
        after = self._decode(self._ids[self._prefix :])
        self._prefix = self._read = len(self._ids)
        return after[len(before) :]


def is_bytewise(
    encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], piece: Callable[[int], bytes]
) -> bool:
    """True when joining tokens' bytes gives what the tokenizer's own decoding gives, tried on a text with accents,
    runs of spaces, Chinese and emoji, from its beginning and from the middle of it."""
    ids = encode(_PROBE)
    for part in (ids, ids[3:]):
        try:
            joined = b"".join(map(piece, part))
        except (KeyError, IndexError):
            return False
        if joined.decode("utf-8", "replace") != decode(part):
            return False
    return True
