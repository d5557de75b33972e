"""An Embedder on openvino-genai's TextEmbeddingPipeline."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import Detokenizer, Stats
from ironloom.serve.engines.programs.openvino_pipeline import give_back_memory
from ironloom.serve.engines.programs.openvino_tokens import Tokens
from ironloom.serve.engines.programs.openvino_untruncated import load_tokenizer
from ironloom.serve.engines.programs.templates import read_json

_POOLING = {
    "pooling_mode_cls_token": "CLS",
    "pooling_mode_mean_tokens": "MEAN",
    "pooling_mode_lasttoken": "LAST_TOKEN",
}
_BATCH = 32
"""Texts in one call, so that padding to the longest costs little."""


class OpenVinoEmbedder:
    """See Embedder and Parkable. Pooling and normalisation are what the model's sentence-transformers files say."""

    def __init__(self, model: Path, *, max_model_len: int, num_threads: int, precision: str) -> None:
        """Loads the model. Raises RuntimeError when it cannot, ValueError for a pooling that is not there."""
        self.max_model_len = max_model_len
        self._model = model
        self._properties: dict[str, object] = {}
        if num_threads:
            self._properties["INFERENCE_NUM_THREADS"] = num_threads
        if precision != "auto":
            self._properties["INFERENCE_PRECISION_HINT"] = precision
        self._lock = threading.Lock()
        """Held while vectors are computed, so that parking waits for them."""
        self._pipeline: Any = None
        self.wake()
        self._tokens = Tokens(self._tokenizer())

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=add_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokens.token_bytes(token_id)

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        return self._tokens.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._lock:
            if self._pipeline is None:
                raise RequestError(503, "the engine is parked", type="server_error", code="parked", source="engine")
            vectors: list[list[float]] = []
            for start in range(0, len(texts), _BATCH):
                vectors += self._pipeline.embed_documents(list(texts[start : start + _BATCH]))
            return vectors

    def stats(self) -> Stats:
        return Stats(num_requests_running=int(self._lock.locked()))

    def park(self) -> None:
        with self._lock:
            self._pipeline = None
            give_back_memory()

    def wake(self) -> None:
        import openvino_genai

        if self._pipeline is not None:
            return
        config = openvino_genai.TextEmbeddingPipeline.Config()
        config.pooling_type = getattr(openvino_genai.TextEmbeddingPipeline.PoolingType, pooling_of(self._model))
        config.normalize = normalizes(self._model)
        self._pipeline = openvino_genai.TextEmbeddingPipeline(str(self._model), "CPU", config, **self._properties)

    @property
    def asleep(self) -> bool:
        return self._pipeline is None

    def _tokenizer(self) -> Any:
        return load_tokenizer(self._model)


def pooling_of(model: Path) -> str:
    """CLS, MEAN or LAST_TOKEN, from 1_Pooling/config.json; MEAN, sentence-transformers' own, where it says nothing.

    Raises ValueError for another pooling.
    """
    config = read_json(model / "1_Pooling" / "config.json")
    wanted = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if not wanted:
        return "MEAN"
    if len(wanted) > 1 or wanted[0] not in _POOLING:
        raise ValueError(f"the model pools by {' and '.join(wanted)}, which OpenVINO cannot")
    return _POOLING[wanted[0]]


def normalizes(model: Path) -> bool:
    """True when modules.json ends in a Normalize module."""
    modules = model / "modules.json"
    return modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8")
