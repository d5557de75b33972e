"""Models whose weights the hub gives out only to an account that has accepted their terms.

Read from the models' pages on the hub, 2026-11-24. A model that is not here may be gated too; these are.
"""

from __future__ import annotations

import re

SOURCE = "https://huggingface.co/docs/hub/models-gated"
_GATED = re.compile(
    r"meta-llama/.+"
    r"|google/(gemma-(1\.1-|2-|3-|3n-)?\d+b.*|gemma-3n-.+|codegemma-.+|paligemma.*|recurrentgemma-.+|shieldgemma-.+)"
    r"|bigcode/(starcoder|starcoderbase.*|santacoder)"
    r"|(CohereForAI|CohereLabs)/c4ai-command-.+"
    r"|databricks/dbrx-.+",
    re.IGNORECASE,
)
_COPIES = re.compile(r"-(GGUF|AWQ|GPTQ)$", re.IGNORECASE)


def is_gated(model: str) -> bool:
    """Whether `owner/name` is known to need a token of an account with access."""
    return _GATED.fullmatch(model) is not None and _COPIES.search(model) is None
