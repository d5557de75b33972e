"""What a model on disk is: its form, architecture, task, context; whole or not. Reads headers, never weights."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ironloom.errors import ModelCorrupt, ModelNotFound, ModelRefused
from ironloom.serve.engines.base import LocalModel, ModelFormat, Task
from ironloom.workload.shapes.gguf_header import GgufHeader, read_gguf_header
from ironloom.workload.shapes.safetensors_header import read_safetensors_header

INDEX = "model.safetensors.index.json"
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack"})
"""Suffixes of weights that are pickles, or were of frameworks that nothing here reads."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_EMBEDDING_GGUF = ("bert", "nomic-bert", "jina-bert-v2", "gritlm", "t5encoder", "gemma-embedding", "modern-bert")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_SPLIT = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


def inspect_model(path: Path, uri: str, *, note: str | None = None) -> LocalModel:
    """The model in a folder or a single GGUF file.

    Raises ModelNotFound when there is nothing, ModelRefused when it is of no use here (pickles alone, no config),
    ModelCorrupt when a file is damaged or cut short, or when a part that its index names is not there.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            return _gguf(path, uri, note)
        raise ModelRefused(f"{path} is no GGUF file; a single file must be one", hint="name its folder instead")
    if not path.is_dir():
        raise ModelNotFound(f"there is no folder or file {path}")
    if (path / "openvino_model.xml").is_file():
        return _openvino(path, uri, note)
    weights = sorted(path.glob("*.safetensors"))
    if weights or (path / INDEX).is_file():
        return _safetensors(path, uri, note)
    gguf = sorted(path.glob("*.gguf"))
    first_parts = [file for file in gguf if _SPLIT.fullmatch(file.name) is None or "-00001-of-" in file.name]
    if len(first_parts) == 1:
        return _gguf(first_parts[0], uri, note)
    if gguf:
        names = ", ".join(file.name for file in first_parts[:8])
        raise ModelRefused(f"{path} holds {len(first_parts)} GGUF models: {names}", hint="name one of the files")
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ModelRefused(
            f"{path} holds its weights as pickles alone ({', '.join(pickles[:3])}); loading one can run any code, "
            "so only safetensors and GGUF are taken",
            hint="convert it to safetensors, or look for a copy of the model in that form",
        )
    raise ModelRefused(f"{path} holds no weights: neither safetensors nor GGUF nor OpenVINO files")


def _safetensors(folder: Path, uri: str, note: str | None) -> LocalModel:
    config = read_json(folder / "config.json")
    files = weight_files(folder)
    dtypes: Counter[str] = Counter()
    for file in files:
        for tensor in read_safetensors_header(file).values():
            dtypes[str(tensor.get("dtype"))] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    auto_map = config.get("auto_map")
    own_code = ", ".join(sorted({str(v) for v in auto_map.values()})) if isinstance(auto_map, dict) else None
    return LocalModel(
        uri=uri,
        path=folder,
        format=ModelFormat.SAFETENSORS,
        architecture=architecture,
        task=_task(folder, architecture),
        context_length=_context_length(config),
        size_bytes=sum(file.stat().st_size for file in files),
        note=note,
        form=_form(config, dtypes),
        model_type=str(config.get("model_type") or ""),
        own_code=own_code or None,
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the folder's index names, or that are there. Raises ModelCorrupt for a missing one."""
    index = folder / INDEX
    if not index.is_file():
        whole = folder / "model.safetensors"
        if whole.is_file():
            return [whole]
        found = sorted(folder.glob("*.safetensors"))
        return [file for file in found if not file.name.startswith("consolidated")] or found
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelCorrupt(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if len(PurePosixPath(name).parts) != 1 or not name.endswith(".safetensors"):
            raise ModelCorrupt(f'{index} names the file "{name}"; a safetensors file beside it is wanted')
        if not (folder / name).is_file():
            raise ModelCorrupt(f"{folder} is not whole: {name} of its {len(names)} weight files is missing")
    return [folder / name for name in names]


def _gguf(file: Path, uri: str, note: str | None) -> LocalModel:
    header = read_gguf_header(file)
    parts = [file]
    if header.split_count > 1:
        parts = split_parts(file, header)
    if not header.architecture:
        raise ModelCorrupt(f"{file} has no general.architecture in its metadata")
    return LocalModel(
        uri=uri,
        path=file,
        format=ModelFormat.GGUF,
        architecture=header.architecture,
        task=Task.EMBED if header.architecture in _EMBEDDING_GGUF else Task.GENERATE,
        context_length=header.context_length,
        size_bytes=sum(part.stat().st_size for part in parts),
        note=note,
        form=header.form,
        model_type=header.architecture,
    )


def split_parts(first: Path, header: GgufHeader) -> list[Path]:
    """All files of a split GGUF model, by llama.cpp's naming (name-00001-of-00003.gguf). Raises ModelCorrupt."""
    match = _SPLIT.fullmatch(first.name)
    if match is None or int(match[2]) != header.split_count or header.metadata.get("split.no") != 0:
        raise ModelCorrupt(f"{first} is one of {header.split_count} parts, and not named as the first of them")
    parts = [first.with_name(f"{match[1]}-{n:05d}-of-{match[2]}.gguf") for n in range(1, header.split_count + 1)]
    for part in parts[1:]:
        if not part.is_file():
            raise ModelCorrupt(f"{first} is not whole: {part.name} is missing")
        read_gguf_header(part)
    return parts


def _openvino(folder: Path, uri: str, note: str | None) -> LocalModel:
    weights = folder / "openvino_model.bin"
    if not weights.is_file():
        raise ModelCorrupt(f"{folder} is not whole: openvino_model.bin is missing")
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return LocalModel(
        uri=uri,
        path=folder,
        format=ModelFormat.OPENVINO,
        architecture=architecture,
        task=_task(folder, architecture),
        context_length=_context_length(config),
        size_bytes=sum(file.stat().st_size for file in folder.glob("openvino_*.bin")),
        note=note,
        form="OpenVINO IR",
        model_type=str(config.get("model_type") or ""),
    )


def _task(folder: Path, architecture: str) -> Task:
    """sentence-transformers' modules.json, or an architecture without a head, is an embedding model."""
    if (folder / "modules.json").is_file():
        return Task.EMBED
    headless = architecture.endswith(("Model", "Encoder", "EmbeddingModel"))
    return Task.EMBED if headless or architecture.endswith("ForMaskedLM") else Task.GENERATE


def _context_length(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in _CONTEXT_KEYS:
            value = part.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _form(config: dict[str, Any], dtypes: Counter[str]) -> str:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method"):
        return str(quantization["quant_method"])
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    return names.get(most := dtypes.most_common(1)[0][0], most) if dtypes else ""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of the model's folder. Raises ModelRefused when it is not there, ModelCorrupt when it is none."""
    try:
        return _decode_object(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelRefused(f"{file.parent} has weights but no {file.name}, so nothing says what they are") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelCorrupt(f"{file} is no JSON object ({error})") from error
