"""/v1/embeddings over any Embedder."""

from __future__ import annotations

import asyncio
import base64
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import Fields, invalid, unsupported
from ironloom.serve.engines.programs.generation import Embedder, Parkable
from ironloom.serve.engines.programs.params import ASKS_NOTHING
from ironloom.serve.engines.programs.prompts import LONG_CHARS, check_least
from ironloom.serve.engines.programs.server_base import BaseServer, ServerOptions
from ironloom.serve.http.exchange import Exchange

MAX_INPUTS = 2048
"""OpenAI's bound for one request."""

_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "truncate_prompt_tokens": ((), "shorten the input"),
    "add_special_tokens": ((True,), "the model was trained with its special tokens"),
    "priority": ((0,), "requests are served in the order of their arrival"),
}


class EmbedServer(BaseServer):
    """Vectors of texts, beside what every server answers."""

    def __init__(self, embedder: Embedder, options: ServerOptions, *, parkable: Parkable | None = None) -> None:
        super().__init__(embedder, options, parkable)
        self._embedder = embedder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self.routes["/v1/embeddings"] = {"POST": self._embeddings}

    def _embeddings(self, exchange: Exchange) -> None:
        fields = Fields(self.body(exchange))
        self.require_awake()
        self.check_model(fields.text("model", ""))
        encoding = fields.text("encoding_format", "float")
        if encoding not in {"float", "base64"}:
            raise invalid("encoding_format", f"encoding_format is {encoding!r}; it must be float or base64")
        dimensions = fields.integer("dimensions", None, 1, 2**31 - 1)
        given = fields.take("input")
        fields.ignore(*ASKS_NOTHING)
        fields.end(_REFUSED)
        inputs = _inputs(given)
        if dimensions is not None:
            why = self._embedder.form.why_not(dimensions, self._embedder.length)
            if why is not None:
                raise unsupported("dimensions", why)
        self.spawn(exchange, self._embed(exchange, inputs, encoding, dimensions))

    async def _ids(self, item: str | list[int]) -> list[int]:
        if isinstance(item, str):
            if len(item) <= LONG_CHARS:
                return self._embedder.encode(item, add_special_tokens=True)
            check_least(item, self._embedder.max_token_bytes, self._embedder.max_model_len, param="input")
            return await self._embedder.encode_aside(item, add_special_tokens=True)
        for token_id in item:
            try:
                self._embedder.token_bytes(token_id)
            except IndexError:
                raise invalid("input", f"input has the token id {token_id}, which this model does not know") from None
        return item

    async def _embed(
        self, exchange: Exchange, inputs: list[str] | list[list[int]], encoding: str, dimensions: int | None
    ) -> None:
        ids = [await self._ids(item) for item in inputs]
        counts = [len(each) for each in ids]
        limit = self._embedder.max_model_len
        if max(counts) > limit:
            raise RequestError(
                400,
                f"this model's context length is {limit} tokens; input[{counts.index(max(counts))}] has {max(counts)}",
                param="input",
                code="context_length_exceeded",
            )
        work = partial(self._embedder.embed, ids, dimensions=dimensions)
        vectors = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        data = [
            {"object": "embedding", "index": index, "embedding": vector if encoding == "float" else _base64(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        self.metrics.finished["stop"] += 1
        self.json(exchange, {"object": "list", "data": data, "model": self.options.served_name, "usage": usage})


def _inputs(value: Any) -> list[str] | list[list[int]]:
    items = [value] if isinstance(value, str) or _is_ids(value) else value
    if isinstance(items, list) and len(items) > MAX_INPUTS:
        raise invalid("input", f"input has {len(items)} texts; at most {MAX_INPUTS} are allowed")
    is_texts = isinstance(items, list) and all(isinstance(item, str) and item for item in items)
    if not items or not (is_texts or (isinstance(items, list) and all(map(_is_ids, items)))):
        kinds = "a text, a list of texts, a list of token ids or a list of such lists"
        raise invalid("input", f"input must be {kinds}, none of them empty")
    found: list[str] | list[list[int]] = items
    return found


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's clients ask for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
