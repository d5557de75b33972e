from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import yaml
from fake_control import NOW_S, Terminal
from hypothesis import given
from hypothesis import strategies as st

from ironloom.cli.main import cli
from ironloom.cli.output import age, plural, table, to_yaml
from ironloom.cli.progress import Line, bar


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0s"),
        (3.9, "3s"),
        (59, "59s"),
        (150, "2m30s"),
        (3600, "60m"),
        (10_800, "3h"),
        (400_000, "4d15h"),
        (-5, "0s"),
    ],
)
def test_ages_are_told_as_kubectl_tells_them(seconds: float, said: str) -> None:
    assert age(NOW_S - seconds) == said


def test_an_unknown_moment_has_no_age() -> None:
    assert age(0) == "-"


@given(st.lists(st.tuples(st.text("ab ", max_size=9), st.text("xy", max_size=9)), max_size=5))
def test_columns_start_where_their_head_starts(rows: list[tuple[str, str]]) -> None:
    lines = table(("FIRST", "SECOND"), rows).split("\n")
    start = lines[0].index("SECOND")
    assert [line[start:] for line in lines[1:]] == [second for _, second in rows]
    assert all(line == line.rstrip() for line in lines)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_yaml_output_reads_back(data: object) -> None:
    assert yaml.safe_load(to_yaml(data)) == data


def test_one_thing_and_two_things() -> None:
    assert (plural(1, "row"), plural(2, "row"), plural(0, "row")) == ("1 row", "2 rows", "0 rows")


def test_progress_off_a_terminal_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with Line("Waiting") as line, bar(10, "Sending", "B") as shown:
        line.show("for it")
        shown.update(10)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_a_line_is_rewritten_and_taken_away_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("ironloom.cli.progress.time.monotonic", lambda: 100.0)
    with Line("Waiting") as line:
        line.show("for it")
        line.clear()
        terminal.write("the answer")
        line.show("never shown")
    assert terminal.getvalue() == "\r\x1b[KWaiting: for it, 0ms\r\x1b[Kthe answer"


def test_a_line_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    with Line("Waiting") as line:
        line.show("x" * 100)
    assert terminal.getvalue() == f"\r\x1b[KWaiting: {'x' * 10}\r\x1b[K"


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _commands(found, f"{path} {name}".strip())


@pytest.mark.parametrize(("name", "command"), list(_commands(cli)), ids=[name for name, _ in _commands(cli)])
def test_every_command_tells_what_it_has_as_json_or_yaml(name: str, command: click.Command) -> None:
    """But a conversation, a script for a shell, and a check, whose formats are those of the tools that read them."""
    formats = [tuple(option.type.choices) for option in command.params if "-o" in option.opts]
    if name in ("chat", "completion"):
        assert formats == []
    else:
        ((*given,),) = formats
        assert {"json", "yaml"} <= set(given) or (name == "check" and "json" in given)
