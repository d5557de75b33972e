"""What is used of a tokenizer, and whether it is the model's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from ironloom.errors import DataError


class Tokenizer(Protocol):
    """The part of a tokenizer of Transformers that is used here."""

    bos_token_id: int | None
    eos_token_id: int | None
    chat_template: str | dict[str, str] | None

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]:
        """`input_ids` and, where asked for, `offset_mapping` of each text."""
        ...

    def __len__(self) -> int:
        """Number of tokens, those added included."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The conversation as text, or as tokens."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder. No code of the model's own runs. Raises DataError."""
    from transformers import AutoTokenizer

    try:
        return cast("Tokenizer", AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder} has no tokenizer that can be read: {reason}") from error


def refuse_mismatch(tokenizer: Tokenizer, config: Mapping[str, Any], *, name: str) -> str | None:
    """Raises DataError for a tokenizer that is not this model's: its tokens do not fit the embedding, or the model both
    begins and ends a text with other ones. Only another end is merely odd (published models have it), and said in a
    sentence.

    `config` is the model's config.json, `name` is what the model is called in messages.
    """
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, dict) else config
    vocab_size = inner.get("vocab_size", config.get("vocab_size"))
    if isinstance(vocab_size, int) and len(tokenizer) > vocab_size:
        raise DataError(
            f"the tokenizer has {len(tokenizer):,} tokens, and the embedding of {name} has {vocab_size:,} rows: "
            "it is another model's",
            hint="take the tokenizer of the model's own folder",
        )
    ends = _ids(inner, config, "eos_token_id")
    if not ends or tokenizer.eos_token_id is None or tokenizer.eos_token_id in ends:
        return None
    ends_differ = (
        f"ends a text with token {tokenizer.eos_token_id}, and config.json of {name} with {', '.join(map(str, ends))}"
    )
    begins = _ids(inner, config, "bos_token_id")
    if begins and tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in begins:
        raise DataError(
            f"the tokenizer begins a text with token {tokenizer.bos_token_id}, and config.json of {name} with "
            f"{', '.join(map(str, begins))}; it {ends_differ}: it is another model's",
            hint="take the tokenizer of the model's own folder",
        )
    return f"The tokenizer {ends_differ}; documents end with the tokenizer's."


def _ids(inner: Mapping[str, Any], config: Mapping[str, Any], name: str) -> list[int]:
    said = inner.get(name, config.get(name))
    if said is None:
        return []
    return said if isinstance(said, list) else [said]


def fingerprint(tokenizer: Tokenizer) -> str:
    """A digest of all that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = backend.to_str()
    else:
        vocabulary = cast("Any", tokenizer).get_vocab()
        rules = json.dumps([type(tokenizer).__name__, sorted(vocabulary.items())])
    parts = [rules, str(tokenizer.eos_token_id), json.dumps(tokenizer.chat_template, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
