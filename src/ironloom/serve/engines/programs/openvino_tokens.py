"""Token ids and text with OpenVINO's tokenizer: encoding, tokens' bytes, incremental decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ironloom.serve.engines.programs.detokenize import ByteDetokenizer, WindowDetokenizer, is_bytewise
from ironloom.serve.engines.programs.generation import Detokenizer


class Tokens:
    """A tokenizer. What takes time (the vocabulary, 20 ms for 49,152 tokens) is fetched at first use."""

    def __init__(self, tokenizer: Any, special_token_ids: Sequence[int] | None = None) -> None:
        """Where the special tokens are not known, each token is tried when it first comes, 0.1 ms each."""
        self._tokenizer = tokenizer
        self._special = None if special_token_ids is None else frozenset(special_token_ids)
        self._shown: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError:  # A lone surrogate (JSON can hold one, UTF-8 cannot) becomes a question mark.
            text = text.encode("utf-8", "replace").decode()
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.input_ids.data.reshape(-1).tolist()
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of whole token ids, as the tokenizer's own decoder says."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """A token's bytes. Raises IndexError when there is no such token."""
        try:
            return self._vocabulary[token_id]
        except KeyError:
            raise IndexError(f"no token has the id {token_id}") from None

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        """For one sequence."""
        if self._bytewise:
            return ByteDetokenizer(self._shown_bytes if skip_special_tokens else self._all_bytes)
        return WindowDetokenizer(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt_ids)

    def release(self) -> None:
        """Let go of the tokenizer (parking). The vocabulary's bytes are kept, so that a wake need not fetch them."""
        self._tokenizer = None

    def renew(self, tokenizer: Any) -> None:
        """Take a tokenizer again, of the same model."""
        self._tokenizer = tokenizer

    @property
    def size(self) -> int:
        """How many tokens the vocabulary has."""
        return max(self._vocabulary, default=-1) + 1

    @cached_property
    def max_token_bytes(self) -> int:
        """The longest token's; 0 where tokens' bytes joined are not the text."""
        return max(map(len, self._vocabulary.values()), default=0) if self._bytewise else 0

    @cached_property
    def _vocabulary(self) -> dict[int, bytes]:
        return {token_id: piece for piece, token_id in self._tokenizer.get_vocab().items()}

    @cached_property
    def _bytewise(self) -> bool:
        return is_bytewise(
            lambda text: self.encode(text, add_special_tokens=False),
            lambda ids: self.decode(ids, skip_special_tokens=False),
            self._vocabulary.__getitem__,
        )

    def _all_bytes(self, token_id: int) -> bytes:
        return self._vocabulary.get(token_id, b"")  # Logits may be wider than the vocabulary.

    def _is_special(self, token_id: int) -> bool:
        if self._special is not None:
            return token_id in self._special
        return not self.decode([token_id], skip_special_tokens=True)

    def _shown_bytes(self, token_id: int) -> bytes:
        shown = self._shown.get(token_id)
        if shown is None:
            shown = self._all_bytes(token_id)
            if shown and self._is_special(token_id):
                shown = b""
            self._shown[token_id] = shown
        return shown


def special_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that the tokenizer does not show, found by decoding each by itself: for conversions, which keep it."""
    ids = sorted(token_id for token_id in tokenizer.get_vocab().values())
    shown = tokenizer.decode([[token_id] for token_id in ids], skip_special_tokens=True)
    whole = tokenizer.decode([[token_id] for token_id in ids], skip_special_tokens=False)
    return tuple(i for i, short, full in zip(ids, shown, whole, strict=True) if not short and full)
