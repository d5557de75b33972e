"""The command lines of vLLM and of KServe's Hugging Face server."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.workload.manifests.engine_args import EngineCommand, Server, server_of_image, understand
from ironloom.workload.manifests.shell import expand


def command(
    *words: str, args: tuple[str, ...] = (), env: dict[str, str] | None = None, image: str = ""
) -> EngineCommand:
    found = understand(list(words), args, env or {}, image=image)
    assert found is not None
    return found


def script(text: str, env: dict[str, str] | None = None) -> EngineCommand:
    return command("/bin/bash", "-c", text, env=env)


def test_vllm_serve_with_its_model_in_first_place() -> None:
    found = command(
        "vllm",
        "serve",
        "Qwen/Qwen3-0.6B",
        "--max_model_len=32k",
        "-tp",
        "2",
        "--served-model-name",
        "a",
        "b",
        "--port=9000",
    )
    assert found.server is Server.VLLM
    assert found.model == "Qwen/Qwen3-0.6B"
    assert found.max_model_len == 32_000
    assert found.tensor_parallel_size == 2
    assert found.served_names == ("a", "b")
    assert found.port == 9000
    assert found.args == ("--tensor-parallel-size", "2")


def test_what_is_the_engine_s_stays_as_it_was_written() -> None:
    found = command(
        "vllm",
        "serve",
        "m",
        "--enable-prefix-caching",
        "--hf-overrides",
        '{"a": 1}',
        "--gpu_memory_utilization=.9",
        "--lora-modules",
        "x=/a",
        "y=/b",
        "--compilation-config.level",
        "3",
        "--seed",
        "-1",
    )
    assert found.args == (
        "--enable-prefix-caching",
        "--hf-overrides",
        '{"a": 1}',
        "--gpu-memory-utilization",
        ".9",
        "--lora-modules",
        "x=/a",
        "y=/b",
        "--compilation-config.level",
        "3",
        "--seed",
        "-1",
    )


def test_an_image_s_own_entrypoint_takes_the_arguments() -> None:
    for image in (
        "vllm/vllm-openai:v0.20",
        "registry:5000/x/vllm-openai-cpu@sha256:00",
        "ghcr.io/llm-d/llm-d-cuda:v0.9",
    ):
        assert command(args=("--model", "a/b"), image=image).model == "a/b"
        assert command(args=("serve", "a/b"), image=image).model == "a/b"
    found = command(
        args=("--model_name=x", "--model_id=a/b", "--max_length", "512"), image="kserve/huggingfaceserver:v1"
    )
    assert (found.server, found.model, found.served_names, found.max_model_len) == (
        Server.HUGGINGFACE,
        "a/b",
        ("x",),
        512,
    )


@pytest.mark.parametrize(
    "image", ["nginx", "open-webui/open-webui", "", "myvllmproxy/x", "docker.io/library/postgres:16"]
)
def test_another_image_is_no_engine(image: str) -> None:
    assert server_of_image(image) is None
    assert understand([], ["--model", "a"], {}, image=image) is None


@pytest.mark.parametrize(
    "words",
    [
        ("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "a/b"),
        ("/opt/venv/bin/vllm", "serve", "a/b"),
        ("numactl", "--cpunodebind=0", "vllm", "serve", "a/b"),
        ("python", "-m", "vllm.entrypoints.cli.main", "serve", "a/b"),
        ("python", "-m", "huggingfaceserver", "--model_id", "a/b"),
        ("vllm", "serve", "--enforce-eager", "a/b"),
    ],
)
def test_ways_to_start_a_server(words: tuple[str, ...]) -> None:
    assert command(*words).model == "a/b"


def test_variables_of_the_container_are_written_out() -> None:
    found = command(
        "vllm",
        "serve",
        "$(MODEL)",
        "--max-model-len",
        "$(LEN)",
        "--reasoning-parser=$(NONE)",
        "--tool-call-parser=$$(LEN)",
        env={"MODEL": "a/b", "LEN": "9"},
    )
    assert (found.model, found.max_model_len) == ("a/b", 9)
    assert found.args == ("--reasoning-parser", "$(NONE)", "--tool-call-parser", "$(LEN)")
    assert expand("$$", {}) == "$"


def test_a_shell_script_with_everything_around_the_server() -> None:
    found = script(
        """# don't mind me
