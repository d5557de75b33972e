"""The front door: which handler a request goes to, once its Host and Origin are in order."""

from __future__ import annotations

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.http.exchange import Exchange, Handler
from ironloom.server.security import Guard

_CONTROL_PREFIX = "/api/"
_APP_PATHS = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/openapi.json"})
_APP_PREFIXES = ("/api/", "/v1/files", "/v1/batches", "/openai/v1/files", "/openai/v1/batches")
_KSERVE_PREFIX = "/openai"
_encode = msgspec.json.Encoder().encode


def front(*, guard: Guard, gateway: Handler, app: Handler, exact: dict[str, Handler]) -> Handler:
    """A handler that gives each request to the app (control API, page, files, batches), to the handler of its exact
    path (`/v1/responses`, `/v1/messages`, …; the same under `/openai`), or to the gateway."""
    by_path = exact | {_KSERVE_PREFIX + path: handler for path, handler in exact.items()}

    def handle(exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        refusal = guard.refusal(request.method, request.headers, control=path.startswith(_CONTROL_PREFIX))
        if refusal is not None:
            refuse(exchange, refusal)
        elif (handler := by_path.get(path)) is not None:
            handler(exchange)
        elif path in _APP_PATHS or path.startswith(_APP_PREFIXES):
            app(exchange)
        else:
            gateway(exchange)

    return handle


def refuse(exchange: Exchange, error: RequestError) -> None:
    """Answer with an OpenAI-shaped error."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        headers += (("retry-after", str(max(1, round(error.retry_after_s)))),)
    if error.status == 401:
        headers += (("www-authenticate", "Bearer"),)
    body = error.body()
    if error.hint and isinstance(body["error"], dict):
        body["error"]["hint"] = error.hint
    exchange.respond(error.status, _encode(body), headers=headers)
