"""An Embedder on OpenVINO: the model's last hidden states, and of them vectors as its sentence-transformers files say.

openvino-genai's TextEmbeddingPipeline takes texts only. Here it is token ids, so that a text and its ids give the same
vector, and each text is tokenized once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.aside import Aside
from ironloom.serve.engines.programs.generation import Detokenizer, Stats
from ironloom.serve.engines.programs.openvino_pipeline import give_back_memory
from ironloom.serve.engines.programs.openvino_tokens import Tokens
from ironloom.serve.engines.programs.openvino_untruncated import load_tokenizer
from ironloom.serve.engines.programs.vector_form import Pooling, read_form

_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_BATCH = 32
"""Texts in one call, so that padding to the longest costs little."""
_SMALLEST = 1e-12
"""A vector that is shorter is not stretched to the length 1; torch's normalize has the same."""


class OpenVinoEmbedder:
    """See Embedder and Parkable."""

    def __init__(self, model: Path, *, max_model_len: int, num_threads: int, precision: str) -> None:
        """Loads the model. Raises RuntimeError when it cannot, ValueError for what it wants and is not there."""
        self.max_model_len = max_model_len
        self.form = read_form(model)
        self._model = model
        self._aside: Aside | None = None
        self._properties: dict[str, object] = {}
        if num_threads:
            self._properties["INFERENCE_NUM_THREADS"] = num_threads
        if precision != "auto":
            self._properties["INFERENCE_PRECISION_HINT"] = precision
        self._lock = threading.Lock()
        """Held while vectors are computed, so that parking waits for them."""
        self._compiled: Any = None
        self.wake()
        self._tokens = Tokens(load_tokenizer(model))
        self.length = self._length()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=add_special_tokens)

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._aside is None:
            self._aside = Aside(self._model)
        return await self._aside.encode(text, add_special_tokens=add_special_tokens)

    @property
    def max_token_bytes(self) -> int:
        return self._tokens.max_token_bytes

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokens.token_bytes(token_id)

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        return self._tokens.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens)

    def embed(self, inputs: Sequence[Sequence[int]], *, dimensions: int | None = None) -> list[list[float]]:
        with self._lock:
            if self._compiled is None:
                raise RequestError(503, "the engine is parked", type="server_error", code="parked", source="engine")
            by_length = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
            vectors: list[list[float]] = [[]] * len(inputs)
            for start in range(0, len(inputs), _BATCH):
                chosen = by_length[start : start + _BATCH]
                for index, vector in zip(chosen, self._vectors([inputs[i] for i in chosen], dimensions), strict=True):
                    vectors[index] = vector
            return vectors

    def _vectors(self, batch: Sequence[Sequence[int]], dimensions: int | None) -> list[list[float]]:
        import numpy as np

        lengths = np.array([len(ids) for ids in batch])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate([np.asarray(each, dtype=np.int64) for each in batch])
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
            "position_ids": np.broadcast_to(np.arange(mask.shape[1]), mask.shape),
        }
        hidden = self._compiled({name: given[name] for name in self._names})[0]
        match self.form.pooling:
            case Pooling.CLS:
                vectors = hidden[:, 0]
            case Pooling.LAST_TOKEN:
                vectors = hidden[np.arange(len(batch)), lengths - 1]
            case Pooling.MEAN:
                vectors = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
        vectors = vectors[:, :dimensions]
        if self.form.normalized:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST)
        found: list[list[float]] = vectors.astype(np.float32).tolist()
        return found

    def stats(self) -> Stats:
        return Stats(num_requests_running=int(self._lock.locked()))

    def park(self) -> None:
        with self._lock:
            self._compiled = None
            give_back_memory()

    def wake(self) -> None:
        import openvino

        if self._compiled is not None:
            return
        model = openvino.Core().read_model(self._model / "openvino_model.xml")
        self._names = [port.any_name for port in model.inputs]
        strange = set(self._names) - _INPUTS
        if strange:
            raise ValueError(f"the model wants {' and '.join(sorted(strange))}, which is not there")
        self._compiled = openvino.compile_model(model, "CPU", self._properties)

    @property
    def asleep(self) -> bool:
        return self._compiled is None

    def _length(self) -> int:
        last = self._compiled.output(0).partial_shape[-1]
        return int(last.get_length()) if last.is_static else len(self.embed([[0]])[0])
