"""A byte-level vocabulary of a GGUF is the tokenizer that it was written from, whatever Transformers reads in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.weights import gguf_file

from ironloom.serve.engines.programs.gguf_tokenizer import byte_level, has_byte_level
from ironloom.workload.shapes.gguf_header import read_gguf_header

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["A ship sails on the sea, and the wind is good.", "Grüße vom Meer", "die See ist weit und groß"] * 20


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
def test_a_byte_level_vocabulary_is_the_tokenizer_it_was_written_from(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=400, special_tokens=SPECIAL)
    inner = json.loads(trained._tokenizer.to_str())["model"]
    tokens = sorted(inner["vocab"], key=inner["vocab"].__getitem__)
    file = tmp_path / "m.gguf"
    file.write_bytes(
        gguf_file(
            {
                "general.architecture": "llama",
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "smollm",
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
                "tokenizer.ggml.merges": [" ".join(merge) for merge in inner["merges"]],
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eos_token_id": 2,
            }
        )
    )
    found = byte_level(file)
    for text in (*CORPUS[:3], "größer 中文 🙂 123\n\n\tx", "a<|im_end|>b"):
        ids = found(text)["input_ids"]
        assert found.decode(ids) == text
        if "<|" not in text:
            assert ids == trained.encode(text).ids
    assert found("<|im_end|>")["input_ids"] == [2]
    assert (found.bos_token, found.eos_token, found.pad_token) == ("<|im_start|>", "<|im_end|>", None)


@pytest.mark.parametrize(
    ("model", "pre", "reads"), [("gpt2", "smollm", True), ("gpt2", "qwen2", False), ("llama", "default", False)]
)
def test_only_what_is_cut_as_gpt2_cuts_it_is_read(model: str, pre: str, reads: bool, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    known = {"general.architecture": "llama", "tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}
    file.write_bytes(gguf_file(known))
    assert has_byte_level(read_gguf_header(file)) is reads
