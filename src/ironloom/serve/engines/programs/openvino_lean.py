"""The lean form of a model in OpenVINO: the same computation in a third of the nodes, which loads in half the time.

Most of what a small model's load takes is the passes that OpenVINO runs over the graph, node by node. The lean form
is written as those passes would leave it: RMS norms and rotary embeddings are single operations (of OpenVINO's
internal opset, which the CPU plugin itself brings), query, key and value are one matrix, gate and up another, and
weights are decompressed straight to f32. Weights keep their bits.

    make(plain, lean)      convert, and compare with the plain form; see Outcome

It can only be run as ContinuousBatchingPipeline runs it: one token in each row, attention paged. openvino_start has
what is needed to load it. It is made for one version of OpenVINO, which its folder's name carries.
docs/decisions/0011-quick-start-and-park.md has the measurements.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ironloom.serve.engines.programs.converting import say, whole_folder
from ironloom.serve.engines.programs.openvino_compare import MAX_DIFFERENCE, Difference, compare
from ironloom.serve.engines.programs.openvino_decoder import (
    Decoder,
    Dense,
    Grouped,
    Layer,
    Linear,
    Norm,
    Unlike,
    Vector,
    Weights,
    read_decoder,
)
from ironloom.serve.engines.programs.openvino_ir import XML, Graph, Port, Writer
from ironloom.serve.engines.programs.openvino_start import FOLDER_PREFIX, OUTCOME, load_arguments

logger = logging.getLogger(__name__)

_INTERNAL = "ie_internal_opset"
_NOT_COPIED = frozenset({"openvino_model.xml", "openvino_model.bin"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of making a lean form."""

    made: bool
    reason: str = ""
    """Why not; empty when it was made."""
    num_layers_plain: int = 0
    num_layers_lean: int = 0
    max_logprob_difference: float = 0.0
    """Largest difference of a token's log-probability between the two forms, over the texts of `compare`."""


def make(plain: Path, lean: Path) -> Outcome:
    """Make the lean form of the model in `plain`, compare the two, and put it into `lean`, whole or not at all.

    When it cannot be made or differs, `lean` holds only the outcome, so that it is not tried again: the plain form
    stays. Takes some seconds and the memory of two loads, one after the other. Raises OSError when not even the
    outcome can be written.
    """
    with whole_folder(lean) as work:
        outcome = _try(plain, work)
        if not outcome.made:
            for path in work.iterdir():
                path.unlink()
        _write_outcome(work, outcome)
    for old in lean.parent.glob(f"{FOLDER_PREFIX}*"):
        if old != lean and old.suffix != ".tmp":
            shutil.rmtree(old, ignore_errors=True)  # of another version of OpenVINO
    return outcome


def make_apart(plain: Path, lean: Path) -> None:
    """`make` in a process of its own: what crashes there, or is killed for its memory, is told as an outcome."""
    if lean.exists():
        return
    status = subprocess.run([sys.executable, "-m", __spec__.name, str(plain), str(lean)], check=False).returncode
    if not lean.exists():
        with whole_folder(lean) as work:
            _write_outcome(work, Outcome(made=False, reason=f"making it ended with status {status}"))


def _write_outcome(folder: Path, outcome: Outcome) -> None:
    (folder / OUTCOME).write_text(json.dumps(asdict(outcome), indent=1) + "\n")


def _try(plain: Path, lean: Path) -> Outcome:
    try:
        graph = Graph(plain)
        decoder = read_decoder(graph)
    except (Unlike, ValueError) as error:
        return Outcome(made=False, reason=f"the model's graph is not one that is known: {error}")
    num_layers = len(graph.nodes)
    try:
        num_lean = write(decoder, lean, graph.rt_info)
        del graph, decoder
        _take_along(plain, lean)
        difference = compare(plain, lean, load_arguments())
    except Exception as error:  # whatever it is, the plain form is there
        logger.exception("no lean form of %s", plain)
        return Outcome(made=False, reason=f"it cannot be run: {_last_line(error)}")
    return judge(difference, num_layers, num_lean)


def _last_line(error: Exception) -> str:
    """OpenVINO's messages begin with where in its sources they come from."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def judge(difference: Difference, num_layers_plain: int, num_layers_lean: int) -> Outcome:
    """Whether two forms that differ so much are the same model."""
    reason = ""
    if not difference.same_tokens:
        reason = "it chooses other tokens than the plain form"
    elif not difference.max_logprob <= MAX_DIFFERENCE:  # NaN too
        reason = f"log-probabilities differ by {difference.max_logprob:.3g}, more than {MAX_DIFFERENCE:g}"
    return Outcome(
        made=not reason,
        reason=reason,
        num_layers_plain=num_layers_plain,
        num_layers_lean=num_layers_lean,
        max_logprob_difference=difference.max_logprob,
    )


def write(decoder: Decoder, folder: Path, rt_info: str) -> int:
    """Write the lean form's two files. Returns how many layers it has."""
    with Writer(folder) as writer:
        _Emitter(writer, decoder).emit()
        num_layers = writer.num_layers
        writer.finish(rt_info)
    return num_layers


