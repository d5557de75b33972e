"""Text into nodes: values as kubectl reads them, places, and the bounds."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import ManifestError
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.scalars import resolve


def values(text: str) -> list[object]:
    return [node.value for node in nodes.parse(text, "f.yaml")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0755", 493),
        ("0o17", 15),
        ("0b11", 3),
        ("08", 8.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.5.2", "1.5.2"),
        ("1Gi", "1Gi"),
        ("2001-01-01", "2001-01-01"),
        ("1:30", "1:30"),
        ("yes", True),
        ("Off", False),
        ("TRUE", True),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("-", "-"),
        (".", "."),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        ("9" * 200, "9" * 200),
    ],
)
def test_a_plain_scalar_means_what_kubectl_takes_it_for(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quotes_make_text_of_anything() -> None:
    assert values("a: '7'\nb: \"yes\"\nc: |\n  7\n") == [{"a": "7", "b": "yes", "c": "7\n"}]


def test_several_documents_and_empty_ones() -> None:
    assert values("---\n---\na: 1\n---\n# only a comment\n---\nb: 2\n...\n") == [{"a": 1}, {"b": 2}]


def test_places_count_from_one_and_offsets_count_characters() -> None:
    (root,) = nodes.parse("é: 'ü'\nspec:\n  list: [1,  two]\n", "f.yaml")
    assert root.mapping is not None
    assert (root.keys["spec"].line, root.keys["spec"].column) == (2, 1)
    listed = root.mapping["spec"].mapping["list"]  # type: ignore[index]
    assert listed.items is not None
    place = listed.items[1].place
    assert (place.line, place.column) == (3, 14)
    text = "é: 'ü'\nspec:\n  list: [1,  two]\n"
    assert text[place.start : place.end] == "two"
    assert text[listed.place.start : listed.place.end] == "[1,  two]"


def test_aliases_and_merge_keys_are_written_out_and_own_keys_count_first() -> None:
    text = "base: &b {a: 1, b: 2}\nother:\n  <<: *b\n  b: 3\nboth: {<<: [*b, {c: 4}]}\nagain: *b\n"
    assert values(text) == [
        {
            "base": {"a": 1, "b": 2},
            "other": {"b": 3, "a": 1},
            "both": {"a": 1, "b": 2, "c": 4},
            "again": {"a": 1, "b": 2},
        }
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' stands twice: first in line 1, column 1"),
        ("x:\n  'a': 1\n  a: 3\n", 3, 3, "stands twice: first in line 2, column 3"),
        ("a: &x {b: *x}", 1, 11, "the alias *x stands inside of what it names"),
        ("a: *nowhere", 1, 4, "the alias *nowhere names no anchor"),
        ("? [a]\n: 1", 1, 3, "a key must be a word"),
        ("~: 1", 1, 1, "a key must not be empty"),
        ("a: !!python/object:os.system x", 1, 4, "the tag tag:yaml.org,2002:python/object:os.system is not one"),
        ("a: !mine {b: 1}", 1, 4, "the tag !mine is not one"),
        ("a: !!int x", 1, 4, "'x' is not a int"),
        ("<<: 3", 1, 5, "<<: merges mappings, and this is none"),
        ("- a\nb: 1", 2, 1, "not YAML: while parsing a block collection from line 1 on"),
        ("a: [", 1, 4, "did not find expected node content"),
        ("a: 1\nb: {c: [1,\n\n", 2, 10, "did not find expected node content"),
        ("a: 1\nb: 'it is\n\n", 2, 4, "found unexpected end of stream"),
        ("a: 'x", 1, 4, "found unexpected end of stream"),
        ("a:\n\t- b", 2, 1, "found character that cannot start any token"),
        ("a: é\nb: é\x07", 2, 5, "control characters are not allowed"),
        ("a: \ud800", 1, 1, "half a surrogate pair"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        values(text)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column, caught.value.file) == (line, column, "f.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000,
        "- " * 300_000 + "x",
        "{a: " * 300_000,
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)),
        "a: &a {k: v}\n"
        + "".join(f"b{i}: &b{i} {{<<: *a, x{i}: [*a, *a]}}\n" for i in range(9))
        + "z: ["
        + "*b8," * 99_999,
    ],
)
def test_bombs_are_refused_at_once(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(ManifestError):
        values(text)
    assert time.process_time() - begin < 5


def test_a_file_of_any_honest_size_is_read() -> None:
    assert values("".join(f"k{i}: {{a: [1, 2, 3]}}\n" for i in range(5_000)))


def test_json_is_read_with_places_and_its_escapes_without() -> None:
    (root,) = nodes.parse('{\n  "a": {"b": "\\u00e9\\/"}\n}', "f.json")
    assert root.value == {"a": {"b": "é/"}}
    assert root.keys["a"].line == 2
    assert values(json.dumps({"a": "😀"})) == [{"a": "😀"}]


def test_an_object_that_json_does_not_have_is_refused() -> None:
    for bad in ({1: 2}, {"a": {1, 2}}, {"a": object()}):
        with pytest.raises(ManifestError):
            nodes.from_object(bad)
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"a": deep}
    with pytest.raises(ManifestError, match="nested more than"):
        nodes.from_object(deep)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_any_json_reads_as_json_reads_it(value: dict[str, object]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    printable = all(char.isprintable() for char in text)
    try:
        read = values(text)
    except ManifestError:
        assert not printable or len(text) > 1000
        return
    if printable:
        assert read == [value] or not value


def test_a_key_that_stands_twice_with_one_value_is_told_to_who_asks_and_read_on() -> None:
    doubles: list[ManifestError] = []
    (root,) = nodes.parse("labels:\n  a: 1\n  b: {c: 2}\n  a: 1\n  b: {c: 2}\nd: 3\n", "f.yaml", doubles=doubles)
    assert root.value == {"labels": {"a": 1, "b": {"c": 2}}, "d": 3}
    assert [(one.line, one.column, one.message) for one in doubles] == [
        (4, 3, "the key 'a' stands twice: first in line 2, column 3"),
        (5, 3, "the key 'b' stands twice: first in line 3, column 3"),
    ]


@pytest.mark.parametrize("text", ["a: 1\na: 1\n", "x:\n  a: 1\n  a: 2\n", "x:\n  a: [1]\n  a: [1, 2]\n"])
def test_a_key_at_the_top_and_one_with_two_values_stay_errors(text: str) -> None:
    with pytest.raises(ManifestError, match="stands twice"):
        list(nodes.parse(text, "f.yaml", doubles=[]))
