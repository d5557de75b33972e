"""The memory rules on SGLang and TensorRT-LLM: errors where weights have no room, and nothing surer than is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules.serving_examples import serving

RULES = registry.select(["IL451", "IL452", "IL453"])
H100 = "nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3"
L4 = "nvidia.com/gpu.product: NVIDIA-L4"
SMALL, LARGE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


def findings(command: str, image: str, gpus: int, selector: str) -> list[Finding]:
    text = serving(gpus=gpus, image=image, selector=selector, container=f"command: [{command}]\n")
    result = check(read_texts({"m.yaml": text}), RULES, Setting())
    assert result.faults == ()
    return list(result.findings)


def sglang(model: str, *options: str, gpus: int = 1, selector: str = H100) -> list[Finding]:
    words = ("python3", "-m", "sglang.launch_server", "--model-path", model, *options)
    return findings(", ".join(words), "lmsysorg/sglang:v0.5.9", gpus, selector)


def trtllm(model: str, *options: str, gpus: int = 1, selector: str = H100) -> list[Finding]:
    words = ("trtllm-serve", model, *options)
    return findings(", ".join(words), "nvcr.io/nvidia/tensorrt-llm/release:1.2.0", gpus, selector)


@pytest.mark.parametrize("server", [sglang, trtllm])
def test_a_model_larger_than_its_gpu_is_an_error(server: Callable[[str], list[Finding]]) -> None:
    (found,) = server(LARGE)
    assert (found.rule, found.severity) == ("IL451", Severity.ERROR)
    assert "4 on 4 GPUs" in found.help


def test_advice_names_each_server_s_own_option() -> None:
    assert "--tp-size 4" in sglang(LARGE)[0].help
    assert "--tp_size 4" in trtllm(LARGE)[0].help


def test_what_fits_is_not_told() -> None:
    assert sglang(LARGE, "--tp-size=4", gpus=4) == []
    assert trtllm(LARGE, "--tp_size=4", gpus=4) == []
    assert sglang(SMALL, "--context-length=8192") == []
    assert trtllm(SMALL, "--max_seq_len=8192") == []


def test_a_fraction_that_the_weights_alone_exceed_is_an_error() -> None:
    (found,) = sglang(SMALL, "--mem-fraction-static=0.15")
    assert (found.rule, found.severity) == ("IL451", Severity.ERROR)
    assert any("0.15 of the rest" in line for line in found.evidence)


def test_a_context_without_room_is_a_warning_where_it_is_asked_for_and_else_a_note() -> None:
    (asked,) = sglang(SMALL, "--context-length=131072", selector=L4)
    assert (asked.rule, asked.severity) == ("IL452", Severity.WARNING)
    assert "are refused" in asked.message
    (whole,) = sglang(SMALL, selector=L4)
    assert (whole.rule, whole.severity) == ("IL452", Severity.NOTE)
    (other,) = trtllm(SMALL, "--max_seq_len=131072", selector=L4)
    assert (other.rule, other.severity) == ("IL452", Severity.WARNING)


def test_little_room_is_a_note() -> None:
    (found,) = sglang(LARGE, "--tp-size=2", "--context-length=4096", "--mem-fraction-static=0.88", gpus=2)
    assert (found.rule, found.severity) == ("IL453", Severity.NOTE)


@pytest.mark.parametrize(
    "options",
    [
        ("--cpu-offload-gb=40",),
        ("--enable-dp-attention", "--dp-size=2"),
        ("--speculative-algorithm=EAGLE",),
        ("--mem-fraction-static=$(SHARE)",),
        ("--config=/a.yaml",),
        ("--quantization=never-heard-of",),
        ("--torchao-config=int4wo-128",),
    ],
)
def test_options_beyond_the_model_silence_it(options: tuple[str, ...]) -> None:
    assert [one for one in sglang(SMALL, "--context-length=131072", *options, selector=L4) if one.rule != "IL451"] == []


def test_an_engine_that_was_built_and_a_file_of_options_silence_it_too() -> None:
    assert trtllm(SMALL, "--backend=tensorrt", "--max_seq_len=131072", selector=L4) == []
    assert trtllm(SMALL, "--extra_llm_api_options=/a.yaml", "--max_seq_len=131072", selector=L4) == []


def not_judged(model: str, selector: str) -> list[str]:
    text = serving(f"--model={model}", "--max-model-len=2048", gpus=1, selector=selector)
    result = check(read_texts({"m.yaml": text}), registry.select(["IL457"]), Setting())
    assert result.faults == ()
    assert result.exit_status() == 0
    return [f"{one.severity} {one.message}" for one in result.findings]


def test_a_state_space_model_is_a_note_wherever_it_is_to_run() -> None:
    for selector in (L4, "disk: ssd"):
        (found,) = not_judged("ai21labs/Jamba-v0.1", selector)
        assert found.startswith("note the memory of ai21labs/Jamba-v0.1 is not judged: by its name it is Jamba")


def test_a_model_that_nothing_is_known_of_is_a_note_where_the_accelerator_is_known() -> None:
    (found,) = not_judged("nobody/none", L4)
    assert "none of the models that are known without a network" in found
    assert not_judged("nobody/none", "disk: ssd") == []


def test_no_note_is_given_of_a_model_that_is_judged_or_that_no_name_is_written_for() -> None:
    assert not_judged(SMALL, L4) == []
    assert not_judged("/mnt/models", L4) == []
    assert not_judged("$(MODEL)", L4) == []
