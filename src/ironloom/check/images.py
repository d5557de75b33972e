"""What an image's name says of the processors that it runs on."""

from __future__ import annotations

import re

AMD64, ARM64 = "amd64", "arm64"
_WORD = re.compile(r"(?<![a-z0-9])(?:(amd64|x86[_-]64)|(arm64(?:v8)?|aarch64))(?![a-z0-9])", re.IGNORECASE)
_VLLM = re.compile(r"(?:^|/)vllm/vllm-openai:v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?=$|[-.])")
VLLM_ON_ARM = (0, 10, 1)
"""Images of vLLM before this version are for amd64 alone; of later ones many are for both.

Source: https://github.com/vllm-project/vllm/issues/22206, of the time of 0.10.0
"""


def architecture(image: str) -> tuple[str, str] | None:
    """The one architecture that an image is for, as kubernetes.io/arch has it, and what says so; None where nothing
    does, or where its name has several."""
    registry, slash, path = image.partition("/")
    is_host = bool(slash) and (registry == "localhost" or "." in registry or ":" in registry)
    name = (path if is_host else image).partition("@")[0]
    found = {AMD64 if amd else ARM64: amd or arm for amd, arm in _WORD.findall(name)}
    if len(found) == 1:
        ((one, written),) = found.items()
        return one, f"its name says {written}"
    version = _VLLM.search(name)
    if version is not None and not found:
        number = (int(version[1]), int(version[2]), int(version[3] or 0))
        if number < VLLM_ON_ARM:
            return AMD64, f"vLLM's images are for amd64 alone before {'.'.join(map(str, VLLM_ON_ARM))}"
    return None
