"""A place in a text of YAML that is a value of a manifest is found in the manifest's file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ironloom.workload.manifests.inner import outer_place
from ironloom.workload.manifests.read import read_text

_LINE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(lambda text: f"x{text.rstrip()}")


@given(st.lists(_LINE | st.just(""), min_size=1, max_size=6), st.integers(1, 8), st.booleans())
def test_every_line_of_a_block_is_found_with_its_indentation(lines: list[str], indent: int, has_next: bool) -> None:
    body = "".join(f"{' ' * indent}{line}\n" if line else "\n" for line in ["first", *lines])
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ntext: |\n{body}" + ("last: 1\n" if has_next else "")
    (document,) = read_text(text, "a.yaml")
    for number, line in enumerate(["first", *lines], start=1):
        if not line:
            continue
        place = outer_place(document, ("text",), number, 1, len(line))
        assert place is not None
        assert text[place.start : place.end] == line
        assert text.split("\n")[place.line - 1][place.column - 1 :] == line


def test_a_line_that_is_not_there_has_no_place() -> None:
    (document,) = read_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ntext: |\n  a\nlist: >\n  b\n", "a.yaml"
    )
    assert outer_place(document, ("text",), 0, 1) is None
    assert outer_place(document, ("text",), 9, 1) is None
    assert outer_place(document, ("list",), 1, 1) is None
    assert outer_place(document, ("nothing",), 1, 1) is None
