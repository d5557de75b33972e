"""Safetensors to OpenVINO's form, for real: small random models, made, converted, served, compared with Transformers.

Needs the extra `convert` (scripts/setup_convert); skipped where it is not installed.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.smollm2 import openvino_server
from tests.serve.engines.contract import Target, ask, call

pytestmark = [
    pytest.mark.convert,
    pytest.mark.skipif(find_spec("optimum") is None, reason="needs optimum-intel: scripts/setup_convert"),
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # other libraries' own deprecations
]

TEXTS = ["The sea is wide.", "A ship sails on the sea, and the wind is good.", "stone"]
CORPUS = [*TEXTS, "Once upon a time there was a ship with a captain who loved the wind and the sea."] * 20


def convert(model: Path, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the converter as it is run in earnest; gives its progress."""
    module = "ironloom.serve.engines.programs.convert_safetensors"
    command = [sys.executable, "-m", module, "--model", str(model), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def llama(folder: Path) -> Any:
    """A random Llama of 2 layers with a byte-level BPE tokenizer."""
    import tokenizers
    import torch
    import transformers

    inner = tokenizers.ByteLevelBPETokenizer()
    inner.train_from_iterator(CORPUS, vocab_size=400, special_tokens=["<s>", "</s>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # Larger weights: greedy choices without near-ties.
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_a_text_model_says_what_transformers_says(tmp_path: Path) -> None:
    import torch

    model, tokenizer = llama(tmp_path / "hf")
    progress = convert(tmp_path / "hf", tmp_path / "ov", "--task", "generate", "--weight-format", "fp32")
    assert [line["message"] for line in progress][-1] == "converted"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("ov")] == ["ov"]
    ids = tokenizer("Once upon a time", return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    wanted = tokenizer.decode(out, skip_special_tokens=True)
    with openvino_server(tmp_path / "ov") as (url, _):
        target = Target(base_url=url, model="m")
        text = ask(target, "/v1/completions", prompt=ids[0].tolist(), max_tokens=12, temperature=0)
        chat = ask(target, "/tokenize", messages=[{"role": "user", "content": "hi"}])
    assert text["choices"][0]["text"] == wanted
    assert chat["max_model_len"] == 256


def test_eight_bit_weights_are_the_default_and_smaller(tmp_path: Path) -> None:
    llama(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "full", "--weight-format", "fp32")
    convert(tmp_path / "hf", tmp_path / "small")
    full, small = ((tmp_path / name / "openvino_model.bin").stat().st_size for name in ("full", "small"))
    assert small < 0.5 * full


def bert(folder: Path, pooling: str, *, normalize: bool) -> Any:
    """A random BERT of 2 layers with a WordPiece tokenizer and sentence-transformers' files."""
    import tokenizers
    import torch
    import transformers

    inner = tokenizers.BertWordPieceTokenizer()
    inner.train_from_iterator(CORPUS, vocab_size=300)
    folder.mkdir()
    inner.save_model(str(folder))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, matryoshka_dimensions=[16],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{m}"} for m in modules]))
    return model, tokenizer


@pytest.mark.parametrize(("pooling", "normalize"), [("mean_tokens", True), ("cls_token", False)])
def test_an_embedding_model_gives_transformers_vectors(tmp_path: Path, pooling: str, normalize: bool) -> None:
    import torch

    model, tokenizer = bert(tmp_path / "hf", pooling, normalize=normalize)
    convert(tmp_path / "hf", tmp_path / "ov", "--task", "embed", "--weight-format", "fp32")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = hidden[:, 0] if pooling == "cls_token" else (hidden * mask).sum(1) / mask.sum(1)
    short = vectors[:, :16]
    if normalize:
        vectors, short = torch.nn.functional.normalize(vectors), torch.nn.functional.normalize(short)
    with openvino_server(tmp_path / "ov", "--task", "embed") as (url, _):
        target = Target(base_url=url, model="m")
        answer = ask(target, "/v1/embeddings", input=TEXTS)
        by_ids = ask(target, "/v1/embeddings", input=[tokenizer(text).input_ids for text in TEXTS], dimensions=16)
        refused = call(target, "POST", "/v1/embeddings", {"model": "m", "input": TEXTS, "dimensions": 32})
        one = ask(target, "/v1/embeddings", input=TEXTS[1], encoding_format="base64")
    assert answer["usage"]["prompt_tokens"] == int(batch["attention_mask"].sum())
    for item, wanted in zip(answer["data"], vectors.tolist(), strict=True):
        assert item["embedding"] == pytest.approx(wanted, abs=2e-4)
    for item, wanted in zip(by_ids["data"], short.tolist(), strict=True):
        assert item["embedding"] == pytest.approx(wanted, abs=2e-4)
    assert refused[0] == 400
    assert "16 or 64" in refused[1]["error"]["message"]
    data = base64.b64decode(one["data"][0]["embedding"])
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(vectors[1].tolist(), abs=2e-4)
