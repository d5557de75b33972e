"""What every engine's server answers, whatever its model is for: health, models, tokens, metrics, sleep and wake."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import Fields, invalid
from ironloom.serve.engines.programs.generation import Detokenizer, Parkable, Stats
from ironloom.serve.engines.programs.messages import read_messages, read_tools
from ironloom.serve.engines.programs.metrics import Metrics
from ironloom.serve.engines.programs.prompts import LONG_CHARS
from ironloom.serve.engines.programs.sampling_defaults import NEUTRAL, SamplingDefaults
from ironloom.serve.engines.programs.templates import ChatTemplate
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Exchange

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class Model(Protocol):
    """What a Generator and an Embedder have in common."""

    max_model_len: int

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def detokenizer(self, prompt_ids: Any, *, skip_special_tokens: bool) -> Detokenizer: ...

    def stats(self) -> Stats: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """How the server presents the model."""

    served_name: str
    model_path: str = ""
    template: ChatTemplate | None = None
    tool_parser: str | None = None
    """A name of tool_calls.PARSERS; None takes what the chat template teaches."""
    defaults: SamplingDefaults = NEUTRAL
    """The sampling of a request that does not say."""
    reasoning: bool | None = None
    """Part `<think>…</think>` from the answer; None does so where the chat template knows the tag."""


class BaseServer:
    """Its `handle` is the HTTP server's handler. Everything runs in the loop's thread."""

    def __init__(self, model: Model, options: ServerOptions, parkable: Parkable | None) -> None:
        self.options = options
        self.metrics = Metrics()
        self.num_open = 0
        """Requests being answered."""
        self._model = model
        self._parkable = parkable
        self._created = int(time.time())
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: dict[str, dict[str, Callable[[Exchange], None]]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
        }

    def handle(self, exchange: Exchange) -> None:
        """Answer one request. Raises RequestError, which the HTTP server turns into the answer."""
        request = exchange.request
        methods = self.routes.get(request.path)
        if methods is None:
            raise RequestError(404, f"there is no {request.path} here", code="not_found")
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise RequestError(405, f"{request.path} takes {' or '.join(methods)}, not {request.method}", code="method")
        route(exchange)

    # --- for subclasses ---

    def spawn(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that answers the exchange; its RequestError becomes the answer."""

        async def guarded() -> None:
            try:
                await work
            except RequestError as error:
                failure = error
            except Exception:
                logger.exception("a request failed at %s", exchange.request.path)
                failure = RequestError(500, "internal error", type="server_error", source="engine")
            else:
                return
            if not exchange.started:
                exchange.respond(failure.status, wire.error_body(failure), headers=wire.error_headers(failure))

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def asleep(self) -> bool:
        """True while parked."""
        return self._parkable is not None and self._parkable.asleep

    def require_awake(self) -> None:
        """Raises RequestError (503) while parked."""
        if self.asleep:
            message = "this engine is parked; POST /wake_up first"
            raise RequestError(503, message, type="server_error", code="parked", source="engine", retry_after_s=1.0)

    def check_model(self, model: str) -> None:
        """Raises RequestError (404) for another model than the served one; an empty name is fine."""
        if model and model != self.options.served_name:
            message = f'the model "{model}" is not here; this engine serves "{self.options.served_name}"'
            raise RequestError(404, message, param="model", code="model_not_found")

    def body(self, exchange: Exchange) -> dict[str, Any]:
        """The request's JSON object. Raises RequestError (400)."""
        try:
            body = msgspec.json.decode(exchange.request.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(400, f"the request's body is not JSON: {error}", code="invalid_json") from error
        except UnicodeDecodeError as error:
            raise RequestError(400, "the request's body is not JSON: it is not UTF-8", code="invalid_json") from error
        if not isinstance(body, dict):
            raise RequestError(400, "the request's body must be a JSON object", code="invalid_json")
        return body

    def json(self, exchange: Exchange, body: object) -> None:
        """Answer 200 with it."""
        exchange.respond(200, _encode(body))

    def text_of(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of whole token ids."""
        detokenizer = self._model.detokenizer((), skip_special_tokens=skip_special_tokens)
        return detokenizer.feed(ids) + detokenizer.flush()

    # --- tokens ---

    def _tokenize(self, exchange: Exchange) -> None:
        fields = Fields(self.body(exchange))
        self.require_awake()
        self.check_model(fields.text("model", ""))
        with_strings = fields.flag("return_token_strs", False)
        if "messages" in fields:
            if self.options.template is None:
                raise invalid("messages", "this model has no chat template", code="no_chat_template")
            text = self.options.template.render(
                read_messages(fields.take("messages")),
                tools=read_tools(fields.take("tools")) or None,
                add_generation_prompt=fields.flag("add_generation_prompt", True),
                continue_final_message=fields.flag("continue_final_message", False),
                variables=fields.mapping("chat_template_kwargs"),
            )
            special = fields.flag("add_special_tokens", False)
        else:
            if "prompt" not in fields:
                raise invalid("prompt", "/tokenize takes a prompt, or messages")
            text = fields.text("prompt", "")
            special = fields.flag("add_special_tokens", True)
        fields.end({})
        if len(text) <= LONG_CHARS:
            self._tell_tokens(exchange, self._model.encode(text, add_special_tokens=special), with_strings)
            return

        async def tokenise_and_tell() -> None:
            ids = await self._model.encode_aside(text, add_special_tokens=special)
            self._tell_tokens(exchange, ids, with_strings)

        self.spawn(exchange, tokenise_and_tell())

    def _tell_tokens(self, exchange: Exchange, ids: list[int], with_strings: bool) -> None:
        shown = [self._model.token_bytes(i).decode("utf-8", "replace") for i in ids] if with_strings else None
        self.json(
            exchange,
            {"count": len(ids), "max_model_len": self._model.max_model_len, "tokens": ids, "token_strs": shown},
        )

    def _detokenize(self, exchange: Exchange) -> None:
        fields = Fields(self.body(exchange))
        self.require_awake()
        self.check_model(fields.text("model", ""))
        tokens = fields.take("tokens", None)
        fields.end({})
        if not isinstance(tokens, list) or not all(type(i) is int and i >= 0 for i in tokens):
            raise invalid("tokens", "tokens must be a list of token ids")
        try:
            for token_id in set(tokens):
                self._model.token_bytes(token_id)
        except IndexError:
            raise invalid("tokens", "tokens holds an id that is not in the model's vocabulary") from None
        self.json(exchange, {"prompt": self.text_of(tokens, skip_special_tokens=False)})

    # --- the rest ---

    def _models(self, exchange: Exchange) -> None:
        card: dict[str, object] = {
            "id": self.options.served_name,
            "object": "model",
            "created": self._created,
            "owned_by": "ironloom",
            "root": self.options.model_path or self.options.served_name,
            "parent": None,
            "max_model_len": self._model.max_model_len,
        }
        if told := self.options.defaults.told():
            card["default_sampling_params"] = told
        self.json(exchange, {"object": "list", "data": [card]})

    def _health(self, exchange: Exchange) -> None:
        exchange.respond(200, b"")

    def _version(self, exchange: Exchange) -> None:
        from ironloom import __version__

        self.json(exchange, {"version": __version__})

    def _metrics_page(self, exchange: Exchange) -> None:
        page = self.metrics.render(self._model.stats(), model=self.options.served_name, asleep=self.asleep)
        exchange.respond(200, page, content_type="text/plain; version=0.0.4; charset=utf-8")

    def _is_sleeping(self, exchange: Exchange) -> None:
        self.json(exchange, {"is_sleeping": self.asleep})

    def _sleep(self, exchange: Exchange) -> None:
        if self._parkable is None:
            raise RequestError(501, "this engine cannot be parked", code="cannot_park", source="engine")
        level = parse_qs(exchange.request.query).get("level", ["1"])[-1]
        if level not in {"1", "2"}:
            raise invalid("level", f"level is {level!r}; it must be 1 or 2")
        self._parkable.park()
        exchange.respond(200, b"")

    def _wake_up(self, exchange: Exchange) -> None:
        if self._parkable is None:
            raise RequestError(501, "this engine cannot be parked", code="cannot_park", source="engine")
        self._parkable.wake()
        exchange.respond(200, b"")
