"""The reader of multipart forms, against well-formed and hostile bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import RequestError
from ironloom.server.multipart import MAX_PARTS, Part, parse_form

TYPE = "multipart/form-data; boundary=b0"


def form(*parts: tuple[str, bytes], end: bytes = b"--b0--\r\n") -> bytes:
    made = b"".join(b"--b0\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return made + end


def field(name: str, filename: str | None = None) -> str:
    return f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")


def test_fields_and_files_are_read_in_order() -> None:
    body = form((field("purpose"), b"batch"), (field("file", "a b.jsonl") + "\r\nContent-Type: x/y", b"{}\r\n--b\r\n"))
    assert parse_form(TYPE, body) == [
        Part(name="purpose", filename=None, data=b"batch"),
        Part(name="file", filename="a b.jsonl", data=b"{}\r\n--b\r\n"),
    ]


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="f"; filename="a\\"b"', 'a"b'),
        ('form-data; name="f"; filename="a%22b"', 'a"b'),
        ("form-data; name=f; filename=plain", "plain"),
        ('FORM-DATA; NAME="f"; filename="x;y=z"', "x;y=z"),
        ('form-data; name="f"; filename="\u00e9.txt"', "\u00e9.txt"),
    ],
)
def test_file_names_are_unquoted(disposition: str, filename: str) -> None:
    [part] = parse_form(TYPE, form((f"content-disposition: {disposition}", b"")))
    assert (part.name, part.filename) == ("f", filename)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("", b"", 415),
        ("application/json", b"{}", 415),
        ("multipart/form-data", form(), 400),
        ("multipart/form-data; boundary=", form(), 400),
        (f"multipart/form-data; boundary={'x' * 71}", form(), 400),
        (TYPE, b"", 400),
        (TYPE, b"--b1--", 400),
        (TYPE, form((field("a"), b"1"), end=b""), 400),
        (TYPE, b"--b0 \r\n\r\n--b0--", 400),
        (TYPE, b"--b0\r\nContent-Disposition: form-data; name=a\r\n--b0--", 400),
        (TYPE, form(("Content-Type: x/y", b"1")), 400),
        (TYPE, form(('Content-Disposition: attachment; name="a"', b"1")), 400),
        (TYPE, form(('Content-Disposition: form-data; name=""', b"1")), 400),
        (TYPE, form(("X: " + "y" * 9000 + "\r\n" + field("a"), b"1")), 400),
        (TYPE, form(*[(field("a"), b"1")] * (MAX_PARTS + 1)), 400),
    ],
)
def test_a_malformed_form_is_refused(content_type: str, body: bytes, status: int) -> None:
    with pytest.raises(RequestError) as error:
        parse_form(content_type, body)
    assert error.value.status == status
    assert status != 400 or error.value.error_code == "invalid_multipart"


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_without_the_boundary_come_back_whole(contents: list[bytes]) -> None:
    contents = [content for content in contents if b"--b0" not in content]
    body = form(*[(field("f", "x"), content) for content in contents])
    assert [part.data for part in parse_form(TYPE, body)] == contents


@given(st.binary(max_size=300))
def test_no_body_crashes_the_reader(body: bytes) -> None:
    try:
        parts = parse_form(TYPE, b"--b0" + body)
    except RequestError:
        return
    assert all(part.name for part in parts)
