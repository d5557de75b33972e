"""The Transformers engine: its adapter, its sampling, and the contract with the real thing where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract import CHECKS, Target
from running_engine import running

from ironloom.errors import UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines import own_code
from ironloom.serve.engines.base import LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.programs.generation import Sampling
from ironloom.serve.engines.transformers import ENGINE
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.pull import pull
from ironloom.units import GIB, MIB
from ironloom.workload.serving import Serving

NODE = Node(name="n", num_cpus=2, memory_bytes=16 * GIB, available_memory_bytes=8 * GIB)
SERVING = Serving(name="tiny", kind="InferenceService")
TRUSTING = Serving(name="tiny", kind="InferenceService", engine_args=("--trust_remote_code",))


def model(**changes: object) -> LocalModel:
    known: dict[str, object] = {"uri": "hf://a/b", "path": Path("/m"), "format": ModelFormat.SAFETENSORS}
    known |= {"architecture": "LlamaForCausalLM", "model_type": "llama", "size_bytes": 100 * MIB}
    return LocalModel(**(known | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": ModelFormat.OPENVINO}, "OpenVINO"),
        ({"format": ModelFormat.GGUF, "architecture": "rwkv7"}, "rwkv7 cannot be converted"),
        ({"task": Task.EMBED}, "embeddings"),
        ({"size_bytes": 64 * GIB}, "memory"),
    ],
)
def test_what_it_refuses(changes: dict[str, object], why: str) -> None:
    assert why in (ENGINE.refuses(model(**changes), SERVING, NODE) or "")


def test_a_models_own_code_runs_only_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = model(own_code="modeling_x.XForCausalLM", model_type="x")
    monkeypatch.setattr(own_code, "is_known", lambda _: False)
    assert "--trust-remote-code" in (ENGINE.refuses(strange, SERVING, NODE) or "")
    assert ENGINE.refuses(strange, TRUSTING, NODE) is None
    launch = ENGINE.launch(LaunchOrder(model=strange, serving=TRUSTING, port=1))
    assert "--trust-remote-code" in launch.args
    assert "--trust-remote-code" not in ENGINE.launch(LaunchOrder(model=strange, serving=SERVING, port=1)).args


def test_code_that_transformers_has_taken_over_is_not_the_models_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models/phi3").mkdir(parents=True)

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(own_code, "find_spec", lambda _: Spec)
    assert own_code.is_known("phi3")
    assert not own_code.is_known("x")
    assert not own_code.is_known("../models")
    assert ENGINE.refuses(model(own_code="modeling_phi3.Phi3", model_type="phi3"), SERVING, NODE) is None


def test_a_gguf_is_converted_once_for_all_engines_that_read_safetensors(tmp_path: Path) -> None:
    from ironloom.serve.engines.vllm import ENGINE as VLLM

    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    gguf = model(format=ModelFormat.GGUF, architecture="llama", path=file)
    step = ENGINE.conversion(gguf, tmp_path)
    assert step is not None
    assert step == VLLM.conversion(gguf, tmp_path)
    launched = ENGINE.launch(LaunchOrder(model=gguf, serving=SERVING, port=1, cache_dir=tmp_path))
    assert str(step.result) in launched.args
    assert ENGINE.conversion(model(), tmp_path) is None


def test_arguments_are_taken_over_or_told_or_refused() -> None:
    args = ("--dtype=half", "--max-num-seqs", "4", "--tensor-parallel-size=2", "--enforce-eager")
    serving = Serving(name="tiny", kind="InferenceService", engine_args=args)
    launch = ENGINE.launch(LaunchOrder(model=model(), serving=serving, port=1, gpu_indexes=(3,)))
    assert launch.args[-6:] == ("--device", "cuda", "--dtype", "float16", "--max-num-seqs", "4")
    assert launch.ignored == ("--tensor-parallel-size 2", "--enforce-eager")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "3"
    assert launch.max_concurrency == 4
    bad = Serving(name="tiny", kind="InferenceService", engine_args=("--dtype", "int8"))
    with pytest.raises(UsageError, match="'int8'; the transformers engine knows auto"):
        ENGINE.launch(LaunchOrder(model=model(), serving=bad, port=1))


# --- sampling ---


def sample(
    logits: list[float], *, output: tuple[int, ...] = (), prompt: tuple[int, ...] = (), **settings: object
) -> int:
    torch = pytest.importorskip("torch")
    from ironloom.serve.engines.programs.transformers_sampling import Row, next_tokens

    row = Row(Sampling(max_tokens=9, **settings), prompt, list(output))
    return next_tokens(torch.tensor([logits]), [row], [0])[0].token_id


def samples(logits: list[float], **settings: object) -> set[int]:
    return {sample(logits, seed=seed, **settings) for seed in range(60)}


@pytest.mark.train
def test_zero_temperature_takes_the_best() -> None:
    assert sample([0.0, 3.0, 2.0], temperature=0.0) == 1


@pytest.mark.train
def test_top_k_top_p_and_min_p_leave_out_the_unlikely() -> None:
    logits = [0.0, 2.0, 1.9, -9.0]
    assert samples(logits) >= {1, 2}
    assert samples(logits, top_k=1) == {1}
    assert samples(logits, top_k=2) == {1, 2}
    assert samples(logits, top_p=0.3) == {1}
    assert samples(logits, min_p=0.5) == {1, 2}


@pytest.mark.train
def test_penalties_count_what_was_said() -> None:
    assert sample([0.0, 3.0, 2.0], temperature=0.0, presence_penalty=2.0, output=(1,)) == 2
    assert sample([0.0, 3.0, 2.0], temperature=0.0, frequency_penalty=0.6, output=(1, 1)) == 2
    assert sample([0.0, 3.0, 2.0], temperature=0.0, frequency_penalty=0.6, output=(1,)) == 1
    assert sample([0.0, 3.0, 2.0], temperature=0.0, repetition_penalty=2.0, prompt=(1,)) == 2
    assert sample([0.0, 3.0, 2.0], temperature=0.0, presence_penalty=2.0, prompt=(1,)) == 1


@pytest.mark.train
def test_end_tokens_are_held_back_until_min_tokens() -> None:
    assert sample([9.0, 1.0, 0.0], temperature=0.0, min_tokens=1) == 1
    assert sample([9.0, 1.0, 0.0], temperature=0.0, min_tokens=1, output=(1,)) == 0


@pytest.mark.train
def test_logprobs_are_of_the_model_before_temperature() -> None:
    torch = pytest.importorskip("torch")
    from ironloom.serve.engines.programs.transformers_sampling import Row, next_tokens

    logits = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    rows = [Row(Sampling(max_tokens=1, temperature=0.0, logprobs=True), ()), None]
    chosen, over = next_tokens(logits, rows, [])
    assert chosen.token_id == 1
    assert chosen.logprob == pytest.approx(float(torch.log_softmax(logits[0], -1)[1]))
    assert over == (0, 0.0, ())


@pytest.mark.train
def test_the_most_probable_tokens_are_told_in_their_order_whatever_was_chosen() -> None:
    torch = pytest.importorskip("torch")
    from ironloom.serve.engines.programs.transformers_sampling import Row, next_tokens

    logits = torch.tensor([[0.0, 3.0, 1.0]])
    sampling = Sampling(max_tokens=1, temperature=0.0, logprobs=True, num_top_logprobs=2, presence_penalty=9.0)
    found = next_tokens(logits, [Row(sampling, (), [1])], [])[0]
    wanted = torch.log_softmax(logits[0], -1).tolist()
    assert found.token_id == 2
    assert [token_id for token_id, _ in found.likely] == [1, 2]
    assert [value for _, value in found.likely] == pytest.approx([wanted[1], wanted[2]])
    assert found.logprob == pytest.approx(wanted[2])


# --- the real thing ---


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    missing = ENGINE.missing()
    if missing is not None:
        pytest.skip(missing)
    found = pull("hf://HuggingFaceTB/SmolLM2-135M-Instruct", cache_dir=default_cache_dir())
    step = ENGINE.conversion(found, default_cache_dir())
    if step is not None:
        run_conversion(step, default_cache_dir(), lambda _: None)
    log = tmp_path_factory.mktemp("transformers") / "log"
    with running(ENGINE, found, default_cache_dir(), log=log, patience_s=180) as url:
        yield Target(base_url=url, model="tiny", parks=True, top_logprobs=20, cancel_tokens=1500)


@pytest.mark.train
@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[Target], None], target: Target) -> None:
    check(target)
