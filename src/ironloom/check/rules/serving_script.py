"""Scripts that run a model in an engine: what they send it, and how they start it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from ironloom.catalog.gated_models import SOURCE as GATED_SOURCE
from ironloom.catalog.gated_models import is_gated
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, head, line, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.terms import OWN, SAMPLING, SGLANG, VLLM
from ironloom.workload.workload import Container, Launch

if TYPE_CHECKING:
    from ironloom.workload.scripts.serving import Engine

_MULTIPROCESSING = "https://docs.vllm.ai/en/latest/design/multiprocessing/"
_TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_TOKEN_PATH"})
_STARTS_CUDA = frozenset(
    f"torch.cuda.{name}"
    for name in ("current_device", "get_device_name", "get_device_properties", "mem_get_info", "synchronize", "init")
)
_OTHER_DEVICES = re.compile(r"\b(npu|ascend|hpu|gaudi|tpu|xpu|rocm)", re.I)
_CLEANS = ("shutdown", "destroy", "cleanup", "process", "subprocess", "fork", "collect")
_LLM = """\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct")
params = SamplingParams(temperature=0.7, max_tokens=512)
"""


@rule(
    id="IL751",
    name="raw-prompts-to-instruct-model",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="plain prompts to a model that was trained on conversations",
    why="generate sends a prompt as it stands. A model that was tuned on conversations knows its turns by the tokens "
    "of its chat template; without them it goes on with the text rather than answering it, often without an end. chat "
    "puts the template around each message.",
    bad=_LLM + 'outputs = llm.generate(["Explain quantum entanglement."], params)\n',
    good=_LLM + 'outputs = llm.chat([[{"role": "user", "content": "Explain quantum entanglement."}]], params)\n',
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/13415", "gibberish from generate, and right with the template"
        ),
        Source(
            "https://docs.vllm.ai/en/latest/models/generative_models.html", "generate applies no template, chat does"
        ),
    ),
)
def raw_prompts_to_instruct_model(script: Script, _context: Context) -> Iterator[Problem]:
    if not script.serving.engines or script.training.mentions_any("chat_template"):
        return
    for call in script.serving.calls("generate"):
        engine = script.serving.engine_of(call)
        if engine is None or not engine.is_tuned:
            continue
        prompts = script.serving.plain_prompts(call.get("prompt" if engine.name == SGLANG else "prompts", 0))
        if prompts:
            first = " ".join(prompts[0].split())
            first = first if len(first) <= 50 else f"{first[:50]}…"
            yield at(
                script,
                call.node,
                f"generate sends these prompts to {engine.model} without its chat template",
                path="generate",
                evidence=(
                    f"{line(script, engine.call.node)} names a model that was tuned on conversations",
                    f"a prompt: {first!r}",
                ),
                help='use chat, with each prompt as [{"role": "user", "content": prompt}]',
                confidence=Confidence.LIKELY if engine.is_default else Confidence.CERTAIN,
            )


@rule(
    id="IL752",
    name="gated-model-without-token",
    family="serving-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="a gated model, and no token in sight",
    why="The hub gives these weights only to an account that has accepted their terms. Without HF_TOKEN in the "
    "environment, a login on the machine, or hf_token in the script, the engine stops with 401 or 403 after the GPUs "
    "have been taken. Where a manifest of the same check runs the script, its environment counts.",
    bad="""\
from vllm import LLM

