"""The llama.cpp engine: its adapter, its vocabulary, its stream, and the contract with the real thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from contract import CHECKS, Target
from hypothesis import given
from hypothesis import strategies as st
from running_engine import running
from tests.fakes.weights import gguf_file

from ironloom.errors import RequestError, UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.llamacpp import ENGINE
from ironloom.serve.engines.llamacpp_memory import fit_context, kv_bytes_per_token
from ironloom.serve.engines.programs.generation import Finish, Grammar, GrammarKind, Likely, Sampling
from ironloom.serve.engines.programs.gguf_vocabulary import piece_of, read_vocabulary, split_bytes
from ironloom.serve.engines.programs.llamacpp_generator import completion_body
from ironloom.serve.engines.programs.llamacpp_link import UNKNOWN_LOGPROB, TokenStream
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.pull import pull
from ironloom.units import GIB, MIB
from ironloom.workload.serving import Serving
from ironloom.workload.shapes.gguf_header import parse_gguf_header, read_gguf_header

NODE = Node(name="n", num_cpus=2, memory_bytes=16 * GIB, available_memory_bytes=8 * GIB)
SERVING = Serving(name="tiny", kind="InferenceService")


def model(**changes: object) -> LocalModel:
    known: dict[str, object] = {"uri": "hf://a/b", "path": Path("/m.gguf"), "format": ModelFormat.GGUF}
    known |= {"architecture": "gemma2", "form": "F16", "size_bytes": 100 * MIB}
    return LocalModel(**(known | changes))


# --- the adapter ---


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": ModelFormat.SAFETENSORS}, "GGUF"),
        ({"task": Task.EMBED}, "embeddings"),
        ({"size_bytes": 64 * GIB}, "memory"),
    ],
)
def test_what_it_refuses(changes: dict[str, object], why: str) -> None:
    assert why in (ENGINE.refuses(model(**changes), SERVING, NODE) or "")


def test_it_takes_gguf_of_any_architecture() -> None:
    assert ENGINE.refuses(model(architecture="a-new-one"), SERVING, NODE) is None


def test_arguments_are_taken_over_or_told_or_refused(tmp_path: Path) -> None:
    def launch(*engine_args: str):
        serving = Serving(name="tiny", kind="InferenceService", engine_args=engine_args, max_model_len=4096)
        return ENGINE.launch(LaunchOrder(model=model(), serving=serving, port=9, num_threads=3, cache_dir=tmp_path))

    found = launch("--max_num_seqs=16", "--gpu-memory-utilization", "0.9", "--enforce-eager", "--enable-prefix-caching")
    assert found.args[found.args.index("--max-num-seqs") + 1] == "16"
    assert found.args[found.args.index("--max-model-len") + 1] == "4096"
    assert found.args[found.args.index("--threads") + 1] == "3"
    assert found.ignored == ("--gpu-memory-utilization 0.9", "--enforce-eager")
    assert found.max_concurrency == 16
    with pytest.raises(UsageError, match="cannot honour --enable-lora"):
        launch("--enable-lora")
    with pytest.raises(UsageError) as caught:
        launch("--max-num-seq", "3")
    assert caught.value.hint == "did you mean --max-num-seqs?"
    with pytest.raises(UsageError, match="has no value"):
        launch("--max-num-seqs")
    with pytest.raises(UsageError, match="--dtype is 'bfloat16'"):
        launch("--dtype", "bfloat16")


def test_the_cache_has_a_known_size_unless_the_manifest_asks_for_a_context() -> None:
    def launch(*engine_args: str):
        serving = Serving(name="tiny", kind="InferenceService", engine_args=engine_args)
        return ENGINE.launch(LaunchOrder(model=model(), serving=serving, port=9))

    assert launch().args[-2:] == ("--kv-cache-bytes", str(768 * MIB))
    assert launch().memory_bytes > 768 * MIB
    assert "--kv-cache-bytes" not in launch("--max-model-len", "8192").args
    assert launch("--kv-cache-memory-bytes=1000").args[-2:] == ("--kv-cache-bytes", "1000")


def test_small_quantised_models_are_written_out_in_f16_once(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_file())
    small = model(path=file, form="Q4_1", size_bytes=98 * MIB)
    step = ENGINE.conversion(small, tmp_path)
    assert step is not None
    assert "F16" in step.description
    launched = ENGINE.launch(LaunchOrder(model=small, serving=SERVING, port=9, cache_dir=tmp_path))
    assert str(step.result) in launched.args
    step.result.parent.mkdir(parents=True)
    step.result.touch()
    assert ENGINE.conversion(small, tmp_path) is None
    assert ENGINE.conversion(model(path=file, form="F16"), tmp_path) is None
    assert ENGINE.conversion(model(path=file, form="Q4_K", size_bytes=5 * GIB), tmp_path) is None


def test_a_file_is_written_out_in_f16_with_its_metadata(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    metadata = {
        "general.architecture": "llama",
        "general.file_type": 3,
        "llama.context_length": 512,
        "a.list": ["x", "y"],
    }
    source = tmp_path / "q4.gguf"
    source.write_bytes(gguf_file(metadata, {"w": ("Q4_1", (64, 2)), "norm": ("F32", (8,))}))
    from ironloom.serve.engines.programs.dequantise_gguf import dequantise

    dequantise(source, tmp_path / "out/f16.gguf")
    header = read_gguf_header(tmp_path / "out/f16.gguf", keep=("a.list",))
    assert [(t.name, t.shape, t.type) for t in header.tensors] == [("w", (64, 2), "F16"), ("norm", (8,), "F32")]
    assert header.context_length == 512
    assert header.metadata["a.list"] == ("x", "y")
    assert header.metadata["general.file_type"] == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["f16.gguf"]


# --- memory ---

SHAPE = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "llama.block_count": 30,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
}


def test_the_cache_of_a_token_is_layers_times_heads_times_size() -> None:
    header = parse_gguf_header(gguf_file(SHAPE), name="m")
    assert kv_bytes_per_token(header) == 30 * 3 * (64 + 64) * 2
    longer = parse_gguf_header(gguf_file({**SHAPE, "llama.attention.key_length": 128}), name="m")
    assert kv_bytes_per_token(longer) == 30 * 3 * (128 + 64) * 2


def test_the_context_is_cut_to_the_memory_and_never_below_what_was_asked() -> None:
    header = parse_gguf_header(gguf_file(SHAPE), name="m")
    assert fit_context(header, num_seqs=8) == 4096
    assert fit_context(header, num_seqs=8, kv_cache_bytes=768 * MIB) == 4096
    cut = fit_context(header, num_seqs=8, available_memory_bytes=2 * GIB)
    assert 512 <= cut < 4096
    assert cut * 8 * kv_bytes_per_token(header) <= GIB // 2
    assert fit_context(header, asked=8192, num_seqs=8, available_memory_bytes=64 * GIB) == 8192
    with pytest.raises(ValueError, match="8 slots of 8192 tokens"):
        fit_context(header, asked=8192, num_seqs=8, available_memory_bytes=2 * GIB)
    with pytest.raises(ValueError, match="the model's context is 8192"):
        fit_context(header, asked=9000, num_seqs=1)


# --- vocabulary ---


def test_a_tokens_bytes_come_from_its_name() -> None:
    assert piece_of("Ġhello", 1, is_gpt2=True) == b" hello"
    assert piece_of("ðŁ¤", 1, is_gpt2=True) == "🤗".encode()[:3]
    assert piece_of("▁hello", 1, is_gpt2=False) == b" hello"
    assert piece_of("<0xE2>", 6, is_gpt2=False) == b"\xe2"
    assert piece_of("<|im_end|>", 3, is_gpt2=True) == b"<|im_end|>"


def test_a_vocabulary_has_special_tokens_and_a_template(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["<s>", "</s>", "Ġa", "b"],
        "tokenizer.ggml.token_type": [3, 3, 1, 1],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": "{{ messages }}",
    }
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_file(metadata))
    _, found = read_vocabulary(file)
    assert found.pieces == (b"<s>", b"</s>", b" a", b"b")
    assert (found.control, dict(found.ids)) == (frozenset({0, 1}), {b" a": 2, b"b": 3})
    assert (found.bos_token, found.eos_token, found.chat_template) == ("<s>", "</s>", "{{ messages }}")
    file.write_bytes(gguf_file())
    with pytest.raises(ValueError, match="no tokenizer"):
        read_vocabulary(file)


@given(
    st.lists(st.sampled_from([b"\xf0", b"\x9f", b"\xa4\x97", b"\xf0\x9f", b"\x97", b"\xa4", b"ab", b"a"]), max_size=6)
)
def test_bytes_are_split_into_exactly_so_many_tokens(pieces: list[bytes]) -> None:
    ids = {b"\xf0": 1, b"\x9f": 2, b"\xa4\x97": 3, b"\xf0\x9f": 4, b"\x97": 5, b"\xa4": 6, b"ab": 7, b"a": 8}
    back = {token_id: piece for piece, token_id in ids.items()}
    found = split_bytes(b"".join(pieces), len(pieces), ids)
    assert found is not None
    assert len(found) == len(pieces)
    assert b"".join(back[i] for i in found) == b"".join(pieces)


def test_bytes_that_cannot_be_split_so_are_told() -> None:
    assert split_bytes(b"abc", 1, {b"a": 1}) is None
    assert split_bytes(b"", 0, {}) == []
    assert split_bytes(b"a", 0, {b"a": 1}) is None
    assert split_bytes(b"a" * 64, 40, {b"a": 1, b"aa": 2}) is not None


# --- the stream ---


class Heard:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.likely: list[Likely] = []
        self.finish: Finish | None = None
        self.error: RequestError | None = None

    def tokens(
        self, ids: Sequence[int], logprobs: Sequence[float], finish: Finish | None, likely: Sequence[Likely] = ()
    ) -> None:
        self.likely += likely
        assert self.finish is None
        assert len(ids) == len(logprobs)
        self.ids += ids
        self.logprobs += logprobs
        self.finish = finish

    def failed(self, error: RequestError) -> None:
        assert self.finish is None
        assert self.error is None
        self.error = error


@pytest.fixture
def vocabulary(tmp_path: Path):
    names = ["<s>", "</s>", "a", "b", "ð", "Ł", "¤", "Ĺ"]
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1],
    }
    (tmp_path / "v.gguf").write_bytes(gguf_file(metadata))
    return read_vocabulary(tmp_path / "v.gguf")[1]


@pytest.fixture
def stream(vocabulary) -> Callable[..., tuple[Heard, list[TokenStream]]]:
    def play(
        *events: dict[str, object],
        status: int = 200,
        cut: bool = False,
        stops: frozenset[int] = frozenset(),
        likely: bool = False,
    ):
        heard, ended = Heard(), []
        made = TokenStream(b"", heard, vocabulary, stops, ended.append, tells_likely=likely)
        body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        if status != 200:
            body = json.dumps(events[0]).encode()
        head = f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        data = head + body + b"\r\n" + (b"" if cut else b"0\r\n\r\n")
        for at in range(0, len(data), 7):
            made.data_received(data[at : at + 7])
        made.connection_lost(None)
        assert ended == [made]
        return heard, ended

    return play


def event(token: int, content: str, predicted: int, **more: object) -> dict[str, object]:
    return {"tokens": [token], "content": content, "tokens_predicted": predicted, "stop": False, **more}


def end(kind: str, predicted: int) -> dict[str, object]:
    return {"tokens": [], "content": "", "stop": True, "stop_type": kind, "tokens_predicted": predicted}


def test_tokens_come_as_they_are_sent_and_end_at_the_limit(stream) -> None:
    heard, _ = stream(event(2, "a", 1), event(3, "b", 2), end("limit", 2))
    assert (heard.ids, heard.finish, heard.error) == ([2, 3], Finish.LENGTH, None)


def test_the_end_token_comes_with_the_end(stream) -> None:
    heard, _ = stream(event(2, "a", 1), event(1, "", 2), end("eos", 2))
    assert (heard.ids, heard.finish) == ([2, 1], Finish.STOP)


def test_tokens_of_a_split_character_are_put_back(stream) -> None:
    known = {"completion_probabilities": [{"logprob": -0.5}]}
    heard, _ = stream(event(7, "🤗", 4, **known), event(2, "a", 5, **known), end("limit", 5))
    assert heard.ids == [4, 5, 6, 7, 2]
    assert heard.logprobs == [UNKNOWN_LOGPROB] * 3 + [-0.5, -0.5]


def test_likely_tokens_come_with_the_tokens_that_are_told(stream) -> None:
    others = [{"id": 2, "logprob": -0.5}, {"id": 3, "logprob": -1.5}]
    known = {"completion_probabilities": [{"id": 2, "logprob": -0.5, "top_logprobs": others}]}
    heard, _ = stream(event(7, "🤗", 4, **known), event(2, "a", 5, **known), end("limit", 5), likely=True)
    assert heard.likely == [(), (), (), [(2, -0.5), (3, -1.5)], [(2, -0.5), (3, -1.5)]]


def test_half_a_character_at_the_limit_counts_its_tokens(stream) -> None:
    heard, _ = stream(event(2, "a", 1), end("limit", 3))
    assert (len(heard.ids), heard.finish) == (3, Finish.LENGTH)


def test_a_stop_token_ends_the_sequence(stream) -> None:
    heard, _ = stream(event(2, "a", 1), event(3, "b", 2), event(2, "a", 3), stops=frozenset({3}))
    assert (heard.ids, heard.finish) == ([2, 3], Finish.STOP)


def test_a_stream_that_is_cut_fails(stream) -> None:
    heard, _ = stream(event(2, "a", 1), cut=True)
    assert heard.ids == [2]
    assert heard.error is not None
    assert heard.error.source == "engine"
    heard, _ = stream(event(2, "a", 1))
    assert heard.error is not None


def test_an_error_of_llama_cpp_is_told(stream) -> None:
    heard, _ = stream({"error": {"message": "no such grammar", "type": "invalid_request_error"}}, status=400)
    assert heard.error is not None
    assert (heard.error.status, heard.error.message) == (400, "no such grammar")
    heard, _ = stream({"error": {"message": "out of memory", "code": 500}})
    assert heard.error is not None
    assert heard.error.message == "out of memory"


def test_every_setting_of_a_sequence_is_said() -> None:
    schema = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}', "response_format")
    body = completion_body([1, 2], Sampling(max_tokens=5, seed=-1, presence_penalty=1.0, grammar=schema), cache=True)
    assert body["repeat_last_n"] == 7
    assert 0 <= body["seed"] < 2**32
    assert body["json_schema"] == {"type": "object"}
    assert completion_body([1], Sampling(max_tokens=5), cache=True)["repeat_last_n"] == 0


# --- the real thing ---


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    pytest.importorskip("xllamacpp")
    found = pull("hf://HuggingFaceTB/SmolLM2-135M-Instruct", cache_dir=default_cache_dir())
    if found.format is not ModelFormat.GGUF:
        pytest.skip("the cache holds the model's safetensors")
    step = ENGINE.conversion(found, default_cache_dir())
    if step is not None:
        run_conversion(step, default_cache_dir(), lambda _: None)
    log = tmp_path_factory.mktemp("llamacpp") / "log"
    with running(ENGINE, found, default_cache_dir(), log=log) as url:
        yield Target(base_url=url, model="tiny", parks=True, top_logprobs=20)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[Target], None], target: Target) -> None:
    check(target)