def _take_along(plain: Path, lean: Path) -> None:
    """The tokenizer and the small files beside the model: linked where that can be, else copied."""
    for path in plain.iterdir():
        if path.is_file() and path.name not in _NOT_COPIED and path.suffix not in {".gguf", ".safetensors"}:
            try:
                os.link(path.resolve(), lean / path.name)
            except OSError:
                shutil.copyfile(path, lean / path.name)


class _Emitter:
    """Writes a decoder. Activations have the shape [tokens, 1, width]: each token is a row of its own."""

    def __init__(self, writer: Writer, decoder: Decoder) -> None:
        self._out = writer
        self._decoder = decoder
        self._tables: dict[int, Port] = {}
        """id of an embedding's weights → its decompressed table: a tied head uses it again."""

    def emit(self) -> None:
        out, decoder = self._out, self._decoder
        ids = self._parameter("input_ids")
        positions = self._parameter("position_ids")
        rotation = self._rotation(positions)
        indexes = out.layer("Convert", [ids], {"destination_type": "i32"}, shape=(-1, -1), element="i32")
        state = out.layer(
            "Gather",
            [self._table(decoder.embedding), indexes, out.scalar(0, "i32")],
            {"batch_dims": 0},
            shape=(-1, -1, decoder.hidden_size),
            version="opset8",
        )
        mask = out.constant("f32", (1, 1, 1, 1), [bytes(4)])
        for index, layer in enumerate(decoder.layers):
            state = self._attention(state, layer, index, rotation, mask)
            state = self._mlp(state, layer)
        state = self._norm(state, decoder.final_norm)
        # The last layer must stay a MatMul: openvino.genai looks for one to cut what is not asked for before it.
        logits = out.layer(
            "MatMul",
            [state, self._table(decoder.head.weights)],
            {"transpose_a": "false", "transpose_b": "true"},
            shape=(-1, -1, decoder.head.weights.rows),
            name="logits",
        )
        out.result(logits)

    def _parameter(self, name: str) -> Port:
        attributes = {"shape": "?,?", "element_type": "i64"}
        return self._out.layer("Parameter", (), attributes, shape=(-1, -1), element="i64", name=name)

    def _rotation(self, positions: Port) -> tuple[Port, Port]:
        """Cosine and sine of position times frequency, [tokens, 1, 1, head_dim], each frequency twice."""
        out, dim = self._out, self._decoder.head_dim
        lifted = out.layer("Unsqueeze", [positions, out.integers(1, 3)], shape=(-1, 1, -1, 1), element="i64")
        position = out.layer("Convert", [lifted], {"destination_type": "f32"}, shape=(-1, 1, -1, 1))
        frequencies = _bytes(np.tile(self._decoder.inverse_frequencies, 2))
        table = out.constant("f32", (1, 1, 1, dim), [frequencies])
        angle = self._binary("Multiply", position, table, (-1, 1, -1, dim))
        cosine = out.layer("Cos", [angle], shape=angle.shape)
        sine = out.layer("Sin", [angle], shape=angle.shape)
        return cosine, sine

    def _attention(self, state: Port, layer: Layer, index: int, rotation: tuple[Port, Port], mask: Port) -> Port:
        out, decoder = self._out, self._decoder
        dim, num_heads, num_kv = decoder.head_dim, decoder.num_heads, decoder.num_kv_heads
        normed = self._norm(state, layer.attention_norm)
        query, key, value = self._linears(normed, [layer.query, layer.key, layer.value])
        query = self._rotate(self._heads(query, num_heads, layer.query_norm), rotation)
        key = self._rotate(self._heads(key, num_kv, layer.key_norm), rotation)
        value = self._heads(value, num_kv, layer.value_norm)
        attention = out.layer(
            "ScaledDotProductAttention",
            [query, self._cache(key, f"key.{index}"), self._cache(value, f"value.{index}"), mask],
            {"causal": "false"},
            shape=(-1, num_heads, -1, dim),
            version="opset13",
        )
        width = num_heads * dim
        joined = self._reshape(attention, (0, -1, width), (-1, -1, width))
        return self._binary("Add", state, self._linears(joined, [layer.output])[0], state.shape)

    def _mlp(self, state: Port, layer: Layer) -> Port:
        gate, up = self._linears(self._norm(state, layer.mlp_norm), [layer.gate, layer.up])
        silu = self._out.layer("Swish", [gate], shape=gate.shape, version="opset4")
        gated = self._binary("Multiply", silu, up, gate.shape)
        return self._binary("Add", state, self._linears(gated, [layer.down])[0], state.shape)

    # --- parts ---

    def _linears(self, value: Port, linears: Sequence[Linear]) -> list[Port]:
        """Several projections of one value: one matrix where their weights can be stacked."""
        weights = [linear.weights for linear in linears]
        if len(linears) == 1 or not _stack(weights):
            return [self._linear(value, [linear]) for linear in linears]
        return self._out.split(self._linear(value, linears), [w.rows for w in weights])

    def _linear(self, value: Port, linears: Sequence[Linear]) -> Port:
        weights = [linear.weights for linear in linears]
        rows = sum(w.rows for w in weights)
        matrix = self._grouped(weights) if isinstance(weights[0], Grouped) else self._dense(weights)
        attributes = {"transpose_a": "false", "transpose_b": "true"}
        result = self._out.layer("MatMul", [value, matrix], attributes, shape=(-1, -1, rows))
        if all(linear.bias is None for linear in linears):
            return result
        biases = [np.zeros(n.weights.rows, np.float32) if n.bias is None else n.bias for n in linears]
        bias = self._out.constant("f32", (1, 1, rows), [_bytes(np.concatenate(biases))])
        return self._binary("Add", result, bias, result.shape)

    def _grouped(self, weights: Sequence[Any]) -> Port:
        """Weights of 4 or 8 bits, decompressed straight to f32: the form that the CPU plugin folds into its product."""
        out = self._out
        rows, (groups, size) = sum(w.rows for w in weights), weights[0].value.shape[1:]
        element, shape = weights[0].value.element, (rows, groups, size)
        value = self._to_f32(out.constant(element, shape, [w.value.data for w in weights]))
        zero_point = self._to_f32(out.constant(element, (rows, groups, 1), [w.zero_point.data for w in weights]))
        scale = out.constant("f32", (rows, groups, 1), [_f16_as_f32(w.scale.data) for w in weights])
        shifted = self._binary("Subtract", value, zero_point, shape)
        scaled = self._binary("Multiply", shifted, scale, shape)
        return self._reshape(scaled, (rows, groups * size), (rows, groups * size), special_zero=False)

    def _dense(self, weights: Sequence[Any]) -> Port:
        rows, columns = sum(w.rows for w in weights), weights[0].columns
        value = self._out.constant(weights[0].value.element, (rows, columns), [w.value.data for w in weights])
        return value if value.element == "f32" else self._to_f32(value)

    def _table(self, weights: Weights) -> Port:
        """An embedding's table, or a head's: decompressed as in the plain form (by way of f16)."""
        if id(weights) not in self._tables:
            self._tables[id(weights)] = self._new_table(weights)
        return self._tables[id(weights)]

    def _new_table(self, weights: Weights) -> Port:
        if isinstance(weights, Dense):
            return self._dense([weights])
        out, shape = self._out, weights.value.shape
        groups, table = (*shape[:2], 1), (weights.rows, weights.columns)
        half = {"destination_type": "f16"}
        value = out.constant(weights.value.element, shape, [weights.value.data])
        value = out.layer("Convert", [value], half, shape=shape, element="f16")
        zero_point = out.constant(weights.zero_point.element, groups, [weights.zero_point.data])
        zero_point = out.layer("Convert", [zero_point], half, shape=groups, element="f16")
        shifted = self._binary("Subtract", value, zero_point, shape, element="f16")
        scale = out.constant("f16", groups, [weights.scale.data])
        scaled = self._binary("Multiply", shifted, scale, shape, element="f16")
        return self._to_f32(self._reshape(scaled, table, table, special_zero=False))

    def _norm(self, value: Port, norm: Norm) -> Port:
        width = value.shape[-1]
        scale = np.ones(width, np.float32) if norm.scale is None else norm.scale
        table = self._out.constant("f32", (*(1,) * (len(value.shape) - 1), width), [_bytes(scale)])
        attributes = {"epsilon": f"{norm.epsilon:.17g}", "output_type": "f32", "elementwise_affine": "true"}
        return self._out.layer("RMS", [value, table], attributes, shape=value.shape, version=_INTERNAL)

    def _heads(self, value: Port, num_heads: int, norm: Norm | None) -> Port:
        """[tokens, 1, width] → [tokens, heads, 1, head_dim]: with one token a row, no transposition is needed."""
        dim = self._decoder.head_dim
        cut = self._reshape(value, (0, num_heads, -1, dim), (-1, num_heads, -1, dim))
        return cut if norm is None else self._norm(cut, norm)

    def _rotate(self, value: Port, rotation: tuple[Port, Port]) -> Port:
        attributes = dict.fromkeys(_ROPE_FALSE, "false") | dict.fromkeys(_ROPE_ZERO, "0")
        attributes["config.rotary_ndims"] = str(self._decoder.head_dim)
        return self._out.layer("RoPE", [value, *rotation], attributes, shape=value.shape, version=_INTERNAL)

    def _cache(self, current: Port, name: str) -> Port:
        """The KV cache as a state. The pass that makes attention paged looks for it in every layer, and drops it."""
        out, decoder = self._out, self._decoder
        num_kv, dim = decoder.num_kv_heads, decoder.head_dim
        shape = (-1, num_kv, -1, dim)
        variable = {"variable_id": name, "variable_type": "f32", "variable_shape": f"?,{num_kv},?,{dim}"}
        empty = out.constant("f32", (1, num_kv, 1, dim), [bytes(4 * num_kv * dim)])
        past = out.layer("ReadValue", [empty], variable, shape=shape, version="opset6")
        first = out.constant("i32", (1,), [bytes(4)])
        past = out.layer("Gather", [past, first, out.scalar(0)], {"batch_dims": 0}, shape=shape, version="opset8")
        joined = out.layer("Concat", [past, current], {"axis": 2}, shape=shape)
        out.sink("Assign", joined, {"variable_id": name}, version="opset6")
        repeat = decoder.num_heads // num_kv
        if repeat == 1:
            return joined
        lifted = out.layer("Unsqueeze", [joined, out.scalar(2)], shape=(-1, num_kv, 1, -1, dim))
        spread = out.layer(
            "Broadcast",
            [lifted, out.integers(1, 1, repeat, 1, 1)],
            {"mode": "bidirectional"},
            shape=(-1, num_kv, repeat, -1, dim),
            version="opset3",
        )
        return self._reshape(spread, (0, decoder.num_heads, -1, dim), (-1, decoder.num_heads, -1, dim))

    def _reshape(self, value: Port, to: Sequence[int], shape: Sequence[int], *, special_zero: bool = True) -> Port:
        attributes = {"special_zero": str(special_zero).lower()}
        return self._out.layer(
            "Reshape", [value, self._out.integers(*to)], attributes, shape=shape, element=value.element
        )

    def _to_f32(self, value: Port) -> Port:
        return self._out.layer("Convert", [value], {"destination_type": "f32"}, shape=value.shape)

    def _binary(self, kind: str, one: Port, other: Port, shape: Sequence[int], *, element: str = "f32") -> Port:
        return self._out.layer(kind, [one, other], {"auto_broadcast": "numpy"}, shape=shape, element=element)


