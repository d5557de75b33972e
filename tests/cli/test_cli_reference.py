from __future__ import annotations

from pathlib import Path

import click
import pytest

from ironloom.cli.main import COMMANDS, cli
from ironloom.cli.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text().endswith(render()), "docs/reference/cli.md is not current: run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_option_stands_in_the_page(name: str) -> None:
    page = render()
    pending = [(f"ironloom {name}", cli.get_command(click.Context(cli), name))]
    while pending:
        path, command = pending.pop()
        assert command is not None
        assert f"# {path}\n" in page
        for param in command.params:
            if isinstance(param, click.Option) and param.name != "debug":
                assert param.help, f"{path} {param.opts[0]} has no help"
                assert f"`{param.opts[-1]}" in page
        if isinstance(command, click.Group):
            pending += [(f"{path} {child}", found) for child, found in command.commands.items()]
