"""Which rows a training race runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from race_rows import SHAPES, Row

ROOT = Path(__file__).resolve().parents[2]


def only(row: Row, system: str = "ironloom", **tweaks: Any) -> Row:
    """A row for one system alone."""
    return replace(row, tweaks={"only": system, **tweaks})


def five(steps: int = 8) -> list[Row]:
    """The settings that are held against torchtitan."""
    return [
        Row(shape="8b-8", seq=4096, batch=4, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="8b", seq=8192, batch=1, dtype="bfloat16", checkpointing="full", steps=steps),
        Row(shape="1b", seq=2048, batch=16, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="1b", seq=8192, batch=2, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="8b-8", seq=8192, batch=1, dtype="float32", checkpointing="selective", steps=steps),
    ]


def dry(_: Path) -> list[Row]:
    """A tiny model, for a machine without a GPU."""
    base = Row(shape="tiny", seq=64, batch=2, dtype="float32", checkpointing="selective", is_compiled=False, warmup=1)
    rows = [replace(base, checkpointing=kind, steps=2) for kind in ("none", "selective", "full")]
    return [*rows, only(rows[1], checkpointing="attention", whole_blocks=0), replace(rows[2], lora_rank=4)]


def loss(_: Path) -> list[Row]:
    """200 steps on this repository's own pages from the same weights."""
    text, weights = _text_and_weights(Path(tempfile.gettempdir()), "small")
    row = Row(
        shape="small", seq=1024, batch=16, dtype="float32", checkpointing="selective", warmup=5, steps=195,
        learning_rate=6e-4, log_losses=True, text=str(text), weights=str(weights),
    )  # fmt: skip
    return [row]


def loss_dry(_: Path) -> list[Row]:
    """The same with a tiny model and few steps, for a machine without a GPU."""
    text, weights = _text_and_weights(Path(tempfile.gettempdir()), "tiny")
    row = Row(
        shape="tiny", seq=64, batch=2, dtype="float32", checkpointing="none", is_compiled=False, warmup=1, steps=3,
        log_losses=True, text=str(text), weights=str(weights),
    )  # fmt: skip
    return [row]


def loss_noise(_: Path) -> list[Row]:
    """The same for three seeds of weights and batches, each system beside itself with nothing changed that should
    matter: torchtitan not compiled, ours with the residual stream in fp32 that torchtitan's autocast has."""
    rows = []
    for seed in range(3):
        text, weights = _text_and_weights(Path(tempfile.gettempdir()), "small", seed)
        row = Row(
            shape="small", seq=1024, batch=16, dtype="float32", checkpointing="selective", warmup=5, steps=195,
            learning_rate=6e-4, log_losses=True, text=str(text), weights=str(weights), seed=seed,
        )  # fmt: skip
        plain = replace(row, is_compiled=False)
        rows += [row, only(row, wide_residual=True), only(plain, system="torchtitan")]
    return rows


def loss_exact(_: Path) -> list[Row]:
    """A tiny model computed in fp32, for a machine without a GPU: what of the losses' difference is not rounding; and
    what two settings do that the systems do not share of themselves."""
    text, weights = _text_and_weights(Path(tempfile.gettempdir()), "tiny")
    row = Row(
        shape="tiny", seq=512, batch=4, dtype="float32", compute_dtype="float32", checkpointing="none", warmup=1,
        steps=199, is_compiled=False, learning_rate=6e-4, log_losses=True, text=str(text), weights=str(weights),
    )  # fmt: skip
    return [row, only(row, vectors_decay=False), only(row, system="torchtitan", rope_factor=8.0)]


def _text_and_weights(folder: Path, shape: str, seed: int = 0) -> tuple[Path, Path]:
    import torch
    from safetensors.torch import save_file

    from ironloom.train.model.decoder import build
    from ironloom.train.model.names import to_hf

    text, weights = folder / "race-text.bin", folder / f"race-{shape}-{seed}.safetensors"
    text.write_bytes(b"\n".join(page.read_bytes() for page in sorted((ROOT / "docs").rglob("*.md"))))
    model = build(SHAPES[shape].config, dtype=torch.float32)
    model.reset(seed)
    tensors = {
        name: part.detach().contiguous()
        for ours, parameter in model.named_parameters()
        for name, part in to_hf(ours, parameter, model.config)
    }
    save_file(tensors, weights)
    return text, weights


