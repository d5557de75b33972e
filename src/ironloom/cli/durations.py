"""Options that are durations: `90s`, `5m`, or a bare number of seconds."""

from __future__ import annotations

import click

from ironloom.units import parse_duration_s


def seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """The callback of such an option. Raises click.BadParameter for what is no duration."""
    try:
        return None if value is None else parse_duration_s(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}") from error
