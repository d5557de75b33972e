"""A GGUF's byte-level BPE as a tokenizer of Transformers, made from the file's own metadata.

For releases of Transformers that read such a vocabulary wrongly: 5.5, which the extra convert holds back, takes it for
SentencePiece's, with another end of text and other special tokens.
Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (tokenizer.ggml.*).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ironloom.workload.shapes.gguf_header import GgufHeader, read_gguf_header

_PREFIX = "tokenizer.ggml."
_LISTS = (f"{_PREFIX}tokens", f"{_PREFIX}token_type", f"{_PREFIX}merges")
PRE = frozenset({"gpt-2", "smollm"})
"""Ways of cutting text before the merges that are GPT-2's; with SmolLM's single digits, as no merge joins digits."""
_CONTROL = 3


def has_byte_level(header: GgufHeader) -> bool:
    """Whether `byte_level` reads this file's vocabulary."""
    known = header.metadata.get(f"{_PREFIX}model"), header.metadata.get(f"{_PREFIX}pre")
    return known[0] == "gpt2" and known[1] in PRE


def byte_level(file: Path) -> Any:
    """The tokenizer of a file with a byte-level vocabulary. Raises ModelCorrupt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    metadata = read_gguf_header(file, keep=_LISTS).metadata
    tokens, kinds, merges = (_listed(metadata.get(key)) for key in _LISTS)
    words = [str(token) for token in tokens]
    pairs = [tuple(str(merge).split(" ", 1)) for merge in merges]
    backend = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    named: dict[str, str] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = metadata.get(f"{_PREFIX}{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(words):
            named[f"{role}_token"] = words[number]
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)


def _listed(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()
