"""Which tokens the loss counts."""

from __future__ import annotations

import pytest
from data_tokenizer import EOS, LetterTokenizer, text_of, tokens_of

from ironloom.errors import DataError
from ironloom.train.data.encode import Document, encode
from ironloom.train.data.rows import Row
from ironloom.train.data.tokenizer import fingerprint, refuse_mismatch

TURNS = (
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "(thinking)ho"},
    {"role": "user", "content": "and"},
    {"role": "assistant", "content": "so"},
)


def of(tokenizer: LetterTokenizer, *messages: dict[str, str]) -> Document:
    (document,) = encode([Row("a.jsonl:1", messages=messages)], tokenizer)
    return document


def counted(document: Document) -> str:
    assert document.loss is not None
    return text_of([token for token, counts in zip(document.tokens, document.loss, strict=True) if counts])


def test_a_text_ends_with_the_end_of_text_and_all_of_it_counts() -> None:
    rows = [Row("1", text="ab"), Row("2", text=""), Row("3", text="c")]
    found = list(encode(rows, LetterTokenizer()))
    assert [document.tokens for document in found] == [[*tokens_of("ab"), EOS], [], [*tokens_of("c"), EOS]]
    assert all(document.loss is None for document in found)


def test_white_space_and_an_answer_that_says_nothing_are_no_documents() -> None:
    rows = [Row("1", text=" \n\t"), Row("2", text="a")]
    assert [document.tokens for document in encode(rows, LetterTokenizer())] == [[], [*tokens_of("a"), EOS]]
    question, silence = TURNS[0], {"role": "assistant", "content": "  \n"}
    silent = of(LetterTokenizer(), question, silence)
    assert (silent.tokens, silent.is_conversation) == ([], True)
    later = of(LetterTokenizer(), question, silence, *TURNS[2:])
    assert counted(later) == "so.", "a later answer is one, and the end of the silent one is not learnt"


@pytest.mark.parametrize("template", ["plain", "{% generation %}", "{%- generation -%}"])
def test_the_loss_counts_the_assistants_turns_and_their_end_marks_alone(template: str) -> None:
    document = of(LetterTokenizer(chat_template=template), *TURNS)
    assert counted(document) == "(thinking)ho.so."
    assert document.num_lost_turns == 0


def test_a_turn_that_the_template_rewrites_once_the_conversation_goes_on_has_no_loss_and_is_counted() -> None:
    document = of(LetterTokenizer(rewrites_history=True), *TURNS)
    assert counted(document) == "so."
    assert document.num_lost_turns == 1
    assert "(thinking)" not in text_of(document.tokens)


def test_a_conversation_without_an_answer_is_no_document() -> None:
    assert of(LetterTokenizer(), TURNS[0]).tokens == []


def test_a_model_without_a_chat_template_takes_no_conversations() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: the row is a conversation, .* no chat template"):
        of(LetterTokenizer(chat_template=None), *TURNS)


def test_what_a_template_cannot_render_is_told_with_the_row() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: the chat template cannot render this conversation: 'content'"):
        of(LetterTokenizer(), {"role": "user"}, {"role": "assistant", "content": "x"})


def test_a_tokenizer_of_another_model_is_refused_and_a_smaller_one_is_not() -> None:
    tokenizer = LetterTokenizer()
    with pytest.raises(DataError, match="the tokenizer has 512 tokens, and the embedding of m has 500 rows"):
        refuse_mismatch(tokenizer, {"vocab_size": 500}, name="m")
    assert refuse_mismatch(tokenizer, {"vocab_size": 600, "eos_token_id": [EOS, 9]}, name="m") is None
    assert "config.json of m with 9" in (
        refuse_mismatch(tokenizer, {"vocab_size": 600, "eos_token_id": 9}, name="m") or ""
    )


def test_a_tokenizer_that_begins_and_ends_a_text_otherwise_than_the_model_is_refused() -> None:
    tokenizer = LetterTokenizer()
    tokenizer.bos_token_id = 3
    other = {"vocab_size": 600, "bos_token_id": 8, "eos_token_id": [9]}
    with pytest.raises(DataError, match=f"begins a text with token 3, .* m with 8; it ends a text with token {EOS}"):
        refuse_mismatch(tokenizer, other, name="m")
    assert "config.json of m with 9" in (refuse_mismatch(tokenizer, {**other, "bos_token_id": 3}, name="m") or "")
    assert refuse_mismatch(tokenizer, {**other, "eos_token_id": EOS}, name="m") is None


def test_another_template_or_vocabulary_is_another_fingerprint() -> None:
    assert fingerprint(LetterTokenizer()) == fingerprint(LetterTokenizer())
    assert len({fingerprint(LetterTokenizer(**o)) for o in ({}, {"size": 513}, {"chat_template": "other"})}) == 3
