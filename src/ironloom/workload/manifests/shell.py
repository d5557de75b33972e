"""What Kubernetes itself does with a command line, and which programs then read one: shells."""

from __future__ import annotations

import re
from collections.abc import Mapping

SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh"})
MAX_SCRIPT = 100_000
"""Characters of a shell script that are looked at."""
MAX_EXPANDED = 1_000_000
"""Characters of a text with its variables written out: more is a text that multiplies, and stays as it is."""
_KUBERNETES_VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes writes it; an unknown name stays as it is, `$$` is a dollar."""
    if "$" not in text:
        return text
    named = _KUBERNETES_VARIABLE.findall(text)
    if sum(len(env[name]) for name in named if name in env) > MAX_EXPANDED:
        return text

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _KUBERNETES_VARIABLE.sub(value, text)
