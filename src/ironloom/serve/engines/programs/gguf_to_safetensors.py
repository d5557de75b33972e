"""Write a GGUF model out as a folder of safetensors in bfloat16, with config and tokenizer, through Transformers.

    python -m ironloom.serve.engines.programs.gguf_to_safetensors --model IN.gguf --out FOLDER

For engines that read no GGUF. Prints JSON lines of progress.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from ironloom.serve.engines.programs.gguf_tokenizer import byte_level, has_byte_level
from ironloom.serve.engines.programs.gguf_vocabulary import read_vocabulary


def main(args: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gguf_to_safetensors", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    try:
        convert(options.model, options.out)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def convert(source: Path, target: Path) -> None:
    """`target` appears whole or not at all. Raises RuntimeError where Transformers is too old to be trusted with it."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header, vocabulary = read_vocabulary(source)
    is_old = not hasattr(transformers, "GgufConfig")
    if is_old and not has_byte_level(header):
        old = f"Transformers {transformers.__version__} is too old for this: 5.5 reads this tokenizer wrongly"
        raise RuntimeError(f"{old}; install a newer one, apart from the extra convert, which holds it back")
    how = {} if is_old else {"quantization_config": transformers.GgufConfig(dequantize=True)}
    folder, name = str(source.parent), source.name
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _say(f"reading {name}")
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16, **how)
        tokenizer = byte_level(source) if is_old else AutoTokenizer.from_pretrained(folder, gguf_file=name)
        tokenizer.chat_template = vocabulary.chat_template or tokenizer.chat_template
        if header.context_length:
            tokenizer.model_max_length = header.context_length
        _say("writing safetensors")
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in partial.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _say(message: str) -> None:
    print(json.dumps({"message": message}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
