"""Recognises a decoder in an IR: llama's, qwen2's (biases) and qwen3's (norms of query and key), of any size.

It follows the graph from its result to its inputs and accepts nothing that it does not know, so that what it returns
describes the whole computation. The one thing it does not look at is the attention mask's own sub-graph: the pass
that makes attention paged drops it, and puts causal attention there.

The shape of the graph is what openvino.genai writes for a GGUF (src/cpp/src/gguf_utils/building_blocks.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ironloom.serve.engines.programs.openvino_ir import Constant, Graph, Node


class Unlike(Exception):
    """The graph is not such a decoder: the message says where it differs."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Weights of 4 or 8 bits in groups: (value - zero point) * scale, an output row at a time."""

    value: Constant
    """[rows, groups, group size]"""
    zero_point: Constant
    """[rows, groups, 1]"""
    scale: Constant
    """[rows, groups, 1]"""

    @property
    def rows(self) -> int:
        return self.value.shape[0]

    @property
    def columns(self) -> int:
        return self.value.shape[1] * self.value.shape[2]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two must have in common to be stacked."""
        return (self.value.element, self.value.shape[1:], self.zero_point.element, self.scale.element)


@dataclass(frozen=True, slots=True)
class Dense:
    """Weights in 16 or 32 bits, [rows, columns]."""

    value: Constant

    @property
    def rows(self) -> int:
        return self.value.shape[0]

    @property
    def columns(self) -> int:
        return self.value.shape[1]

    @property
    def kind(self) -> tuple[Any, ...]:
        return (self.value.element, self.value.shape[1:])


Weights = Grouped | Dense
Vector = Any
"""A numpy array of float32 with one axis."""


@dataclass(frozen=True, slots=True)
class Linear:
    """x · weightsᵀ + bias."""

    weights: Weights
    bias: Vector | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """x / sqrt(mean(x²) + epsilon) * scale, over the last axis."""

    epsilon: float
    scale: Vector | None
    """None is all ones."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    value_norm: Norm | None
    output: Linear
    mlp_norm: Norm
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Decoder:
    """The whole model."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inverse_frequencies: Vector
    """Of the rotary embedding; head_dim / 2 of them."""
    embedding: Weights
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    """Its weights are the embedding's own object where the two are tied."""


