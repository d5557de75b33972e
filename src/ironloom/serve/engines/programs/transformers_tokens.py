"""Token ids and text with a model's Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ironloom.serve.engines.programs.detokenize import ByteDetokenizer, WindowDetokenizer, is_bytewise
from ironloom.serve.engines.programs.generation import Detokenizer
from ironloom.serve.engines.programs.gguf_vocabulary import piece_of

_BYTE_NAME_CHARS = 6
"""<0xNN>"""


class Tokens:
    """A tokenizer of Transformers, fast or slow."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; a lone surrogate in it becomes a question mark."""
        clean = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=add_special_tokens)
        return list(ids)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of whole token ids."""
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        return str(text)

    def token_bytes(self, token_id: int) -> bytes:
        """A token's bytes. Raises IndexError when there is no such token."""
        try:
            return self._pieces[token_id]
        except KeyError:
            raise IndexError(f"no token has the id {token_id}") from None

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        """For one sequence."""
        hidden = self._special if skip_special_tokens else frozenset()
        if self._bytewise:
            return ByteDetokenizer(lambda i: b"" if i in hidden else self._pieces.get(i, b""))
        return WindowDetokenizer(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt_ids)

    @cached_property
    def max_token_bytes(self) -> int:
        """The longest token's; 0 where tokens' bytes joined are not the text."""
        return max(map(len, self._pieces.values()), default=0) if self._bytewise else 0

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        added = set(self._tokenizer.get_added_vocab())
        is_gpt2 = self._is_byte_level
        return {
            token_id: piece_of(name, _kind(name, name in added), is_gpt2=is_gpt2)
            for name, token_id in self._tokenizer.get_vocab().items()
        }

    @cached_property
    def _is_byte_level(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return False
        parts = json.loads(backend.to_str())
        return '"ByteLevel"' in json.dumps([parts.get("decoder"), parts.get("pre_tokenizer")])

    @cached_property
    def _bytewise(self) -> bool:
        return is_bytewise(
            lambda text: self.encode(text, add_special_tokens=False),
            lambda ids: self.decode(ids, skip_special_tokens=False),
            self._pieces.__getitem__,
        )


def _kind(name: str, is_added: bool) -> int:
    """llama.cpp's numbers for the kinds of tokens: 1 text, 4 added, 6 a byte."""
    if is_added:
        return 4
    return 6 if len(name) == _BYTE_NAME_CHARS and name.startswith("<0x") and name.endswith(">") else 1
