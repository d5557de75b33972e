"""What makes a checkpoint another model's: shape, positions, adapters, the weights that the run began with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from ironloom.train.checkpoint.index import first_identity_difference  # noqa: E402
from ironloom.train.loop.identity import digest_of, identity_of  # noqa: E402
from ironloom.workload.training import Lora, Method, Training  # noqa: E402

CONFIG: dict[str, Any] = {"model_type": "llama", "hidden_size": 8, "rope_theta": 10000.0, "transformers_version": "5"}
TRAINING = Training(name="a", model="m", output="o", method=Method.LORA)
WEIGHTS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}


def folder(path: Path, *files: dict[str, Any]) -> Path:
    path.mkdir()
    for number, tensors in enumerate(files, start=1):
        save_file(tensors, path / f"model-{number:05d}-of-{len(files):05d}.safetensors")
    names = {name: f"model-{n:05d}-of-{len(files):05d}.safetensors" for n, one in enumerate(files, 1) for name in one}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return path


@pytest.mark.parametrize(
    ("training", "config", "said"),
    [
        (TRAINING, CONFIG | {"rope_theta": 500000.0}, "rope_theta is 10000.0 there and 500000.0 here"),
        (replace(TRAINING, lora=Lora(alpha=1.0)), CONFIG, "lora.alpha is 32.0 there and 1.0 here"),
        (replace(TRAINING, lora=Lora(targets=("q_proj",))), CONFIG, "lora.targets is ["),
        (replace(TRAINING, method=Method.FULL), CONFIG, "method is 'lora' there and 'full' here"),
        (replace(TRAINING, is_from_scratch=True), CONFIG, "is_from_scratch is False there and True here"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, training: Training, config: dict[str, Any], said: str) -> None:
    source = folder(tmp_path / "m", WEIGHTS)
    saved = json.loads(json.dumps(identity_of(TRAINING, CONFIG, source)))
    assert said in (first_identity_difference(saved, identity_of(training, config, source)) or "")


@pytest.mark.parametrize(
    ("training", "config"),
    [
        (TRAINING, CONFIG),
        (TRAINING, CONFIG | {"transformers_version": "6"}),
        (replace(TRAINING, num_steps=900, lora=Lora(dropout=0.1)), CONFIG),
        (replace(TRAINING, lora=Lora(targets=tuple(reversed(Lora().targets)))), CONFIG),
    ],
)
def test_a_run_that_goes_on_may_change_the_rest(tmp_path: Path, training: Training, config: dict[str, Any]) -> None:
    source = folder(tmp_path / "m", WEIGHTS)
    saved = json.loads(json.dumps(identity_of(TRAINING, CONFIG, source)))
    assert first_identity_difference(saved, identity_of(training, config, source)) is None


def test_other_weights_have_another_digest_and_other_files_of_the_same_do_not(tmp_path: Path) -> None:
    digest = digest_of(folder(tmp_path / "one", WEIGHTS))
    assert digest_of(folder(tmp_path / "two", {"b": WEIGHTS["b"]}, {"a": WEIGHTS["a"]})) == digest
    others = [
        WEIGHTS | {"b": torch.ones(2) * 1.5},
        WEIGHTS | {"a": WEIGHTS["a"].reshape(4, 3)},
        {"a": WEIGHTS["a"], "c": WEIGHTS["b"]},
    ]
    for number, weights in enumerate(others):
        assert digest_of(folder(tmp_path / f"other-{number}", weights)) != digest


def test_a_model_from_scratch_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    identity = identity_of(replace(TRAINING, is_from_scratch=True), CONFIG, tmp_path / "m")
    assert "digest of the first weights" not in identity