set -euo pipefail
export HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=DEBUG
LEN=${MAX_LEN:-4096}; NAME="my model"
if [ -z "$X" ]; then echo "none # here" > /dev/null 2>&1; fi
pip install -q 'a>=1' && \\
VLLM_USE_V1=1 exec vllm serve "$MODEL" --max-model-len $LEN \\
    --served-model-name "$NAME" --chat-template '{{ a # b }}' 2>&1 | tee /tmp/log & wait
""",
        env={"MODEL": "a/b"},
    )
    assert (found.model, found.max_model_len, found.served_names) == ("a/b", 4096, ("my model",))
    assert found.args == ("--chat-template", "{{ a # b }}")
    assert dict(found.env) == {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_USE_V1": "1"}


def test_a_script_without_a_server_is_none() -> None:
    assert understand(["sh", "-c", "echo vllm; sleep 9"], [], {}) is None
    assert understand(["sh", "start.sh"], [], {}) is None
    assert understand(["python", "app.py"], [], {}) is None


def test_what_the_gateway_does_is_dropped_and_told() -> None:
    found = command("vllm", "serve", "m", "--api-key", "secret", "--host", "0.0.0.0", "--ssl-keyfile=/k")
    assert found.args == ()
    assert [option for option, _ in found.dropped] == ["--api-key", "--host", "--ssl-keyfile"]
    assert not any("secret" in text for pair in found.dropped for text in pair)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("8192", 8192), ("32k", 32_000), ("32K", 32_768), ("1.5k", 1500), ("1M", 1_048_576), ("auto", None), ("-1", None)],
)
def test_context_lengths_as_vllm_reads_them(text: str, tokens: int | None) -> None:
    assert command("vllm", "serve", "m", "--max-model-len", text).max_model_len == tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vllm", "serve", "m", "--max-model-len", "many"), "--max-model-len = 'many', must be a number of tokens"),
        (("vllm", "serve", "m", "--max-model-len", "0"), "--max-model-len = '0'"),
        (("vllm", "serve", "m", "--port", "x"), "--port = 'x', must be a whole number"),
        (("vllm", "serve", "m", "-tp", "0"), "--tensor-parallel-size = '0'"),
        (("vllm", "serve", "m", "--served-model-name"), "--served-model-name has no value"),
        (("vllm", "serve", "m", "other"), "'other' stands where an option was expected"),
        (("sh", "-c", "vllm serve 'm"), "a quote begins in the script and does not end"),
    ],
)
def test_what_cannot_be_read_is_told(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        understand(list(words), [], {})


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["vllm", "serve", "-m", "--model", "sh", "-c", "-tp", "--", "="]),
        max_size=8,
    )
)
def test_no_command_line_is_too_odd(words: list[str]) -> None:
    with contextlib.suppress(ValueError):
        understand(words, [], {"A": "b"}, image="vllm/vllm-openai")


@given(st.text(alphabet=" \n'\"\\#$(){};&|<>=-:abvllm serve", max_size=200))
def test_no_script_is_too_odd(text: str) -> None:
    with contextlib.suppress(ValueError):
        understand(["sh", "-c", text], [], {"a": "b"})


@pytest.mark.parametrize(
    "text", ["'" * 50_000, '"' + '\\"' * 40_000, "# " * 40_000, "${" * 40_000, ">" * 90_000, "a" * 200_000]
)
def test_a_hostile_script_takes_no_time(text: str) -> None:
    begin = time.process_time()
    with contextlib.suppress(ValueError):
        understand(["sh", "-c", text], [], {})
    assert time.process_time() - begin < 3
