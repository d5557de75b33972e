"""The committed results of training races: their fields hold without the tweaks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "bench/results/gpu").glob("*.json"))


def collect() -> Any:
    spec = importlib.util.spec_from_file_location("collect", ROOT / "bench/gpu/collect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_settings_of_a_row_are_those_in_force(file: Path) -> None:
    rows = json.loads(file.read_text()).get("rows", ())
    in_force = collect().in_force
    for row in rows:
        if "tweaks" in row:
            assert row == in_force(row)


def test_a_tweak_stands_for_its_field() -> None:
    in_force = collect().in_force
    row = {"system": "ironloom", "checkpointing": "full", "is_compiled": True, "lora_rank": 16, "tweaks": {}}
    assert in_force(row) == row
    assert in_force({**row, "tweaks": {"checkpointing": "selective"}})["checkpointing"] == "selective"
    assert in_force({**row, "system": "transformers"})["is_compiled"] is False
    assert in_force({**row, "system": "transformers", "tweaks": {"compiled": True}})["is_compiled"] is True
