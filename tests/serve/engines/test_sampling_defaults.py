"""A model's generation_config.json means the same to every engine: what vLLM takes from it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.generator import ScriptedGenerator, send

from ironloom.errors import RequestError, UsageError
from ironloom.serve.engines import engine
from ironloom.serve.engines.base import Launch, LaunchOrder, LocalModel, ModelFormat
from ironloom.serve.engines.openvino_args import translate as translate_openvino
from ironloom.serve.engines.programs import llamacpp_server, openvino_server, transformers_server
from ironloom.serve.engines.programs.openai_server import OpenAIServer
from ironloom.serve.engines.programs.params import read_chat, read_completion
from ironloom.serve.engines.programs.sampling_defaults import (
    NEUTRAL,
    SamplingDefaults,
    defaults_of,
    defaults_of_arguments,
    read_defaults,
)
from ironloom.serve.engines.programs.server_base import ServerOptions
from ironloom.serve.engines.programs.templates import ChatTemplate
from ironloom.workload.manifests.engine_options import Match, options_of
from ironloom.workload.serving import Serving

QWEN = {
    "bos_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
    "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0",
}  # fmt: skip
"""Qwen3's own."""
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def folder_with(folder: Path, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "generation_config.json").write_text(text)
    return folder


def test_a_model_s_file_says_how_to_sample(tmp_path: Path) -> None:
    made = read_defaults(folder_with(tmp_path, QWEN))
    assert made == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    assert made.told() == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


def test_a_file_that_says_nothing_of_it_and_one_that_is_not_there_are_neutral(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == NEUTRAL
    assert read_defaults(None) == NEUTRAL
    assert read_defaults(folder_with(tmp_path, {"eos_token_id": 2, "temperature": None, "do_sample": False})) == NEUTRAL


def test_vllm_leaves_the_file_out_and_a_folder_takes_its_place(tmp_path: Path) -> None:
    own = folder_with(tmp_path / "own", QWEN)
    other = folder_with(tmp_path / "other", {"min_p": 0.1, "max_new_tokens": 9})
    assert read_defaults(own, "vllm") == NEUTRAL
    assert read_defaults(own, str(other)) == SamplingDefaults(min_p=0.1, max_tokens=9, limit_tokens=9)
    assert read_defaults(None, str(other)).min_p == 0.1


def test_an_override_is_on_top_and_limits_the_answers_where_it_names_their_length(tmp_path: Path) -> None:
    own = folder_with(tmp_path, QWEN | {"max_new_tokens": 50})
    assert read_defaults(own) == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, max_tokens=50)
    made = read_defaults(own, "auto", ['{"temperature": 0.1}', '{"max_new_tokens": 5}'])
    assert made == SamplingDefaults(temperature=0.1, top_k=20, top_p=0.95, max_tokens=5, limit_tokens=5)
    assert read_defaults(own, "vllm", ['{"top_k": -1}']) == NEUTRAL


@pytest.mark.parametrize(
    ("config", "choice", "overrides", "said"),
    [
        ({"temperature": "hot"}, "auto", [], "generation_config.json: temperature is 'hot'; it must be a number"),
        ({"top_p": 0}, "auto", [], "top_p is 0; it must be greater than 0 and at most 1"),
        ({"top_k": 1.5}, "auto", [], "top_k is 1.5; it must be a whole number"),
        ({"max_new_tokens": 0}, "auto", [], "max_new_tokens is 0; it must be"),
        ("{", "auto", [], "is not JSON"),
        ("[]", "auto", [], "holds no JSON object"),
        ({}, "/nowhere", [], "--generation-config is '/nowhere'; it must be auto, vllm or a folder"),
        ({}, "auto", ["{"], "--override-generation-config is '{', which is not JSON"),
        ({}, "auto", ["5"], "--override-generation-config is '5'; it must be a JSON object"),
        ({}, "auto", ['{"min_p": 2}'], "--override-generation-config: min_p is 2; it must be between 0 and 1"),
    ],
)
def test_what_cannot_be_sampling_is_told(
    tmp_path: Path, config: Any, choice: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(ValueError) as caught:
        read_defaults(folder_with(tmp_path, config), choice, overrides)
    assert said in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4), st.lists, max_leaves=3))
def test_no_value_in_a_config_is_too_odd(value: Any) -> None:
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens"):
        with contextlib.suppress(ValueError):
            made = read_defaults(None, "auto", [json.dumps({name: value})])
            assert made.told().keys() <= {name, "max_tokens"}


def test_a_request_outranks_the_defaults() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, repetition_penalty=1.1)
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "top_k": -1, "min_p": None}
    made = read_chat(body, max_logprobs=0, defaults=defaults).sampling(5, 0)
    assert (made.temperature, made.top_k, made.top_p, made.min_p, made.repetition_penalty) == (0.0, 0, 0.95, 0.1, 1.1)
    assert read_completion({"prompt": "x"}, max_logprobs=0, defaults=defaults).temperature == 0.6


def test_defaults_count_as_if_the_request_had_said_them() -> None:
    greedy = SamplingDefaults(temperature=0.0)
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(RequestError, match="n must be 1 when temperature is 0"):
        read_chat({**body, "n": 2}, max_logprobs=0, defaults=greedy)
    assert read_chat({**body, "logprobs": True, "top_logprobs": 1}, max_logprobs=0, defaults=greedy).top_logprobs == 1


