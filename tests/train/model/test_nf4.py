"""NF4: numbers within the bound of their block's scale, bytes as predicted, rows that stand for themselves."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.plan.nf4 import BLOCK, nf4_bytes  # noqa: E402
from ironloom.train.model.attention import Seen  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.layers import Linear  # noqa: E402
from ironloom.train.model.nf4 import (  # noqa: E402
    LEVELS,
    MAX_ERROR,
    Nf4Linear,
    dequantised,
    nf4_layers,
    quantised,
    to_nf4,
)
from ironloom.train.model.rope import Rotation  # noqa: E402
from ironloom.train.parallel.checkpointing import checkpoint_block  # noqa: E402
from ironloom.workload.training import Checkpointing  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",  # with biases
    "vocab_size": 96,
    "hidden_size": 72,
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def back(weight: Any) -> Any:
    return dequantised(*quantised(weight), num_columns=weight.shape[1], dtype=torch.float32)


def scales_of(weight: Any) -> tuple[Any, Any]:
    """What each number's block would be scaled by exactly, and half the step in which its row's scales are kept."""
    blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    peaks = blocks.abs().amax(-1)
    half = (peaks.amax(1) - peaks.amin(1)) / 255 / 2
    return peaks.repeat_interleave(BLOCK, dim=1)[:, : weight.shape[1]], half[:, None]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 200), st.integers(0, 2**31), st.sampled_from([1e-4, 0.02, 3.0]), st.booleans())
def test_every_number_comes_back_within_the_bound_of_its_block(
    rows: int, columns: int, seed: int, size: float, has_outliers: bool
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns) * size
    if has_outliers:
        weight[0, columns // 2] *= 20
    peaks, half_step = scales_of(weight)
    # bfloat16 keeps the lowest scale and the step to a part in 256; the step's error counts up to 255 times.
    slack = 1.5 * half_step + peaks.amax(1, keepdim=True) / 128
    assert bool(((back(weight) - weight).abs() <= MAX_ERROR * peaks + slack).all())


def test_scales_in_a_byte_lose_next_to_nothing_beside_exact_ones() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 4096)
    peaks, _ = scales_of(weight)
    levels = torch.tensor(LEVELS)
    nearest = (weight / peaks).unsqueeze(-1).sub(levels).abs().argmin(-1)
    exact = (levels[nearest] * peaks - weight).norm() / weight.norm()
    assert float((back(weight) - weight).norm() / weight.norm()) < 1.005 * float(exact)


def test_zeros_and_levels_are_exact() -> None:
    assert torch.equal(back(torch.zeros(3, 100)), torch.zeros(3, 100))
    levels = torch.tensor(LEVELS).repeat(4)[None].repeat(2, 1)
    torch.testing.assert_close(back(levels), levels, atol=0, rtol=0)


def test_a_row_is_the_same_whatever_rows_stand_beside_it() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 130)
    assert torch.equal(back(weight)[2:5], back(weight[2:5]))


def test_a_layer_computes_with_its_matrix_forward_and_backward() -> None:
    torch.manual_seed(0)
    plain = Linear(72, (16, 8), bias=True)
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    layer = Nf4Linear(plain)
    x = torch.randn(3, 72, requires_grad=True)
    expected = torch.nn.functional.linear(x, layer.weight, plain.bias)
    torch.testing.assert_close(layer(x), expected)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(found, wanted)


def test_the_backward_keeps_no_matrix() -> None:
    torch.manual_seed(0)
    plain = Linear(64, (64,), bias=False)
    torch.nn.init.normal_(plain.weight)
    layer = Nf4Linear(plain)
    kept: list[Any] = []

    def keep(tensor: Any) -> Any:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(2, 64, requires_grad=True))
    assert sum(tensor.numel() * tensor.element_size() for tensor in kept) == nf4_bytes(64, 64)


@pytest.mark.parametrize("kind", Checkpointing)
def test_a_compiled_block_keeps_no_matrix_for_its_backward(kind: Checkpointing) -> None:
    torch._dynamo.reset()
    model = build(CONFIG)
    model.reset(0)
    matrices = {tuple(m.weight.shape) for m in model.layers[0].modules() if isinstance(m, Linear)}
    block = to_nf4(model).layers[0]
    checkpoint_block(block, kind)
    block.compile(fullgraph=True, backend="aot_eager_decomp_partition")  # what decides, without what generates code
    kept: list[Any] = []

    def keep(tensor: Any) -> Any:
        kept.append(tuple(tensor.shape))
        return tensor

    x = torch.randn(1, 10, CONFIG["hidden_size"], requires_grad=True)
    turn = Rotation(model.config.rope, model.config.head_dim).of(10, x.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells that checkpointing and such hooks meet
        out = block(x, turn, Seen())
    out.sum().backward()
    assert x.grad is not None
    assert matrices.isdisjoint(kept)


def test_the_bytes_are_those_of_the_memory_model() -> None:
    model = build(CONFIG)
    model.reset(0)
    matrices = [m for block in model.layers for m in block.modules() if isinstance(m, Linear)]
    predicted = sum(nf4_bytes(m.out_features, m.in_features) for m in matrices)
    to_nf4(model)
    layers = [layer for _, layer in nf4_layers(model)]
    assert len(layers) == len(matrices) == 8
    held = [part for layer in layers for part in (layer.codes, layer.scales, layer.ranges)]
    assert sum(part.numel() * part.element_size() for part in held) == predicted
    assert nf4_bytes(4096, 4096) * 8 / 4096**2 == pytest.approx(4.13, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_parts_that_are_cast_to_the_compute_type_say_the_same(dtype: Any) -> None:
    torch.manual_seed(0)
    parts = quantised(torch.randn(4, 128))
    cast = [part.to(dtype) for part in parts]
    assert torch.equal(dequantised(*cast, 128, torch.float32), dequantised(*parts, 128, torch.float32))


def test_a_model_on_meta_has_the_same_parameters_as_one_that_is_filled() -> None:
    empty = to_nf4(build(CONFIG, device="meta"))
    full = build(CONFIG)
    full.reset(0)
    to_nf4(full)
    described = [{n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (empty, full)]
    assert described[0] == described[1]
