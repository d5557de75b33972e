"""Service names on the command line: `chat` or `service/chat`, completed by the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.views import kind_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class ServiceName(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """A service's name; `service/NAME`, as `get -o name` prints it, is the same."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        prefix, slash, rest = str(value).rpartition("/")
        if not slash:
            return rest
        kind = kind_of(prefix)
        if kind is None or kind.name != "service" or not rest:
            self.fail(f"{value!r} is no service; write NAME or service/NAME", param, ctx)
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
    return [CompletionItem(view.name, help=view.state) for view in services if view.name.startswith(incomplete)]