llm = LLM(model="meta-llama/Llama-3.1-8B-Instruct")
""",
    good="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct")
""",
    sources=(
        Source(GATED_SOURCE, "what gated models are, and that downloads need a token"),
        Source(
            "https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables#hftoken", "HF_TOKEN"
        ),
    ),
)
def gated_model_without_token(script: Script, context: Context) -> Iterator[Problem]:
    training = script.training
    if not script.serving.engines:
        return
    if training.mentions & _TOKENS or training.mentions_any("hf_token", "login", "hf_hub_offline", "use_auth_token"):
        return
    for engine in script.serving.engines:
        if engine.model_node is None or not is_gated(engine.model) or engine.call.get("download_dir") is not None:
            continue
        if _has_token(script, context):
            return
        yield at(
            script,
            engine.model_node,
            f"{engine.model} is gated, and this script gives no token: without HF_TOKEN or a login where it runs, "
            "the download is refused",
            path="model",
            evidence=("neither hf_token, login nor HF_TOKEN is in the script",),
            help="set HF_TOKEN where it runs, from a Secret, for an account that has accepted the terms",
            confidence=Confidence.POSSIBLE if engine.is_default else Confidence.LIKELY,
        )


def _has_token(script: Script, context: Context) -> bool:
    """Whether a container that runs this script may have a token."""
    name = PurePath(script.file).name
    pod_sets = [pod_set for workload in context.workloads for pod_set in workload.pod_sets]
    return any(
        name in {PurePath(file).name for file in _scripts(container.launch)} and _may_have_token(container)
        for pod_set in pod_sets
        for container in pod_set.containers
    )


def _scripts(launch: Launch | None) -> Iterator[str]:
    """What a command line may start."""
    while launch is not None:
        if launch.script:
            yield launch.script
        yield from launch.positional[:1]
        launch = launch.inner


def _may_have_token(container: Container) -> bool:
    return bool(_TOKENS & container.env.keys() or container.spec.get("envFrom") or container.spec.get("volumeMounts"))


@rule(
    id="IL753",
    name="eager-engine",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="an engine without CUDA graphs and torch.compile",
    why="enforce_eager=True switches both off. Each layer's kernels are then issued one by one for every token, and "
    "decoding waits for the CPU: a third to two thirds of the speed are usual. It saves a minute at the start and 1 "
    "to 3 GiB, which is what it is for: looking for faults, and GPUs that are short of memory.",
    bad="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct", enforce_eager=True)
""",
    good="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct")
""",
    sources=(
        Source("https://docs.vllm.ai/en/latest/configuration/engine_args.html", "what enforce_eager disables"),
        Source("https://github.com/ai-dynamo/dynamo/pull/2109", "taken out of deployments for its cost"),
        Source(
            "https://github.com/vllm-project/vllm-omni/issues/7960", "eager against graphs, measured: 1.7 to 3.6 times"
        ),
    ),
)
def eager_engine(script: Script, _context: Context) -> Iterator[Problem]:
    if _OTHER_DEVICES.search(script.text):
        return  # their graphs are of another kind, and some have none
    for engine in script.serving.engines:
        if engine.is_vllm and script.serving.number(engine, "enforce_eager") is True:
            yield at(
                script,
                engine.call.arguments.places["enforce_eager"],
                "enforce_eager=True switches CUDA graphs and torch.compile off: decoding is slower, not faster",
                path="enforce_eager",
                evidence=("the default is False: graphs for decoding, eager for what they do not cover",),
                help="leave it out, unless the GPU is short of the 1 to 3 GiB that graphs take",
            )


@rule(
    id="IL754",
    name="answers-of-sixteen-tokens",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="answers end after 16 tokens",
    why="max_tokens of SamplingParams is 16 where it is not given. Answers stop in the middle of a sentence, with "
    "finish_reason `length`, and throughput that is measured so is that of prompts.",
    bad="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B")
outputs = llm.generate(["The capital of France"], SamplingParams(temperature=0.8))
""",
    good="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B")
outputs = llm.generate(["The capital of France"], SamplingParams(temperature=0.8, max_tokens=256))
""",
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/5395", "output of some ten tokens; the default is 16"),
        Source("https://docs.vllm.ai/en/latest/api/vllm/sampling_params/", "max_tokens: int | None = 16"),
    ),
)
def answers_of_sixteen_tokens(script: Script, _context: Context) -> Iterator[Problem]:
    if not script.calls_of(*SAMPLING) or _sets_attribute(script, "max_tokens"):
        return
    generates = script.serving.calls("generate", "chat")
    for call in script.calls_of(*SAMPLING):
        if call.name in SAMPLING and not call.node.args and call.lacks("max_tokens") and not _is_score(call):
            used = [one for one in generates if _uses(script, one, call)]
            if used:
                yield at(
                    script,
                    call.node,
                    "max_tokens is not given, and its default is 16: answers end in the middle of a sentence",
                    path="max_tokens",
                    evidence=(f"{line(script, used[0].node)}: {shown(script, used[0].node)}",),
                    help="give max_tokens; None generates until the model stops",
                )


