"""/v1/embeddings, over an embedder that says what it was asked."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from tests.fakes.generator import FakeExchange, ScriptedGenerator, send

from ironloom.serve.engines.programs.embed_server import EmbedServer
from ironloom.serve.engines.programs.server_base import ServerOptions
from ironloom.serve.engines.programs.vector_form import VectorForm


class CountingEmbedder(ScriptedGenerator):
    """Tokens are bytes; a vector is the sum of its tokens, again and again."""

    length = 4
    form = VectorForm(shortens=True, lengths=(2,))

    def embed(self, inputs: Sequence[Sequence[int]], *, dimensions: int | None = None) -> list[list[float]]:
        return [[float(sum(ids))] * (dimensions or self.length) for ids in inputs]


def ask(**body: Any) -> FakeExchange:
    """One request, answered."""

    async def talk() -> FakeExchange:
        server = EmbedServer(CountingEmbedder(), ServerOptions(served_name="m", model_path="/m"))
        exchange = send(server.handle, "/v1/embeddings", {"model": "m", **body})
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        return exchange

    return asyncio.run(talk())


def vectors(**body: Any) -> list[list[float]]:
    exchange = ask(**body)
    assert exchange.status == 200, exchange.body
    return [item["embedding"] for item in exchange.json["data"]]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("ab", [195.0]),
        (["ab", "c"], [195.0, 99.0]),
        ([97, 98], [195.0]),
        ([[97, 98], [99]], [195.0, 99.0]),
    ],
)
def test_texts_and_token_ids_in_all_of_openais_shapes(given: Any, wanted: list[float]) -> None:
    assert vectors(input=given) == [[value] * 4 for value in wanted]


def test_tokens_are_counted_whichever_way_they_come() -> None:
    assert ask(input=["ab", "c"]).json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert ask(input=[[97, 98], [99]]).json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_base64_is_little_endian_floats() -> None:
    data = base64.b64decode(vectors(input="a", encoding_format="base64")[0])
    assert struct.unpack("<4f", data) == (97.0,) * 4


@pytest.mark.parametrize(("dimensions", "length"), [(2, 2), (4, 4)])
def test_a_length_that_the_model_declares(dimensions: int, length: int) -> None:
    assert vectors(input="a", dimensions=dimensions) == [[97.0] * length]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": "a", "dimensions": 3}, "dimensions", "can have 2 or 4 numbers"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": ""}, "input", "none of them empty"),
        ({"input": []}, "input", "none of them empty"),
        ({"input": [[]]}, "input", "none of them empty"),
        ({"input": ["a", [97]]}, "input", "a list of texts"),
        ({"input": [97, -1]}, "input", "list of token ids"),
        ({"input": [True]}, "input", "list of token ids"),
        ({"input": {"a": 1}}, "input", "list of token ids"),
        ({"input": [97, 999]}, "input", "token id 999"),
        ({"input": "a" * 101}, "input", "context length is 100"),
        ({"input": [97] * 101}, "input", "input[0] has 101"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "shorten the input"),
        ({"input": "a", "dimension": 3}, "dimension", "unknown parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str, said: str) -> None:
    exchange = ask(**body)
    assert exchange.status == 400
    error = exchange.json["error"]
    assert error["param"] == param
    assert said in error["message"]
