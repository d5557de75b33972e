"""Programs that start another one and leave it what it is: `exec`, `env`, `numactl`, `uv run`, `nsys profile`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.DOTALL)


class _Wrapper(msgspec.Struct, frozen=True, kw_only=True):
    """How far the words of a wrapper go."""

    verbs: tuple[str, ...] = ()
    """Words that must follow its name: `run` of `uv run`."""
    takes: frozenset[str] = frozenset()
    """Its options that take the next word."""
    num_operands: int = 0
    """Words of its own before the command: the seconds of `timeout`."""
    assigns: bool = False
    """NAME=value words may stand before the command."""


def _with(*options: str) -> frozenset[str]:
    return frozenset(options)


_WRAPPERS: dict[str, _Wrapper] = {
    "exec": _Wrapper(takes=_with("-a")),
    "command": _Wrapper(),
    "env": _Wrapper(takes=_with("-u", "--unset", "-C", "--chdir"), assigns=True),
    "nohup": _Wrapper(),
    "time": _Wrapper(takes=_with("-f", "-o")),
    "setsid": _Wrapper(),
    "sudo": _Wrapper(takes=_with("-u", "-g", "-C"), assigns=True),
    "gosu": _Wrapper(num_operands=1),
    "su-exec": _Wrapper(num_operands=1),
    "nice": _Wrapper(takes=_with("-n", "--adjustment")),
    "ionice": _Wrapper(takes=_with("-c", "-n", "-p")),
    "chrt": _Wrapper(num_operands=1),
    "numactl": _Wrapper(takes=_with("-C", "-N", "-m", "-i", "-p")),
    "taskset": _Wrapper(takes=_with("-c", "--cpu-list")),
    "timeout": _Wrapper(takes=_with("-k", "-s", "--kill-after", "--signal"), num_operands=1),
    "stdbuf": _Wrapper(takes=_with("-i", "-o", "-e")),
    "unbuffer": _Wrapper(),
    "tini": _Wrapper(takes=_with("-p", "-e")),
    "dumb-init": _Wrapper(takes=_with("-r", "--rewrite")),
    "catatonit": _Wrapper(),
    "docker-init": _Wrapper(),
    "nvidia_entrypoint.sh": _Wrapper(),
    "xvfb-run": _Wrapper(takes=_with("-n", "-s")),
    "uv": _Wrapper(
        verbs=("run",), takes=_with("--with", "--extra", "--group", "-p", "--python", "--project", "--directory")
    ),
    "poetry": _Wrapper(verbs=("run",)),
    "pdm": _Wrapper(verbs=("run",)),
    "pipenv": _Wrapper(verbs=("run",)),
    "pixi": _Wrapper(verbs=("run",), takes=_with("-e", "--environment")),
    "conda": _Wrapper(verbs=("run",), takes=_with("-n", "--name", "-p", "--prefix")),
    "micromamba": _Wrapper(verbs=("run",), takes=_with("-n", "--name", "-p", "--prefix")),
    "nsys": _Wrapper(verbs=("profile",), takes=_with("-o", "-t", "-s", "-c", "-d", "-y", "-f", "-w", "-x")),
    "ncu": _Wrapper(takes=_with("-o", "-k", "-c", "-s")),
    "opentelemetry-instrument": _Wrapper(),
    "ddtrace-run": _Wrapper(),
}


def num_wrapping(words: Sequence[str]) -> int:
    """How many words stand before the command that a wrapper starts; 0 where the first word is no wrapper."""
    wrapper = _WRAPPERS.get(words[0].rpartition("/")[2])
    if wrapper is None or tuple(words[1 : 1 + len(wrapper.verbs)]) != wrapper.verbs:
        return 0
    at = 1 + len(wrapper.verbs)
    while at < len(words):
        word = words[at]
        if word == "--":
            at += 1
            break
        if word.startswith("-") and len(word) > 1:
            at += 2 if word in wrapper.takes else 1
        elif wrapper.assigns and _ASSIGNMENT.match(word):
            at += 1
        else:
            break
    at += wrapper.num_operands
    # A wrapper's options may be unknown here; a word that is left over is better than a command that is lost.
    return min(at, len(words) - 1) if len(words) > 1 else 0
