"""What is the same of many is said once, and nothing else is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ironloom.cli.folded import NUM_NAMED, folded, named

SAID = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["one", "two", "three"])), max_size=20)


@given(SAID)
def test_all_that_is_said_is_told_of_each_once(said: list[tuple[str, str]]) -> None:
    told = [(who, words) for names, words in folded(said) for who in names]
    assert sorted(told) == sorted(said)


@given(SAID)
def test_many_are_in_one_line_and_few_are_not(said: list[tuple[str, str]]) -> None:
    for names, words in folded(said):
        number = sum(other == words for _, other in said)
        assert len(names) == (number if number > NUM_NAMED else 1)


@given(SAID)
def test_the_whole_is_what_was_said_in_its_order(said: list[tuple[str, str]]) -> None:
    assert [(names[0], words) for names, words in folded(said, is_whole=True)] == said


def test_a_line_names_the_first_and_counts_the_rest() -> None:
    names = [f"s{number}" for number in range(1000)]
    assert named(names) == "s0, s1, s2 and 997 more"
    assert named(names[:3]) == "s0, s1, s2"