def _is_score(call: Call) -> bool:
    """Whether the tokens themselves are not what it is for."""
    return any(name in call.arguments.named for name in ("prompt_logprobs", "logprobs", "extra_args", "min_tokens"))


def _sets_attribute(script: Script, name: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store)
        for node in script.nodes
    )


def _uses(script: Script, generate: Call, params: Call) -> bool:
    """Whether a call of an engine generates with these parameters."""
    given = generate.get("sampling_params", 1)
    whole = script.values.origin(given)
    return whole is params.node or (isinstance(whole, ast.List) and params.node in whole.elts)


@rule(
    id="IL755",
    name="engine-without-main-guard",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary='an engine that starts processes, outside of `if __name__ == "__main__"`',
    why="A process that is spawned imports the script again. An engine that is made at the top of it is made there "
    "too, and Python stops with `An attempt has been made to start a new process before the current process has "
    "finished its bootstrapping phase`. SGLang always spawns; vLLM does where it is told to, or where CUDA has been "
    "used before.",
    bad="""\
import os

os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"

from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B", tensor_parallel_size=2)
""",
    good="""\
import os

os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"

from vllm import LLM


def main():
    llm = LLM(model="Qwen/Qwen2.5-7B", tensor_parallel_size=2)
    return llm


if __name__ == "__main__":
    main()
""",
    sources=(
        Source(_MULTIPROCESSING, "when vLLM spawns, and why a script then needs the guard"),
        Source("https://github.com/vllm-project/vllm/issues/5637", "the error, with tensor_parallel_size > 1"),
    ),
)
def engine_without_main_guard(script: Script, _context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        if engine.name not in {VLLM, SGLANG, OWN} or not _is_made_on_import(script, engine.call.node):
            continue
        why = "SGLang starts its processes by spawn" if engine.name == SGLANG else _spawns(script, engine)
        if why:
            yield at(
                script,
                engine.call.node.func,
                "this engine is made again in each process that it spawns: Python stops while they start",
                path="__main__",
                evidence=(why, 'it is not under `if __name__ == "__main__"`'),
                help='put it in a function that is called under `if __name__ == "__main__"`',
            )
            return


def _is_made_on_import(script: Script, node: ast.AST) -> bool:
    for _ in range(8):
        function = script.flow.function(node)
        if function is None:
            return script.flow.is_on_import(node)
        callers = script.names.calls_of_function.get(function, [])
        if len(callers) != 1:
            return False
        node = callers[0]
    return False


def _spawns(script: Script, engine: Engine) -> str:
    """What makes vLLM spawn its processes; empty where nothing does."""
    if "VLLM_ENABLE_V1_MULTIPROCESSING" in script.text:
        return ""
    for node in script.nodes:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Subscript):
            name, value = script.values.of(target.slice), script.values.of(node.value)
            if name == "VLLM_WORKER_MULTIPROC_METHOD" and value in ("spawn", "forkserver"):
                return f"{line(script, node)}: {head(script, node)}"
    for call in script.calls:
        is_before = (call.node.lineno, call.node.col_offset) < (engine.call.node.lineno, engine.call.node.col_offset)
        if not is_before or script.flow.function(call.node) is not None or script.flow.guards(call.node):
            continue
        if call.names & _STARTS_CUDA or (call.attribute == "cuda" and not call.node.args):
            return f"{line(script, call.node)} uses CUDA before: {shown(script, call.node)}"
    return ""


