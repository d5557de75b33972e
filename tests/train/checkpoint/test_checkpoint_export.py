"""Weights from Hugging Face folders and back: equal logits in Transformers, adapters in PEFT's form, bad folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from ironloom.errors import CheckpointError, ModelRefused  # noqa: E402
from ironloom.serve.models.inspect import inspect_model  # noqa: E402
from ironloom.train.checkpoint import export as module  # noqa: E402
from ironloom.train.checkpoint.adapter import export_adapter  # noqa: E402
from ironloom.train.checkpoint.pretrained import load_pretrained  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.step.lora import add_adapters, reset_adapters  # noqa: E402
from ironloom.workload.training import Lora  # noqa: E402

export = module.export
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOKENS = torch.arange(24).reshape(2, 12)


def folder_of(path: Path, model_type: str = "llama", **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A folder as Transformers writes it, its model, and its config.json."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SMALL, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(path)
    return model, json.loads((path / "config.json").read_text())


def logits(folder: Path) -> Any:
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("llama", {"tie_word_embeddings": False}), ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {"head_dim": 8})],
)
def test_what_is_read_and_written_again_has_the_same_logits(
    tmp_path: Path, model_type: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, config = folder_of(tmp_path / "in", model_type, **changes)
    ours = build(config, device="meta").to_empty(device="cpu")
    load_pretrained(ours, tmp_path / "in")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 20_000)  # several files
    export(ours, config, tmp_path / "in", tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), theirs(TOKENS).logits)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert inspect_model(tmp_path / "out", "out").architecture == config["architectures"][0]


def test_a_smaller_export_replaces_a_larger_one_and_touches_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = folder_of(tmp_path / "in")
    ours = build(config)
    load_pretrained(ours, tmp_path / "in")
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "MAX_FILE_BYTES", 20_000)
        export(ours, config, tmp_path / "in", tmp_path / "out")
    export(ours, config, tmp_path / "in", tmp_path / "out", dtype=torch.bfloat16)
    names = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert names == ["checkpoints", "config.json", "generation_config.json", "model.safetensors"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_any_module_with_the_folders_names_is_read_and_written(tmp_path: Path) -> None:
    theirs, config = folder_of(tmp_path / "in")
    torch.manual_seed(7)
    again = transformers.AutoModelForCausalLM.from_config(theirs.config).eval()
    load_pretrained(again, tmp_path / "in")
    export(again, config, None, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), theirs(TOKENS).logits)


def adapted(folder: Path, config: dict[str, Any], lora: Lora) -> Any:
    ours = build(config)
    add_adapters(ours, lora)
    load_pretrained(ours, folder)
    reset_adapters(ours, 0)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith("adapter.b"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return ours.eval()


def test_adapters_are_merged_into_what_is_exported_and_stand_alone_in_pefts_form(tmp_path: Path) -> None:
    theirs, config = folder_of(tmp_path / "in")
    lora = Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))
    ours = adapted(tmp_path / "in", config, lora)
    export(ours, config, tmp_path / "in", tmp_path / "out")
    with torch.no_grad():
        mine = ours(TOKENS)
        assert torch.allclose(logits(tmp_path / "out"), mine, atol=1e-5)
        assert not torch.allclose(theirs(TOKENS).logits, mine, atol=1e-3)
    export_adapter(ours, lora, "owner/name", tmp_path / "adapter")
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.self_attn.v_proj"
    assert state[f"{stem}.lora_A.weight"].shape == (4, 32)
    assert state[f"{stem}.lora_B.weight"].shape == (16, 4)
    assert len(state) == 2 * 3 * 2
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["peft_type"], written["r"], written["lora_alpha"]) == ("LORA", 4, 8.0)
    base = theirs.get_submodule("model.layers.1.self_attn.v_proj").weight
    change = state[f"{stem}.lora_B.weight"] @ state[f"{stem}.lora_A.weight"] * (8.0 / 4)
    merged = load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"]
    assert torch.allclose(merged, base + change, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": 64}, r"model\.embed_tokens\.weight is \[96, 32\] there and \[96, 64\] here"),
        ({"num_hidden_layers": 3}, r"it has no model\.layers\.2\.input_layernorm\.weight"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight is \[16, 32\] there and \[32, 32\] here"),
    ],
)
def test_a_folder_of_another_model_is_refused_by_its_first_difference(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    _, config = folder_of(tmp_path)
    if "num_key_value_heads" in changes:
        config["head_dim"] = 8
    ours = build({**config, **changes})
    with pytest.raises(ModelRefused, match=why):
        load_pretrained(ours, tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    _, config = folder_of(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="holds its weights as pickles alone"):
        load_pretrained(build(config), tmp_path)


def test_an_export_that_the_disk_refuses_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, config = folder_of(tmp_path / "in")
    ours = build(config)
    load_pretrained(ours, tmp_path / "in")
    export(ours, config, None, tmp_path / "out")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_safetensors", full)
    with pytest.raises(CheckpointError, match=r"the model cannot be written to .*: No space left on device"):
        export(ours, config, None, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), theirs(TOKENS).logits)
    assert not (tmp_path / "out" / "export.partial").exists()
