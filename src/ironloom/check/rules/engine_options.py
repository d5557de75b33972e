"""Whether a server takes the options that a manifest gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check.engines import EXACT, TITLES, Engine, engines
from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.manifests.engine_options import Match, Options, Presence, release_of
from ironloom.workload.workload import Option, Workload

MODEL = "--model=Qwen/Qwen3-8B"
OTHERS_DEFAULT = {"vllm": "Qwen/Qwen3-0.6B, or facebook/opt-125m in older versions", "tgi": "bigscience/bloom-560m"}
"""What serves where nothing names a model: vllm/config/model.py, TGI's launcher/src/main.rs."""
_SERVER_IMAGE = re.compile(r"(^|/)(vllm-openai|text-generation-inference)(?=[:@]|$)")
_GIVEN_BY_ENV = re.compile(r"^(VLLM_)?(HF_)?MODEL(_ID|_NAME|_PATH|_DIR)?$")
_TRTLLM_COMMANDS = frozenset({"disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve"})
_REPEATED = frozenset({"--allowed-origins", "--allowed-methods", "--allowed-headers", "--middleware"})
_WELL_KNOWN = (0, 12, 99)
"""Up to here every few versions were looked at; what came after and went again before the table's own is not known."""
_TABLE_VERSION = (0, 33, 0)
"""Of vLLM's table: compared with its title by a test."""


@rule(
    id="IL401",
    name="server-without-a-model",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an inference server that no model is named for",
    why="An inference server without a model does not stop: vLLM serves its default, a model of 0.6 billion "
    "parameters, and TGI one of 0.56 billion, on whatever GPUs the pod asked for. Clients that ask for the model that "
    "was meant get a 404.",
    bad=serving(gpus=2),
    good=serving(MODEL, gpus=1),
    sources=(
        Source("https://github.com/vllm-project/vllm/blob/main/vllm/config/model.py", "the default of `model`"),
        Source(
            "https://github.com/huggingface/text-generation-inference/blob/main/launcher/src/main.rs",
            "the default of `model_id`",
        ),
    ),
)
def server_without_a_model(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if engine.launch.model or engine.has_config_file or not engine.pod_set.is_written:
            continue
        default = OTHERS_DEFAULT.get(engine.program)
        by_image = not engine.container.spec.get("command")
        if default is None or (by_image and not _SERVER_IMAGE.search(engine.container.image)):
            continue
        if any(_GIVEN_BY_ENV.match(name) for name in engine.container.env) or engine.container.spec.get("envFrom"):
            continue
        asked = f" on the {engine.num_gpus} GPUs that it asks for" if engine.num_gpus > 1 else ""
        yield engine.whole(
            f"no model is named: the server takes its default ({default}){asked}",
            help="name it in args: `--model`, or as the first word after `vllm serve`",
        )


@rule(
    id="IL402",
    name="engine-option-unknown",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an option that the server does not have",
    why="The parsers of vLLM, SGLang and TensorRT-LLM refuse a name that they do not know, and the container ends with "
    "status 2 again and again. vLLM reads `_` for `-` in names; the two others do not: SGLang has --tp-size and "
    "TensorRT-LLM --tp_size. Hugging Face's server of KServe does the opposite of all: it drops what it does not know "
    "without a word, so that a misspelt limit is none.",
    bad=serving(MODEL, "--max-model-length=8192", "--tensor-paralel-size=1"),
    good=serving(MODEL, "--max-model-len=8192", "--tensor-parallel-size=1"),
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/18538", "`vllm: error: unrecognized arguments`"),
        Source("https://github.com/defilantech/LLMKube/issues/1030", "an operator's option that vLLM never had"),
        Source(
            "https://github.com/kserve/kserve/blob/master/python/huggingfaceserver/huggingfaceserver/__main__.py",
            "parse_known_args drops the rest",
        ),
        Source("https://github.com/deepseek-ai/DeepSeek-R1/pull/332", "names that SGLang does not have"),
        Source("https://github.com/NVIDIA/TensorRT-LLM/issues/3583", "`Error: No such option: --ep`"),
    ),
)
def engine_option_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        options = engine.options
        if options is None or _is_other_command(engine):
            continue
        for option in engine.launch.options:
            name = engine.spelling(option)
            found = options.match(name)
            if name.startswith("-O") or "$" in name or "{{" in name or isinstance(found, Match):
                continue
            if found and engine.program in EXACT:
                continue  # the beginning of several names: of which, each release decides otherwise
            near = options.nearest(name)
            is_sure = _is_read(engine)
            if near is None and not is_sure:
                continue  # perhaps a newer version's, or a fork's
            is_dropped = engine.program == "huggingfaceserver"
            title = _named(engine) if is_sure else options.title
            follows = "which is dropped without a word" if is_dropped else "and the container ends at its start"
            yield engine.option_problem(
                option,
                f"{title} has no option {name}{f' (it has {near})' if near else ''}, {follows}",
                severity=Severity.WARNING if is_dropped or not is_sure else None,
                confidence=Confidence.CERTAIN if is_sure else Confidence.LIKELY,
                evidence=_read_evidence(options),
                help=f"write {near}" if near else "leave it out",
                patch=_renamed(engine, option, near) if near else None,
            )


