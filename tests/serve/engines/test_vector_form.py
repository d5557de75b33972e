"""What sentence-transformers' files say of vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironloom.serve.engines.programs.vector_form import Pooling, VectorForm, read_form


def written(folder: Path, **files: Any) -> Path:
    (folder / "1_Pooling").mkdir()
    names = {"config": "config.json", "pooling": "1_Pooling/config.json", "modules": "modules.json"}
    for name, content in files.items():
        (folder / names[name]).write_text(json.dumps(content))
    return folder


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]


@pytest.mark.parametrize(
    ("files", "form"),
    [
        ({}, VectorForm()),
        (
            {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
            VectorForm(pooling=Pooling.CLS),
        ),
        ({"pooling": {"pooling_mode": "lasttoken"}}, VectorForm(pooling=Pooling.LAST_TOKEN)),
        ({"pooling": {"pooling_mode": "mean"}}, VectorForm()),
        ({"modules": modules("Transformer", "Pooling", "Normalize")}, VectorForm(normalized=True)),
        ({"modules": modules("Transformer", "Pooling")}, VectorForm()),
        ({"config": {"is_matryoshka": True}}, VectorForm(shortens=True)),
        ({"config": {"matryoshka_dimensions": [64, 128]}}, VectorForm(shortens=True, lengths=(64, 128))),
        ({"config": {"matryoshka_dimensions": "64", "is_matryoshka": "yes"}}, VectorForm()),
    ],
)
def test_what_the_files_say(tmp_path: Path, files: dict[str, Any], form: VectorForm) -> None:
    assert read_form(written(tmp_path, **files)) == form


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pooling_mode_max_tokens"),
        (
            {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "cls_token and .*mean_tokens",
        ),
        ({"modules": modules("Transformer", "Pooling", "Dense", "Normalize")}, "Dense"),
        ({"modules": {"0": "Transformer"}}, "no list of modules"),
    ],
)
def test_what_would_give_other_vectors_than_the_models_own_is_refused(
    tmp_path: Path, files: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        read_form(written(tmp_path, **files))


@pytest.mark.parametrize(
    ("form", "dimensions", "why"),
    [
        (VectorForm(), 384, None),
        (VectorForm(), 100, "declares no shorter form"),
        (VectorForm(shortens=True), 100, None),
        (VectorForm(shortens=True), 385, "have 384 numbers"),
        (VectorForm(shortens=True, lengths=(64, 128)), 128, None),
        (VectorForm(shortens=True, lengths=(64, 128)), 100, "64, 128 or 384"),
        (VectorForm(shortens=True, lengths=(64, 128)), 384, None),
    ],
)
def test_a_vector_is_shortened_only_where_the_model_was_trained_for_it(
    form: VectorForm, dimensions: int, why: str | None
) -> None:
    found = form.why_not(dimensions, 384)
    assert found is None if why is None else why in (found or "")