def read_decoder(graph: Graph) -> Decoder:
    """Raises Unlike when the graph is another one."""
    try:
        return _Reader(graph).read()
    except (ValueError, KeyError, IndexError) as error:
        raise Unlike(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Heads:
    linear: Linear
    norm: Norm | None
    num_heads: int
    head_dim: int
    source: Node


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._weights: dict[str, Weights] = {}
        self._rope: Node | None = None
        """The node that cosine and sine are taken of: one for the whole model."""
        self._frequencies: Vector = None
        self._num_heads = self._num_kv_heads = self._head_dim = 0

    def read(self) -> Decoder:
        results = self._graph.of_type("Result")
        if len(results) != 1:
            raise Unlike(f"the model has {len(results)} results, not one")
        head, normed = self._linear(self._in(results[0], 0))
        if head.bias is not None:
            raise Unlike("the last layer has a bias")
        final_norm, node = self._norm(normed)
        layers: list[Layer] = []
        while node.type != "Gather":
            layer, node = self._layer(node)
            layers.append(layer)
        embedding = self._read_weights(self._in(node, 0))
        ids = self._expect(self._in(node, 1), "Convert")
        if self._in(ids, 0).name != "input_ids" or self._value(self._in(node, 2)) != 0:
            raise Unlike(f"{node.name} does not look input_ids up")
        if not layers:
            raise Unlike("it has no layers")
        if embedding.columns != head.weights.columns:
            raise Unlike("the embedding is not as wide as the last layer")
        return Decoder(
            hidden_size=embedding.columns,
            num_heads=self._num_heads,
            num_kv_heads=self._num_kv_heads,
            head_dim=self._head_dim,
            inverse_frequencies=self._frequencies,
            embedding=embedding,
            layers=tuple(reversed(layers)),
            final_norm=final_norm,
            head=head,
        )

    def _layer(self, node: Node) -> tuple[Layer, Node]:
        """One layer, from its end; also what it reads."""
        self._expect(node, "Add")
        after_attention = self._in(node, 0)
        down, gated = self._linear(self._in(node, 1))
        self._expect(gated, "Multiply")
        silu = self._expect(self._in(gated, 0), "Swish")
        if len(silu.inputs) > 1 and self._value(self._in(silu, 1)) != 1:
            raise Unlike(f"{silu.name} is not silu")
        gate, gate_source = self._linear(self._in(silu, 0))
        up, up_source = self._linear(self._in(gated, 1))
        self._same(gate_source, up_source)
        mlp_norm, source = self._norm(up_source)
        self._same(source, self._expect(after_attention, "Add"))

        before = self._in(after_attention, 0)
        output, joined = self._linear(self._in(after_attention, 1))
        self._expect(joined, "Reshape")
        turned = self._expect(self._in(joined, 0), "Transpose")
        self._is(self._in(turned, 1), [0, 2, 1, 3])
        attention = self._expect(self._in(turned, 0), "ScaledDotProductAttention", causal="false")
        if len(attention.inputs) != 4:
            raise Unlike(f"{attention.name} has {len(attention.inputs)} inputs, not 4")
        query = self._heads(self._rotated(self._in(attention, 0)))
        key = self._heads(self._rotated(self._cached(self._in(attention, 1), query.num_heads)))
        value = self._heads(self._cached(self._in(attention, 2), query.num_heads))
        self._same(query.source, key.source)
        self._same(query.source, value.source)
        attention_norm, source = self._norm(query.source)
        self._same(source, before)
        self._settle(query, key, value)
        layer = Layer(
            attention_norm=attention_norm,
            query=query.linear,
            key=key.linear,
            value=value.linear,
            query_norm=query.norm,
            key_norm=key.norm,
            value_norm=value.norm,
            output=output,
            mlp_norm=mlp_norm,
            gate=gate,
            up=up,
            down=down,
        )
        return layer, before

    def _settle(self, query: _Heads, key: _Heads, value: _Heads) -> None:
        """All layers have heads of one shape."""
        shape = (query.num_heads, key.num_heads, query.head_dim)
        if (value.num_heads, value.head_dim) != (key.num_heads, key.head_dim) or key.head_dim != query.head_dim:
            raise Unlike("query, key and value have heads of different sizes")
        if shape != (known := (self._num_heads, self._num_kv_heads, self._head_dim)) and any(known):
            raise Unlike("its layers have heads of different shapes")
        self._num_heads, self._num_kv_heads, self._head_dim = shape
        if 2 * len(self._frequencies) != self._head_dim:
            raise Unlike(f"heads of {self._head_dim} are turned by {len(self._frequencies)} frequencies")

    # --- parts ---

    def _linear(self, node: Node) -> tuple[Linear, Node]:
        bias = None
        if node.type == "Add":
            bias = self._vector(self._in(node, 1))
            node = self._in(node, 0)
        self._expect(node, "MatMul", transpose_a="false", transpose_b="true")
        linear = Linear(self._read_weights(self._in(node, 1)), bias)
        if bias is not None and bias.size != linear.weights.rows:
            raise Unlike(f"the bias of {node.name} has {bias.size} values for {linear.weights.rows} rows")
        return linear, self._in(node, 0)

    def _norm(self, node: Node) -> tuple[Norm, Node]:
        """An RMS norm, and what it reads."""
        self._expect(node, "Multiply")
        scale = None
        if self._in(node, 0).type == "Multiply":
            scale = self._vector(self._in(node, 1))
            node = self._in(node, 0)
        source = self._in(node, 1)
        inverse = self._expect(self._in(node, 0), "Divide")
        added = self._expect(self._in(self._expect(self._in(inverse, 1), "Sqrt"), 0), "Add")
        mean = self._expect(self._in(added, 0), "ReduceMean", keep_dims="true")
        square = self._expect(self._in(mean, 0), "Power")
        self._same(self._in(square, 0), source)
        if self._value(self._in(square, 1)) != 2 or self._value(self._in(inverse, 0)) != 1:
            raise Unlike(f"{node.name} is not an RMS norm")
        self._is(self._in(mean, 1), [-1])
        return Norm(self._value(self._in(added, 1)), scale), source

    def _heads(self, node: Node) -> _Heads:
        """A projection cut into heads, with its norm where it has one."""
        self._expect(node, "Transpose")
        self._is(self._in(node, 1), [0, 2, 1, 3])
        node = self._in(node, 0)
        norm = None
        if node.type == "Multiply":
            norm, node = self._norm(node)
        self._expect(node, "Reshape", special_zero="true")
        shape = self._array(self._in(node, 1)).tolist()
        linear, source = self._linear(self._in(node, 0))
        if len(shape) != 4 or shape[:2] != [0, 0] or shape[2] * shape[3] != linear.weights.rows:
            raise Unlike(f"{node.name} cuts {linear.weights.rows} values into {shape}")
        return _Heads(linear, norm, shape[2], shape[3], source)

    def _rotated(self, node: Node) -> Node:
        """What a rotary embedding (halves, not pairs) is applied to."""
        self._expect(node, "Add")
        straight, turned = (self._expect(self._in(node, at), "Multiply") for at in (0, 1))
        source = self._in(straight, 0)
        self._angles(self._in(straight, 1), "Cos")
        self._angles(self._in(turned, 1), "Sin")
        halves = self._expect(self._in(turned, 0), "Concat", axis="-1")
        negated = self._expect(self._in(halves, 0), "Multiply")
        if self._value(self._in(negated, 1)) != -1 or len(halves.inputs) != 2:
            raise Unlike(f"{halves.name} is not half a turn")
        middle, end = self._slice(self._in(negated, 0), source)
        first, until = self._slice(self._in(halves, 1), source)
        if first != 0 or until != middle or end < 2 * middle:
            raise Unlike(f"{halves.name} does not swap two halves")
        if self._frequencies is None or len(self._frequencies) != middle:
            raise Unlike(f"{node.name} turns {middle} pairs")
        return source

    def _angles(self, node: Node, function: str) -> None:
        """cos or sin of position times frequency, the same for all layers."""
        self._expect(node, "Unsqueeze")
        if self._value(self._in(node, 1)) != 1:
            raise Unlike(f"{node.name} adds another axis than 1")
        angle = self._in(self._expect(self._in(node, 0), function), 0)
        if self._rope is None:
            self._rope, self._frequencies = angle, self._read_frequencies(angle)
        self._same(angle, self._rope)

    def _read_frequencies(self, node: Node) -> Vector:
        self._expect(node, "Concat", axis="-1")
        turned, again = self._in(node, 0), self._in(node, 1)
        self._same(turned, again)
        self._is(self._in(self._expect(turned, "Transpose"), 1), [0, 2, 1])
        product = self._expect(self._in(turned, 0), "MatMul", transpose_a="false", transpose_b="false")
        frequencies = self._array(self._in(self._expect(self._in(product, 0), "Broadcast"), 0))
        position = self._expect(self._in(self._expect(self._in(product, 1), "Convert"), 0), "Unsqueeze")
        if self._in(position, 0).name != "position_ids" or frequencies.shape != (1, frequencies.size, 1):
            raise Unlike(f"{product.name} is not positions times frequencies")
        return frequencies.reshape(-1).astype(np.float32)

    def _cached(self, node: Node, num_heads: int) -> Node:
        """What goes into the KV cache; the cache's heads may be repeated for the query's."""
        if node.type == "Reshape":
            if self._array(self._in(node, 1)).tolist()[:2] != [0, num_heads]:
                raise Unlike(f"{node.name} does not repeat heads")
            spread = self._expect(self._in(node, 0), "Broadcast", mode="bidirectional")
            lifted = self._expect(self._in(spread, 0), "Unsqueeze")
            if self._value(self._in(lifted, 1)) != 2:
                raise Unlike(f"{lifted.name} adds another axis than 2")
            node = self._in(lifted, 0)
        joined = self._expect(node, "Concat")
        if joined.attributes.get("axis") not in {"2", "-2"} or len(joined.inputs) != 2:
            raise Unlike(f"{joined.name} does not append to a cache")
        past = self._expect(self._in(joined, 0), "Gather")
        self._expect(self._in(past, 0), "ReadValue")
        if self._in(past, 1).name != "beam_idx":
            raise Unlike(f"{past.name} is not a cache")
        return self._in(joined, 1)

    def _slice(self, node: Node, source: Node) -> tuple[int, int]:
        """Start and end of a slice of the last axis."""
        self._expect(node, "Slice")
        self._same(self._in(node, 0), source)
        start, end, step, axis = (int(self._value(self._in(node, at))) for at in (1, 2, 3, 4))
        if step != 1 or axis not in {3, -1}:
            raise Unlike(f"{node.name} slices another axis than the last")
        return start, end

    # --- constants ---

    def _read_weights(self, node: Node) -> Weights:
        if node.id not in self._weights:
            self._weights[node.id] = self._new_weights(node)
        return self._weights[node.id]

    def _new_weights(self, node: Node) -> Weights:
        if node.type == "Const":
            return self._dense(self._graph.constant(node))
        self._expect(node, "Convert", destination_type="f32")
        inner = self._in(node, 0)
        if inner.type == "Const":
            return self._dense(self._graph.constant(inner))
        product = self._expect(self._in(self._expect(inner, "Reshape"), 0), "Multiply")
        shifted = self._expect(self._in(product, 0), "Subtract")
        value = self._graph.constant(self._in(self._expect(self._in(shifted, 0), "Convert"), 0))
        zero_point = self._graph.constant(self._in(self._expect(self._in(shifted, 1), "Convert"), 0))
        scale = self._graph.constant(self._in(product, 1))
        if value.element not in {"u4", "u8"} or zero_point.element != value.element or scale.element != "f16":
            raise Unlike(f"{node.name} holds {value.element}, {zero_point.element} and {scale.element}")
        groups = (*value.shape[:2], 1)
        if len(value.shape) != 3 or zero_point.shape != groups or scale.shape != groups:
            raise Unlike(f"{node.name} has groups of the shape {value.shape}")
        if self._array(self._in(inner, 1)).tolist() != [value.shape[0], value.shape[1] * value.shape[2]]:
            raise Unlike(f"{inner.name} does not join the groups")
        if value.element == "u4" and (value.shape[2] % 2 or (value.shape[0] * value.shape[1]) % 2):
            raise Unlike(f"{node.name} has half bytes left over")
        return Grouped(value, zero_point, scale)

    def _dense(self, value: Constant) -> Dense:
        if value.element not in {"f16", "f32"} or len(value.shape) != 2:
            raise Unlike(f"weights of {value.element} and shape {value.shape}")
        return Dense(value)

    def _array(self, node: Node) -> Any:
        """A constant of numbers, converted or not."""
        if node.type == "Convert":
            node = self._in(node, 0)
        constant = self._graph.constant(node)
        kinds = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}
        if constant.element not in kinds:
            raise Unlike(f"{node.name} holds {constant.element}")
        return np.frombuffer(constant.data, kinds[constant.element]).reshape(constant.shape)

    def _vector(self, node: Node) -> Vector:
        return self._array(node).reshape(-1).astype(np.float32)

    def _value(self, node: Node) -> float:
        array = self._array(node)
        if array.size != 1:
            raise Unlike(f"{node.name} is not one number")
        return float(array.reshape(-1)[0])

    # --- nodes ---

    def _in(self, node: Node, index: int) -> Node:
        return self._graph.input(node, index)

    def _is(self, node: Node, wanted: list[int]) -> None:
        if self._array(node).reshape(-1).tolist() != wanted:
            raise Unlike(f"{node.name} is not {wanted}")

    def _expect(self, node: Node, kind: str, **attributes: str) -> Node:
        if node.type != kind:
            raise Unlike(f"{node.name} is a {node.type} where a {kind} was expected")
        for name, wanted in attributes.items():
            if node.attributes.get(name) != wanted:
                raise Unlike(f"{node.name} has {name}={node.attributes.get(name)}, not {wanted}")
        return node

    def _same(self, one: Node, other: Node) -> None:
        if one.id != other.id:
            raise Unlike(f"{one.name} stands where {other.name} was expected")
