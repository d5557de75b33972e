"""A tiny model with a tokenizer of bytes, and rows to train it on: what a whole run needs, in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 257,
    "eos_token_id": 258,
    "initializer_range": 0.05,
    "torch_dtype": "float32",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path, *, seed: int = 1, **changes: Any) -> Path:
    """A folder in Hugging Face's form, its weights from a seed."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from ironloom.train.model.decoder import build
    from ironloom.train.model.names import to_hf

    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | changes
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<unk>", *letters, "<|im_start|>", "<|im_end|>"]
    vocab = {name: number for number, name in enumerate(names)}
    plain = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    model = build(config)
    model.reset(seed)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        state |= {key: value.clone() for key, value in to_hf(name, tensor, model.config)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_rows(path: Path, num: int = 40) -> Path:
    """Conversations with something to learn in them."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {number}?"},
                {"role": "assistant", "content": f"After {number} comes {number + 1}."},
            ]
        }
        for number in range(num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
