"""A Hugging Face folder of safetensors into OpenVINO's form, once, by optimum-intel (the extra `convert`).

    python -m ironloom.serve.engines.programs.convert_safetensors --model FOLDER --out FOLDER --task generate

It runs optimum's own command, offline, without any code of the model's. Text models get 8-bit weights (half the memory
traffic of 16 bits at near to no loss) unless `--weight-format` says fp16, fp32 or int4; optimum writes no bf16.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ironloom.serve.engines.programs.converting import say, whole_folder

WEIGHT_FORMATS = ("int8", "int4", "fp16", "fp32")
_TASKS = {"generate": "text-generation-with-past", "embed": "feature-extraction"}
_KEPT = ("1_Pooling", "modules.json", "sentence_bert_config.json", "chat_template.jinja", "generation_config.json")
_NEEDED = {
    "generate": ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml"),
    "embed": ("openvino_model.xml", "openvino_tokenizer.xml"),
}


def main(args: list[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert_safetensors", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=tuple(_TASKS), default="generate")
    parser.add_argument("--weight-format", choices=WEIGHT_FORMATS, default="int8")
    options = parser.parse_args(args)
    try:
        convert(options.model, options.out, task=options.task, weight_format=options.weight_format)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def convert(model: Path, out: Path, *, task: str, weight_format: str) -> None:
    """Write the folder `out`, whole or not at all. Raises RuntimeError for a model that optimum cannot export."""
    with whole_folder(out) as folder:
        say(f"converting {model.name} to OpenVINO's form, weights in {weight_format}")
        command = [
            sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino",
            "--model", str(model), "--task", _TASKS[task], "--weight-format", weight_format,
            "--library", "transformers", str(folder),
        ]  # fmt: skip
        # optimum's own talk, progress bars included, goes to stderr: stdout is for our progress.
        done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"optimum could not convert {model}; exit status {done.returncode}")
        for name in _KEPT:
            source = model / name
            if source.is_dir():
                shutil.copytree(source, folder / name, dirs_exist_ok=True)
            elif source.is_file() and not (folder / name).exists():
                shutil.copy(source, folder / name)
        missing = [name for name in _NEEDED[task] if not (folder / name).is_file()]
        if missing:
            raise RuntimeError(f"optimum did not write {' and '.join(missing)}: this tokenizer cannot be converted")
    say("converted")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
