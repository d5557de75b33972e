"""The lean form: what is recognised, what is refused, and that it is the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from tests.serve.engines.plain_decoder import Shape, write_plain

from ironloom.serve.engines.programs import openvino_lean, openvino_start
from ironloom.serve.engines.programs.openvino_compare import Difference, compare, difference
from ironloom.serve.engines.programs.openvino_decoder import Decoder, Dense, Grouped, Unlike, read_decoder
from ironloom.serve.engines.programs.openvino_ir import Graph, Writer

SHAPES = {
    "llama, grouped queries, 4 bits": Shape(),
    "llama, a key for each query, 16 bits, a head of its own": Shape(num_kv_heads=4, weights="f16", tied=False),
    "qwen2, biases, 8 bits": Shape(biases=True, weights="u8"),
    "qwen3, norms of heads that are wider together than the model": Shape(head_norms=True, head_dim=32, tied=False),
    "4 and 8 bits mixed, so that not all can be stacked": Shape(weights="mixed", num_layers=3),
    "one key for all queries": Shape(num_kv_heads=1, num_layers=1),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_shape
def test_a_decoder_is_recognised_with_all_its_sizes(shape: Shape, tmp_path: Path) -> None:
    write_plain(shape, tmp_path)
    found = read_decoder(Graph(tmp_path))
    sizes = (found.num_heads, found.num_kv_heads, found.head_dim, found.hidden_size, len(found.layers))
    assert sizes == (shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.hidden_size, shape.num_layers)
    first = found.layers[0]
    assert (first.query.bias is not None, first.query_norm is not None) == (shape.biases, shape.head_norms)
    assert isinstance(first.query.weights, Dense if shape.weights == "f16" else Grouped)
    assert (first.down.weights.rows, first.down.weights.columns) == (shape.hidden_size, shape.mlp_size)
    assert (found.head.weights is found.embedding) == shape.tied
    assert found.final_norm.epsilon == pytest.approx(1e-5)
    assert found.inverse_frequencies[0] == 1.0


@every_shape
def test_the_lean_form_has_fewer_layers_and_openvino_reads_it(shape: Shape, tmp_path: Path) -> None:
    import openvino

    write_plain(shape, tmp_path / "plain")
    (tmp_path / "lean").mkdir()
    graph = Graph(tmp_path / "plain")
    num_layers = openvino_lean.write(read_decoder(graph), tmp_path / "lean", graph.rt_info)
    assert num_layers < 0.5 * len(graph.nodes)
    core = openvino.Core()
    core.add_extension(openvino_start.load_arguments()["extensions"][0])
    model = core.read_model(tmp_path / "lean" / "openvino_model.xml")
    assert {one.any_name for one in model.inputs} == {"input_ids", "position_ids"}
    assert model.output(0).any_name == "logits"
    assert model.output(0).partial_shape[2].get_length() == shape.vocab_size
    assert len(model.get_variables()) == 2 * shape.num_layers


def test_attention_with_a_scale_of_its_own_is_refused(tmp_path: Path) -> None:
    write_plain(Shape(mask_scale=True), tmp_path)
    with pytest.raises(Unlike, match="has 5 inputs, not 4"):
        read_decoder(Graph(tmp_path))


def test_a_changed_operation_is_refused(tmp_path: Path) -> None:
    write_plain(Shape(), tmp_path)
    path = tmp_path / "openvino_model.xml"
    path.write_text(path.read_text().replace('type="Swish"', 'type="Gelu"'))
    with pytest.raises(Unlike, match="is a Gelu where a Swish was expected"):
        read_decoder(Graph(tmp_path))


def test_a_model_that_is_no_decoder_gets_an_outcome_with_the_reason_and_no_files(tmp_path: Path) -> None:
    plain, lean = tmp_path / "plain", tmp_path / "lean-1"
    plain.mkdir()
    with Writer(plain) as writer:
        value = writer.constant("f32", (1,), [np.float32(1).tobytes()])
        writer.result(writer.layer("Cos", [value], shape=(1,)))
        writer.finish("")
    outcome = openvino_lean.make(plain, lean)
    assert not outcome.made
    assert "Cos where a MatMul was expected" in outcome.reason
    assert [path.name for path in lean.iterdir()] == [openvino_start.OUTCOME]
    assert not openvino_start.is_lean(lean)


def test_a_damaged_file_gets_an_outcome_with_the_reason(tmp_path: Path) -> None:
    write_plain(Shape(num_layers=1), tmp_path / "plain")
    path = tmp_path / "plain" / "openvino_model.bin"
    path.write_bytes(path.read_bytes()[:1000])
    outcome = openvino_lean.make(tmp_path / "plain", tmp_path / "lean-1")
    assert not outcome.made
    assert "outside of openvino_model.bin" in outcome.reason


def test_the_form_of_another_version_of_openvino_is_removed(tmp_path: Path) -> None:
    write_plain(Shape(mask_scale=True), tmp_path / "plain")
    old = tmp_path / "lean-2026.1.0-2026.1.0.0"
    old.mkdir()
    openvino_lean.make(tmp_path / "plain", tmp_path / openvino_start.folder_name())
    assert not old.exists()


def test_a_process_that_crashes_while_it_makes_the_form_leaves_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_lean.sys, "executable", "/bin/false")
    openvino_lean.make_apart(tmp_path, tmp_path / "lean-1")
    said = json.loads((tmp_path / "lean-1" / openvino_start.OUTCOME).read_text())
    assert said["reason"] == "making it ended with status 1"
    assert not openvino_start.is_lean(tmp_path / "lean-1")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Difference(True, 0.0), ""),
        (Difference(True, 0.001), ""),
        (Difference(True, 0.02), "log-probabilities differ by 0.02, more than 0.001"),
        (Difference(True, float("nan")), "log-probabilities differ by nan, more than 0.001"),
        (Difference(False, float("inf")), "it chooses other tokens than the plain form"),
    ],
)
def test_a_difference_is_judged(found: Difference, reason: str) -> None:
    outcome = openvino_lean.judge(found, 10, 5)
    assert (outcome.made, outcome.reason) == (not reason, reason)


def test_two_runs_differ_by_their_worst_token_and_nan_is_not_lost() -> None:
    one = [([1, 2], [-0.5, -1.0]), ([3], [-2.0])]
    assert difference(one, [([1, 2], [-0.5, -1.25]), ([3], [-2.0])]) == Difference(True, 0.25)
    assert not difference(one, [([1, 9], [-0.5, -1.0]), ([3], [-2.0])]).same_tokens
    assert np.isnan(difference(one, [([1, 2], [float("nan"), -1.0]), ([3], [-2.0])]).max_logprob)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"made": false}'])
def test_a_folder_without_a_good_outcome_is_no_lean_form(text: str, tmp_path: Path) -> None:
    (tmp_path / openvino_start.OUTCOME).write_text(text)
    assert not openvino_start.is_lean(tmp_path)


@pytest.fixture(scope="module")
def tokenizer() -> Path:
    from tests.fakes.smollm2 import openvino_model

    return openvino_model()


def with_tokenizer(shape: Shape, folder: Path, tokenizer: Path) -> None:
    write_plain(replace(shape, vocab_size=49_152), folder)
    for path in tokenizer.glob("*token*"):
        shutil.copyfile(path, folder / path.name)


@pytest.mark.engine
@pytest.mark.slow
@every_shape
def test_the_lean_form_weighs_and_writes_the_same(shape: Shape, tmp_path: Path, tokenizer: Path) -> None:
    with_tokenizer(shape, tmp_path / "plain", tokenizer)
    outcome = openvino_lean.make(tmp_path / "plain", tmp_path / "lean-1")
    assert outcome.made, outcome.reason
    assert outcome.max_logprob_difference < 1e-3
    assert openvino_start.is_lean(tmp_path / "lean-1")


def wrong_epsilon(found: Decoder) -> Decoder:
    return replace(found, final_norm=replace(found.final_norm, epsilon=0.05))


def gate_and_up_swapped(found: Decoder) -> Decoder:
    last = found.layers[-1]
    return replace(found, layers=(*found.layers[:-1], replace(last, gate=last.up, up=last.gate)))


def slower_rotation(found: Decoder) -> Decoder:
    return replace(found, inverse_frequencies=found.inverse_frequencies * np.float32(0.9))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("fault", [wrong_epsilon, gate_and_up_swapped, slower_rotation])
def test_a_form_that_computes_something_else_is_not_taken(
    fault: Callable[[Decoder], Decoder], tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tokenizer(Shape(), tmp_path / "plain", tokenizer)
    monkeypatch.setattr(openvino_lean, "read_decoder", lambda graph: fault(read_decoder(graph)))
    outcome = openvino_lean.make(tmp_path / "plain", tmp_path / "lean-1")
    assert not outcome.made
    assert "differ by" in outcome.reason or "other tokens" in outcome.reason


@pytest.mark.engine
@pytest.mark.slow
def test_the_default_models_lean_form_is_made_and_the_same(tokenizer: Path) -> None:
    lean = tokenizer.parent / openvino_start.folder_name()
    assert openvino_start.is_lean(lean)
    found = compare(tokenizer, lean, openvino_start.load_arguments())
    assert found.same_tokens
    assert found.max_logprob < 1e-3
