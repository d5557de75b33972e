"""Rows into documents: tokens, and for a conversation which of them the loss counts.

A text is its tokens, with what the tokenizer puts before (a BOS, where it has one) and its EOS after. A conversation is
rendered by the model's chat template, and the loss counts the assistant's turns, their end mark included:

- where the template marks them ({% generation %}), by those marks;
- otherwise by rendering prefixes: the turn is what the conversation up to and with it adds to the conversation before
  it with the prompt to answer. A template may render a conversation's start differently once it goes on (Qwen 3 drops
  the thinking of earlier turns); a turn that is then not found in the whole has no loss, and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ironloom.errors import DataError
from ironloom.train.data.rows import Row
from ironloom.train.data.tokenizer import Tokenizer

_BATCH = 512
"""Rows that are tokenised in one call, over the tokenizer's own threads."""
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Document:
    """A row's tokens; `loss` says for each whether it counts as a target, None that all do."""

    tokens: list[int]
    loss: list[bool] | None = None
    is_conversation: bool = False
    num_lost_turns: int = 0
    """Turns of the assistant that were not found in the whole conversation."""


def encode(rows: Iterable[Row], tokenizer: Tokenizer) -> Iterator[Document]:
    """A document for each row; one without tokens for a row that is empty or white space, or a conversation whose
    assistant says nothing. Raises DataError, naming the row."""
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        texts = iter(_texts([row.text for row in batch if row.text and row.text.strip()], tokenizer))
        for row in batch:
            if row.messages is not None:
                yield _conversation(row, tokenizer)
            else:
                yield next(texts) if row.text and row.text.strip() else Document([])


def _texts(texts: list[str], tokenizer: Tokenizer) -> Iterator[Document]:
    if not texts:
        return
    eos = tokenizer.eos_token_id
    for tokens in tokenizer(texts, verbose=False)["input_ids"]:
        yield Document([*tokens, eos] if eos is not None and tokens[-1:] != [eos] else list(tokens))


def _conversation(row: Row, tokenizer: Tokenizer) -> Document:
    assert row.messages is not None
    if not any(message["role"] == "assistant" and _says_something(message) for message in row.messages):
        return Document([], is_conversation=True)
    template = _template(row, tokenizer)
    try:
        if _MARKS.search(template):
            return _by_marks(row, tokenizer)
        return _by_prefixes(row, tokenizer)
    except DataError:
        raise
    except Exception as error:  # a template is a program of the model's: it may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{row.where}: the chat template cannot render this conversation: {reason}") from error


def _says_something(message: Mapping[str, Any]) -> bool:
    """Text, parts of a text, or anything beside them: calls of tools, thoughts."""
    content = message.get("content")
    has_content = bool(content.strip()) if isinstance(content, str) else bool(content)
    return has_content or any(value for key, value in message.items() if key not in ("role", "content", "name"))


def _template(row: Row, tokenizer: Tokenizer) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise DataError(
            f"{row.where}: the row is a conversation, and the model's tokenizer has no chat template",
            hint="train the instruct form of the model, or put a chat_template.jinja into its folder",
        )
    return template


def _by_marks(row: Row, tokenizer: Tokenizer) -> Document:
    rendered = tokenizer.apply_chat_template(
        list(row.messages or ()),
        tools=list(row.tools) or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return Document(
        list(rendered["input_ids"]), [bool(mark) for mark in rendered["assistant_masks"]], is_conversation=True
    )


def _by_prefixes(row: Row, tokenizer: Tokenizer) -> Document:
    messages = list(row.messages or ())

    def render(number: int, *, is_answer_next: bool = False) -> str:
        text: Any = tokenizer.apply_chat_template(
            messages[:number], tools=list(row.tools) or None, tokenize=False, add_generation_prompt=is_answer_next
        )
        return str(text)

    whole = render(len(messages))
    spans: list[tuple[int, int]] = []
    num_lost = 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or not _says_something(message):
            continue
        before = render(number, is_answer_next=True) if number else ""
        after = render(number + 1)
        if whole.startswith(before) and whole.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after.rstrip())))  # the line end after the end mark is nobody's turn
        else:
            num_lost += 1
    encoded = tokenizer([whole], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    loss = [any(start < end_of_turn and end > turn for turn, end_of_turn in spans) for start, end in offsets]
    return Document(list(tokens), loss, is_conversation=True, num_lost_turns=num_lost)