def best(_: Path) -> list[Row]:
    """Our best setting for each of the five, on a card of 80 GB."""
    wide, whole, small, small_long, long = five()
    return [
        only(whole, checkpointing="attention", whole_blocks=12),
        only(replace(wide, checkpointing="none")),
        only(replace(small, checkpointing="none")),
        only(replace(small_long, checkpointing="none")),
        only(replace(long, checkpointing="none")),
    ]


def lora(_: Path) -> list[Row]:
    """LoRA on an 8B, beside PEFT and the Trainer; and the Trainer beside full training."""
    row = Row(shape="8b", seq=2048, batch=4, dtype="bfloat16", checkpointing="full", lora_rank=16, learning_rate=2e-4)
    return [
        only(row),
        only(row, checkpointing="selective"),
        only(replace(row, seq=8192, batch=1)),
        only(replace(row, steps=6, warmup=3), system="transformers"),
        only(replace(five()[0], checkpointing="full", steps=5, warmup=4), system="transformers"),
    ]


def lora_race(_: Path) -> list[Row]:
    """LoRA on the whole 8B in turns with PEFT and the Trainer (`--systems ironloom,transformers`): equal settings, and
    then what each does better with."""
    row = Row(
        shape="8b", seq=2048, batch=4, dtype="bfloat16", checkpointing="full", lora_rank=16, learning_rate=2e-4,
        steps=6, warmup=3,
    )  # fmt: skip
    return [
        row,
        only(row, system="transformers", compiled=True),
        only(row, checkpointing="selective"),
        only(row, nf4=True),
    ]


def qlora(out: Path) -> list[Row]:
    """A base in NF4 beside one in bf16, ours alone."""
    row = lora_race(out)[0]
    return [only(row), only(row, nf4=True), only(row, nf4=True, checkpointing="selective")]


def lora_dry(out: Path) -> list[Row]:
    """The same with a tiny model, for a machine without a GPU."""
    small: dict[str, Any] = {
        "shape": "tiny",
        "seq": 64,
        "batch": 2,
        "lora_rank": 4,
        "is_compiled": False,
        "warmup": 1,
        "steps": 2,
    }
    return [replace(row, **small) for row in lora_race(out)]


def settings_more(_: Path) -> list[Row]:
    """Settings of ours that `settings` lacks: the adapters' rank and length, NF4, wide states, packed documents."""
    base = Row(shape="1b", seq=2048, batch=4, dtype="bfloat16", checkpointing="selective", steps=6, warmup=3)
    whole = replace(base, shape="8b", checkpointing="full", learning_rate=2e-4)
    return [
        only(replace(base, lora_rank=8)),
        only(replace(base, lora_rank=64)),
        only(replace(base, seq=4096, batch=2, lora_rank=16)),
        only(replace(whole, seq=4096, batch=2, lora_rank=16)),
        only(replace(whole, batch=2, lora_rank=64), checkpointing="selective"),
        only(replace(whole, lora_rank=16), nf4=True, checkpointing="selective"),
        only(replace(base, lora_rank=16), nf4=True),
        only(base, state_dtype="float32"),
        only(replace(base, seq=8192, batch=1, dtype="float32"), document_tokens=1024),
        only(replace(base, shape="8b-8", seq=8192, batch=1), document_tokens=1024),
        only(replace(base, shape="8b-8", seq=4096, batch=2), state_dtype="float32", document_tokens=512),
    ]


def settings_dry(out: Path) -> list[Row]:
    """The same with a tiny model, for a machine without a GPU."""
    small: dict[str, Any] = {"shape": "tiny", "seq": 64, "batch": 2, "is_compiled": False, "warmup": 1, "steps": 1}
    return [
        replace(row, **small, tweaks={k: 16 if k == "document_tokens" else v for k, v in row.tweaks.items()})
        for row in settings_more(out)
    ]