_ROPE_FALSE = (
    "config.input_trans0213",
    "config.output_trans0213",
    "config.is_interleaved",
    "config.is_chatglm",
    "config.support_2d_rope",
    "config.support_3d_rope",
    "config.is_qwen",
    "config.use_rope_cache",
    "config.is_ltx_video",
)
_ROPE_ZERO = (
    "config.slice_start",
    "config.slice_stop",
    "config.head_cnt",
    "config.head_size",
    "config.gather_position_arg_id",
)


def _stack(weights: Sequence[Weights]) -> bool:
    """True when these matrices can be put on top of each other."""
    first = weights[0]
    return all(type(w) is type(first) and w.kind == first.kind for w in weights)


def _bytes(values: Vector) -> bytes:
    return bytes(np.ascontiguousarray(values, np.float32).tobytes())


def _f16_as_f32(data: memoryview) -> bytes:
    return bytes(np.frombuffer(data, np.float16).astype(np.float32).tobytes())


def main(args: list[str]) -> int:
    """`python -m …openvino_lean PLAIN LEAN`: what an engine's Conversion runs. Status 0 when an outcome was written."""
    parser = argparse.ArgumentParser(prog="openvino_lean")
    parser.add_argument("plain", type=Path, help=f"folder with {XML}")
    parser.add_argument("lean", type=Path, help="the folder to make")
    options = parser.parse_args(args)
    say("writing a form that loads faster, and comparing the two")
    outcome = make(options.plain, options.lean)
    said = (
        f"lean form made: {outcome.num_layers_lean} layers for {outcome.num_layers_plain}"
        if outcome.made
        else f"no lean form: {outcome.reason}; the plain form serves"
    )
    say(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
