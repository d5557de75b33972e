"""Compares shapes with transformers' own modules, on the meta device; run where transformers and torch are installed.

    python tests/workload/shapes/against_transformers.py > tests/workload/shapes/golden.json

Builds small random configs of every family, and writes each config with its number of parameters and a digest of its
tensors. It fails when a shape's tensors are not the module's. test_shapes_golden.py then needs neither library.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

NUM_CONFIGS = 4
"""Of each family."""


def configs(model_type: str, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Small configs of a family, with every switch of it in both positions now and then."""
    for _ in range(NUM_CONFIGS):
        kv_heads = chance.choice([1, 2, 4])
        heads = kv_heads * chance.choice([1, 2, 3])
        head_dim = chance.choice([8, 16, 24])
        layers = chance.randint(2, 7)
        made: dict[str, Any] = {
            "model_type": model_type,
            "hidden_size": heads * head_dim,
            "intermediate_size": 8 * chance.randint(2, 9),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": chance.randint(60, 90),
            "max_position_embeddings": 64,
            "tie_word_embeddings": chance.random() < 0.5,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        if chance.random() < 0.6:
            made["attention_bias"] = chance.random() < 0.5
        match model_type:
            case "llama" | "smollm3" | "granite":
                made["mlp_bias"] = chance.random() < 0.5
            case "mistral":
                made["sliding_window"] = chance.choice([None, 16])
            case "qwen3" | "gemma" | "gemma2" | "gemma3_text" | "seed_oss" | "gpt_oss" | "glm4":
                made["head_dim"] = chance.choice([8, 16])
        match model_type:
            case "mixtral" | "phimoe" | "gpt_oss":
                made |= {"num_local_experts": chance.randint(2, 5), "num_experts_per_tok": 2}
                made["lm_head_bias"] = chance.random() < 0.5
            case "qwen2_moe" | "qwen3_moe":
                made |= {
                    "num_experts": chance.randint(2, 5),
                    "num_experts_per_tok": 2,
                    "moe_intermediate_size": 8 * chance.randint(1, 4),
                    "shared_expert_intermediate_size": 8 * chance.randint(1, 4),
                    "decoder_sparse_step": chance.choice([1, 1, 2]),
                    "mlp_only_layers": chance.choice([[], [0]]),
                }
            case "deepseek_v2" | "deepseek_v3":
                made |= {
                    "num_key_value_heads": heads,
                    "n_routed_experts": 8,
                    "n_group": 2,
                    "topk_group": 1,
                    "n_shared_experts": chance.randint(1, 2),
                    "num_experts_per_tok": 2,
                    "moe_intermediate_size": 8 * chance.randint(1, 4),
                    "first_k_dense_replace": chance.randint(0, layers - 1),
                    "kv_lora_rank": 16,
                    "q_lora_rank": chance.choice([None, 24]),
                    "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 16,
                    "v_head_dim": 12,
                }
            case "falcon":
                is_new = chance.random() < 0.5
                made |= {
                    "new_decoder_architecture": is_new,
                    "num_kv_heads": kv_heads,
                    "multi_query": chance.random() < 0.5,
                    "parallel_attn": is_new or chance.random() < 0.7,
                    "bias": chance.random() < 0.5,
                }
            case "gpt2" | "gpt_bigcode":
                made = {
                    "model_type": model_type,
                    "n_embd": heads * head_dim,
                    "n_head": heads,
                    "n_layer": layers,
                    "n_positions": 40,
                    "vocab_size": made["vocab_size"],
                    "multi_query": chance.random() < 0.5,
                    "tie_word_embeddings": made["tie_word_embeddings"],
                }
            case "opt":
                made |= {"ffn_dim": 48, "word_embed_proj_dim": heads * head_dim}
            case "phi":
                made["qk_layernorm"] = chance.random() < 0.5
            case "starcoder2":
                made["use_bias"] = chance.random() < 0.5
            case "gemma3":
                text = made | {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8}
                made = {
                    "model_type": "gemma3",
                    "text_config": text,
                    "vision_config": {
                        "hidden_size": 24,
                        "intermediate_size": 40,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 2,
                        "image_size": 28,
                        "patch_size": 14,
                        "model_type": "siglip_vision_model",
                        "vision_use_head": False,
                    },
                }
        yield made


def sizes_by_module(names_and_shapes: Iterator[tuple[str, tuple[int, ...]]]) -> Counter[str]:
    """Numbers in each module, under names that both sides have: experts of a layer are added up, as transformers keeps
    them stacked, and prefixes that differ between versions of it are cut."""
    found: Counter[str] = Counter()
    for name, shape in names_and_shapes:
        plain = re.sub(r"^(model\.language_model|language_model\.model|model\.(?=vision|multi))\.?", "", name)
        plain = plain.replace("vision_model.", "").replace("embed_out", "lm_head").removeprefix("model.")
        plain = plain.replace("block_sparse_moe", "mlp").replace("mlp.router", "mlp.gate")
        plain = re.sub(r"experts\.\d+\.(w1|w3|gate_proj|up_proj)\.weight", "experts.gate_up_proj", plain)
        plain = re.sub(r"experts\.\d+\.(w2|down_proj)\.weight", "experts.down_proj", plain)
        found[plain.removeprefix("language_model.")] += prod(shape)
    return found


def digest(sizes: Counter[str]) -> str:
    """A name for the numbers in every module."""
    text = "\n".join(f"{name} {sizes[name]}" for name in sorted(sizes))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_module(config: dict[str, Any]) -> Counter[str]:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    made = CONFIG_MAPPING[config["model_type"]](**{k: v for k, v in config.items() if k != "model_type"})
    loader = AutoModelForImageTextToText if config["model_type"] == "gemma3" else AutoModelForCausalLM
    with torch.device("meta"):
        module = loader.from_config(made)
    module.tie_weights()
    tensors = [(name, tuple(value.shape)) for name, value in module.named_parameters()]
    tensors += [(name, tuple(value.shape)) for name, value in module.named_buffers() if "e_score_correction" in name]
    return sizes_by_module(iter(tensors))


def main() -> None:
    from ironloom.workload.shapes.config import FAMILIES, shape_of_config

    chance = random.Random(12)
    golden = []
    failed = 0
    for model_type in sorted(set(FAMILIES) - {"RefinedWeb", "RefinedWebModel", "kimi_k2"}):
        for config in configs(model_type, chance):
            want = of_module(config)
            shape = shape_of_config(config, model_type)
            have = sizes_by_module(shape.parameters())
            if want != have:
                failed += 1
                print(f"{model_type}: {config}\n  more: {have - want}\n  missing: {want - have}", file=sys.stderr)
            golden.append(
                {
                    "config": config,
                    "num_parameters": sum(want.values()),
                    "num_modules": len(want),
                    "digest": digest(want),
                }
            )
    if failed:
        sys.exit(f"{failed} shapes are not the modules'")
    print("[\n" + ",\n".join(json.dumps(entry, separators=(",", ":"), sort_keys=True) for entry in golden) + "\n]")


if __name__ == "__main__":
    main()
