"""What only a GPU computes otherwise: compiled blocks, FlexAttention, the fused loss and AdamW's kernel."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

from ironloom.train.model import nf4_kernel  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.loss import cross_entropy_sum  # noqa: E402
from ironloom.train.model.nf4 import dequantised, levels_on, quantised, to_nf4  # noqa: E402
from ironloom.train.parallel.model import shard_model  # noqa: E402
from ironloom.train.step import adamw_kernel  # noqa: E402
from ironloom.train.step.adamw import update  # noqa: E402
from ironloom.train.step.lora import adapters, add_adapters, reset_adapters  # noqa: E402
from ironloom.workload.training import Checkpointing, Compute, Lora  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def relative(found: Any, expected: Any) -> float:
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().norm())


def test_packed_documents_are_as_on_the_cpu() -> None:
    model = build(CONFIG)
    model.reset(0)
    tokens = torch.randint(1024, (2, 256))
    documents = torch.randint(3, (2, 256), dtype=torch.int32).sort(dim=1).values
    expected, _ = model.loss(tokens, tokens, documents)
    expected.backward()
    gradient = model.layers[0].attention.qkv.weight.grad.clone()
    model.zero_grad()
    model.to("cuda", torch.bfloat16)
    shard_model(model, Compute(checkpointing=Checkpointing.SELECTIVE))
    found, _ = model.loss(tokens.cuda(), tokens.cuda(), documents.cuda())
    found.backward()
    assert abs(float(found.detach()) / float(expected.detach()) - 1) < 5e-3
    assert relative(model.layers[0].attention.qkv.weight.grad, gradient) < 5e-2


@pytest.mark.parametrize("kind", Checkpointing)
def test_compiled_blocks_have_the_gradients_of_plain_ones(kind: Checkpointing) -> None:
    found = []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        model = build(CONFIG, device="cuda", dtype=torch.bfloat16)
        model.reset(0)
        shard_model(model, Compute(checkpointing=kind, is_compiled=is_compiled))
        torch.manual_seed(0)
        tokens = torch.randint(1024, (2, 256), device="cuda")
        total, _ = model.loss(tokens, tokens, num_chunks=2)
        total.backward()
        found.append([p.grad for p in model.parameters()])
    assert all(relative(b, a) < 3e-2 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_the_fused_loss_has_the_gradients_of_fp64(num_chunks: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(200, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (torch.randn(1000, 64, device="cuda", dtype=torch.bfloat16) * 0.2).requires_grad_()
    targets = torch.randint(1000, (200,), device="cuda")
    targets[::7] = -100
    found = cross_entropy_sum(hidden, weight, targets, num_chunks=num_chunks)
    found.backward()
    wide, table = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide @ table.t(), targets, reduction="sum")
    expected.backward()
    assert abs(float(found.detach() / expected.detach()) - 1) < 2e-3
    assert relative(hidden.grad, wide.grad) < 1e-2
    assert relative(weight.grad, table.grad) < 1e-2


@pytest.mark.parametrize("has_wide", [False, True])
@pytest.mark.parametrize("size", [5, 1024, 100_003])
def test_the_kernel_is_the_update(size: int, *, has_wide: bool) -> None:
    torch.manual_seed(0)
    wide = torch.randn(size, device="cuda")
    narrow = wide.to(torch.bfloat16) if has_wide else wide
    tensors = [narrow, torch.randn_like(narrow), torch.randn(size, device="cuda"), torch.rand(size, device="cuda")]
    tensors.append(wide if has_wide else None)
    factor = torch.tensor(0.3, device="cuda")
    scalars = {"keep": 0.999, "rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "root": 1.3}
    first, second = ([None if t is None else t.clone() for t in tensors] for _ in range(2))
    update(*first, factor, **scalars)
    adamw_kernel.run(*second, factor, **scalars)
    for a, b in zip(first, second, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-2 if a.dtype == torch.bfloat16 else 1e-5)


def test_adapters_over_a_base_in_nf4_have_the_gradients_of_plain_blocks_when_compiled() -> None:
    found = []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        model = build(CONFIG, device="cuda", dtype=torch.bfloat16)
        model.reset(0)
        add_adapters(to_nf4(model), Lora(rank=8, alpha=16.0))
        reset_adapters(model, 0)
        for _, adapter in adapters(model):  # zeros have no gradient to compare
            torch.nn.init.normal_(adapter.b.detach(), std=0.02, generator=torch.Generator("cuda").manual_seed(1))
        shard_model(model, Compute(is_compiled=is_compiled, checkpointing=Checkpointing.FULL))
        tokens = torch.randint(1024, (2, 128), generator=torch.Generator().manual_seed(0)).cuda()
        total, _ = model.loss(tokens, tokens.roll(-1, dims=1))
        total.backward()
        found.append([float(total.detach()), *(adapter.a.grad for _, adapter in adapters(model))])
    plain, compiled = found
    assert abs(compiled[0] / plain[0] - 1) < 5e-3
    assert all(relative(two, one) < 5e-2 for one, two in zip(plain[1:], compiled[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(5, 130), (3, 1500), (64, 4096)])
def test_the_kernel_makes_the_matrix_that_its_codes_say(rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parts = [part.cuda() for part in quantised(torch.randn(rows, columns))]
    out = torch.empty(rows, columns, dtype=dtype, device="cuda")
    nf4_kernel.matrix(*parts, levels_on(out.device), out)
    torch.testing.assert_close(out, dequantised(*parts, columns, dtype))
