"""Data on stdout, talk on stderr: tables as kubectl prints them, JSON, YAML, ages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from ironloom.units import format_bytes, format_duration

Row = Sequence[str]
_now = time.time


def output_option(*names: str, default: str | None = "table") -> Callable[..., Any]:
    """`-o FORMAT`. `names` are the formats that the command has."""
    listed = f"{', '.join(names[:-1])} or {names[-1]}"
    return click.option(
        "-o", "--output", "output", type=click.Choice(names), default=default, metavar="FORMAT",
        help=f"Output format: {listed}.", show_default=default is not None,
    )  # fmt: skip


result_option = output_option("text", "json", "yaml", default="text")
"""`-o FORMAT` of a command whose result is a sentence."""


def say(text: str = "") -> None:
    """Talk: to a person, on stderr."""
    click.echo(text, err=True)


def put(text: str) -> None:
    """Data: on stdout."""
    click.echo(text)


def put_data(data: object, output: str) -> None:
    """Data as JSON or YAML."""
    put(to_yaml(data) if output == "yaml" else json.dumps(data, indent=2, ensure_ascii=False))


def tell(words: str, data: object, output: str) -> None:
    """A result: in words for a person (`text`), as data for a program."""
    if output == "text":
        put(words)
    else:
        put_data(data, output)


def to_yaml(data: object) -> str:
    """A YAML document, keys in their own order, without a last newline."""
    import yaml

    return yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True).rstrip("\n")


def table(head: Row, rows: Sequence[Row]) -> str:
    """Columns as kubectl prints them: upper-case heads, three blanks between, nothing at the line's end."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)


def age(since_s: float) -> str:
    """How long ago a moment (seconds since the epoch) was: `4s`, `12m`, `3d4h`; `-` when it is not known."""
    if not since_s:
        return "-"
    seconds = max(0.0, _now() - since_s)
    return f"{int(seconds)}s" if seconds < 10 else format_duration(seconds)


def moment(at_s: float) -> str:
    """A moment in local time, for a person."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def amount(num_bytes: int) -> str:
    """Bytes, or `-` when there are none to tell."""
    return format_bytes(num_bytes) if num_bytes else "-"


def plural(count: int, noun: str) -> str:
    """`1 service`, `2 services`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
