"""Training by Accelerate, DeepSpeed or the Trainer: what must go through them, and what they do not take."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, line, replace, shown
from ironloom.workload.scripts.model import Call, Script

_ACCELERATOR = "accelerate.Accelerator"
_DEEPSPEED = "deepspeed.initialize"
_ACCELERATE_DOCS = "https://huggingface.co/docs/accelerate/package_reference/accelerator"
_ARGUMENTS = frozenset({"transformers.TrainingArguments", "transformers.Seq2SeqTrainingArguments"})
_TRAINERS = frozenset({"transformers.Trainer", "transformers.Seq2SeqTrainer"})
_GONE: Mapping[str, Mapping[str, str]] = {
    **{name: {"evaluation_strategy": "eval_strategy"} for name in _ARGUMENTS},
    **{name: {"tokenizer": "processing_class"} for name in _TRAINERS},
}
"""Arguments that newer versions of transformers do not have, and what took their place."""
_LOOP = """\
from accelerate import Accelerator
import torch

accelerator = Accelerator(mixed_precision="fp16")
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters())
model, optimizer, loader = accelerator.prepare(model, optimizer, torch.load("loader.pt"))
for batch in loader:
    optimizer.zero_grad()
    loss = model(batch).sum()
"""


@rule(
    id="IL740",
    name="backward-past-the-framework",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="loss.backward() where a framework is to do it",
    why="Accelerate and DeepSpeed scale the loss, count gradient accumulation and tell their engines of the backward "
    "pass in their own backward. Past them, float16 gradients are not scaled and underflow, gradients are not divided "
    "by the steps they are summed over, and under DeepSpeed they are not reduced at all.",
    bad=_LOOP + "    loss.backward()\n    optimizer.step()\n",
    good=_LOOP + "    accelerator.backward(loss)\n    optimizer.step()\n",
    sources=(
        Source(_ACCELERATE_DOCS, "replace loss.backward() by accelerator.backward(loss)"),
        Source("https://www.deepspeed.ai/getting-started/#training", "the engine's own backward and step"),
    ),
)
def backward_past_the_framework(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    made = [*script.calls_of(_ACCELERATOR), *script.calls_of(_DEEPSPEED)]
    own = [call for call in script.methods("backward") if call not in training.backwards or _is_framework(call)]
    if not made or own or not any(_is_prepared(script, call) for call in made):
        return
    for call in training.backwards:
        if call.node.args or _is_framework(call) or not script.flow.loops(call.node):
            continue
        is_accelerate = _ACCELERATOR in made[0].names
        owner = "accelerator" if is_accelerate else "model_engine"
        yield at(
            script,
            call.node,
            f"{shown(script, call.node)} goes past {'Accelerate' if is_accelerate else 'DeepSpeed'}: "
            f"{'the loss is not scaled' if is_accelerate else 'gradients are not reduced over the ranks'}",
            path="backward",
            evidence=(f"{line(script, made[0].node)}: {shown(script, made[0].node)}",),
            help=f"call {owner}.backward({_owner(script, call)})",
        )


def _is_prepared(script: Script, made: Call) -> bool:
    return _DEEPSPEED in made.names or bool(script.calls_of(f"{_ACCELERATOR}().prepare"))


def _is_framework(call: Call) -> bool:
    """Whether a backward is an accelerator's or an engine's: those take the loss."""
    return bool(call.node.args) or any(name.startswith((_ACCELERATOR, _DEEPSPEED)) for name in call.names)


def _owner(script: Script, call: Call) -> str:
    return shown(script, call.node.func.value) if isinstance(call.node.func, ast.Attribute) else "loss"


@rule(
    id="IL741",
    name="clip-past-the-accelerator",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="gradients clipped past Accelerate",
    why="accelerator.clip_grad_norm_ unscales float16 gradients first, and takes the norm over all shards under FSDP. "
    "torch.nn.utils.clip_grad_norm_ clips scaled gradients, or each rank's shard by its own norm.",
    bad=_LOOP
    + """\
    accelerator.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
    good=_LOOP
    + """\
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
    sources=(Source(_ACCELERATE_DOCS, "clip_grad_norm_ is to be used in place of torch's"),),
)
def clip_past_the_accelerator(script: Script, _context: Context) -> Iterator[Problem]:
    made = script.calls_of(_ACCELERATOR)
    if not made or not script.calls_of(f"{_ACCELERATOR}().backward") or "unscale_gradients" in script.training.mentions:
        return
    name = next((binding for binding in _names_of(script, made[0])), "accelerator")
    for call in script.calls_of("torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_"):
        if not call.name:
            continue
        method = call.name.rpartition(".")[2]
        yield at(
            script,
            call.node.func,
            f"{method} of torch goes past Accelerate: it clips gradients before they are unscaled, or by shards",
            path=method,
            evidence=(f"{line(script, made[0].node)}: {shown(script, made[0].node)}",),
            help=f"call {name}.{method}",
            patch=replace(script, call.node.func, f"{name}.{method}", f"clip by {name}", is_safe=False),
        )


def _names_of(script: Script, call: Call) -> Iterator[str]:
    above = script.parents.get(call.node)
    if isinstance(above, ast.Assign):
        yield from (script.source(target) for target in above.targets if isinstance(target, ast.Name | ast.Attribute))


@rule(
    id="IL742",
    name="trainer-argument-gone",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="an argument that newer versions of transformers do not have",
    why="transformers renames arguments, warns for some versions, and takes the old name out: the script that worked "
    "ends with a TypeError when its image is built anew.",
    bad="""\
