"""Write a quantised GGUF file out with float16 weights.

    python -m ironloom.serve.engines.programs.dequantise_gguf --model IN.gguf --out OUT.gguf

Vectors (norms, biases) keep their type; every other tensor becomes F16. Metadata is copied, but for the file type.
Prints JSON lines of progress.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

F16_FILE_TYPE = 1
"""llama.cpp's LLAMA_FTYPE_MOSTLY_F16."""


def main(args: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dequantise_gguf", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    dequantise(options.model, options.out)
    return 0


def dequantise(source: Path, target: Path) -> None:
    """`target` appears whole or not at all."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(partial, architecture)
    try:
        for field in reader.fields.values():
            _copy(writer, field, gguf)
        kept = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
        plan = []
        for tensor in reader.tensors:
            keeps = tensor.tensor_type in kept
            shape = tuple(int(size) for size in reversed(tensor.shape))
            dtype = tensor.data.dtype if keeps else np.dtype(np.float16)
            num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            writer.add_tensor_info(tensor.name, shape, dtype, num_bytes)
            plan.append((tensor, keeps, shape, num_bytes))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total_bytes = sum(num_bytes for *_, num_bytes in plan)
        done_bytes = 0
        for tensor, keeps, shape, num_bytes in plan:
            data = tensor.data
            if not keeps:
                data = gguf.quants.dequantize(data, tensor.tensor_type).astype(np.float16)
            writer.write_tensor_data(np.ascontiguousarray(data.reshape(shape)))
            done_bytes += num_bytes
            print(json.dumps({"done_bytes": done_bytes, "total_bytes": total_bytes}), flush=True)
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(writer: Any, field: Any, gguf: Any) -> None:
    """One entry of the metadata; those that the writer makes itself are left."""
    name = field.name
    if name.startswith("GGUF.") or name in ("general.architecture", "general.quantization_version"):
        return
    kind = field.types[0]
    value = F16_FILE_TYPE if name == "general.file_type" else field.contents()
    sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(name, value, kind, sub_type=sub_type)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
