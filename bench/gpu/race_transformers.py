"""Hugging Face's Trainer, with PEFT where a row wants LoRA, as a worker of the training race (race_worker.py).

Transformers' Llama with scaled_dot_product_attention, bf16 autocast over fp32 parameters (or all bf16), fused AdamW,
its own gradient checkpointing, and torch.compile where the row compiles. PEFT keeps the adapters of a bf16 model in
fp32; autocast computes with them in bf16. A row of adapters is compiled where it says `compiled`.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import race_worker
import torch
from race_rows import SHAPES, Row, measured
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Rows(torch.utils.data.Dataset[Any]):
    """The race's batches, sequence by sequence."""

    def __init__(self, row: Row) -> None:
        source = race_worker.batches(row)
        made = [next(source)[0] for _ in range(race_worker.NUM_BATCHES)]
        self._rows = [sequence for batch in made for sequence in batch.unbind()]

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self._rows[index % len(self._rows)]
        return {"input_ids": tokens, "labels": tokens}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Waits for the GPU after the warm-up and at the end, and nowhere else."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.begin = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  the library's names
        if state.global_step == self._row.warmup:
            race_worker.wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.begin = time.perf_counter()
        elif state.global_step == self._row.warmup + self._row.steps:
            race_worker.wait()
            self.seconds = time.perf_counter() - self.begin


def run(row: Row) -> dict[str, Any]:
    """Trains on one row's settings."""
    torch._dynamo.reset()
    config = AutoConfig.for_model(**SHAPES[row.shape].config)
    config._attn_implementation, config.use_cache = "sdpa", False
    dtype = torch.bfloat16 if row.lora_rank else getattr(torch, row.dtype)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with race_worker.device():
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(usual)
    if row.lora_rank:
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=row.lora_rank, lora_alpha=2 * row.lora_rank, target_modules=targets))
        model.enable_input_require_grads()
    clock = Clock(row)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=row.batch,
            max_steps=row.warmup + row.steps,
            bf16=torch.cuda.is_available() and (dtype == torch.float32 or row.lora_rank > 0),
            use_cpu=not torch.cuda.is_available(),
            learning_rate=row.learning_rate,
            weight_decay=0.1,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            gradient_checkpointing=row.checkpointing != "none",
            gradient_checkpointing_kwargs={"use_reentrant": False},
            torch_compile=row.tweaks.get("compiled", row.is_compiled and not row.lora_rank),
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(model=model, args=options, train_dataset=Rows(row), callbacks=[clock]).train()
    on_gpu = torch.cuda.is_available()
    return measured(
        row,
        seconds=clock.seconds,
        losses=[],
        peak=torch.cuda.max_memory_allocated() if on_gpu else 0,
        reserved=torch.cuda.max_memory_reserved() if on_gpu else 0,
    )


if __name__ == "__main__":
    race_worker.serve("transformers", run)
