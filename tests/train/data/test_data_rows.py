"""What is read from a file, and what a row that is none says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironloom.errors import DataError
from ironloom.train.data.rows import read_rows
from ironloom.workload.training import Data, Source

TURN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def rows(path: Path, **data: str) -> list[object]:
    source = Source(uri=str(path))
    return [row.text if row.messages is None else list(row.messages) for row in read_rows(source, Data(**data))]


def test_json_lines_are_texts_and_conversations_and_empty_lines_are_none(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "one"}), "", json.dumps({"messages": TURN}), json.dumps({"text": None})]
    file.write_text("\n".join(lines))
    assert rows(file) == ["one", TURN, ""]


def test_a_field_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"body": "one"}))
    assert rows(file, text_field="body") == ["one"]


def test_sharegpts_keys_are_read_by_openais_names(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    file.write_text(json.dumps({"conversations": turns}))
    assert rows(file, messages_field="conversations") == [TURN]


def test_a_text_file_is_a_row_and_a_large_one_comes_in_parts_that_end_where_lines_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    line = "x" * 1023 + "\n"
    (tmp_path / "b.txt").write_text(line * 3000)
    small, *parts = rows(tmp_path)
    assert small == "one\ntwo\n"
    assert len(parts) == 3
    assert all(str(part).endswith("\n") for part in parts)
    assert "".join(map(str, parts)) == line * 3000


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl:2: the line is no JSON object"),
        ("a.jsonl", b'["x"]', r"a\.jsonl:1: the line is no JSON object"),
        ("a.jsonl", b'{"text": 3}', r'a\.jsonl:1: "text" is int; a string is wanted'),
        ("a.jsonl", b'{"body": "x", "id": 1}', r'no field "text" .* there are body, id'),
        ("a.jsonl", b'{"messages": "hi"}', r'"messages" is no list of messages'),
        ("a.jsonl", b'{"messages": [{"content": "hi"}]}', "has no role"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"messages": [{"role": "assistant", "content": 7}]}',
            r'a\.jsonl:2: the content of a message of "messages" is int; a string, or a list of parts',
        ),
        ("a.jsonl", b'{"messages": [{"from": "gpt", "value": false}]}', 'of "messages" is bool; a string'),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": {"a": 1}}]}', 'of "messages" is dict; a string'),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": [{"text": 7}]}]}',
            "is a list of other things; a string",
        ),
        ("a.jsonl", b'{"messages": [], "tools": "{"}', '"tools" is no JSON'),
        ("a.txt", b"ok\n\xff\xfe", r"a\.txt:1: the text is no UTF-8"),
        ("a.csv", b"text\nx", r"a\.csv is no data that can be read; allowed are \.jsonl, \.parquet, \.txt"),
    ],
)
def test_what_is_no_row_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=why):
        rows(file)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "ho"},
        {"role": "assistant", "content": [{"type": "text", "text": "ho"}, {"type": "image"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": {"celsius": 7}},
    ],
)
def test_texts_parts_of_one_and_the_objects_of_tools_are_contents(tmp_path: Path, message: dict[str, Any]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": [message]}))
    assert rows(file) == [[message]]


def test_a_folder_without_data_and_a_name_that_is_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file to train on"):
        rows(tmp_path)
    with pytest.raises(DataError, match="there is no file or folder") as raised:
        rows(tmp_path / "none")
    assert raised.value.hint == "a dataset of the hub is hf://owner/name"
