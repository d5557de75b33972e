"""What one client asks of an API server, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Traffic:
    """The counts of one client."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """Each try, by verb and resource."""
        self.events: Counter[str] = Counter()
        """That watches brought, by resource."""
        self.event_bytes: Counter[str] = Counter()

    def ask(self, method: str, path: str, params: Mapping[str, str] | None) -> None:
        """A request goes out."""
        self.requests[verb_and_resource(method, path, params or {})] += 1

    def take(self, path: str, line: bytes) -> None:
        """A watch of the collection at `path` brought an event."""
        resource = verb_and_resource("GET", path, {})[1]
        self.events[resource] += 1
        self.event_bytes[resource] += len(line)


def verb_and_resource(method: str, path: str, params: Mapping[str, str]) -> tuple[str, str]:
    """As access rules name them: `list`, `pods`; `patch`, `deployments/scale`. What is no resource (`/version`, a
    group's discovery) has an empty one and its method as the verb.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    parts = path.partition("?")[0].strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:] if parts[0] == "apis" else []
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    if not rest:
        return method.lower(), ""
    resource = "/".join([rest[0], *rest[2:3]])
    if method == "GET":
        return ("watch" if params.get("watch") == "true" else "get" if len(rest) > 1 else "list"), resource
    if method == "DELETE" and len(rest) == 1:
        return "deletecollection", resource
    return _VERBS.get(method, method.lower()), resource