@rule(
    id="IL756",
    name="engine-in-loop",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="an engine that is made anew in each round",
    why="An engine loads the weights, captures its graphs and takes nine tenths of the GPU's memory when it is made: "
    "a minute or more. In the second round the memory of the first is mostly still taken, and it stops. Make it "
    "before the loop; for another model, shut the first one down.",
    bad="""\
from vllm import LLM, SamplingParams

for prompt in ["The capital of France", "The capital of Italy"]:
    llm = LLM(model="Qwen/Qwen2.5-7B")
    print(llm.generate([prompt], SamplingParams(max_tokens=64)))
""",
    good="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B")
print(llm.generate(["The capital of France", "The capital of Italy"], SamplingParams(max_tokens=64)))
""",
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/6544", "the second engine runs out of memory"),
        Source(
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory.html", "what an engine takes at its start"
        ),
    ),
)
def engine_in_loop(script: Script, _context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        if engine.name not in {VLLM, OWN, SGLANG}:
            continue
        loops = script.flow.loops(engine.call.node)
        if not loops or script.training.mentions_any(*_CLEANS) or any(isinstance(n, ast.Delete) for n in script.nodes):
            continue
        if any(isinstance(node, ast.Break) for node in ast.walk(loops[0])):
            continue
        yield at(
            script,
            engine.call.node,
            "a new engine is made in each round, and nothing gives the first one's memory back",
            path="LLM",
            evidence=(f"{line(script, loops[0])}: {head(script, loops[0])}",),
            help="make it before the loop",
        )


@rule(
    id="IL757",
    name="one-prompt-at-a-time",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="prompts that are sent one by one",
    why="generate and chat return when all that they were given is done. Called in a loop with a prompt each, the "
    "engine runs a batch of one, and decoding one sequence costs a GPU about as much as decoding fifty. Given the "
    "whole list, it fills the batch by itself.",
    bad=_LLM
    + """\
for question in ["What is NVLink?", "What is InfiniBand?"]:
    print(llm.chat([{"role": "user", "content": question}], params))
""",
    good=_LLM
    + """\
questions = ["What is NVLink?", "What is InfiniBand?"]
print(llm.chat([[{"role": "user", "content": question}] for question in questions], params))
""",
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/216", "a loop of single prompts, and the advice to pass all"
        ),
        Source("https://github.com/vllm-project/vllm/issues/1315", "any number of prompts in one call is the best way"),
    ),
)
def one_prompt_at_a_time(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.serving.calls("generate", "chat"):
        if call.name.startswith(SGLANG):
            continue
        loop = next(iter(script.flow.loops(call.node)), None)
        first = call.get("messages" if call.attribute == "chat" else "prompts", 0)
        if not isinstance(loop, ast.For) or first is None or script.flow.guards(call.node):
            continue
        items = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        if script.flow.function(call.node) is script.flow.function(loop) and _is_single(script, call, first, items):
            yield at(
                script,
                call.node,
                f"{call.attribute} is called with one prompt in each round: the engine runs a batch of one",
                path=call.attribute,
                evidence=(f"{line(script, loop)}: {head(script, loop)}",),
                help=f"call {call.attribute} once, with all prompts in a list",
                confidence=Confidence.LIKELY,
            )


def _is_single(script: Script, call: Call, node: ast.expr, items: set[str]) -> bool:
    """Whether an argument surely is a single prompt made of the loop's item."""
    whole = script.values.origin(node)
    used = {one.id for one in ast.walk(whole) if isinstance(one, ast.Name)} if whole is not None else set()
    if not items & used:
        return False
    if isinstance(whole, ast.JoinedStr):
        return True
    if not isinstance(whole, ast.List) or len(whole.elts) != 1:
        return False
    only = whole.elts[0]
    if call.attribute == "chat":
        return isinstance(only, ast.Dict)
    return isinstance(only, ast.JoinedStr | ast.Name)
