"""A tokenizer of one token a character, with a chat template as a function: no Transformers needed."""

from __future__ import annotations

from typing import Any

EOS = 1
FIRST = 2
SIZE = 512


def tokens_of(text: str) -> list[int]:
    return [FIRST + ord(letter) for letter in text]


def text_of(tokens: list[int]) -> str:
    return "".join(chr(token - FIRST) for token in tokens if token >= FIRST)


class LetterTokenizer:
    """Renders `<role>content` and an end mark `.` with a line end, or its `rewrite` of that."""

    bos_token_id: int | None = None
    eos_token_id: int | None = EOS

    def __init__(
        self, *, chat_template: str | None = "plain", size: int = SIZE, rewrites_history: bool = False
    ) -> None:
        self.chat_template: str | dict[str, str] | None = chat_template
        self.rewrites_history = rewrites_history
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __call__(self, text: list[str], **options: Any) -> dict[str, Any]:
        encoded: dict[str, Any] = {"input_ids": [tokens_of(one) for one in text]}
        if options.get("return_offsets_mapping"):
            encoded["offset_mapping"] = [[(place, place + 1) for place in range(len(one))] for one in text]
        return encoded

    def get_vocab(self) -> dict[str, int]:
        return {chr(code): FIRST + code for code in range(self.size - FIRST)}

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        text = ""
        marks: list[bool] = []
        for place, message in enumerate(conversation):
            content = str(message["content"])
            if self.rewrites_history and message["role"] == "assistant" and place < len(conversation) - 1:
                content = content.replace("(thinking)", "")
            head, body = f"<{message['role']}>", f"{content}."
            text += f"{head}{body}\n"
            marks += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False]
        if options.get("add_generation_prompt"):
            text += "<assistant>"
        if options.get("return_assistant_tokens_mask"):
            return {"input_ids": tokens_of(text), "assistant_masks": [int(mark) for mark in marks]}
        return text
