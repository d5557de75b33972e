"""Chat templates of real tokenizers: what the marks say is what the prefixes find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from ironloom.errors import DataError  # noqa: E402
from ironloom.train.data.encode import encode  # noqa: E402
from ironloom.train.data.rows import Row  # noqa: E402
from ironloom.train.data.tokenizer import fingerprint, load_tokenizer  # noqa: E402

PLAIN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = PLAIN.replace(
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n",
    "<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}<|im_end|>{% endgeneration %}{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}",
)
TURNS: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4, naïvely."},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "  6 "},
)


def tokenizer(folder: Path, template: str | None) -> Any:
    """A small byte-level BPE with ChatML's marks, saved and loaded as a model's folder has it."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(["the user and the assistant, the system"] * 10, trainer)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = template
    made.save_pretrained(folder)
    return load_tokenizer(folder)


def counted(tokenizer: Any) -> str:
    (document,) = encode([Row("1", messages=TURNS)], tokenizer)
    assert document.loss is not None
    chosen = [token for token, counts in zip(document.tokens, document.loss, strict=True) if counts]
    assert document.num_lost_turns == 0
    return str(tokenizer.decode(chosen))


def test_the_answers_with_their_end_marks_count_with_marks_and_without(tmp_path: Path) -> None:
    wanted = "It is 4, naïvely.<|im_end|>  6 <|im_end|>"
    plain, marked = tokenizer(tmp_path / "plain", PLAIN), tokenizer(tmp_path / "marked", MARKED)
    assert counted(plain) == counted(marked) == wanted
    first, second = (next(encode([Row("1", messages=TURNS)], one)) for one in (plain, marked))
    assert first.tokens == second.tokens
    assert fingerprint(plain) != fingerprint(marked)


def test_a_text_has_the_end_of_text_once(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, None)
    for text in ("the user", "the user<|im_end|>"):
        (document,) = encode([Row("1", text=text)], made)
        assert document.tokens.count(made.eos_token_id) == 1
        assert document.tokens[-1] == made.eos_token_id


def test_a_template_that_refuses_a_conversation_is_told_with_the_row(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="1: the chat template cannot render this conversation: roles must alternate"):
        list(encode([Row("1", messages=TURNS)], made))


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tokenizer that can be read"):
        load_tokenizer(tmp_path)
