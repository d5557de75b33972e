"""A Llama of random weights with a tokenizer of its own, written on the spot: no hub, no download.

    python bench/gpu/random_llama.py FOLDER --size tiny

A greedy answer of it walks through words in a fixed order, with a margin that no rounding turns: the output layer
prefers after each word one other. So stop strings, streams and parking can be tested on it as on a trained model,
while sampling at temperature 1 still varies. The `8b` size is Llama-3.1-8B's shape with a config alone: it is served
with `--load-format dummy`, and its text means nothing.
Needs torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS_FROM = Path(__file__).resolve().parents[2] / "docs"
PREFERENCE = 8.0
"""Logit of the word that comes next; all others lie around 0, so that it is greedy's choice by far."""
END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A Llama's shape."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocabulary: int
    context: int = 8192
    has_weights: bool = True


SIZES = {
    "tiny": Size(hidden=512, intermediate=1024, num_layers=4, num_heads=8, num_kv_heads=4, vocabulary=4096),
    "1b": Size(hidden=2048, intermediate=8192, num_layers=16, num_heads=32, num_kv_heads=8, vocabulary=32768),
    "8b": Size(
        hidden=4096,
        intermediate=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        vocabulary=128256,
        has_weights=False,
    ),
}


def write(folder: Path, size: Size) -> None:
    """The model in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    words = _write_tokenizer(folder, size)
    if size.has_weights:
        _write_model(folder, size, words)
    else:
        _write_config(folder, size)


def _write_tokenizer(folder: Path, size: Size) -> list[int]:
    """Byte-level BPE learnt from this project's pages. Returns the ids of whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", END]
    trainer = trainers.BpeTrainer(
        vocab_size=min(size.vocabulary, 4096),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pages = [page.read_text(encoding="utf-8") for page in sorted(WORDS_FROM.rglob("*.md"))]
    tokenizer.train_from_iterator(pages, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for number in range(len(vocabulary), size.vocabulary):  # words that no text becomes, and that read as text
        vocabulary[f"Ġfiller{number}"] = number
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<|im_start|>",
        eos_token=END,
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=size.context,
    )
    fast.save_pretrained(folder)
    return [number for text, number in vocabulary.items() if text.startswith("Ġ") and text[1:].isalpha()]


def _config(size: Size) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=size.context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def _write_model(folder: Path, size: Size, words: list[int]) -> None:
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(_config(size))
    with torch.no_grad():
        embedding = torch.nn.functional.normalize(torch.randn(size.vocabulary, size.hidden), dim=1)
        head = torch.zeros_like(embedding)
        following = torch.tensor(words[1:] + words[:1])
        # After the last norm a state's length is sqrt(hidden): its direction is the word's, as the layers add little.
        head[following] = embedding[torch.tensor(words)] * (PREFERENCE / size.hidden**0.5)
        for number in sorted(set(range(size.vocabulary)) - set(words)):  # from what is no word, to one
            head[words[number % len(words)]] += embedding[number] * (PREFERENCE / size.hidden**0.5)
        model.get_input_embeddings().weight.copy_(embedding)
        model.get_output_embeddings().weight.copy_(head)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.01)
            layer.mlp.down_proj.weight.mul_(0.01)
    model.to(torch.bfloat16).save_pretrained(folder)


def _write_config(folder: Path, size: Size) -> None:
    """A config, and one tensor so that the folder is a safetensors model; `--load-format dummy` reads neither."""
    import torch
    from safetensors.torch import save_file

    _config(size).save_pretrained(folder)
    tensor = torch.zeros(size.hidden, dtype=torch.bfloat16)
    save_file({"model.norm.weight": tensor}, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    options = parser.parse_args()
    write(options.folder, SIZES[options.size])
    print(options.folder)


if __name__ == "__main__":
    main()
