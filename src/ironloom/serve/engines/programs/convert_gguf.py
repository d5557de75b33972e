"""A GGUF file of the Llama, Qwen2 or Qwen3 architecture into OpenVINO's form, once.

    python -m ironloom.serve.engines.programs.convert_gguf --model FILE.gguf --out FOLDER [--lean FOLDER]

openvino-genai reads these GGUFs itself, with their quantised weights, and builds the tokenizer from them; this keeps
what it made, so that a start need not do it again. With --lean the form that loads faster is made of that too (see
openvino_lean); what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ironloom.serve.engines.programs.converting import say, whole_folder
from ironloom.serve.engines.programs.model_facts import FILE, ModelFacts
from ironloom.serve.engines.programs.openvino_start import hide_telemetry
from ironloom.serve.engines.programs.openvino_tokens import special_token_ids
from ironloom.workload.shapes.gguf_header import ArrayLength, GgufHeader, read_gguf_header

_SAVED = ("openvino_model", "openvino_tokenizer", "openvino_detokenizer")


def main(args: list[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="convert_gguf", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lean", type=Path)
    options = parser.parse_args(args)
    if not options.out.exists():
        convert(options.model, options.out)
    if options.lean is not None:
        from ironloom.serve.engines.programs.openvino_lean import make_apart

        make_apart(options.out, options.lean)
    return 0


def convert(model: Path, out: Path) -> None:
    """Write the folder `out`, whole or not at all. Raises RuntimeError, OpenVINO's, for what it cannot read."""
    hide_telemetry()
    import openvino_genai

    header = read_gguf_header(model)
    with whole_folder(out) as folder:
        # It saves beside the file it reads; a link keeps that out of the cache of downloads.
        link = folder / "model.gguf"
        link.symlink_to(model.resolve())
        say(f"reading {model.name} and writing OpenVINO's form of it")
        pipeline = openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        tokenizer = pipeline.get_tokenizer()
        template = tokenizer.get_original_chat_template()
        special = special_token_ids(tokenizer)
        facts = facts_of(header, eos=tokenizer.get_eos_token_id(), special=special)
        del pipeline
        link.unlink()
        missing = [name for name in _SAVED if not (folder / f"{name}.xml").is_file()]
        if missing:
            raise RuntimeError(f"OpenVINO did not write {', '.join(missing)} for {model}")
        if template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        (folder / FILE).write_text(json.dumps(facts.to_json(), indent=1), encoding="utf-8")
    say("converted")


def facts_of(header: GgufHeader, *, eos: int, special: tuple[int, ...]) -> ModelFacts:
    """The model's facts from its metadata."""
    arch = header.architecture

    def number(key: str) -> int:
        value = header.metadata.get(key)
        return value if isinstance(value, int) else 0

    heads = number(f"{arch}.attention.head_count")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    ends = {eos, number("tokenizer.ggml.eos_token_id"), number("tokenizer.ggml.eot_token_id")} - {0}
    return ModelFacts(
        context_length=header.context_length or 0,
        num_layers=number(f"{arch}.block_count"),
        num_kv_heads=number(f"{arch}.attention.head_count_kv") or heads,
        head_dim=number(f"{arch}.attention.key_length")
        or (number(f"{arch}.embedding_length") // heads if heads else 0),
        vocab_size=tokens.length if isinstance(tokens, ArrayLength) else number(f"{arch}.vocab_size"),
        eos_token_ids=tuple(sorted(ends)),
        special_token_ids=special,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
