"""Small random decoders in the form that openvino-genai gives a GGUF: llama's, qwen2's and qwen3's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """What varies."""

    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    hidden_size: int = 64
    mlp_size: int = 96
    vocab_size: int = 320
    weights: str = "u4"
    """u4, u8, f16, or mixed (value and down in u8, the rest in u4)."""
    biases: bool = False
    head_norms: bool = False
    tied: bool = True
    mask_scale: bool = False
    """Attention with a scale of its own, which the lean form does not know."""


def write_plain(shape: Shape, folder: Path, *, seed: int = 1) -> None:
    """openvino_model.xml and .bin of it."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(build(shape, seed), str(folder / "openvino_model.xml"), compress_to_fp16=False)


def build(shape: Shape, seed: int) -> Any:
    """The graph."""
    import openvino
    import openvino.opset13 as op

    random = np.random.default_rng(seed)

    def const(value: Any, kind: Any = np.int64) -> Any:
        return op.constant(np.array(value, kind))

    def f32(node: Any) -> Any:
        return op.convert(node, "f32")

    def matrix(rows: int, columns: int, kind: str) -> Any:
        if kind == "f16":
            return f32(op.constant((random.standard_normal((rows, columns)) * 0.3).astype(np.float16)))
        groups = (rows, columns // 16, 16) if kind == "u8" else (rows, columns // 32, 32)
        top = 255 if kind == "u8" else 15
        values = random.integers(0, top + 1, groups).astype(np.uint8)
        zeros = random.integers(top // 2, top // 2 + 2, (*groups[:2], 1)).astype(np.uint8)
        scales = (random.uniform(0.5, 1.5, (*groups[:2], 1)) / top).astype(np.float16)
        if kind == "u4":
            value: Any = openvino.op.Constant(openvino.Type.u4, openvino.Shape(groups), values.reshape(-1).tolist())
            zero: Any = openvino.op.Constant(
                openvino.Type.u4, openvino.Shape([*groups[:2], 1]), zeros.reshape(-1).tolist()
            )
        else:
            value, zero = op.constant(values), op.constant(zeros)
        shifted = op.subtract(op.convert(value, "f16"), op.convert(zero, "f16"))
        scaled = op.multiply(shifted, op.constant(scales))
        return f32(op.reshape(scaled, const([rows, columns]), False))

    def linear(value: Any, rows: int, columns: int, *, bias: bool = False, kind: str | None = None) -> Any:
        kind = kind or ("u4" if shape.weights == "mixed" else shape.weights)
        product = op.matmul(value, matrix(rows, columns, kind), False, True)
        if not bias:
            return product
        return op.add(product, f32(op.constant(random.standard_normal(rows).astype(np.float16))))

    def norm(value: Any, width: int, rank: int = 3) -> Any:
        ones = (1,) * rank
        square = op.power(value, op.constant(np.full(ones, 2, np.float32)))
        mean = op.reduce_mean(square, const([-1], np.int32), True)
        root = op.sqrt(op.add(mean, op.constant(np.full(ones, 1e-5, np.float32))))
        normed = op.multiply(op.divide(op.constant(np.ones(ones, np.float32)), root), value)
        scale = random.uniform(0.5, 1.5, (*ones[:-1], width)).astype(np.float32)
        return op.multiply(normed, f32(op.constant(scale.astype(np.float16))))

    ids = op.parameter([-1, -1], np.int64, name="input_ids")
    attention_mask = op.parameter([-1, -1], np.int64, name="attention_mask")
    positions = op.parameter([-1, -1], np.int64, name="position_ids")
    beam = op.parameter([-1], np.int32, name="beam_idx")
    parameters = [ids, attention_mask, positions, beam]
    for one in parameters:
        one.output(0).set_names({one.get_friendly_name()})
    dim, half = shape.head_dim, shape.head_dim // 2
    hidden, num_heads, num_kv = shape.hidden_size, shape.num_heads, shape.num_kv_heads
    kind = "u4" if shape.weights == "mixed" else shape.weights
    table = matrix(shape.vocab_size, hidden, kind)
    state = op.gather(table, op.convert(ids, "i32"), const(0, np.int32))
    batch = op.gather(op.shape_of(ids), const([0]), const([0]))
    frequencies = (1.0 / 10000 ** (np.arange(half) / half)).astype(np.float32).reshape(1, half, 1)
    spread = op.broadcast(
        op.constant(frequencies), op.concat([batch, const([1]), const([1])], 0), None, "bidirectional"
    )
    product = op.matmul(spread, f32(op.unsqueeze(positions, const(1))), False, False)
    turned = op.transpose(product, const([0, 2, 1], np.int32))
    angle = op.concat([turned, turned], -1)
    cosine, sine = op.unsqueeze(op.cos(angle), const(1)), op.unsqueeze(op.sin(angle), const(1))
    # The real mask is a long sub-graph of its own; the pass for paged attention only looks where it ends.
    mask = op.unsqueeze(op.unsqueeze(f32(attention_mask), const(1)), const(2))

    def heads(value: Any, count: int, *, normed: bool) -> Any:
        cut = op.reshape(value, const([0, 0, count, dim]), True)
        if normed:
            cut = norm(cut, dim, 4)
        return op.transpose(cut, const([0, 2, 1, 3], np.int32))

    def rotate(value: Any) -> Any:
        end = const([2**63 - 1])
        back = op.slice(value, const([half]), end, const([1]), const([3]))
        front = op.slice(value, const([0]), const([half]), const([1]), const([3]))
        swapped = op.concat([op.multiply(back, op.constant(np.full((1, 1, 1, 1), -1, np.float32))), front], -1)
        return op.add(op.multiply(value, cosine), op.multiply(swapped, sine))

    sinks = []

    def cache(value: Any, name: str) -> Any:
        info = openvino.op.util.VariableInfo()
        info.data_shape = openvino.PartialShape([-1, num_kv, -1, dim])
        info.data_type = openvino.Type.f32
        info.variable_id = name
        variable = openvino.op.util.Variable(info)
        sizes = op.concat([batch, const([num_kv]), const([0]), const([dim])], 0)
        past = op.read_value(op.broadcast(op.constant(np.float32(0)), sizes), variable)
        joined = op.concat([op.gather(past, beam, const(0)), value], 2)
        sinks.append(op.assign(joined, variable))
        if num_heads == num_kv:
            return joined
        lifted = op.unsqueeze(joined, const(2))
        one = const([1])
        wanted = op.concat([one, one, const([num_heads // num_kv]), one, one], 0)
        repeated = op.broadcast(lifted, wanted, None, "bidirectional")
        return op.reshape(repeated, const([0, num_heads, -1, dim]), True)

    for index in range(shape.num_layers):
        normed = norm(state, hidden)
        value_kind = "u8" if shape.weights == "mixed" else None
        query = linear(normed, num_heads * dim, hidden, bias=shape.biases)
        key = linear(normed, num_kv * dim, hidden, bias=shape.biases)
        value = linear(normed, num_kv * dim, hidden, bias=shape.biases, kind=value_kind)
        query = rotate(heads(query, num_heads, normed=shape.head_norms))
        key = rotate(heads(key, num_kv, normed=shape.head_norms))
        value = heads(value, num_kv, normed=False)
        inputs = [query, cache(key, f"past.{index}.key"), cache(value, f"past.{index}.value"), mask]
        if shape.mask_scale:
            inputs.append(op.constant(np.float32(0.5)))
        attention = op.scaled_dot_product_attention(*inputs, causal=False)
        joined = op.reshape(
            op.transpose(attention, const([0, 2, 1, 3], np.int32)), const([0, 0, num_heads * dim]), True
        )
        state = op.add(state, linear(joined, hidden, num_heads * dim))
        normed = norm(state, hidden)
        gate = op.swish(linear(normed, shape.mlp_size, hidden))
        up = linear(normed, shape.mlp_size, hidden)
        state = op.add(state, linear(op.multiply(gate, up), hidden, shape.mlp_size, kind=value_kind))
    head = table if shape.tied else matrix(shape.vocab_size, hidden, kind)
    logits = op.result(op.matmul(norm(state, hidden), head, False, True), name="logits")
    logits.output(0).set_names({"logits"})
    return openvino.Model([logits], sinks, parameters, "plain")
