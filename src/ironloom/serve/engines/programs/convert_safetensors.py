"""A Hugging Face folder of safetensors into OpenVINO's form, once, by optimum-intel (the extra `convert`).

    python -m ironloom.serve.engines.programs.convert_safetensors --model FOLDER --out FOLDER --task generate

No code of the model's own is run. Weights are kept as 8-bit integers with `--weight-format int8` (the default for text
models: half the memory traffic of 16 bits, and near to no loss), or as fp16, bf16 or fp32.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from ironloom.serve.engines.programs.converting import say, whole_folder

WEIGHT_FORMATS = ("int8", "int4", "fp16", "bf16", "fp32")
_KEPT = ("1_Pooling", "modules.json", "sentence_bert_config.json", "chat_template.jinja", "generation_config.json")


def main(args: list[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert_safetensors", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=("generate", "embed"), default="generate")
    parser.add_argument("--weight-format", choices=WEIGHT_FORMATS, default="int8")
    options = parser.parse_args(args)
    convert(options.model, options.out, task=options.task, weight_format=options.weight_format)
    return 0


def convert(model: Path, out: Path, *, task: str, weight_format: str) -> None:
    """Write the folder `out`, whole or not at all. Raises what optimum raises for a model it cannot export."""
    say(f"loading {model.name}")
    from optimum.exporters.openvino import main_export

    settings: dict[str, Any] = {
        "task": "text-generation-with-past" if task == "generate" else "feature-extraction",
        "library_name": "transformers",
        "trust_remote_code": False,
        "local_files_only": True,
        "convert_tokenizer": True,
        "do_validation": False,
    }
    settings["ov_config"] = _config(weight_format)
    with whole_folder(out) as folder:
        say(f"converting {model.name} to OpenVINO's form, weights in {weight_format}")
        main_export(str(model), folder, **settings)
        for name in _KEPT:
            source = model / name
            if source.is_dir():
                shutil.copytree(source, folder / name, dirs_exist_ok=True)
            elif source.is_file() and not (folder / name).exists():
                shutil.copy(source, folder / name)
        for name in ("openvino_model.xml", "openvino_tokenizer.xml", "openvino_detokenizer.xml"):
            if not (folder / name).is_file() and not (task == "embed" and name == "openvino_detokenizer.xml"):
                raise RuntimeError(f"optimum did not write {name}: this tokenizer cannot be converted")
    say("converted")


def _config(weight_format: str) -> Any:
    from optimum.intel import OVConfig, OVWeightQuantizationConfig

    if weight_format in {"int8", "int4"}:
        bits = int(weight_format.removeprefix("int"))
        return OVConfig(quantization_config=OVWeightQuantizationConfig(bits=bits, sym=False))
    return OVConfig(dtype=weight_format)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
