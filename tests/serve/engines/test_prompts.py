"""How long a text is at the least: a bound by bytes that no tokenizer's normalising breaks."""

from __future__ import annotations

import sys
import unicodedata
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.prompts import NORMALISED, check_least, least_tokens


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_no_normalising_makes_a_text_shorter_than_is_reckoned_with(form: str) -> None:
    """For each character that comes out, the longest text in UTF-8 that may have gone in."""
    longest: dict[str, int] = defaultdict(int)
    for number in range(sys.maxunicode + 1):
        if not 0xD800 <= number <= 0xDFFF:
            character = chr(number)
            normal = unicodedata.normalize(form, character)
            if len(normal) == 1:
                longest[normal] = max(longest[normal], len(character.encode()))
    for character, alone in longest.items():
        parts = unicodedata.normalize("NFD", character)
        most = sum(max(longest[part], len(part.encode())) for part in parts)
        assert max(most, alone) <= NORMALISED * len(character.encode()), f"U+{ord(character):04X}"


@given(st.text(), st.integers(1, 8))
def test_a_tokenizer_whose_tokens_are_runs_of_bytes_is_never_below_the_bound(text: str, width: int) -> None:
    data = unicodedata.normalize("NFKC", text).encode("utf-8", "replace")
    fewest = -(-len(data) // width)
    assert least_tokens(text, width) <= fewest


def test_white_space_alone_is_no_least_number_of_tokens() -> None:
    assert least_tokens(" \n\t" * 1000, 4) == 0


def test_where_a_token_may_be_anything_nothing_is_said() -> None:
    assert least_tokens("x" * 1000, 0) == 0
    check_least("x" * 1000, 0, 1, param="prompt")


def test_a_text_that_is_too_long_is_told_with_numbers() -> None:
    check_least("x" * 400, 10, 10, param="prompt")
    with pytest.raises(RequestError) as failure:
        check_least("x" * 401, 10, 10, param="prompt")
    assert failure.value.status == 400
    assert failure.value.message == (
        "this model's context length is 10 tokens; the prompt here, 401 characters, has at least 11, as no token "
        "stands for more than 10 bytes"
    )
