"""The settings that the training races run, and the one schema of their results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

VOCAB = 128256
"""Llama 3's."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    vocab: int = VOCAB

    @property
    def config(self) -> dict[str, Any]:
        """As a config.json."""
        return {
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="1b", layers=16, hidden=2048, heads=32, kv_heads=8, width=8192),
        Shape(name="8b-8", layers=8, hidden=4096, heads=32, kv_heads=8, width=14336),
        Shape(name="8b", layers=32, hidden=4096, heads=32, kv_heads=8, width=14336),
        Shape(name="70b", layers=80, hidden=8192, heads=64, kv_heads=8, width=28672),
        Shape(name="70b-32", layers=32, hidden=8192, heads=64, kv_heads=8, width=28672),
        Shape(name="small", layers=8, hidden=768, heads=12, kv_heads=4, width=2048, vocab=50304),
        Shape(name="tiny", layers=2, hidden=64, heads=4, kv_heads=2, width=256, vocab=512),
    )
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting. Equal for both systems but for `tweaks`, which only ours knows."""

    shape: str
    seq: int
    batch: int
    dtype: str
    """Of parameters and states."""
    compute_dtype: str = "bfloat16"
    """Of matrix products; float32 shows what of a difference is rounding."""
    checkpointing: str
    steps: int = 8
    warmup: int = 4
    lora_rank: int = 0
    is_compiled: bool = True
    learning_rate: float = 3e-4
    log_losses: bool = False
    text: str = ""
    """A file of bytes to train on; random tokens without it."""
    seed: int = 0
    """Of the batches."""
    weights: str = ""
    """safetensors under Hugging Face's names to begin from; new weights without it."""
    tweaks: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_step(self) -> int:
        return self.seq * self.batch

    def label(self) -> str:
        lora = f" lora{self.lora_rank}" if self.lora_rank else ""
        return f"{self.shape} {self.seq}x{self.batch} {self.dtype} {self.checkpointing}{lora}"


def result(row: Row, system: str, **measured: Any) -> dict[str, Any]:
    """A row with what was measured: one flat object, the schema of bench/results/gpu."""
    return {"system": system, **asdict(row), **measured}


def measured(row: Row, *, seconds: float, losses: list[float], peak: int, reserved: int) -> dict[str, Any]:
    """The numbers that follow from a run's seconds, by the same code for every system."""
    from ironloom.train.model.config import read
    from ironloom.train.step.meters import mfu, num_parameters, token_flops

    config = read(SHAPES[row.shape].config)
    rate = row.steps * row.tokens_per_step / seconds
    flops = token_flops(config, row.seq)
    return {
        "ok": True,
        "params": num_parameters(config)[0],
        "tokens_per_s": round(rate),
        "step_ms": round(1000 * seconds / row.steps, 2),
        "mfu_torchtitan": round(100 * mfu(rate, flops.torchtitan, 989e12), 2),
        "mfu_causal": round(100 * mfu(rate, flops.causal, 989e12), 2),
        "peak_gib": round(peak / 2**30, 2),
        "reserved_gib": round(reserved / 2**30, 2),
        "losses": [round(loss, 6) for loss in losses],
    }
