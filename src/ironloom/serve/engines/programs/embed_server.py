"""/v1/embeddings over any Embedder."""

from __future__ import annotations

import asyncio
import base64
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import Fields, invalid
from ironloom.serve.engines.programs.generation import Embedder, Parkable
from ironloom.serve.engines.programs.params import ASKS_NOTHING
from ironloom.serve.engines.programs.server_base import BaseServer, ServerOptions
from ironloom.serve.http.exchange import Exchange

MAX_INPUTS = 2048
"""OpenAI's bound for one request."""

_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "dimensions": ((), "vectors have the model's own length"),
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
        inputs = fields.take("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        fields.ignore(*ASKS_NOTHING)
        fields.end(_REFUSED)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise invalid("input", "input must be a text or a list of texts, none of them empty")
        if len(texts) > MAX_INPUTS:
            raise invalid("input", f"input has {len(texts)} texts; at most {MAX_INPUTS} are allowed")
        self.spawn(exchange, self._embed(exchange, texts, encoding))

    async def _embed(self, exchange: Exchange, texts: list[str], encoding: str) -> None:
        counts = [len(self._embedder.encode(text, add_special_tokens=True)) for text in texts]
        limit = self._embedder.max_model_len
        if max(counts) > limit:
            raise RequestError(
                400,
                f"this model's context length is {limit} tokens; input[{counts.index(max(counts))}] has {max(counts)}",
                param="input",
                code="context_length_exceeded",
            )
        vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._embedder.embed, texts)
        data = [
            {"object": "embedding", "index": index, "embedding": vector if encoding == "float" else _base64(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        self.metrics.finished["stop"] += 1
        self.json(exchange, {"object": "list", "data": data, "model": self.options.served_name, "usage": usage})


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's clients ask for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
