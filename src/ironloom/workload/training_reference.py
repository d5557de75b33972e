"""docs/reference/training.md, from the configuration's own fields and the sentences under them."""

from __future__ import annotations

import ast
import dataclasses
import inspect

from ironloom.workload import training
from ironloom.workload.scripts import fsdp1
from ironloom.workload.training_settings import REQUIRED, Setting, settings

_HEAD = """# Settings of a training run

A setting's name is its path in the configuration. It is said as `--set NAME=VALUE` to `ironloom train`, as
`--NAME=VALUE` to `python -m ironloom.train.run` and among the `args` of a TrainJob, JobSet or PyTorchJob, and as an
object's field in the JSON file that the program takes. `-` stands for `_` in an argument's name. A list is said once
for each entry; a source is a path or URI, or `{"uri": …, "weight": …, "split": …}`.

A wrong name or value is an error with the place, what is allowed and the nearest name; nothing is started then.

| setting | default | allowed | meaning |
|---|---|---|---|
"""
_FSDP1 = """What a script for FullyShardedDataParallel says, and what that is here: `ironloom train --from-script FILE`
reads it out of one. With a dash there is nothing to set. `ironloom.train.shard` takes the strategies, `mixed_precision`
and `cpu_offload` by the same names; of the rest it takes `device_id`, `sync_module_states`, `limit_all_gathers`,
`backward_prefetch`, `forward_prefetch`, `use_orig_params` and `auto_wrap_policy`, which change nothing there either."""


def reference_page() -> str:
    """The page's text, without what only the trainer's own modules know."""
    rows = [_HEAD.rstrip("\n")]
    told = _sentences()
    for setting in settings().values():
        default = "–" if setting.key in REQUIRED else f"`{_shown(setting.default)}`"
        allowed = setting.allowed.replace("|", "\\|")
        rows.append(f"| `{setting.key}` | {default} | {allowed} | {told.get(setting.key) or _of_type(setting)} |")
    rows += ["", "## FSDP1's names", "", _FSDP1, "", "| FSDP1 | here | what becomes of it |", "|---|---|---|"]
    rows += [f"| `{name}` | {f'`{here}`' if here else '–'} | {why} |" for name, here, why in fsdp1.names()]
    return "\n".join(rows) + "\n"


def _sentences() -> dict[str, str]:
    """The string under each field, by the setting's name."""
    tree = ast.parse(inspect.getsource(training))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[str, str] = {}
    for field in dataclasses.fields(training.Training):
        kind = str(field.type)
        if kind in classes and kind not in ("Method",):
            found |= {f"{field.name}.{name}": text for name, text in _fields(classes[kind]).items()}
    return found | _fields(classes["Training"])


def _of_type(setting: Setting) -> str:
    """What the type of a setting says of itself, where it is one of ours."""
    kind = setting.type
    is_ours = isinstance(kind, type) and kind.__module__ == training.__name__
    return (inspect.getdoc(kind) or "").partition("\n\n")[0] if is_ours else ""


def _fields(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            name = one.target.id
        elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and name:
            found[name] = " ".join(str(one.value.value).split())
            name = ""
    return found


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(_shown(one) for one in value) or "none"
    return str(value)