@rule(
    id="IL403",
    name="engine-option-gone",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an option that the image's version no longer has",
    why="vLLM and SGLang drop an option some releases after it is deprecated; from then on their parsers refuse the "
    "whole command line. A manifest that worked for a year stops at the next image.",
    bad=serving(MODEL, "--enable-reasoning", "--reasoning-parser=deepseek_r1"),
    good=serving(MODEL, "--reasoning-parser=deepseek_r1"),
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/18538", "--enable-reasoning refused"),
        Source("https://github.com/gpustack/gpustack/issues/3991", "--task refused by 0.13"),
        Source(
            "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/server_args.py",
            "names that are deprecated for some releases, and then taken out",
        ),
    ),
)
def engine_option_gone(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        options = engine.options
        if options is None or engine.program == "huggingfaceserver":
            continue
        for option in engine.launch.options:
            name = engine.spelling(option)
            match = options.by_name.get(name)
            end, gap = options.ranges.get(name, ("", ""))[1], options.gaps.get(name, ("", ""))
            until = end or gap[0]
            if match is None or not until:
                continue
            _, without = options.around(name)
            release = engine.release
            again = f", {gap[1]} has it again" if not end else ""
            more = {"evidence": (f"{until} had it, {without} does not{again}",)}
            if release is not None and options.presence(name, release) is Presence.GONE:
                if options.stands_for(name, release):
                    continue
                yield engine.option_problem(
                    option,
                    f"{_named(engine)} has no option {option.written or option.name} any more, and ends at its start",
                    help="leave it out",
                    **more,
                )
            elif engine.release is None and engine.is_moving and end:
                yield engine.option_problem(
                    option,
                    f"{TITLES[engine.program]} has no option {option.written or option.name} since {without} at the "
                    "latest, and this image's tag moves with its releases",
                    severity=Severity.WARNING,
                    confidence=Confidence.LIKELY,
                    help="leave it out, or name a version that has it",
                    **more,
                )


@rule(
    id="IL425",
    name="engine-option-not-yet",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an option that came after the image's version",
    why="Options come with releases, and the parser of an earlier one refuses the whole command line: the container "
    "ends with status 2 again and again. It happens where the documentation of the newest release is read beside an "
    "image that was pinned a year ago.",
    bad=serving(MODEL, "--data-parallel-hybrid-lb", image="vllm/vllm-openai:v0.8.5"),
    good=serving(MODEL, "--data-parallel-hybrid-lb", image="vllm/vllm-openai:v0.11.0"),
    sources=(
        Source(
            "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/server_args.py",
            "the options of SGLang; those of 42 releases were read one by one",
        ),
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/engine/arg_utils.py",
            "the options of vLLM; those of 34 releases were read",
        ),
    ),
)
def engine_option_not_yet(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        options, release = engine.options, engine.release
        if options is None or release is None or engine.program == "huggingfaceserver":
            continue
        for option in engine.launch.options:
            name = engine.spelling(option)
            if name not in options.by_name or options.presence(name, release) is not Presence.NOT_YET:
                continue
            if options.stands_for(name, release):
                continue
            before, _ = options.around(name)
            since = options.ranges[name][0]
            yield engine.option_problem(
                option,
                f"{_named(engine)} has no option {option.written or option.name} yet, and ends at its start",
                evidence=(f"{before} does not have it, {since} has it",),
                help=f"take {since} or a later release, or leave it out",
            )


@rule(
    id="IL404",
    name="engine-option-value",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a value that the server's option does not take",
    why="The server's parser refuses the command line, and the container ends with status 2 again and again.",
    bad=serving(MODEL, "--max-num-seqs=many", "--dtype=bf16"),
    good=serving(MODEL, "--max-num-seqs=64", "--dtype=bfloat16"),
    sources=(
        Source("https://github.com/vllm-project/vllm/blob/main/vllm/engine/arg_utils.py", "types and choices"),
        Source("https://docs.vllm.ai/en/latest/configuration/engine_args.html", "the values of each option"),
    ),
)
def engine_option_value(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        for option in engine.launch.options:
            known = engine.known(option)
            if known is None or "." in option.name or "$" in (option.value or "") or "{{" in (option.value or ""):
                continue
            values = [] if option.value is None else [option.value] if known.values in (0, 1, "?") else []
            if known.values == 0 and (not values or values[0].lower() in {"true", "false"}):
                continue
            if known.values == "+" or (known.values == "?" and not values):
                continue
            fault = known.fault(values)
            if fault is None or (known.choices and _is_older(engine)):
                continue  # the choices of another version may be others
            yield engine.option_problem(
                option,
                fault,
                confidence=Confidence.CERTAIN if engine.version is not None else Confidence.LIKELY,
                severity=None if engine.version is not None or not known.choices else Severity.WARNING,
            )


@rule(
    id="IL405",
    name="engine-option-twice",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an option that is given twice, with two values",
    why="The last one counts, whichever was meant. It happens where a chart adds options to those that a values file "
    "brings.",
    bad=serving(MODEL, "--max-model-len=8192", "--gpu-memory-utilization=0.9", "--max-model-len=4096"),
    good=serving(MODEL, "--max-model-len=8192", "--gpu-memory-utilization=0.9"),
    sources=(Source("https://docs.python.org/3/library/argparse.html#action", "`store` keeps the last value"),),
)
def engine_option_twice(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        first: dict[str, Option] = {}
        for option in engine.launch.options:
            known = engine.known(option)
            if known is None or known.values != 1 or "." in option.name or option.name in _REPEATED:
                continue
            before = first.setdefault(option.name, option)
            if before is not option and before.value != option.value:
                yield engine.option_problem(
                    option,
                    f"{option.name} is given twice: {option.value} counts, and {before.value} does not",
                    help="leave one of them out",
                )
                first[option.name] = option


def _is_read(engine: Engine) -> bool:
    """Whether the very release was read, or one so old that those between the ones that were hid nothing."""
    release, options = engine.release, engine.options
    if release is None or options is None:
        return False
    if engine.program == "vllm" and release[:3] <= _WELL_KNOWN:
        return True
    return release in {release_of(version) for version in options.versions}


def _is_other_command(engine: Engine) -> bool:
    """Whether it is another command of the program, with options of its own."""
    return engine.program == "trtllm" and engine.launch.positional[:1] in {(one,) for one in _TRTLLM_COMMANDS}


def _named(engine: Engine) -> str:
    """The server with its release, as its own tag writes it."""
    tag = engine.container.image.partition("@")[0].rpartition(":")[2]
    found = re.match(r"v?(\d+(?:\.\d+)*(?:[.-]?(?:rc|post)\d+)?)", tag)
    return f"{TITLES[engine.program]} {found[1] if found else tag}"


def _read_evidence(options: Options) -> tuple[str, ...]:
    """Which releases were looked at."""
    if len(options.versions) < 2:
        return ()
    return (f"none of {len(options.versions)} releases from {options.versions[0]} to {options.versions[-1]} has it",)


def _is_older(engine: Engine) -> bool:
    if engine.program == "sglang":
        return engine.release is not None  # its lists of words change with each release
    return engine.version is not None and engine.version[:2] != _TABLE_VERSION[:2]


def _renamed(engine: Engine, option: Option, near: str) -> Patch | None:
    """The misspelt name written right, where it stands in an item of its own, or before the `=` of one."""
    document = engine.workload.document
    place = problem(document, option.path, "").place
    text = document.text[place.start : place.end]
    if not option.written or "\n" in text or not text.lstrip("\"'").startswith(option.written):
        return None
    start = place.start + text.index(option.written)
    edit = Edit(start=start, end=start + len(option.written), text=near)
    return Patch(title=f"write {near}", edits=(edit,), is_safe=False)
