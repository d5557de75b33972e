"""What is larger than any manifest is refused with a sentence that says the bound and the way around it."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ironloom.check.inputs import read_paths, read_texts
from ironloom.errors import ManifestError
from ironloom.workload.manifests import bounds, nodes

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
PIECES = st.sampled_from(
    [
        "---\n",
        "a: 1\n",
        "b: {c: [1, é]}\n",
        "k: 'x\n",
        "- x\n",
        "a: 1\r\n",
        "\r",
        "s: |\n  x\n  ---y\n",
        "\ta\n",
        "*n\n",
        "#\n",
    ]
)


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("a: 1\nb: " + "x" * 5_000_000, 2, "the line has over 4,194,304 characters", "jq"),
        ("a: 1\n" * 3_500_000, 0, "it is larger than 16.0 MiB", "make several files of it"),
        ("a:\n" + "- 1\n" * 5_001, 5_002, "the list has over 5,000 entries", "make several files of it"),
        ("".join(f"k{i}: 1\n" for i in range(5_001)), 5_001, "the mapping has over 5,000 keys", "make several"),
        ("---\n" * 5_001 + "a: 1\n", 0, "it has over 5,000 documents", "make several files of it"),
    ],
)
def test_each_bound_is_told_with_what_to_do(text: str, line: int, message: str, hint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        list(nodes.parse(text, "f.yaml"))
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")
    assert (caught.value.file, caught.value.line) == ("f.yaml", line)


def test_a_text_has_so_many_values_and_no_more_in_all_of_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_VALUES", 10)
    assert len(list(nodes.parse("[1, 2, 3, 4]\n---\n[1, 2, 3, 4]\n", "f.yaml"))) == 2
    with pytest.raises(ManifestError, match="it has over 10 values"):
        list(nodes.parse("[1, 2, 3, 4]\n---\n[1, 2, 3, 4, 5]\n", "f.yaml"))


def test_a_check_refuses_a_text_beyond_a_bound_and_keeps_none_of_it() -> None:
    inputs = read_texts({"large.yaml": "x" * 5_000_000, "a.yaml": POD})
    assert [(one.rule, one.file, one.line) for one in inputs.findings] == [("IL000", "large.yaml", 1)]
    assert list(inputs.texts) == ["a.yaml"]
    assert [made.name for made in inputs.documents] == ["a"]


LARGE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata:\n" + f"  k: {'x' * 1000}\n" * 1_700


def test_an_object_larger_than_any_that_a_cluster_keeps_is_refused_before_it_is_read_and_the_next_is_read() -> None:
    inputs = read_texts({"a.yaml": f"{POD}---\n{LARGE}---\n{POD}"})
    assert [(one.rule, one.line, one.message) for one in inputs.findings] == [
        ("IL000", 5, "the object has over 1.5 MiB, and etcd keeps no object of that size")
    ]
    assert [made.name for made in inputs.documents] == ["a", "a"]


def test_blanks_make_no_object_larger() -> None:
    text = POD + "spec:\n" + "".join(f"{' ' * 1000}k{number}: 1\n" for number in range(2_000))
    assert [made.name for made in read_texts({"a.yaml": text}).documents] == ["a"]


@pytest.mark.parametrize("layout", ["yaml", "json", "one line"])
def test_a_list_of_objects_may_be_larger_than_one(layout: str) -> None:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "x" * 100_000}}
    whole = {"apiVersion": "v1", "items": [obj] * 20, "kind": "List"}
    if layout == "yaml":
        text = yaml.dump(whole, Dumper=yaml.CSafeDumper).replace("*id001", "{apiVersion: v1, kind: A}")
    else:
        text = json.dumps(whole, indent=4 if layout == "json" else None)
    inputs = read_texts({"a.yaml": text})
    assert not inputs.findings
    assert len(inputs.documents) == 20


def test_each_object_has_so_many_values_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_OBJECT_VALUES", 10)
    item = {"apiVersion": "v1", "kind": "A", "metadata": {"name": "a"}}
    assert (
        len(read_texts({"a.json": json.dumps({"apiVersion": "v1", "kind": "List", "items": [item] * 9})}).documents)
        == 9
    )
    text = f"{POD}---\nkind: A\nb: {[1] * 20}\n---\n{POD}"
    inputs = read_texts({"a.yaml": text})
    assert [(one.line, one.message) for one in inputs.findings] == [
        (6, "the object has over 10 values, and no more are read")
    ]
    assert len(inputs.documents) == 2


def test_after_too_many_values_no_later_document_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_VALUES", 20)
    inputs = read_texts({"a.yaml": POD + "---\n" + POD.replace("a}", f"a, labels: {[1] * 20}}}") + "---\n" + POD})
    assert [(one.rule, one.message) for one in inputs.findings] == [
        ("IL000", "it has over 20 values, and no more are read")
    ]
    assert len(inputs.documents) == 1


def test_a_large_file_that_was_only_found_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD)
    (tmp_path / "tokenizer.json").write_text("[" + "1," * (bounds.MAX_BYTES // 2) + "1]")
    (tmp_path / "vocabulary.json").write_text('{"a": "' + "x" * (bounds.MAX_LINE + 1) + '"}')
    found = read_paths([tmp_path])
    assert {one.rule for one in found.findings} == {"IL098"}
    assert len(found.documents) == 1
    named = read_paths([tmp_path / "tokenizer.json"])
    assert [(one.rule, one.message) for one in named.findings] == [
        ("IL000", "it is larger than 16.0 MiB, and no more is read")
    ]


def test_of_standard_input_no_more_is_taken_in_than_the_bound() -> None:
    stdin = StringIO("a: 1\n" * (bounds.MAX_BYTES // 4))
    inputs = read_paths(["-"], stdin=stdin)
    assert [one.message for one in inputs.findings] == ["it is larger than 16.0 MiB, and no more is read"]
    assert stdin.tell() == bounds.MAX_BYTES + 1


@given(st.lists(PIECES, max_size=12).map("".join), st.integers(0, 12))
def test_a_text_read_from_a_line_on_says_what_it_says_with_blanks_before_that_line(text: str, number: int) -> None:
    starts = [0, *(found.end() for found in re.finditer(r"\n", text))]
    begin = starts[min(number, len(starts) - 1)]
    blank = re.sub(r"[^\r\n]", " ", text[:begin]) + text[begin:]

    def read(whole: str, begin: int) -> tuple[list[nodes.Node], object]:
        found: list[nodes.Node] = []
        try:
            found.extend(nodes.parse(whole, "f.yaml", begin=begin))
        except ManifestError as error:
            return found, (error.message, error.line, error.column)
        return found, None

    assert read(text, begin) == read(blank, 0)
