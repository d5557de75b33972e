"""Keys in a Secret, as they are read."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.kubernetes.key_store import documents


def test_each_entry_is_a_document_and_what_is_none_is_left_out() -> None:
    good = b64encode(b'{"name": "team"}').decode()
    spoilt = {"key-2": "not base64!", "key-3": b64encode(b"not json").decode(), "key-4": "", "key-5": None}
    assert documents({"data": {"key-1": good, **spoilt}}) == {"key-1": {"name": "team"}}
    assert documents({}) == documents({"data": None}) == {}


@given(st.dictionaries(st.text(), st.text() | st.none() | st.binary().map(lambda data: b64encode(data).decode())))
def test_whatever_stands_in_it_is_read_without_a_fault(data: dict[str, str | None]) -> None:
    assert documents({"data": data}).keys() <= data.keys()
