"""The pieces that decoders are put together from: embeddings, projections, norms, MLPs, experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ironloom.workload.shapes.fields import Fields
from ironloom.workload.shapes.model import Attention, AttentionKind, Part, Split, Weight


class Heads(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of an attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def query_rows(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.num_kv_heads * self.head_dim


def heads_of(fields: Fields, *, num_heads: int | None = None, num_kv_heads: int = 0, head_dim: int = 0) -> Heads:
    """Read from a config. The others are defaults; 0 of them takes the query heads, or hidden / heads."""
    heads = fields.integer("num_attention_heads", num_heads)
    kv_heads = fields.integer("num_key_value_heads", num_kv_heads or heads)
    dim = fields.integer("head_dim", head_dim or max(1, fields.integer("hidden_size") // heads))
    return Heads(num_heads=heads, num_kv_heads=kv_heads, head_dim=dim)


def linear(
    name: str, rows: int, columns: int, split: Split, layers: Sequence[int], *, bias: bool = False
) -> Iterator[Weight]:
    """A matrix product inside the layers, with its bias: split with the rows, or whole after a sum over GPUs."""
    yield Weight(name=f"{name}.weight", shape=(rows, columns), split=split, layers=tuple(layers), is_linear=True)
    if bias:
        of_bias = Split.WHOLE if split is Split.COLUMNS else split
        yield Weight(name=f"{name}.bias", shape=(rows,), split=of_bias, layers=tuple(layers))


def norm(name: str, size: int, layers: Sequence[int], *, bias: bool = False) -> Iterator[Weight]:
    yield Weight(name=f"{name}.weight", shape=(size,), layers=tuple(layers))
    if bias:
        yield Weight(name=f"{name}.bias", shape=(size,), layers=tuple(layers))


def plain(name: str, shape: tuple[int, ...], part: Part, split: Split = Split.WHOLE) -> Weight:
    """A tensor outside of the layers."""
    return Weight(name=name, shape=shape, part=part, split=split)


def ends(
    *,
    vocab: int,
    hidden: int,
    tied: bool,
    embedding: str,
    final_norm: str,
    head: str = "lm_head",
    norm_bias: bool = False,
) -> Iterator[Weight]:
    """The embedding, and what follows the last layer."""
    yield plain(f"{embedding}.weight", (vocab, hidden), Part.EMBEDDING, Split.VOCABULARY)
    yield plain(f"{final_norm}.weight", (hidden,), Part.HEAD)
    if norm_bias:
        yield plain(f"{final_norm}.bias", (hidden,), Part.HEAD)
    if not tied:
        yield plain(f"{head}.weight", (vocab, hidden), Part.HEAD, Split.VOCABULARY)


def attention_projections(
    prefix: str,
    hidden: int,
    heads: Heads,
    layers: Sequence[int],
    *,
    bias: bool = False,
    out_bias: bool | None = None,
    out: str = "o_proj",
) -> Iterator[Weight]:
    """Separate projections of queries, keys, values, and the way back. `out_bias` None is as `bias`."""
    yield from linear(f"{prefix}.q_proj", heads.query_rows, hidden, Split.ROWS, layers, bias=bias)
    for name in ("k_proj", "v_proj"):
        yield from linear(f"{prefix}.{name}", heads.kv_rows, hidden, Split.KV_ROWS, layers, bias=bias)
    has_bias = bias if out_bias is None else out_bias
    yield from linear(f"{prefix}.{out}", hidden, heads.query_rows, Split.COLUMNS, layers, bias=has_bias)


def gated_mlp(prefix: str, hidden: int, width: int, layers: Sequence[int], *, bias: bool = False) -> Iterator[Weight]:
    """gate, up and down."""
    for name in ("gate_proj", "up_proj"):
        yield from linear(f"{prefix}.{name}", width, hidden, Split.ROWS, layers, bias=bias)
    yield from linear(f"{prefix}.down_proj", hidden, width, Split.COLUMNS, layers, bias=bias)


def experts(
    prefix: str,
    names: tuple[str, str, str],
    *,
    hidden: int,
    width: int,
    num_experts: int,
    layers: Sequence[int],
) -> Iterator[Weight]:
    """The gated MLPs of the experts: gate, up and down, named as the checkpoint does."""
    gate, up, down = names
    for name, shape, split in (
        (gate, (width, hidden), Split.ROWS),
        (up, (width, hidden), Split.ROWS),
        (down, (hidden, width), Split.COLUMNS),
    ):
        yield Weight(
            name=f"{prefix}.{{expert}}.{name}.weight",
            shape=shape,
            layers=tuple(layers),
            num_experts=num_experts,
            split=split,
            is_linear=True,
        )


def router(name: str, num_experts: int, hidden: int, layers: Sequence[int], *, bias: bool = False) -> Iterator[Weight]:
    """Says which experts a token goes to; each GPU has it whole, in the native type."""
    yield Weight(name=f"{name}.weight", shape=(num_experts, hidden), layers=tuple(layers))
    if bias:
        yield Weight(name=f"{name}.bias", shape=(num_experts,), layers=tuple(layers))


def cache(heads: Heads, num_layers: int, *, window: int = 0, sliding: Sequence[int] = ()) -> tuple[Attention, ...]:
    """What layers keep: those in `sliding` the last `window` tokens, the others all."""
    sliding_layers = tuple(sliding) if window else ()
    full = tuple(sorted(set(range(num_layers)) - set(sliding_layers)))
    groups = [(AttentionKind.FULL, full, 0), (AttentionKind.SLIDING, sliding_layers, window)]
    return tuple(
        Attention(
            kind=kind,
            layers=layers,
            num_kv_heads=heads.num_kv_heads,
            key_dim=heads.head_dim,
            value_dim=heads.head_dim,
            window=width,
        )
        for kind, layers, width in groups
        if layers
    )
