# https://github.com/microsoft/MInference/issues/178
# CUDA was in use before the engine was made, so vLLM spawned; with no main guard the script ran again in each process.
# finds: IL755
"""Answers the questions of a file with a fine-tuned model."""

import argparse
import json
from pathlib import Path

import torch
from vllm import LLM, SamplingParams

parser = argparse.ArgumentParser()
parser.add_argument("--model_path", required=True)
parser.add_argument("--questions", default="questions.jsonl")
args = parser.parse_args()

free, total = torch.cuda.mem_get_info()
print(f"{free / total:.0%} of the GPU is free")
llm = LLM(model=args.model_path, tensor_parallel_size=2, dtype="bfloat16", max_model_len=8192)  # <-- IL755
sampling = SamplingParams(temperature=0.0, max_tokens=512)

questions = [json.loads(line)["question"] for line in Path(args.questions).read_text().splitlines()]
conversations = [[{"role": "user", "content": question}] for question in questions]

for output in llm.chat(conversations, sampling):
    print(json.dumps({"answer": output.outputs[0].text}))
