"""Chat templates: found, rendered as Transformers does, and kept in their sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.model_facts import FILE, ModelFacts, read_facts
from ironloom.serve.engines.programs.templates import ChatTemplate, find_template, special_token

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def test_chatml() -> None:
    assert ChatTemplate(CHATML).render(USER) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ChatTemplate(CHATML).render(USER, add_generation_prompt=False).endswith("hi<|im_end|>\n")


def test_special_tokens_variables_and_helpers_are_there() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ strftime_now('%Y')|length }}{{ {'a': 'é<'}|tojson }}{{ enable_thinking }}"
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% generation %}g{% endgeneration %}",
        bos_token="<s>",
    )
    assert template.render(USER, variables={"enable_thinking": False}) == '<s>4{"a": "é<"}False01g'


def test_a_template_that_refuses_is_a_400_with_its_reason() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template.render(USER)
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{% for x in range(10000000) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'x'}) }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 if messages else '' }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    messages = [dict(USER[0])]
    with pytest.raises(RequestError):
        ChatTemplate(source).render(messages)
    assert messages == USER


def test_a_template_that_is_no_jinja_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="cannot be compiled"):
        ChatTemplate("{% for %}")


def test_tools_go_to_the_template_that_takes_them() -> None:
    template = ChatTemplate("{{ tools | tojson }}")
    assert template.takes_tools
    assert json.loads(template.render(USER, tools=[TOOL])) == [TOOL]


def test_tools_go_into_the_system_message_of_one_that_does_not() -> None:
    text = ChatTemplate(CHATML).render([{"role": "system", "content": "Be kind."}, *USER], tools=[TOOL])
    assert text.startswith("<|im_start|>system\nBe kind.\n\n# Tools")
    assert '{"type": "function", "function": {"name": "f"}}' in text


def test_past_calls_are_written_out_where_the_template_knows_none() -> None:
    past = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "7"},
    ]
    text = ChatTemplate(CHATML).render(past, tools=[TOOL])
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in text
    assert "<|im_start|>user\n<tool_response>\n7\n</tool_response>" in text


def test_the_last_message_is_left_open_to_be_continued() -> None:
    messages = [*USER, {"role": "assistant", "content": "Once"}]
    text = ChatTemplate(CHATML).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nOnce")


def test_where_templates_and_tokens_are_looked_for(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
    config = {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": {"content": "<s>"}}))
    assert find_template(tmp_path) == "D"
    assert special_token(tmp_path, "bos_token") == "<s>"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert find_template(tmp_path) == "J"
    (tmp_path / "own.jinja").write_text("O")
    assert find_template(tmp_path, tmp_path / "own.jinja") == "O"
    with pytest.raises(ValueError, match="cannot be read"):
        find_template(tmp_path, tmp_path / "none.jinja")


def test_facts_come_from_the_config_or_from_our_own_file(tmp_path: Path) -> None:
    config = {
        "max_position_embeddings": 2048, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "hidden_size": 64, "vocab_size": 100, "eos_token_id": [1, 2],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = read_facts(tmp_path)
    assert facts == ModelFacts(
        context_length=2048, num_layers=4, num_kv_heads=2, head_dim=8, vocab_size=100, eos_token_ids=(1, 2)
    )
    (tmp_path / FILE).write_text(json.dumps(ModelFacts(context_length=7, eos_token_ids=(3,)).to_json()))
    assert read_facts(tmp_path) == ModelFacts(context_length=7, eos_token_ids=(3,))
