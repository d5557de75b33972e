"""What whole runs of the tiny model start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.train.loop.tiny import make_model, make_rows


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows and a cache for its tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "model")
    make_rows(folder / "rows.jsonl")
    return folder


@pytest.fixture
def own_cache(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks keep tokens on that ground, and compute on one core each."""
    monkeypatch.setenv("IRONLOOM_CACHE", str(ground / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
