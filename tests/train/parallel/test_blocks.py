"""Which parts of an unknown module become units: of Transformers' classes and of the ways people keep layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ranks import on_ranks  # noqa: E402
from torch import nn  # noqa: E402

from ironloom.train import shard, share  # noqa: E402
from ironloom.train.parallel.blocks import check_blocks, find_blocks, sizes_of  # noqa: E402

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def model(kind: str, **settings: Any) -> Any:
    """Of Transformers' class, without memory."""
    config_class = getattr(transformers, kind).config_class
    with torch.device("meta"):
        return getattr(transformers, kind)(config_class(**settings))


def numbered(*lists: tuple[str, int]) -> tuple[str, ...]:
    return tuple(f"{name}.{index}" for name, number in lists for index in range(number))


@pytest.mark.parametrize(
    ("kind", "settings", "blocks"),
    [
        ("LlamaForCausalLM", LLAMA_8B, numbered(("model.layers", 32))),
        ("LlamaForCausalLM", {**LLAMA_8B, "tie_word_embeddings": True}, numbered(("model.layers", 32))),
        ("MixtralForCausalLM", {"num_hidden_layers": 2}, numbered(("model.layers", 2))),
        ("GPT2LMHeadModel", {}, numbered(("transformer.h", 12))),
        ("BertForMaskedLM", {}, numbered(("bert.encoder.layer", 12))),
        ("ViTModel", {}, numbered(("layers", 12))),
        ("T5ForConditionalGeneration", {}, numbered(("encoder.block", 6), ("decoder.block", 6))),
        ("MT5ForConditionalGeneration", {}, numbered(("encoder.block", 8), ("decoder.block", 8))),
    ],
)
def test_the_blocks_of_transformers_classes_are_their_layers(
    kind: str, settings: dict[str, Any], blocks: tuple[str, ...]
) -> None:
    assert find_blocks(model(kind, **settings)) == blocks


class Block(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(size, size), nn.Linear(size, size)


class Other(Block):
    pass


def of(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def shared() -> nn.Module:
    first, second, third = Block(), Block(), Block()
    second.one.weight = first.one.weight
    return of(layers=nn.ModuleList([first, second, third, Block()]))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "a stack with larger ends": (
        lambda: of(embed=nn.Embedding(999, 4), layers=nn.ModuleList([Block(), Block()]), head=nn.Linear(4, 999)),
        ("layers.0", "layers.1"),
    ),
    "a sequence": (lambda: nn.Sequential(nn.Embedding(9, 4), Block(), Block(), nn.Linear(4, 9)), ("1", "2")),
    "a dictionary": (lambda: of(h=nn.ModuleDict({"a": Block(), "b": Block()})), ("h.a", "h.b")),
    "lists in a list": (
        lambda: of(layers=nn.ModuleList(nn.ModuleList([Block(), Other()]) for _ in range(2))),
        ("layers.0.0", "layers.0.1", "layers.1.0", "layers.1.1"),
    ),
    "experts inside of layers": (
        lambda: of(layers=nn.ModuleList(of(experts=nn.ModuleList([Block(), Block()])) for _ in range(2))),
        ("layers.0", "layers.1"),
    ),
    "two kinds that take turns": (
        lambda: of(layers=nn.ModuleList([Block(), Other(), Block()])),
        ("layers.0", "layers.1", "layers.2"),
    ),
    "two stacks": (
        lambda: of(encoder=of(h=nn.ModuleList([Block(), Block()])), decoder=of(h=nn.ModuleList([Other(), Other()]))),
        ("encoder.h.0", "encoder.h.1", "decoder.h.0", "decoder.h.1"),
    ),
    "attributes": (lambda: of(first=Block(), second=Block()), ("first", "second")),
    "large attributes beside a small list": (
        lambda: of(stem=nn.Sequential(Block(2), Block(2)), first=Block(64), second=Block(64)),
        ("stem.0", "stem.1", "first", "second"),
    ),
    "tables in a list": (
        lambda: of(tables=nn.ModuleList([nn.Embedding(999, 9), nn.Embedding(99, 9)]), first=Block(), second=Block()),
        ("tables.0", "tables.1"),
    ),
    "layers that share a weight": (shared, ("layers.2", "layers.3")),
    "layers as attributes": (lambda: of(first=nn.Linear(3, 4), second=nn.Linear(4, 4)), ()),
    "nothing repeated": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), ()),
    "no parameters": (lambda: nn.Sequential(nn.ReLU(), nn.ReLU()), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_the_outermost_repeated_parts(case: str) -> None:
    module, blocks = CASES[case]
    assert find_blocks(module()) == blocks


def test_blocks_inside_of_blocks_come_first_and_are_counted_once() -> None:
    module = of(layers=nn.ModuleList([Block(), Block()]))
    blocks = check_blocks(module, ("layers.0", "layers.0.one", "layers.1"))
    assert blocks == ("layers.0.one", "layers.0", "layers.1")
    assert sizes_of(module, blocks) == [20, 20, 40]


def tied_losses() -> tuple[list[float], tuple[str, ...], bool]:
    """Of three steps of a loop of one's own over a tied Llama."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=40, tie_word_embeddings=True,
    )  # fmt: skip
    llama = shard(transformers.LlamaForCausalLM(config), "FULL_SHARD")
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-2)
    rows = torch.randint(40, (3, 4, 9), generator=torch.Generator().manual_seed(1))
    losses = []
    for ids in share(rows):
        loss = llama(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, llama.units.blocks, llama.lm_head.weight is llama.model.embed_tokens.weight


def test_tied_weights_stay_one_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    alone, _, _ = tied_losses()
    both = on_ranks(2, tied_losses, tmp_path)
    assert [sum(pair) / 2 for pair in zip(*(losses for losses, _, _ in both), strict=True)] == pytest.approx(
        alone, abs=1e-5
    )
    for _, blocks, is_tied in both:
        assert blocks == numbered(("model.layers", 3))
        assert is_tied
