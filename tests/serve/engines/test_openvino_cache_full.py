"""A KV cache that is full: the pipeline gives the sequence up without a word, and its client is told."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ironloom.errors import RequestError
from ironloom.serve.engines.programs import openvino_generator
from ironloom.serve.engines.programs.generation import Sampling


class Sink:
    def __init__(self) -> None:
        self.errors: list[RequestError] = []

    def failed(self, error: RequestError) -> None:
        self.errors.append(error)


class Generator:
    """Counts whom it was told to forget."""

    def __init__(self) -> None:
        self.forgotten: list[object] = []

    def forget(self, sequence: object) -> None:
        self.forgotten.append(sequence)


class Handle:
    def __init__(self, status: int) -> None:
        self.status = status

    def can_read(self) -> bool:
        return False

    def get_status(self) -> int:
        return self.status


@pytest.mark.parametrize(("status", "num_told"), [(openvino_generator._IGNORED, 1), (0, 0)])
def test_a_sequence_that_the_pipeline_gave_up_is_told_that_the_cache_is_full(status: int, num_told: int) -> None:
    sink, generator = Sink(), Generator()
    sequence = openvino_generator._Sequence(
        cast("Any", generator), 1, Handle(status), Sampling(max_tokens=8), cast("Any", sink)
    )
    sequence.read()
    sequence.read()
    assert len(generator.forgotten) == len(sink.errors) == num_told
    for error in sink.errors:
        assert (error.status, error.error_code) == (503, "kv_cache_full")
        assert "--kv-cache-bytes" in error.message
