from __future__ import annotations

import pytest

from ironloom.errors import EngineError, ManifestError, UsageError, as_sentence


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("there is no service 'x'", "There is no service 'x'."),
        ("The disk is full.", "The disk is full."),
        ("chat did not start", "chat did not start."),
        ('"x" names no model', '"x" names no model.'),
        ("is it there?", "is it there?"),
        ("the engine ended; its last lines:\nValueError", "The engine ended; its last lines:\nValueError"),
        ("", ""),
    ],
)
def test_a_message_is_told_as_a_sentence_and_names_keep_their_spelling(message: str, told: str) -> None:
    assert as_sentence(message) == told


def test_a_person_sees_the_sentence_and_below_it_what_to_do_next() -> None:
    assert UsageError("there is no key", hint="make one").render() == "There is no key.\n\nhint: make one."
    assert EngineError("chat failed").render() == "chat failed."


def test_programs_see_the_message_as_it_was_written() -> None:
    assert str(UsageError("there is no key")) == "there is no key"


def test_an_error_of_a_manifest_begins_with_its_place_as_compilers_have_it() -> None:
    error = ManifestError("no kind", file="a.yaml", line=3, column=1, hint="write one")
    assert error.render() == "a.yaml:3:1: no kind\n\nhint: write one."