from transformers import TrainingArguments

arguments = TrainingArguments(output_dir="out", evaluation_strategy="epoch")
""",
    good="""\
from transformers import TrainingArguments

arguments = TrainingArguments(output_dir="out", eval_strategy="epoch")
""",
    sources=(
        Source("https://github.com/yeyupiaoling/Whisper-Finetune/issues/112", "evaluation_strategy, and its new name"),
        Source("https://github.com/sciknoworg/OntoLearner/issues/347", "tokenizer of Trainer, gone in transformers 5"),
        Source("https://github.com/huggingface/transformers/pull/32385", "processing_class in the place of tokenizer"),
    ),
)
def trainer_argument_gone(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.calls_of(*_GONE):
        for name, place in call.arguments.places.items():
            new = _GONE.get(call.name, {}).get(name)
            if new is None:
                continue
            patch = None
            if isinstance(place, ast.keyword):
                patch = replace(script, place, f"{new}={script.source(place.value)}", f"write {new}", is_safe=False)
            yield at(
                script,
                place,
                f"{call.name.rpartition('.')[2]} has no argument {name} in newer versions of transformers: a TypeError",
                path=name,
                help=f"{new} took its place",
                patch=patch,
                confidence=Confidence.LIKELY,
            )


@rule(
    id="IL743",
    name="trainer-fsdp-one-unit",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="the Trainer's FSDP without a wrap policy",
    why='fsdp="full_shard" alone wraps the model as one unit: all of its parameters are gathered on each GPU at '
    "once. `full_shard auto_wrap` wraps each layer, by the class that the model names or that fsdp_config names.",
    bad="""\
from transformers import TrainingArguments

arguments = TrainingArguments(output_dir="out", bf16=True, fsdp="full_shard")
""",
    good="""\
from transformers import TrainingArguments

arguments = TrainingArguments(output_dir="out", bf16=True, fsdp="full_shard auto_wrap")
""",
    sources=(
        Source("https://huggingface.co/docs/transformers/main/en/fsdp", "auto_wrap, and the layer that is wrapped"),
        Source(
            "https://docs.pytorch.org/docs/stable/fsdp.html", "without a policy there is a single top-level instance"
        ),
    ),
)
def trainer_fsdp_one_unit(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.calls_of(*_ARGUMENTS):
        node = call.get("fsdp")
        value = script.values.of(node)
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        is_sharded = any(word in ("full_shard", "shard_grad_op", "hybrid_shard") for word in words)
        if node is None or not is_sharded or "auto_wrap" in words or not call.lacks("fsdp_config"):
            continue
        yield at(
            script,
            node,
            "the model is one FSDP unit: all its parameters are gathered on each GPU at once",
            path="fsdp",
            evidence=(f"fsdp is {shown(script, node)}, without auto_wrap and without fsdp_config",),
            help='write "full_shard auto_wrap"',
        )