def float8(_: Path) -> list[Row]:
    """float8 beside bf16."""
    return [only(five()[0], float8=True), only(five()[1], float8=True)]


def loss_study(out: Path) -> list[Row]:
    """What of the losses' difference is noise, and what the type of the residual stream does."""
    row = loss(out)[0]
    return [
        only(row, wide_residual=True),
        only(row),
        only(row, system="torchtitan"),
        only(replace(row, is_compiled=False), system="torchtitan"),
        only(five()[0], wide_residual=True),
    ]


def deterministic(_: Path) -> list[Row]:
    """What the same bits in each run cost, without and with documents packed."""
    row = five()[2]
    packed = {"document_tokens": 512}
    return [
        only(row),
        only(row, deterministic=True),
        only(row, **packed),
        only(row, deterministic=True, **packed),
    ]


def deterministic_dry(out: Path) -> list[Row]:
    """The same with a tiny model, for a machine without a GPU."""
    small: dict[str, Any] = {"shape": "tiny", "seq": 64, "batch": 2, "is_compiled": False, "warmup": 1, "steps": 2}
    return [
        replace(row, **small, tweaks={k: 16 if k == "document_tokens" else v for k, v in row.tweaks.items()})
        for row in deterministic(out)
    ]


def whole_blocks(_: Path) -> list[Row]:
    """Blocks at the end of an 8B that keep their activations where the gradients of those before them will be."""
    row = five(10)[1]
    return [row, only(row, whole_blocks=1), only(row, whole_blocks=4), only(row, whole_blocks=12)]


def settings(_: Path) -> list[Row]:
    """More settings of ours, for predictions: size, sequence, batch, checkpointing, dtype, LoRA."""
    base = Row(shape="1b", seq=2048, batch=4, dtype="float32", checkpointing="selective", steps=6, warmup=3)
    eight = replace(base, shape="8b-8")
    whole = replace(base, shape="8b", dtype="bfloat16", checkpointing="full")
    rows = [
        *(replace(base, batch=batch) for batch in (2, 4, 8)),
        *(replace(eight, batch=batch) for batch in (2, 4)),
        *(replace(base, checkpointing=kind) for kind in ("none", "full")),
        replace(eight, seq=4096, batch=1),
        *(replace(base, dtype="bfloat16", checkpointing=kind) for kind in ("selective", "full")),
        replace(eight, seq=4096, batch=2),
        *(replace(base, seq=seq, batch=batch) for seq, batch in ((512, 16), (1024, 8), (4096, 4), (16384, 1))),
        replace(whole, batch=1),
        replace(base, lora_rank=16, dtype="bfloat16"),
        replace(eight, seq=4096, batch=2, dtype="bfloat16"),
        replace(eight, seq=4096, batch=4, checkpointing="full"),
        replace(whole, batch=2),
        replace(base, seq=32768, batch=1, checkpointing="full"),
        replace(eight, seq=16384, batch=1, checkpointing="full"),
        replace(eight, lora_rank=16, dtype="bfloat16"),
        replace(whole, seq=4096, batch=1, checkpointing="selective"),
    ]
    return [only(row) for row in rows]


PLANS: dict[str, Callable[[Path], list[Row]]] = {
    "dry": dry,
    "race": lambda _: five(),
    "loss": loss,
    "loss-dry": loss_dry,
    "best": best,
    "lora": lora,
    "float8": float8,
    "loss-study": loss_study,
    "loss-noise": loss_noise,
    "loss-exact": loss_exact,
    "deterministic": deterministic,
    "deterministic-dry": deterministic_dry,
    "whole-blocks": whole_blocks,
    "settings-even": lambda out: settings(out)[::2],
    "settings-odd": lambda out: settings(out)[1::2],
    "whole": lambda _: [five(10)[1]],
    "lora-ours": lambda out: lora(out)[:3],
    "lora-race": lora_race,
    "lora-dry": lora_dry,
    "qlora": qlora,
    "settings-more": settings_more,
    "settings-dry": settings_dry,
}
