"""OpenVINO's tokenizer without its cut at the model's context.

A tokenizer that was made from a GGUF file, or by an older openvino-tokenizers, keeps the last `Minimum(length, limit)`
tokens of a text, whatever `encode` is asked; a text that is too long would be cut without a word, and its length told
wrongly. Newer ones (the operation Truncate) cut only when asked to. The cut is taken out of the graph before it is
compiled: who reads that Minimum reads the length. No weights are copied.
"""

from __future__ import annotations

import logging
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_XML = "openvino_tokenizer.xml"


def load_tokenizer(folder: Path) -> Any:
    """The folder's openvino_genai.Tokenizer. Raises RuntimeError, OpenVINO's, when it cannot be loaded."""
    import openvino_genai

    try:
        xml = without_limit((folder / _XML).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        xml = None  # OpenVINO says best what is wrong with it.
    if xml is not None:
        try:
            with tempfile.TemporaryDirectory(prefix="ironloom-tokenizer-") as changed:
                for file in folder.iterdir():
                    if file.name != _XML:
                        (Path(changed) / file.name).symlink_to(file.absolute())
                (Path(changed) / _XML).write_text(xml, encoding="utf-8")
                return openvino_genai.Tokenizer(changed)
        except (OSError, RuntimeError) as error:
            logger.warning("the tokenizer in %s cuts long texts, and that cannot be taken out: %s", folder, error)
    return openvino_genai.Tokenizer(str(folder))


def without_limit(xml: str) -> str | None:
    """A tokenizer's IR without its cut; None when it has none. Raises ValueError for a text that is no XML."""
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    kinds = {layer.get("id"): layer.get("type") for layer in root.iterfind("layers/layer")}
    edges = root.findall("edges/edge")
    found = False
    for minimum in (number for number, kind in kinds.items() if kind == "Minimum"):
        lengths = [e for e in edges if e.get("to-layer") == minimum and kinds.get(e.get("from-layer")) != "Const"]
        if len(lengths) != 1:
            continue  # a minimum of two lengths, no limit
        (length,) = lengths
        for edge in edges:
            if edge.get("from-layer") == minimum:
                edge.set("from-layer", length.get("from-layer", ""))
                edge.set("from-port", length.get("from-port", ""))
                found = True
    return ET.tostring(root, encoding="unicode") if found else None
