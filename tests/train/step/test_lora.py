"""Adapters: nothing changes at first, they alone are trained, merged they are the same model, and PEFT reads them."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.errors import UsageError  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.names import state_from_hf, to_hf  # noqa: E402
from ironloom.train.step.lora import add_adapters, merged, peft_config, peft_state, reset_adapters  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.training import Compute, Dtype, Lora, OptimizerSettings  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ALL = Lora(rank=4, alpha=8.0)
SOME = Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))


class Batch:
    def __init__(self) -> None:
        torch.manual_seed(1)
        self.tokens_BL = torch.randint(96, (2, 10))
        self.targets_BL = self.tokens_BL.roll(-1, dims=1)
        self.documents_BL = self.positions_BL = None


def trained(lora: Lora, num_steps: int = 3) -> Any:
    model = build(CONFIG)
    model.reset(0)
    add_adapters(model, lora)
    reset_adapters(model, 0)
    settings = OptimizerSettings(learning_rate=1e-2)
    step = Step(model, make_optimizer(model, settings, Compute(compute_dtype=Dtype.FLOAT32)))
    for _ in range(num_steps):
        step([Batch()], 1e-2)
    return model


@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_the_adapters_alone_are_trained_and_do_something(lora: Lora) -> None:
    before = build(CONFIG)
    before.reset(0)
    model = trained(lora)
    for name, weight in before.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name
    tokens = Batch().tokens_BL
    assert not torch.allclose(model(tokens), before(tokens), atol=1e-3)


def test_nothing_changes_before_the_first_step() -> None:
    plain, model = build(CONFIG), trained(ALL, num_steps=0)
    plain.reset(0)
    tokens = Batch().tokens_BL
    assert torch.equal(model(tokens), plain(tokens))


@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_merged_into_the_checkpoint_it_is_the_same_model(lora: Lora) -> None:
    model = trained(lora)
    change = merged(model)
    names = [name for name, _ in build(CONFIG).named_parameters()]
    tensors = {
        hf_name: change(hf_name, part)
        for name in names
        for hf_name, part in to_hf(name, model.get_parameter(name).detach(), model.config)
    }
    whole = build(CONFIG)
    whole.load_state_dict(state_from_hf(tensors, whole.config, names))
    tokens = Batch().tokens_BL
    torch.testing.assert_close(whole(tokens), model(tokens), atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks Transformers by an old name
def test_peft_reads_what_is_written(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from json import dumps

    from safetensors.torch import save_file

    model = trained(SOME)
    save_file({k: v.contiguous() for k, v in peft_state(model).items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(dumps(peft_config(SOME, "base")))
    base = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**CONFIG))
    state = {
        hf_name: part
        for name, weight in model.named_parameters()
        if ".adapter." not in name
        for hf_name, part in to_hf(name, weight.detach(), model.config)
    }
    base.load_state_dict(state)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    tokens = Batch().tokens_BL
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=2e-5, rtol=1e-4)


def test_peft_names_say_module_and_matrix() -> None:
    names = sorted(peft_state(trained(SOME, num_steps=0)))
    assert names[0] == "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    assert len(names) == 2 * 2 * len(SOME.targets)


def test_a_target_that_is_no_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="w1"):
        add_adapters(build(CONFIG), Lora(targets=("q_proj", "w1")))
