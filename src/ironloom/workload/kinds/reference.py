"""docs/reference/workloads.md, from the tables that the code reads."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.workload.kinds import context
from ironloom.workload.kinds.read import KINDS
from ironloom.workload.launch import programs

_INTRODUCTION = """# Workloads

`ironloom check` reads every kind below into sets of pods: how many, what each asks for, what runs
inside, where they wish to stand together, and who decides how many copies there are. All versions of a kind's group are
read. Documents of one run are read together: a service with its runtime, a workload with its autoscaler and its pod
group. How is said in [Workloads](../concepts/workloads.md).

## Kinds that make pods
"""
_CONTEXT = """## Kinds that stand around them

These make no pods. Rules look at them, and nothing is said of them where they are well. Every other kind is named in a
note, once a file, and changes no exit status.
"""
_LAUNCHES = """## Programs that are understood

From `command`, `args`, `env`, a shell's script and the image's name. `$(NAME)` is written out as Kubernetes does it,
`$NAME` as a shell does; what only a shell could know (`$(hostname)`) stays as it is. Of several commands in a script
the one that matters most counts: a server before a launcher, that before Python.
"""


def reference_page() -> str:
    """The page."""
    return "\n".join([_INTRODUCTION, *_kinds(), "", _CONTEXT, *_around(), "", _LAUNCHES, *_programs()]) + "\n"


def _kinds() -> Iterator[str]:
    yield "| kind | group | its sets of pods | all at once (a gang) |"
    yield "|---|---|---|---|"
    for kind in KINDS.values():
        group = f"[`{kind.group}`]({kind.source})" if kind.group else f"[core]({kind.source})"
        yield f"| {kind.name} | {group} | {kind.pods} | {kind.gang or 'never'} |"


def _around() -> Iterator[str]:
    whole = ", ".join(f"`{group}`" if group else "core" for group in sorted(context.GROUPS))
    yield f"- Every other kind of: {whole}."
    by_group: dict[str, list[str]] = {}
    for group, name in sorted(context.KINDS):
        by_group.setdefault(group, []).append(name)
    for group, names in by_group.items():
        yield f"- Of `{group}`: {', '.join(names)}."


def _programs() -> Iterator[str]:
    yield "| program | started by | the model is named by |"
    yield "|---|---|---|"
    for name, server in programs.BY_NAME.items():
        starts = [*programs.commands_of(server), *(f"python -m {module}" for module in programs.modules_of(server))]
        model = ["the first word"] if server.is_model_positional else []
        model += [f"`{option}`" for option in server.model_options]
        model += [f"`{variable}`" for variable in list(server.env)[:1]]
        yield f"| `{name}` | {', '.join(f'`{start}`' for start in starts)} | {', '.join(model) or '–'} |"
    for name, starts in programs.launchers().items():
        yield f"| `{name}` | {', '.join(f'`{start}`' for start in starts)} | – |"
