"""How many blocks keep their activations where the gradients will be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.train.model.config import read
from ironloom.train.parallel import whole_blocks
from ironloom.train.parallel.whole_blocks import num_free_blocks, whole_blocks_of
from ironloom.workload.training import Checkpointing, Compute, Data, Dtype, Method, Training

LLAMA_8B = read(
    {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    }
)  # fmt: skip
COMPUTE = Compute(param_dtype=Dtype.BFLOAT16, checkpointing=Checkpointing.FULL, loss_chunks=1)
TRAINING = Training(
    name="run", model="m", output="o", compute=COMPUTE, data=Data(seq_len=8192), global_batch_size=1, micro_batch_size=1
)


def test_a_quarter_of_an_8b_is_kept_under_full_checkpointing() -> None:
    assert whole_blocks_of(TRAINING, LLAMA_8B, 1) == 8


@pytest.mark.parametrize(
    ("changes", "compute", "num_ranks", "number"),
    [
        ({}, {"num_whole_blocks": 3}, 1, 3),
        ({}, {"num_whole_blocks": 0}, 1, 0),
        ({"method": Method.LORA}, {}, 1, 1),
        ({}, {}, 2, 1),
        ({}, {"is_compiled": False}, 1, 1),
        ({}, {"checkpointing": Checkpointing.NONE}, 1, 1),
        ({"global_batch_size": 2}, {}, 1, 1),  # the first micro-batch's gradients stay
        ({"global_batch_size": 2}, {"param_dtype": Dtype.FLOAT32}, 1, 8),  # they go into sums, which are counted
        ({"data": Data(seq_len=32768)}, {}, 1, 1),
        ({"data": Data(seq_len=512)}, {}, 1, 32),
    ],
)
def test_no_more_than_one_is_kept_where_there_is_no_room(
    changes: dict[str, Any], compute: dict[str, Any], num_ranks: int, number: int
) -> None:
    training = replace(TRAINING, **changes, compute=replace(COMPUTE, **compute))
    assert whole_blocks_of(training, LLAMA_8B, num_ranks) == number


@given(
    layers=st.integers(1, 80),
    hidden=st.sampled_from([512, 2048, 4096, 8192]),
    vocab=st.sampled_from([1000, 32000, 256000]),
    num_tokens=st.integers(1, 2**17),
    kind=st.sampled_from(list(Checkpointing)),
    chunks=st.integers(1, 8),
)
def test_at_no_moment_of_the_backward_is_more_kept_than_at_its_end(
    layers: int, hidden: int, vocab: int, num_tokens: int, kind: Checkpointing, chunks: int
) -> None:
    config = read(
        {
            "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers, "num_attention_heads": 8, "tie_word_embeddings": False,
        }
    )  # fmt: skip
    number = num_free_blocks(config, replace(COMPUTE, checkpointing=kind, loss_chunks=chunks), num_tokens=num_tokens)
    assert 1 <= number <= layers
    if number == 1:
        return
    whole = 2 * num_tokens * whole_blocks.BESIDE * whole_blocks._read(config)
    kept = 2 * num_tokens * whole_blocks._kept(config, kind)
    head, block = 2 * vocab * hidden, 2 * whole_blocks._parameters(config)
    at_the_end = 2 * head + layers * block
    assert head + 2 * num_tokens * vocab / chunks + number * whole + (layers - number) * kept <= at_the_end
    for done in range(number + 1):
        others = (layers - max(number, done)) * kept
        assert head + done * block + (number - done) * whole + others <= at_the_end
