"""The vLLM engine: the command that is started, and the contract with the real thing where it is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract import CHECKS, Target
from running_engine import running

from ironloom.errors import UsageError
from ironloom.fleet.machine import this_machine
from ironloom.fleet.node import Gpu, Node
from ironloom.serve.engines import vllm
from ironloom.serve.engines.base import Launch, LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.vllm import ENGINE
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.inspect import inspect_model
from ironloom.serve.models.pull import pull
from ironloom.units import GIB
from ironloom.workload.serving import Serving

CPU = Node(name="n", num_cpus=2, memory_bytes=16 * GIB, available_memory_bytes=8 * GIB)
GPU = replace(CPU, gpus=(Gpu(index=0, uuid="GPU-0", name="H100", memory_bytes=80 * GIB, free_memory_bytes=80 * GIB),))
MODEL = LocalModel(
    uri="hf://a/b", path=Path("/m"), format=ModelFormat.SAFETENSORS, architecture="LlamaForCausalLM", size_bytes=GIB
)


def launch(*engine_args: str, gpus: tuple[int, ...] = (), **settings: object) -> Launch:
    serving = Serving(name="llama", kind="InferenceService", engine_args=engine_args, **settings)
    return ENGINE.launch(LaunchOrder(model=MODEL, serving=serving, port=8123, gpu_indexes=gpus))


def test_arguments_are_passed_through_as_they_stand() -> None:
    found = launch("--dtype=bfloat16", "--enable-prefix-caching", "--max_num_seqs=64", "--kv-cache-dtype", "fp8")
    assert found.argv[1:9] == (
        "serve", "/m", "--served-model-name", "llama", "--host", "127.0.0.1", "--port", "8123"
    )  # fmt: skip
    assert found.argv[9:] == (
        "--dtype=bfloat16", "--enable-prefix-caching", "--max_num_seqs=64", "--kv-cache-dtype", "fp8"
    )  # fmt: skip
    assert found.max_concurrency == 64
    assert found.ignored == ()


def test_a_gpu_replica_sleeps_and_sees_its_own_gpus_only() -> None:
    found = launch(gpus=(2, 5))
    assert found.env["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert found.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--enable-sleep-mode" in found.argv
    assert found.argv[found.argv.index("--tensor-parallel-size") + 1] == "2"
    assert found.cannot_park is None


def test_the_first_sleep_of_a_large_model_is_waited_for_longer() -> None:
    order = LaunchOrder(
        model=replace(MODEL, size_bytes=140 * GIB), serving=Serving(name="l", kind="InferenceService"), port=1
    )
    assert ENGINE.launch(replace(order, gpu_indexes=(0, 1))).park_extra_s > 120
    assert ENGINE.launch(order).park_extra_s == 0


def test_what_the_manifest_says_of_sleep_and_parallelism_stands() -> None:
    found = launch("--no-enable-sleep-mode", "-tp", "2", gpus=(0, 1))
    assert "--enable-sleep-mode" not in found.argv
    assert "--tensor-parallel-size" not in found.argv
    assert found.cannot_park == "the manifest turns vLLM's sleep mode off"


def test_a_cpu_replica_cannot_park_and_sees_no_gpu() -> None:
    found = launch()
    assert found.cannot_park == "vLLM's CPU build has no sleep mode"
    assert found.env["CUDA_VISIBLE_DEVICES"] == ""
    assert "VLLM_SERVER_DEV_MODE" not in found.env
    assert "--enable-sleep-mode" not in found.argv


def test_a_cpu_replica_takes_a_cache_of_a_known_size_unless_one_was_asked_for() -> None:
    assert launch().env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "VLLM_CPU_KVCACHE_SPACE" not in launch("--gpu_memory_utilization=0.3").env
    assert "VLLM_CPU_KVCACHE_SPACE" not in launch(gpus=(0,)).env


def test_the_manifests_environment_wins() -> None:
    assert launch(env={"HF_HUB_OFFLINE": "0"}).env["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize("name", ["--port=1", "--host", "--served_model_name=x", "--api-key=k"])
def test_what_is_ironlooms_to_set_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Ironloom's to set"):
        launch(name)


def test_the_context_is_said_once() -> None:
    assert launch(max_model_len=4096).argv[-2:] == ("--max-model-len", "4096")
    assert launch("--max-model-len=512", max_model_len=4096).argv.count("--max-model-len") == 0


def test_without_a_gpu_it_is_taken_by_name_or_with_its_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, named = (Serving(name="s", kind="InferenceService", runtime=runtime) for runtime in (None, "vllm"))
    monkeypatch.setattr(vllm, "has_cpu_build", lambda: False)
    assert "no GPU" in (ENGINE.refuses(MODEL, plain, CPU) or "")
    assert ENGINE.refuses(MODEL, named, CPU) is None
    assert ENGINE.refuses(MODEL, plain, GPU) is None
    monkeypatch.setattr(vllm, "has_cpu_build", lambda: True)
    assert ENGINE.refuses(MODEL, plain, CPU) is None


def test_it_takes_embedding_models_and_no_openvino_form() -> None:
    serving = Serving(name="s", kind="InferenceService", runtime="vllm")
    assert ENGINE.refuses(replace(MODEL, task=Task.EMBED), serving, GPU) is None
    assert "OpenVINO" in (ENGINE.refuses(replace(MODEL, format=ModelFormat.OPENVINO), serving, GPU) or "")


def test_the_command_is_the_named_one_then_the_one_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("named", "bin", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "vllm").write_text("#!/bin/sh\n")
        (tmp_path / folder / "vllm").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert vllm.command({"IRONLOOM_VLLM": str(tmp_path / "named/vllm")}) == str(tmp_path / "named/vllm")
    assert vllm.command({"IRONLOOM_VLLM": str(tmp_path / "nowhere")}) is None
    assert vllm.command({}) == str(tmp_path / "bin/vllm")
    (tmp_path / "bin/vllm").unlink()
    assert vllm.command({}) == str(tmp_path / "path/vllm")


# --- the real thing ---

MODEL_VARIABLE = "IRONLOOM_TEST_VLLM_MODEL"
"""A folder of safetensors in the place of the default model: bench/gpu/random_llama.py writes one without network."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    missing = ENGINE.missing()
    if missing is not None:
        pytest.skip(missing)
    folder = os.environ.get(MODEL_VARIABLE)
    if folder is not None:
        found = inspect_model(Path(folder), f"file://{folder}")
    else:
        found = pull("hf://HuggingFaceTB/SmolLM2-135M-Instruct", cache_dir=default_cache_dir())
    step = ENGINE.conversion(found, default_cache_dir())
    if step is not None:
        run_conversion(step, default_cache_dir(), lambda _: None)
    log = tmp_path_factory.mktemp("vllm") / "log"
    args = ("--max-model-len", "2048", "--max-num-seqs", "32")
    gpus = (0,) if this_machine().gpus else ()
    with running(
        ENGINE, found, default_cache_dir(), engine_args=args, gpu_indexes=gpus, log=log, patience_s=400
    ) as url:
        yield Target(
            base_url=url,
            model="tiny",
            parks=bool(gpus),
            refuses_parked=False,
            refuses_unknown=False,
            top_logprobs=20,
            cancel_tokens=1500,
            timeout_s=300,
        )


@pytest.mark.vllm
@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[Target], None], target: Target) -> None:
    check(target)
