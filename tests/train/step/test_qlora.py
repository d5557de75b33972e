"""QLoRA: adapters learn over a base in NF4, go on from a checkpoint, and merged they are what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from ironloom.train.checkpoint.adapter import export_adapter  # noqa: E402
from ironloom.train.checkpoint.checkpointer import Checkpointer, Saved  # noqa: E402
from ironloom.train.checkpoint.export import export  # noqa: E402
from ironloom.train.checkpoint.pretrained import load_pretrained  # noqa: E402
from ironloom.train.loop.fits import state_of  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.names import hf_names  # noqa: E402
from ironloom.train.model.nf4 import MAX_ERROR, nf4_layers, to_nf4  # noqa: E402
from ironloom.train.step.lora import add_adapters, reset_adapters  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.shapes.files import shape_of_path  # noqa: E402
from ironloom.workload.training import (  # noqa: E402
    CheckpointPolicy,
    Compute,
    Dtype,
    Lora,
    Method,
    OptimizerSettings,
    Training,
)

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 72,
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
LORA = Lora(rank=4, alpha=8.0)
FLOAT32 = Compute(compute_dtype=Dtype.FLOAT32)
SETTINGS = OptimizerSettings(learning_rate=1e-2)


class Batch:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens_BL = torch.randint(96, (2, 16), generator=generator)
        self.targets_BL = self.tokens_BL.roll(-1, dims=1)
        self.documents_BL = self.positions_BL = None


@pytest.fixture(params=["llama", "qwen2"], ids=["without biases", "with biases"])
def source(request: Any, tmp_path: Path) -> Path:
    """A base model's folder."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **SMALL, tie_word_embeddings=False)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def config_of(source: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    return config


def ready(source: Path) -> tuple[Any, Step]:
    """As a run makes it: from meta, read and quantised."""
    model = add_adapters(to_nf4(build(config_of(source), device="meta")), LORA, dtype=torch.float32)
    model.to_empty(device="cpu")
    load_pretrained(model, source)
    reset_adapters(model, 0)
    return model, Step(model, make_optimizer(model, SETTINGS, FLOAT32))


def test_what_is_read_is_the_base_within_the_bound_and_all_else_to_the_bit(source: Path) -> None:
    model, _ = ready(source)
    stored = load_file(source / "model.safetensors")
    names = hf_names(build(config_of(source), device="meta"))
    layers = dict(nf4_layers(model))
    for name, parts in names.items():
        wanted = torch.cat([stored[part] for part in parts])
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            assert torch.equal(model.get_parameter(name), wanted), name
        else:
            assert float((layer.weight - wanted).abs().max()) <= 1.05 * MAX_ERROR * float(wanted.abs().max())


def test_the_loss_falls_and_the_base_stays(source: Path) -> None:
    model, step = ready(source)
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = [float(step([Batch()], 1e-2).loss) for _ in range(25)]
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    trained = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.adapter" for name, _ in nf4_layers(model)}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks Transformers by an old name
def test_the_export_is_the_merged_model_and_the_adapter_is_peft_s(source: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, step = ready(source)
    for _ in range(3):
        step([Batch()], 1e-2)
    tokens = Batch().tokens_BL
    with torch.no_grad():
        ours = model.eval()(tokens)
    export(model, config_of(source), None, tmp_path / "out", dtype=torch.float32)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    export_adapter(model, LORA, str(source), tmp_path / "adapter")
    # The same base as PEFT would quantise it: ours, written without the adapters.
    base, _ = ready(source)
    export(base, config_of(source), None, tmp_path / "plain", dtype=torch.float32)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    adapted = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, ours, atol=5e-5, rtol=1e-4)
        torch.testing.assert_close(adapted(tokens).logits, ours, atol=5e-5, rtol=1e-4)


def test_a_run_goes_on_from_its_checkpoint_as_if_nothing_had_been(source: Path, tmp_path: Path) -> None:
    model, step = ready(source)
    policy = CheckpointPolicy(is_async=False)
    losses = []
    for number in range(1, 6):
        losses.append(float(step([Batch()], 1e-2).loss))
        if number == 3:
            checkpointer = Checkpointer(tmp_path / "checkpoints", policy)
            checkpointer.save(3, model, step.optimizer, {"step": 3})
            assert isinstance(checkpointer.close(), Saved)
    again, other = ready(source)
    checkpointer = Checkpointer(tmp_path / "checkpoints", policy)
    assert checkpointer.load(again, other.optimizer) == {"step": 3}
    checkpointer.close()
    assert [float(other([Batch()], 1e-2).loss) for _ in range(2)] == losses[3:]
    files = (tmp_path / "checkpoints" / "step-00000003").glob("*.safetensors")
    assert all(".adapter." in name for file in files for name in load_file(file)), "the base is not the run's own"


@pytest.mark.parametrize("method", [Method.LORA, Method.QLORA])
def test_the_state_has_the_bytes_that_the_memory_model_says(source: Path, method: Method) -> None:
    training = Training(name="run", model=str(source), output="/out", method=method, lora=LORA, compute=FLOAT32)
    state = state_of(training, shape_of_path(source), 1)
    if method is Method.QLORA:
        model, _ = ready(source)
    else:
        model = add_adapters(build(config_of(source)), LORA)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert (state.parameters_bytes, state.gradients_bytes, state.optimizer_bytes) == (held, trained, 2 * trained)
