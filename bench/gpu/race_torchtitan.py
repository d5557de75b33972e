"""torchtitan 0.2.2 as a worker of the training race (race_worker.py): its own Trainer, driven by its train_step.

Everything is torchtitan's: model, compile of blocks and loss, activation checkpointing, fused AdamW, clipping. Its
checkpointer and its per-step logging are off, which favours it. So that both compute the same, rotary positions are
plain (torchtitan stretches them as Llama 3.1 does) and ours lets norms decay, as torchtitan does.

Without a GPU it runs on the CPU, for comparisons of losses.
"""

from __future__ import annotations

import os
from typing import Any

import race_worker
import torch
from race_rows import SHAPES, Row

if not torch.cuda.is_available():
    torch._utils._get_available_device_type = lambda: "cpu"

from torchtitan.components import metrics
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.config import JobConfig
from torchtitan.models.llama3 import TransformerModelArgs, get_train_spec
from torchtitan.models.llama3.model.args import RoPEScalingArgs
from torchtitan.protocols.train_spec import register_train_spec
from torchtitan.train import Trainer

FFN = {"1b": (1.5, 256), "8b-8": (1.3, 1024), "8b": (1.3, 1024), "small": (1.0, 256), "tiny": (1.5, 64)}
"""ffn_dim_multiplier and multiple_of that give each shape's width."""
CURRENT: dict[str, Any] = {}


class Batches(BaseDataLoader):
    """The race's batches, in torchtitan's form."""

    def __init__(self, **_: Any) -> None:
        self._row = CURRENT["row"]

    def __iter__(self) -> Any:
        for tokens, targets in race_worker.batches(self._row):
            yield {"input": tokens}, targets

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class NoGpu:
    """What torchtitan asks of a GPU's memory, where there is none."""

    device_name, device_capacity_gib = "cpu", 0.0

    def get_peak_stats(self) -> metrics.DeviceMemStats:
        return metrics.DeviceMemStats(*(0,) * len(metrics.DeviceMemStats._fields))

    def reset_peak_stats(self) -> None:
        pass


def job(row: Row) -> JobConfig:
    """The row's settings in torchtitan's words."""
    shape = SHAPES[row.shape]
    multiplier, multiple = FFN[row.shape]
    CURRENT["row"] = row
    CURRENT["spec"].model_args = {
        "x": TransformerModelArgs(
            dim=shape.hidden, n_layers=shape.layers, n_heads=shape.heads, n_kv_heads=shape.kv_heads,
            vocab_size=shape.vocab, ffn_dim_multiplier=multiplier, multiple_of=multiple, rope_theta=500000,
            rope_scaling_args=RoPEScalingArgs(scaling_factor=row.tweaks.get("rope_factor", 1.0)),
        )
    }  # fmt: skip
    config = JobConfig()
    config.model.name, config.model.flavor = "race", "x"
    config.training.seq_len, config.training.local_batch_size = row.seq, row.batch
    config.training.dtype, config.training.steps = row.dtype, 10**6
    config.training.mixed_precision_param = row.compute_dtype
    config.activation_checkpoint.mode = row.checkpointing
    if row.checkpointing == "selective":
        config.activation_checkpoint.selective_ac_option = "op"
    config.compile.enable = row.is_compiled
    config.compile.components = ["model", "loss"]
    config.optimizer.implementation = "fused"
    config.optimizer.lr, config.optimizer.weight_decay = row.learning_rate, 0.1
    config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps = 0.9, 0.95, 1e-8
    config.lr_scheduler.warmup_steps, config.lr_scheduler.decay_ratio = 0, 0.0
    config.metrics.log_freq = 1 if row.log_losses else 10**9
    config.checkpoint.enable = False
    return config


def run(row: Row) -> dict[str, Any]:
    """Trains on one row's settings."""
    torch._dynamo.reset()
    trainer = Trainer(job(row))
    try:
        model = trainer.model_parts[0]
        if row.weights:
            _load(model, row)
        seen: list[float] = []
        trainer.metrics_processor.log = lambda _step, loss, *_, **__: seen.append(loss)
        source = trainer.batch_generator(trainer.dataloader)

        def one() -> None:
            trainer.step += 1
            trainer.train_step(source)

        found = race_worker.timed(row, one, float)
        return {**found, "losses": [round(loss, 6) for loss in seen]}
    finally:
        trainer.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _load(model: Any, row: Row) -> None:
    """Weights under Hugging Face's names; torchtitan turns neighbours, so the rows of queries and keys are put in its
    order."""
    from safetensors.torch import load_file

    shape = SHAPES[row.shape]
    names = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.layers": "layers",
    }  # fmt: skip
    state = {}
    for name, tensor in load_file(row.weights).items():
        heads = shape.heads if "q_proj" in name else shape.kv_heads
        if "q_proj" in name or "k_proj" in name:
            rows, columns = tensor.shape
            tensor = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    own = {
        name.replace("._orig_mod", "").replace("._checkpoint_wrapped_module", ""): parameter
        for name, parameter in model.named_parameters()
    }
    assert own.keys() == state.keys(), sorted(own.keys() ^ state.keys())[:4]
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    spec = get_train_spec()
    spec.build_dataloader_fn, spec.build_tokenizer_fn = Batches, None
    register_train_spec("race", spec)
    CURRENT["spec"] = spec
    if not torch.cuda.is_available():
        metrics.build_device_memory_monitor = NoGpu
    race_worker.serve("torchtitan", run)
