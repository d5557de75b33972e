"""`--dry-run`, which has a value that may be left out."""

from __future__ import annotations

import click


class DryRun(click.Command):
    """`--dry-run` alone is `--dry-run=client`, as kubectl once had it; a word after it is never its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--dry-run=client" if arg == "--dry-run" else arg for arg in args])
