"""Names of a script that nothing gives."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.scripts.model import Script

_MAX_NEAR = 20
"""Names that a nearest one is looked for."""
_MAX_NAMES = 1000
"""Names among which it is looked for."""


@rule(
    id="IL701",
    name="undefined-name",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a name that neither the script nor Python gives",
    why="The script ends with a NameError when it comes to that line: after the nodes were scheduled, the images "
    "pulled and the model loaded, on every rank at once. Scopes are the compiler's own; a script with `from x import "
    "*`, exec or globals() is left alone, since it may get names from there.",
    bad="""\
import torch

model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
""",
    good="""\
import torch

learning_rate = 1e-4
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
""",
    sources=(
        Source("https://docs.python.org/3/reference/executionmodel.html#resolution-of-names", "how a name is found"),
        Source("https://docs.astral.sh/ruff/rules/undefined-name/", "the same rule of a general linter (F821)"),
    ),
)
def undefined_name(script: Script, _context: Context) -> Iterator[Problem]:
    if not script.is_of_gpus:
        return  # a general linter's business
    names = _names_there(script)
    for number, (name, uses) in enumerate(script.undefined.items()):
        lines = list(dict.fromkeys(use.lineno for use in uses))
        more = f"; also used on {_lines(lines[1:])}" if len(lines) > 1 else ""
        near = nearest(name, names) if len(name) > 2 and number < _MAX_NEAR and len(names) < _MAX_NAMES else None
        yield at(
            script,
            uses[0],
            f"the name {name} is used here, and nothing in this script gives it{more}",
            path=name,
            help=f"did you mean {near}?" if near else "import it, assign it before, or take it as an argument",
        )


def _lines(lines: list[int]) -> str:
    shown = ", ".join(str(number) for number in lines[:6])
    return f"line{'s' if len(lines) > 1 else ''} {shown}{', …' if len(lines) > 6 else ''}"


def _names_there(script: Script) -> set[str]:
    scopes = script.scopes.inside.values()
    return {name for scope in scopes if isinstance(scope.node, ast.Module) for name in scope.bindings}
