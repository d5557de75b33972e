"""How long a context a config says, its scaling of positions taken in."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.workload.shapes.config import shape_of_config

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 32_768,
}


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        (None, 32_768),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}, 131_072),
        ({"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}, 131_072),
        ({"type": "linear", "factor": 2}, 65_536),
        ({"rope_type": "dynamic", "factor": 2.0}, 65_536),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 32_768),
        ({"type": "longrope", "factor": 4.0}, 32_768),
        ({"rope_type": "default"}, 32_768),
        ({"type": "yarn", "factor": "four"}, 32_768),
        ({"type": "linear", "factor": 1e300}, 32_768),
        ({"type": "linear", "factor": float("nan")}, 32_768),
        ("yarn", 32_768),
    ],
)
def test_the_context_is_the_scaled_one(scaling: object, context: int) -> None:
    assert shape_of_config(CONFIG | {"rope_scaling": scaling}).max_position == context


def test_newer_configs_name_it_rope_parameters() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert shape_of_config(CONFIG | {"rope_parameters": scaling}).max_position == 131_072
