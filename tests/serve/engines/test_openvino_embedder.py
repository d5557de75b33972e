"""OpenVINO's embedder, on a model of one table: its hidden states are known, so its vectors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino")

import numpy as np
import openvino

from ironloom.errors import RequestError
from ironloom.serve.engines.programs import openvino_embedder
from ironloom.serve.engines.programs.openvino_embedder import OpenVinoEmbedder

TABLE = np.arange(1, 41, dtype=np.float32).reshape(10, 4) * np.array([1, -1, 2, 0.5], dtype=np.float32)
INPUTS = [[3], [1, 2, 9], [5, 5], [7, 0, 1, 2, 3, 4, 5]]


@pytest.fixture
def embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(pooling: str = "mean_tokens", *, normalize: bool = False, extra_input: str = "") -> OpenVinoEmbedder:
        opset = openvino.opset13
        ids, mask = (opset.parameter([-1, -1], np.int64, name=name) for name in ("input_ids", "attention_mask"))
        for node, name in ((ids, "input_ids"), (mask, "attention_mask")):
            node.output(0).set_names({name})
        hidden = opset.gather(opset.constant(TABLE), ids, opset.constant(0))
        # Padding must not count: what lies under it is made huge.
        huge = opset.multiply(
            opset.convert(opset.subtract(opset.constant(1, np.int64), mask), "f32"), opset.constant(1e6, np.float32)
        )
        hidden = opset.add(hidden, opset.unsqueeze(huge, opset.constant(2)))
        inputs = [ids, mask]
        if extra_input:
            more = opset.parameter([-1], np.int64, name=extra_input)
            more.output(0).set_names({extra_input})
            inputs.append(more)
        openvino.save_model(openvino.Model([hidden], inputs, "table"), tmp_path / "openvino_model.xml")
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        if normalize:
            (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.Normalize"}]))
        return OpenVinoEmbedder(tmp_path, max_model_len=16, num_threads=1, precision="f32")

    monkeypatch.setattr(openvino_embedder, "load_tokenizer", lambda _: None)
    return made


@pytest.mark.parametrize(
    ("pooling", "of"),
    [
        ("mean_tokens", lambda states: states.mean(0)),
        ("cls_token", lambda states: states[0]),
        ("lasttoken", lambda states: states[-1]),
    ],
)
@pytest.mark.parametrize("dimensions", [None, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_pooled_cut_and_then_normalised(
    embedder: Any, pooling: str, of: Any, dimensions: int | None, normalize: bool
) -> None:
    found = embedder(pooling, normalize=normalize).embed(INPUTS, dimensions=dimensions)
    for ids, vector in zip(INPUTS, found, strict=True):
        wanted = of(TABLE[ids])[:dimensions]
        if normalize:
            wanted = wanted / np.linalg.norm(wanted)
        assert vector == pytest.approx(wanted.tolist(), rel=1e-4)


def test_its_length_is_known_and_many_texts_keep_their_order(embedder: Any) -> None:
    made = embedder()
    assert made.length == 4
    many = [[i % 10] * (1 + i % 7) for i in range(100)]
    assert made.embed(many) == [pytest.approx(TABLE[ids[0]].tolist(), rel=1e-4) for ids in many]


def test_parked_it_answers_nothing_and_woken_the_same(embedder: Any) -> None:
    made = embedder()
    before = made.embed(INPUTS)
    made.park()
    with pytest.raises(RequestError, match="parked"):
        made.embed(INPUTS)
    made.wake()
    assert made.embed(INPUTS) == before


def test_a_model_that_wants_something_else_is_refused(embedder: Any) -> None:
    with pytest.raises(ValueError, match="pixel_values"):
        embedder(extra_input="pixel_values")
