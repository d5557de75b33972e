# https://github.com/pacman100/LLM-Workshop/issues/9
# device_map="auto" in a run of many processes with FSDP: each lays the model over all GPUs, and prepare() refuses it.
# finds: IL736
"""Instruction-tunes Mixtral with adapters; started with `accelerate launch --num_processes 4 tune.py`."""

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

MODEL = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def main() -> None:
    accelerator = Accelerator(mixed_precision="bf16", fsdp_plugin=FullyShardedDataParallelPlugin())
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(
        MODEL,
        torch_dtype=torch.bfloat16,
        device_map="auto",  # <-- IL736
    )
    model = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    rows = load_dataset("json", data_files="data/instructions.jsonl", split="train")
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=2048), remove_columns=["text"])
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    loader = DataLoader(rows, batch_size=2, shuffle=True, collate_fn=collate, num_workers=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.save_state("out")


if __name__ == "__main__":
    main()
