"""A click group that knows its subcommands by name and imports one only when it is called.

The help page is written from a table, so that `ironloom --help` imports no subcommand. A test holds the table and
the commands together. The idea is click's own (https://click.palletsprojects.com/en/stable/complex/), without its
price: click's recipe loads every command to print the help page.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """One subcommand: where it is, which heading it stands under, and its line in the help page."""

    module: str
    attribute: str
    section: str
    help: str


class Session:
    """What the whole invocation shares."""

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug


class OutputClosed(Exception):
    """Whoever read our output has gone away (`ironloom get | head -1`): nothing to say, nobody to say it to."""


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Session).debug = True


def debug_option() -> click.Option:
    """`--debug`, which stands before or after the subcommand's name."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )


class LazyGroup(click.Group):
    """The top of the command tree."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        from ironloom.fleet.collection import no_collection  # the help page goes without it

        with no_collection():  # an import makes classes and no garbage
            command = getattr(import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command), f"{entry.module}.{entry.attribute} is no command"
        _with_debug(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            close = difflib.get_close_matches(name, self.entries, n=1)
            did_you_mean = f"; did you mean {close[0]!r}?" if close else "."
            raise click.UsageError(f"There is no command {name!r}{did_you_mean}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would end the process here, with status 1
            raise OutputClosed from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            sections.setdefault(entry.section, []).append((name, entry.help))
        width = max(map(len, self.entries))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=e.help) for n, e in self.entries.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _with_debug(command: click.Command) -> None:
    """Give a command, and each command under it, the `--debug` option."""
    if not any(param.name == "debug" for param in command.params):
        command.params.append(debug_option())
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _with_debug(child)