class Rig:
    """A server with defaults."""

    def __init__(self, **defaults: Any) -> None:
        self.generator = ScriptedGenerator()
        options = ServerOptions(served_name="m", template=ChatTemplate(TEMPLATE), defaults=SamplingDefaults(**defaults))
        self.server = OpenAIServer(self.generator, options, parkable=self.generator)

    def max_tokens(self, path: str, **body: Any) -> int:
        send(self.server.handle, path, body)
        return self.generator.sequences[-1].sampling.max_tokens


@pytest.mark.parametrize(
    ("defaults", "asked", "chat", "completion"),
    [
        ({}, {}, 98, 16),
        ({"max_tokens": 20}, {}, 20, 16),
        ({"max_tokens": 200}, {}, 98, 16),
        ({"max_tokens": 20}, {"max_tokens": 50}, 50, 50),
        ({"max_tokens": 20, "limit_tokens": 20}, {"max_tokens": 50}, 20, 20),
        ({"max_tokens": 9, "limit_tokens": 9}, {}, 9, 9),
    ],
)
def test_how_long_an_answer_may_be(defaults: dict[str, int], asked: dict[str, int], chat: int, completion: int) -> None:
    rig = Rig(**defaults)
    messages = [{"role": "user", "content": "hi"}]
    assert rig.max_tokens("/v1/chat/completions", messages=messages, **asked) == chat
    assert rig.max_tokens("/v1/completions", prompt="hi", **asked) == completion


def test_models_tells_the_defaults_where_there_are_any() -> None:
    told = send(Rig(temperature=0.6, max_tokens=7).server.handle, "/v1/models").json["data"][0]
    assert told["default_sampling_params"] == {"temperature": 0.6, "max_tokens": 7}
    assert "default_sampling_params" not in send(Rig().server.handle, "/v1/models").json["data"][0]


PROGRAMS = {"openvino": openvino_server, "llamacpp": llamacpp_server, "transformers": transformers_server}


def launch(name: str, folder: Path, *arguments: str) -> Launch:
    """An engine's launch of a model with this folder's generation_config.json."""
    file = folder / "m.gguf"
    file.touch()
    is_gguf = name == "llamacpp"
    model = LocalModel(
        uri="m",
        path=file if is_gguf else folder,
        format=ModelFormat.GGUF if is_gguf else ModelFormat.OPENVINO if name == "openvino" else ModelFormat.SAFETENSORS,
        architecture="LlamaForCausalLM",
        form="F16",
    )
    serving = Serving(name="s", kind="InferenceService", engine_args=arguments)
    return engine(name).launch(LaunchOrder(model=model, serving=serving, port=9, cache_dir=folder))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_engine_s_program_honours_the_arguments(tmp_path: Path, name: str) -> None:
    own = folder_with(tmp_path / "own", QWEN)
    other = folder_with(tmp_path / "other", {"min_p": 0.2})
    arguments = ("--override_generation_config.top_k=7", f"--generation-config={other}", "-O3")
    made = launch(name, own, *arguments)
    options = PROGRAMS[name].parser().parse_args(list(made.args))
    assert defaults_of(options, own) == SamplingDefaults(min_p=0.2, top_k=7)
    assert defaults_of_arguments(arguments, own) == SamplingDefaults(min_p=0.2, top_k=7)
    assert made.ignored == ("-O3",)


@pytest.mark.parametrize("name", ["openvino", "transformers", "vllm"])
def test_a_service_says_what_its_model_s_file_sets(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path / "m", QWEN)
    (told,) = launch(name, folder).notes
    assert told == (
        "A request that does not say otherwise is sampled as generation_config.json says: "
        "temperature 0.6, top_p 0.95, top_k 20."
    )
    assert launch(name, folder, "--generation-config", "vllm").notes == ()
    (told,) = launch(name, folder, "--override-generation-config", '{"top_k": 9}').notes
    assert "--override-generation-config say" in told
    assert "top_k 9" in told


def test_a_gguf_has_no_such_file(tmp_path: Path) -> None:
    assert launch("llamacpp", folder_with(tmp_path / "m", QWEN)).notes == ()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_folder_that_has_no_such_file_is_told_before_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="must be auto, vllm or a folder"):
        launch(name, tmp_path, "--generation-config", "/nowhere")


def test_every_argument_that_an_engine_honours_is_in_the_table_of_options() -> None:
    table = options_of("vllm")
    from ironloom.serve.engines import llamacpp, openvino_args, transformers, vllm_arguments

    honoured = {
        *openvino_args._VALUED, *openvino_args._TRUE_FLAGS, *openvino_args._REFUSED, *openvino_args._MEANINGLESS,
        *llamacpp._VALUED, *llamacpp._SWITCHES, *llamacpp._CHOICES, *transformers._VALUED, *transformers._CHOICES,
        *vllm_arguments.VALUED_WITHOUT_MEANING, *vllm_arguments.SWITCHES_WITHOUT_MEANING, *vllm_arguments.REFUSED,
    }  # fmt: skip
    assert {name for name in honoured if not isinstance(table.match(name), Match)} == set()


def test_precisions_of_the_table_are_openvino_s() -> None:
    found = options_of("vllm").match("--precision")
    assert isinstance(found, Match)
    (action,) = [a for a in openvino_server.parser()._actions if "--precision" in a.option_strings]
    assert action.choices is not None
    assert set(found.option.choices) == set(action.choices)
    assert translate_openvino(("--precision", "bf16")).args == ("--precision", "bf16")
