"""Every tensor of every family against transformers' own modules; see against_transformers.py."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.workload.shapes.against_transformers import configs, digest, of_module, sizes_by_module

from ironloom.workload.shapes.config import FAMILIES, shape_of_config

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden.json").read_text())
"""Made from transformers' modules, not from shapes."""


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["config"]["model_type"])
def test_the_tensors_are_those_of_transformers_modules(entry: dict[str, Any]) -> None:
    shape = shape_of_config(entry["config"], "golden")
    sizes = sizes_by_module(shape.parameters())
    assert shape.num_parameters == sum(sizes.values()) == entry["num_parameters"]
    assert len(sizes) == entry["num_modules"]
    assert digest(sizes) == entry["digest"]


def test_every_family_is_in_the_golden_file_with_several_configs() -> None:
    counts = Counter(entry["config"]["model_type"] for entry in GOLDEN)
    assert set(counts) == set(FAMILIES) - {"RefinedWeb", "RefinedWebModel", "kimi_k2"}
    assert min(counts.values()) >= 4


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other libraries' own deprecations
def test_the_tensors_are_those_of_the_modules_that_are_installed_here() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    chance = random.Random()
    for entry in GOLDEN[::4]:
        for config in configs(entry["config"]["model_type"], chance):
            assert sizes_by_module(shape_of_config(config, "made").parameters()) == of_module(config), config
