# https://github.com/verl-project/verl/pull/7626
# Chunked prefill off, 8,192 tokens a step and a context of 128 k: no prompt of that length fits, and vLLM refuses.
# finds: IL762
"""Scores rollouts of a small policy."""

import json
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    llm = LLM(
        model="Qwen/Qwen2.5-7B-Instruct",
        max_model_len=32768,
        enable_chunked_prefill=False,
        max_num_batched_tokens=8192,  # <-- IL762
        gpu_memory_utilization=0.85,
    )
    sampling = SamplingParams(temperature=1.0, max_tokens=1024)
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    outputs = llm.chat([[{"role": "user", "content": row["prompt"]}] for row in rows], sampling)
    Path("rollouts.jsonl").write_text("\n".join(json.dumps(output.outputs[0].text) for output in outputs))


if __name__ == "__main__":
    main()
