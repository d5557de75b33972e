"""Names of services and runs on the command line: `chat`, `service/chat` or `run/tuned`, completed by the shell."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.views import kind_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class ServiceName(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """A service's or a run's name; `service/NAME` and `run/NAME`, as `get -o name` prints them, are the same."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        prefix, slash, rest = str(value).rpartition("/")
        if not slash:
            return rest
        kind = kind_of(prefix)
        if kind is None or kind.name not in ("service", "run") or not rest:
            self.fail(f"{value!r} is no service or run; write NAME, service/NAME or run/NAME", param, ctx)
        return rest

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 (click's signature)
        param: click.Parameter,  # noqa: ARG002 (click's signature)
        incomplete: str,
    ) -> list[CompletionItem[Any]]:
        return complete_service(incomplete)


SERVICE_NAME = ServiceName()


def complete_service(incomplete: str) -> list[CompletionItem[Any]]:
    """Names of the services there are. Silent when no daemon runs: a shell waits for this."""
    from click.shell_completion import CompletionItem

    from ironloom.cli.client import Client
    from ironloom.errors import IronloomError

    try:
        services = Client().services(timeout_s=1.0)
    except IronloomError:
        return []
    found: list[tuple[str, str]] = [(view.name, view.state) for view in services]
    with contextlib.suppress(IronloomError):  # an older daemon has none
        found += [(view.name, view.state) for view in Client().runs(timeout_s=1.0)]
    return [CompletionItem(name, help=state) for name, state in found if name.startswith(incomplete)]
