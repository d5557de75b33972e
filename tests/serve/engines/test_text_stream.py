"""Detokenisation, stop strings and reasoning, as text comes in pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.engines.programs.detokenize import ByteDetokenizer, WindowDetokenizer, is_bytewise
from ironloom.serve.engines.programs.reasoning import ReasoningSplitter
from ironloom.serve.engines.programs.stops import StopStrings


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted({c % (len(text) + 1) for c in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def one_byte(token_id: int) -> bytes:
    return bytes([token_id])


@given(st.text())
def test_text_of_single_bytes_comes_back_whole_and_never_half_a_character(text: str) -> None:
    detokenizer = ByteDetokenizer(one_byte)
    pieces = [detokenizer.feed([byte]) for byte in text.encode("utf-8", "surrogatepass")]
    assert "".join(pieces) + detokenizer.flush() == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def test_a_character_that_stays_incomplete_ends_as_a_replacement() -> None:
    detokenizer = ByteDetokenizer(one_byte)
    assert detokenizer.feed(list("🤗".encode()[:3])) == ""
    assert detokenizer.flush() == "\ufffd"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_window_gives_what_whole_decoding_gives(text: str) -> None:
    def decode(ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    detokenizer = WindowDetokenizer(decode, [])
    out = "".join(detokenizer.feed([byte]) for byte in text.encode()) + detokenizer.flush()
    assert out == text


def test_the_window_keeps_the_space_between_prompt_and_answer() -> None:
    words = ["▁Hello", "▁world", "▁again"]

    def decode(ids: list[int]) -> str:  # As SentencePiece: the first word's space is left out.
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    detokenizer = WindowDetokenizer(decode, [0])
    assert [detokenizer.feed([1]), detokenizer.feed([2])] == [" world", " again"]


def test_a_vocabulary_of_bytes_is_told_from_one_that_needs_its_decoder() -> None:
    def encode(text: str) -> list[int]:
        return list(text.encode())

    assert is_bytewise(encode, lambda ids: bytes(ids).decode("utf-8", "replace"), one_byte)
    assert not is_bytewise(encode, lambda ids: bytes(ids).decode("utf-8", "replace").replace("  ", " "), one_byte)


@pytest.mark.parametrize(
    ("stops", "include", "pieces", "sent", "matched"),
    [
        (["END"], False, ["a", "E", "ND", "x"], "a", "END"),
        (["END"], True, ["a", "E", "ND", "x"], "aEND", "END"),
        (["END"], False, ["aE", "N", "x"], "aENx", None),
        (["\n\n", "."], False, ["one", "\n", "two", ". three"], "one\ntwo", "."),
        (["ab", "abc"], False, ["xabc"], "x", "abc"),
        (["aab"], False, ["a", "a", "a", "b"], "a", "aab"),
        ([], False, ["a", "b"], "ab", None),
    ],
)
def test_stop_strings_are_found_across_pieces(
    stops: list[str], include: bool, pieces: list[str], sent: str, matched: str | None
) -> None:
    watch = StopStrings(stops, include=include)
    out = "".join(watch.feed(piece) for piece in pieces)
    assert (out + watch.flush(), watch.matched) == (sent, matched)


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30)),
)
def test_what_was_sent_never_holds_a_stop_string_and_nothing_is_lost(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    watch = StopStrings(stops, include=False)
    out = "".join(watch.feed(piece) for piece in cut(text, cuts)) + watch.flush()
    first = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    assert text.startswith(out)
    assert (watch.matched is None) == (first is None)
    if first is None:
        assert out == text
    assert not any(stop in out for stop in stops)


THINK = "<think>\nLet me see.\n\nYes.\n</think>\n\nIt is 4."


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "content"),
    [
        (THINK, False, "Let me see.\n\nYes.", "It is 4."),
        (THINK.removeprefix("<think>\n"), True, "Let me see.\n\nYes.", "It is 4."),
        ("It is 4.", False, "", "It is 4."),
        ("<thing> & </think>", False, "", "<thing> & </think>"),
        ("<think>cut", False, "cut", ""),
        ("<think></think>x", False, "", "x"),
        ("<think>a < b </thin k></think>x", False, "a < b </thin k>", "x"),
        ("", False, "", ""),
        ("<thi", False, "", "<thi"),
    ],
)
def test_reasoning_is_parted_from_the_answer(text: str, inside: bool, reasoning: str, content: str) -> None:
    for pieces in ([text], list(text)):
        splitter = ReasoningSplitter(inside=inside)
        splits = [*map(splitter.feed, pieces), splitter.flush()]
        assert "".join(s.reasoning for s in splits) == reasoning
        assert "".join(s.content for s in splits) == content
