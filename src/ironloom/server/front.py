"""The front door: which handler a request goes to, once its Host and Origin are in order."""

from __future__ import annotations

from ironloom.serve.gateway.cors import answer_preflight, cors_lines
from ironloom.serve.http.exchange import Exchange, Handler
from ironloom.server.security import Guard

_CONTROL_PREFIX = "/api/"
_APP_PATHS = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/openapi.json"})
_APP_PREFIXES = ("/api/", "/v1/files", "/v1/batches", "/openai/v1/files", "/openai/v1/batches")
_KSERVE_PREFIX = "/openai"


def front(*, guard: Guard, gateway: Handler, app: Handler, exact: dict[str, Handler]) -> Handler:
    """A handler that gives each request to the app (control API, page, files, batches), to the handler of its exact
    path (`/v1/responses`, `/v1/messages`, …; the same under `/openai`), or to the gateway."""
    by_path = exact | {_KSERVE_PREFIX + path: handler for path, handler in exact.items()}

    def handle(exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        control = path.startswith(_CONTROL_PREFIX)
        refusal = guard.refusal(request.method, request.headers, control=control)
        if refusal is not None:
            exchange.refuse(refusal)
            return
        handler = by_path.get(path)
        if handler is None and (path in _APP_PATHS or path.startswith(_APP_PREFIXES)):
            handler = app
        if handler is None:
            gateway(exchange)  # it says itself what pages of other origins may read
            return
        if b"origin" in request.headers and not control:
            exchange.extra_lines += cors_lines(request.headers, guard.allowed_origins)
            if request.method == "OPTIONS":
                answer_preflight(exchange, guard.allowed_origins)
                return
        handler(exchange)

    return handle
