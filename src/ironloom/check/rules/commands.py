"""What a container runs, as the runtime starts it: a list of words, and no shell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import edits, look, pods
from ironloom.check.finding import Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.workload import Container, Workload

_LINE = re.compile(
    r"(?:[\w./-]*/)?(?:vllm|python[\d.]*|torchrun|accelerate|deepspeed|mpirun|ray|bash|sh|sglang|trtllm-serve|ollama)"
    r"\s+[^\s].*",
    re.S,
)
"""A program that is known, with a blank and more behind it. A path may hold a blank; these names do not."""
_NEEDS_SHELL = frozenset("|&;<>()$`\"'\\*?#~={}[]!\n")


def _pod(command: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: server
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.18.0
    command: {command}
    resources:
      limits:
        nvidia.com/gpu: 1
"""


@rule(
    id="IL026",
    name="command-in-one-string",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a whole command line as one entry of `command`",
    why="Each entry of `command` is one word, and no shell splits them. A line in one entry is taken for the name of a "
    "program, blanks and all; there is none of that name, and the container never starts: `exec: … no such file or "
    "directory`, RunContainerError, status 128.",
    bad=_pod('["vllm serve Qwen/Qwen3-8B --max-model-len 8192"]'),
    good=_pod('["vllm", "serve", "Qwen/Qwen3-8B", "--max-model-len", "8192"]'),
    sources=(
        Source("https://github.com/llm-d/llm-d/pull/1126", '["vllm serve …"] ends with an error of the runtime'),
        Source(
            "https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/",
            "command and args are lists of words; a shell has to be named",
        ),
    ),
)
def command_in_one_string(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container in pod_set.containers:
            words = look.entries(container.spec, ("command",))
            first = words[0] if words else None
            if not isinstance(first, str) or not _LINE.fullmatch(first.strip()) or not pod_set.is_written:
                continue
            if workload.kind.startswith("Ray") and container is next(pods.main_containers(pod_set), None):
                continue  # KubeRay joins the words into a line of bash, before its own `ray start`
            program = first.split()[0]
            yield problem(
                workload.document,
                (*container.path, "command", 0),
                f"the runtime looks for a program of the name {_short(first)!r}, and there is none",
                evidence=("each entry of command is one word: no shell splits it",),
                help=f"write [{program}, …], a word an entry, or [sh, -c, …]",
                patch=_split(workload, container, first),
            )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:40]}…"


def _split(workload: Workload, container: Container, line: str) -> Patch | None:
    """Its words as a list, where they are words alone and stand by themselves."""
    if _NEEDS_SHELL & set(line) or len(look.entries(container.spec, ("command",))) != 1:
        return None
    words = ", ".join(f'"{word}"' for word in line.split())
    edit = edits.replace(workload.document, (*container.path, "command"), f"[{words}]")
    return Patch(title="a word an entry", edits=(edit,)) if edit is not None else None
