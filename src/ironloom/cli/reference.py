"""docs/reference/cli.md, written from the commands themselves. A test holds the page and the commands together."""

from __future__ import annotations

import inspect

import click

from ironloom.cli.main import COMMANDS, cli

_HEAD = """\
# Command line

{summary} Commands act on this machine, unless IRONLOOM_URL names a daemon elsewhere or `--context` a Kubernetes \
cluster, which nothing else does.

Data goes to stdout: a table, a sentence, or JSON or YAML with `-o`. Progress, notes and hints go to stderr, and
progress only to a terminal. An error is one sentence, a blank line and `hint: …`; `--debug` adds the traceback.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | it failed; the sentence on stderr says why |
| 2 | bad use: an option, an argument, an environment variable or a manifest is wrong |
| 130 | interrupted with Ctrl-C |
| 141 | whoever read the output went away |

| environment variable | meaning |
|---|---|
| `IRONLOOM_HOME` | the state folder; default `$XDG_STATE_HOME/ironloom`, else `~/.local/state/ironloom` |
| `IRONLOOM_PORT` | the daemon's port; default 11500. It outranks the state folder of a daemon with another port |
| `IRONLOOM_URL` | a daemon elsewhere, `http://HOST:PORT` or `https://HOST:PORT` |
| `IRONLOOM_API_KEY` | the API key that every command sends |
| `IRONLOOM_CACHE` | the model cache; default `$XDG_CACHE_HOME/ironloom`, else `~/.cache/ironloom` |
| `IRONLOOM_DEBUG` | when set, as `--debug` |

`-h` and `--help` stand for each other. `--debug` may stand before or after a command's name.
"""


def render() -> str:
    """The whole page, as Markdown."""
    context = click.Context(cli, info_name="ironloom")
    sections: dict[str, list[str]] = {}
    for name, entry in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        sections.setdefault(entry.section, []).append(_command(command, click.Context(command, context, name), 3))
    parts = [_HEAD.format(summary=_plain(cli.help))]
    for section, commands in sections.items():
        parts += [f"## {section}\n", *commands]
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context, level: int) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"{'#' * level} {context.command_path}", "", f"`{usage}`", "", _prose(command.help), ""]
    rows = [
        f"| {_names(param, context)} | {_cell(record[1])} |"
        for param in command.params
        if isinstance(param, click.Option) and param.name != "debug"
        if (record := param.get_help_record(context)) is not None
    ]
    if rows:
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            lines.append(_command(child, click.Context(child, context, name), level + 1))
    return "\n".join(lines)


def _names(option: click.Option, context: click.Context) -> str:
    forms = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    return ", ".join(f"`{form}{value}`" for form in forms).replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


def _prose(text: str | None) -> str:
    r"""A command's help as Markdown: paragraphs, and what stands after \b as a block."""
    out = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        if paragraph.startswith("\b"):
            block = paragraph.removeprefix("\b\n")
            out.append(f"```\n{block}\n```")
        else:
            out.append(" ".join(paragraph.split()))
    return "\n\n".join(out)
