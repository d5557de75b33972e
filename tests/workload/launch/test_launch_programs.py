"""What a container runs is understood from its command, arguments, variables and image."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.workload.kinds.containers import container
from ironloom.workload.launch import text_launch
from ironloom.workload.workload import Launch

VLLM = "vllm/vllm-openai:v0.20.0"


def launch(
    image: str = "", command: list[Any] | None = None, args: list[Any] | None = None, **env: str
) -> Launch | None:
    written: dict[str, Any] = {"name": "c", "image": image, "env": [{"name": k, "value": v} for k, v in env.items()]}
    if command is not None:
        written["command"] = command
    if args is not None:
        written["args"] = args
    return container(written, ("c",)).launch


def known(found: Launch | None) -> Launch:
    assert found is not None
    return found


SERVERS = [
    pytest.param(launch(VLLM, args=["--model", "a/b", "-tp", "2"]), "vllm", "a/b", id="an image's own entrypoint"),
    pytest.param(launch(VLLM, args=["a/b", "-tp=2"]), "vllm", "a/b", id="a model without an option's name"),
    pytest.param(launch("x", ["vllm", "serve", "a/b"], ["--tensor-parallel-size=2"]), "vllm", "a/b", id="vllm serve"),
    pytest.param(
        launch("x", ["python3", "-m", "vllm.entrypoints.openai.api_server"], ["--model=a/b", "-tp", 2]),
        "vllm",
        "a/b",
        id="vLLM's module, with a number",
    ),
    pytest.param(
        launch("x", ["bash", "-c"], ["hf download a/b && exec vllm serve a/b --tensor_parallel_size 2"]),
        "vllm",
        "a/b",
        id="after another command in a script",
    ),
    pytest.param(
        launch("x", ["sh", "-c", "vllm serve $MODEL -tp $(TP)"], MODEL="a/b", TP="2"), "vllm", "a/b", id="variables"
    ),
    pytest.param(
        launch("x", ["vllm", "serve", "$(MODEL)", "-tp=$(TP)"], MODEL="a/b", TP="2"), "vllm", "a/b", id="$(…)"
    ),
    pytest.param(launch("x", ["sh", "-c", 'exec vllm serve "$@"', "--"], ["a/b", "-tp", "2"]), "vllm", "a/b", id="$@"),
    pytest.param(
        launch("x", ["numactl", "-N", "0", "nsys", "profile", "-o", "r", "vllm", "serve", "a/b", "-tp=2"]),
        "vllm",
        "a/b",
        id="wrapped",
    ),
    pytest.param(
        launch("x", ["python", "-m", "sglang.launch_server", "--model-path", "a/b", "--tp", "2"]),
        "sglang",
        "a/b",
        id="SGLang",
    ),
    pytest.param(
        launch("x", ["sglang", "serve"], ["--model", "a/b", "--tp-size=2"]), "sglang", "a/b", id="its command"
    ),
    pytest.param(launch("x", ["trtllm-serve", "a/b", "--tp_size", "2"]), "trtllm", "a/b", id="TensorRT-LLM"),
    pytest.param(launch("x", ["trtllm-serve", "serve", "a/b", "--tp_size=2"]), "trtllm", "a/b", id="its verb"),
    pytest.param(
        launch("x", ["python3", "-m", "huggingfaceserver", "--model_id=a/b", "--tensor_parallel_size=2"]),
        "huggingfaceserver",
        "a/b",
        id="KServe's Hugging Face server",
    ),
]


@pytest.mark.parametrize(("found", "program", "model"), SERVERS)
def test_a_server_its_model_and_its_parallelism(found: Launch | None, program: str, model: str) -> None:
    made = known(found)
    assert (made.program, made.model) == (program, model)
    assert made.model_path
    assert made.integer("--tensor-parallel-size", 1) == 2


@pytest.mark.parametrize(
    ("found", "program", "model"),
    [
        (launch("ghcr.io/huggingface/text-generation-inference:3.0", args=["--model-id", "a/b"]), "tgi", "a/b"),
        (launch("ghcr.io/huggingface/text-generation-inference:3.0", MODEL_ID="a/b"), "tgi", "a/b"),
        (launch("x", ["text-embeddings-router", "--model-id", "a/b"]), "tei", "a/b"),
        (
            launch("ghcr.io/ggml-org/llama.cpp:server-cuda", args=["-m", "/m/x.gguf", "-ngl", "99"]),
            "llamacpp",
            "/m/x.gguf",
        ),
        (launch("x", ["llama-server", "-hf", "a/b:Q4"]), "llamacpp", "a/b:Q4"),
        (launch("ollama/ollama:0.9"), "ollama", ""),
        (launch("x", ["ollama", "serve"]), "ollama", ""),
        (launch("x", ["tritonserver", "--model-repository=/models"]), "triton", "/models"),
        (launch("x", ["python3", "-m", "dynamo.vllm", "--model", "a/b"]), "dynamo", "a/b"),
        (launch("x", ["python", "-m", "sglang_router.launch_router", "--worker-urls", "u", "v"]), "sglang-router", ""),
        (launch("x", ["trtllm-build", "--checkpoint_dir", "/ckpt", "--tp_size", "2"]), "trtllm-build", "/ckpt"),
        (launch("lmcache/vllm-openai:v0.3", args=["a/b", "--port", "8000"]), "vllm", "a/b"),
        (launch("registry.example.org:5000/rocm/vllm@sha256:abc", args=["a/b"]), "vllm", "a/b"),
        (launch(VLLM), "vllm", ""),
    ],
)
def test_other_servers(found: Launch | None, program: str, model: str) -> None:
    assert (known(found).program, known(found).model) == (program, model)


@pytest.mark.parametrize(
    "found",
    [
        launch("nginx"),
        launch("x", ["sleep", "infinity"]),
        launch("x", ["sh", "-c", "echo vllm serve a/b"]),
        launch("x", ["vllm", "bench", "serve"]),
        launch("x", ["bash", "/scripts/run.sh"]),
        launch("x", ["python", "-m", "pip", "install", "vllm"]),
        launch("ghcr.io/llm-d/llm-d-inference-scheduler:v0.6", args=["--pool-name", "p"]),
        launch("ghcr.io/llm-d/llm-d-routing-sidecar:v0.6", args=["--port=8000"]),
        launch("lmcache/lmstack-router"),
        launch(VLLM, ["sleep", "1"]),
        launch("x", ["sh", "-c", "vllm serve 'a"]),
        launch("x", []),
    ],
)
def test_what_is_no_known_program(found: Launch | None) -> None:
    assert found is None


def test_names_are_long_and_what_was_written_is_kept() -> None:
    found = known(
        launch(
            VLLM,
            args=["--tensor_parallel_size=2", "-dp", "4", "--enable-prefix-caching", "--no-enable-chunked-prefill"],
        )
    )
    said = [(option.name, option.value, option.written, option.path) for option in found.options]
    assert said == [
        ("--tensor-parallel-size", "2", "--tensor_parallel_size", ("c", "args", 0)),
        ("--data-parallel-size", "4", "-dp", ("c", "args", 1)),
        ("--enable-prefix-caching", None, "--enable-prefix-caching", ("c", "args", 3)),
        ("--no-enable-chunked-prefill", None, "--no-enable-chunked-prefill", ("c", "args", 4)),
    ]


def test_the_last_one_of_a_name_counts() -> None:
    assert known(launch(VLLM, args=["a/b", "-tp=2", "-tp=4"])).integer("--tensor-parallel-size", 1) == 4


def test_a_variable_that_stands_for_an_option_is_one() -> None:
    found = known(launch("ghcr.io/huggingface/text-generation-inference:3", args=["--model-id", "a/b"], NUM_SHARD="4"))
    option = found.option("--num-shard")
    assert option is not None
    assert (option.value, option.path, option.written) == ("4", ("c", "env", 0), "NUM_SHARD")


LAUNCHERS = [
    ("torchrun --nnodes=2 --nproc_per_node 8 --rdzv-backend=c10d train.py --lr 1e-4", "torchrun", "train.py"),
    ("torchrun --standalone --nnodes 2 --nproc-per-node 8 -m pkg.train --lr 1e-4", "torchrun", "pkg.train"),
    ("python -m torch.distributed.run --nnodes 2 --nproc-per-node 8 train.py --lr 1e-4", "torchrun", "train.py"),
    ("python3 -u -m torch.distributed.launch --nnodes=2 --nproc_per_node=8 train.py --lr 1e-4", "torchrun", "train.py"),
]


@pytest.mark.parametrize(("line", "program", "script"), LAUNCHERS)
def test_torchrun(line: str, program: str, script: str) -> None:
    found = known(text_launch(line, ("x",)))
    assert (found.program, found.script) == (program, script)
    assert (found.value("--nnodes"), found.integer("--nproc-per-node", 0)) == ("2", 8)
    assert known(found.inner).value("--lr") == "1e-4"


def test_torchrun_starts_any_program_without_python() -> None:
    found = known(text_launch("torchrun --no-python --nnodes 2 python3 train.py --x", ("x",)))
    assert (known(found.inner).program, known(found.inner).script) == ("python", "train.py")


def test_accelerate() -> None:
    line = "accelerate launch --config_file f.yaml --multi_gpu --num_processes 16 --num_machines=2 train.py --bf16 true"
    found = known(text_launch(line, ("x",)))
    assert (found.program, found.script, found.integer("--num-processes", 0)) == ("accelerate", "train.py", 16)
    assert known(found.inner).value("--bf16") == "true"
    assert text_launch("accelerate config default", ("x",)) is None


def test_deepspeed() -> None:
    found = known(text_launch("deepspeed --num_gpus 8 --hostfile h train.py --deepspeed ds.json", ("x",)))
    assert (found.program, found.script, found.integer("--num-gpus", 0)) == ("deepspeed", "train.py", 8)
    assert known(found.inner).value("--deepspeed") == "ds.json"


def test_mpirun() -> None:
    line = "mpirun --allow-run-as-root -np 64 -bind-to none -mca btl ^openib -x NCCL_DEBUG=INFO -x PATH python train.py"
    found = known(text_launch(line, ("x",)))
    assert (found.program, found.integer("--np", 0), found.value("--bind-to")) == ("mpirun", 64, "none")
    assert [option.value for option in found.options if option.name == "-x"] == ["NCCL_DEBUG=INFO", "PATH"]
    assert found.value("--mca") == "btl ^openib"
    assert known(found.inner).script == "train.py"
    test = known(text_launch("mpirun -np 8 /opt/nccl_tests/build/all_reduce_perf -b 8 -e 2G", ("x",)))
    assert (test.script, test.inner) == ("/opt/nccl_tests/build/all_reduce_perf", None)


def test_ray() -> None:
    found = known(text_launch("ray start --head --port=6379 --block", ("x",)))
    assert (found.program, found.positional, found.value("--port")) == ("ray", ("start",), "6379")
    served = known(text_launch("ray start --head; vllm serve a/b -tp 8", ("x",)))
    assert served.program == "vllm"
    submitted = known(text_launch("ray job submit --no-wait -- python train.py", ("x",)))
    assert known(submitted.inner).script == "train.py"


def test_plain_python_keeps_the_names_of_its_options() -> None:
    found = known(text_launch("python3.11 -u train.py --per_device_batch_size 4 --fp16 data", ("x",)))
    assert (found.program, found.script) == ("python", "train.py")
    assert found.value("--per_device_batch_size") == "4"


def test_numbers_below_zero_are_values() -> None:
    found = known(launch(VLLM, args=["a/b", "--max-model-len", "-1", "--seed=-5"]))
    assert (found.value("--max-model-len"), found.value("--seed")) == ("-1", "-5")
