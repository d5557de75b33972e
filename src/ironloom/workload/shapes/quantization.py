"""How a checkpoint's or an engine's quantization stores a weight matrix, in bytes.

Scales and zero points are counted: for a group of 128 numbers in int4 they are 4 % of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ironloom.errors import ModelRefused


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """A storage format for the linear weights of a model; everything else keeps the native type."""

    method: str
    """As vLLM names it: fp8, awq, gptq, mxfp4, compressed-tensors, bitsandbytes, modelopt, …"""
    weight_bits: int
    group_size: int = 0
    """Numbers along the input dimension that share a scale; 0 for one scale a row, -1 for one a matrix."""
    scale_bits: int = 16
    zero_bits: int = 0
    """Of a zero point a group; 0 for none."""
    block_rows: int = 1
    """Rows that share a scale as well: 128 for the 128x128 blocks of DeepSeek's fp8."""
    experts_only: bool = False
    skips: tuple[str, ...] = ()
    """Modules that keep the native type: names, their ends, or regular expressions after `re:`."""

    def takes(self, name: str, *, is_expert: bool) -> bool:
        """Whether the linear weight `name` of a checkpoint is stored so."""
        if self.experts_only and not is_expert:
            return False
        module = name.removesuffix(".weight")
        for skip in self.skips:
            if skip.startswith("re:"):
                if _matches(skip[3:], module):
                    return False
            elif f".{skip}." in f".{module}.":
                return False
        return True

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix of `rows` outputs and `columns` inputs, with its scales and zero points."""
        groups = {0: 1, -1: 1}.get(self.group_size) or -(-columns // self.group_size)
        num_scales = 1 if self.group_size == -1 else -(-rows // self.block_rows) * groups
        bits = rows * columns * self.weight_bits + num_scales * (self.scale_bits + self.zero_bits)
        return -(-bits // 8)


NAMED: Mapping[str, Quantization] = {
    "fp8": Quantization(method="fp8", weight_bits=8, group_size=-1, scale_bits=32),
    "awq": Quantization(method="awq", weight_bits=4, group_size=128, zero_bits=4),
    "gptq": Quantization(method="gptq", weight_bits=4, group_size=128, zero_bits=4),
    "mxfp4": Quantization(method="mxfp4", weight_bits=4, group_size=32, scale_bits=8, experts_only=True),
    "nvfp4": Quantization(method="nvfp4", weight_bits=4, group_size=16, scale_bits=8),
    "bitsandbytes": Quantization(method="bitsandbytes", weight_bits=4, group_size=64, scale_bits=32),
    "int8": Quantization(method="int8", weight_bits=8, scale_bits=32),
}
"""What an option such as `--quantization fp8` asks of an unquantized model, or what the method means by default."""
_ALIASES = {
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "auto_awq": "awq",
    "auto_gptq": "gptq",
    "fbgemm_fp8": "fp8",
    "ptpc_fp8": "fp8",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
    "experts_int8": "int8",
    "gpt_oss_mxfp4": "mxfp4",
    "fp8_per_tensor": "fp8",
    "fp8_per_block": "fp8",
}
MAX_SKIPS = 5_000
MAX_PATTERN = 200
MAX_REPEATS = 3


def named(method: str) -> Quantization | None:
    """The format that a method's name alone means; None for one that is not known here."""
    method = method.lower().replace("-", "_")
    return NAMED.get(_ALIASES.get(method, method))


def of_config(config: Mapping[str, Any]) -> Quantization | None:
    """The format that a config's `quantization_config` says; None where it has none.

    Raises ModelRefused for a method whose bytes are not known here.
    Sources: transformers' utils/quantization_config.py; compressed-tensors' config; DeepSeek-V3's own config.json.
    """
    made = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(made, Mapping):
        return None
    method = str(made.get("quant_method") or made.get("quant_algo") or "").lower()
    skips = _skips(made)
    match method:
        case "fp8" | "fbgemm_fp8":
            block = made.get("weight_block_size")
            if isinstance(block, list) and len(block) == 2 and all(_is_size(size) for size in block):
                return Quantization(
                    method="fp8", weight_bits=8, group_size=block[1], scale_bits=32, block_rows=block[0], skips=skips
                )
            group = 0 if method == "fbgemm_fp8" else -1
            return Quantization(method="fp8", weight_bits=8, group_size=group, scale_bits=32, skips=skips)
        case "awq" | "gptq":
            bits = made.get("bits", made.get("w_bit", 4))
            group = made.get("group_size", made.get("q_group_size", 128))
            if bits not in {2, 3, 4, 8} or not (group == -1 or _is_size(group)):
                raise ModelRefused(f"quantization_config has bits = {bits!r} and group_size = {group!r}")
            return Quantization(
                method=method, weight_bits=bits, group_size=0 if group == -1 else group, zero_bits=bits, skips=skips
            )
        case "mxfp4":
            return Quantization(
                method="mxfp4", weight_bits=4, group_size=32, scale_bits=8, experts_only=True, skips=skips
            )
        case "bitsandbytes":
            if made.get("load_in_8bit"):
                return Quantization(method=method, weight_bits=8, scale_bits=32, skips=skips)
            return Quantization(method=method, weight_bits=4, group_size=64, scale_bits=32, skips=skips)
        case "compressed-tensors":
            return _compressed(made, skips)
        case "modelopt" | "fp8_pb_wo" | "nvfp4":
            algorithm = str(made.get("quant_algo") or method).lower()
            base = NAMED["nvfp4" if "fp4" in algorithm else "fp8"]
            return Quantization(
                method=method,
                weight_bits=base.weight_bits,
                group_size=base.group_size,
                scale_bits=base.scale_bits,
                skips=skips,
            )
    raise ModelRefused(f"quantization_config has quant_method = {method!r}, whose bytes are not known here")


def _compressed(made: Mapping[str, Any], skips: tuple[str, ...]) -> Quantization:
    groups = made.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping) or weights.get("num_bits") not in {4, 8}:
        raise ModelRefused("quantization_config is of compressed-tensors and names no weights of 4 or 8 bits")
    bits, strategy, size = weights["num_bits"], str(weights.get("strategy") or "tensor"), weights.get("group_size")
    block = weights.get("block_structure")
    is_fp4 = bits == 4 and weights.get("type") == "float"
    rows, group = 1, {"tensor": -1, "channel": 0}.get(strategy, -1)
    if strategy in {"group", "tensor_group"} and isinstance(size, int) and _is_size(size):
        group = size
    elif strategy == "block" and isinstance(block, list) and len(block) == 2 and all(_is_size(part) for part in block):
        rows, group = block
    return Quantization(
        method="compressed-tensors",
        weight_bits=bits,
        group_size=group,
        scale_bits=8 if is_fp4 else 16,
        zero_bits=0 if weights.get("symmetric", True) else bits,
        block_rows=rows,
        skips=skips,
    )


def _skips(made: Mapping[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "llm_int8_skip_modules"):
        names = made.get(key)
        if isinstance(names, list):
            found += [name.replace("*", "") for name in names if isinstance(name, str)]
    return tuple(found[:MAX_SKIPS])


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 20


def _matches(pattern: str, module: str) -> bool:
    """A config is a stranger's: a pattern that repeats what repeats, or repeats often, could run for hours."""
    num_repeats = pattern.count("*") + pattern.count("+") + pattern.count("{")
    if len(pattern) > MAX_PATTERN or num_repeats > MAX_REPEATS or re.search(r"\)[*+{]", pattern):
        return False
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
