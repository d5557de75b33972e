"""The programs that are known, found at the head of a command line, and what each makes of the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from ironloom.workload.launch import syntax
from ironloom.workload.launch.syntax import Syntax, parse
from ironloom.workload.manifests.lines import Line, Word
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.wrappers import num_wrapping
from ironloom.workload.workload import NONE, Launch, Option

MAX_NESTED = 6
"""Launchers within launchers."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A program that answers requests to a model."""

    program: str
    syntax: Syntax
    model_options: tuple[str, ...] = ("--model",)
    """Where the model is named, the first that is there."""
    is_model_positional: bool = False
    env: Mapping[str, str] = NONE
    """Variables of the container that stand for options of the program."""


VLLM = Server(program="vllm", syntax=syntax.VLLM, model_options=("--model", "--model-tag"), is_model_positional=True)
HUGGINGFACE = Server(
    program="huggingfaceserver", syntax=syntax.HUGGINGFACE, model_options=("--model-id", "--model-dir", "--model")
)
SGLANG = Server(program="sglang", syntax=syntax.SGLANG, model_options=("--model-path",))
SGLANG_ROUTER = Server(program="sglang-router", syntax=syntax.PLAIN, model_options=("--model-path",))
TRTLLM = Server(program="trtllm", syntax=syntax.TRTLLM, is_model_positional=True)
TRTLLM_BUILD = Server(
    program="trtllm-build", syntax=syntax.TRTLLM, model_options=("--checkpoint-dir", "--model-dir", "--model-config")
)
"""Makes an engine of a model, and ends."""
TRITON = Server(program="triton", syntax=syntax.PLAIN, model_options=("--model-repository", "--model-store"))
TGI = Server(
    program="tgi",
    syntax=syntax.TGI,
    model_options=("--model-id",),
    env={
        "MODEL_ID": "--model-id",
        "REVISION": "--revision",
        "NUM_SHARD": "--num-shard",
        "SHARDED": "--sharded",
        "QUANTIZE": "--quantize",
        "DTYPE": "--dtype",
        "MAX_INPUT_TOKENS": "--max-input-tokens",
        "MAX_INPUT_LENGTH": "--max-input-length",
        "MAX_TOTAL_TOKENS": "--max-total-tokens",
        "CUDA_MEMORY_FRACTION": "--cuda-memory-fraction",
        "TRUST_REMOTE_CODE": "--trust-remote-code",
    },
)
TEI = Server(
    program="tei",
    syntax=syntax.PLAIN,
    model_options=("--model-id",),
    env={"MODEL_ID": "--model-id", "REVISION": "--revision", "DTYPE": "--dtype", "POOLING": "--pooling"},
)
LLAMACPP = Server(
    program="llamacpp",
    syntax=syntax.LLAMACPP,
    model_options=("--model", "--hf-repo", "--model-url"),
    env={
        "LLAMA_ARG_MODEL": "--model",
        "LLAMA_ARG_MODEL_URL": "--model-url",
        "LLAMA_ARG_HF_REPO": "--hf-repo",
        "LLAMA_ARG_CTX_SIZE": "--ctx-size",
        "LLAMA_ARG_N_GPU_LAYERS": "--n-gpu-layers",
        "LLAMA_ARG_N_PARALLEL": "--parallel",
    },
)
OLLAMA = Server(program="ollama", syntax=syntax.OLLAMA, model_options=())

# Dynamo's workers take their engine's options and some of their own.
DYNAMO_VLLM = replace(VLLM, program="dynamo", model_options=("--model",), is_model_positional=False)
DYNAMO_SGLANG = replace(SGLANG, program="dynamo")
DYNAMO_TRTLLM = replace(TRTLLM, program="dynamo", is_model_positional=False)
BY_NAME = {
    server.program: server
    for server in (
        VLLM,
        HUGGINGFACE,
        SGLANG,
        SGLANG_ROUTER,
        TRTLLM,
        TRTLLM_BUILD,
        TRITON,
        TGI,
        TEI,
        LLAMACPP,
        OLLAMA,
        DYNAMO_VLLM,
    )
}
_MODULES: dict[str, Server] = {
    "vllm.entrypoints.openai.api_server": VLLM,
    "vllm.entrypoints.api_server": VLLM,
    "dynamo.vllm": DYNAMO_VLLM,
    "huggingfaceserver": HUGGINGFACE,
    "sglang.launch_server": SGLANG,
    "dynamo.sglang": DYNAMO_SGLANG,
    "sglang_router.launch_router": SGLANG_ROUTER,
    "sglang_router.launch_server": SGLANG,
    "dynamo.trtllm": DYNAMO_TRTLLM,
}
_COMMANDS: dict[str, tuple[str, Server]] = {
    "vllm": ("serve", VLLM),
    "sglang": ("serve", SGLANG),
    "ollama": ("serve", OLLAMA),
    "trtllm-serve": ("", TRTLLM),
    "trtllm-build": ("", TRTLLM_BUILD),
    "tritonserver": ("", TRITON),
    "text-generation-launcher": ("", TGI),
    "text-embeddings-router": ("", TEI),
    "llama-server": ("", LLAMACPP),
    "huggingfaceserver": ("", HUGGINGFACE),
    "sglang-router": ("", SGLANG_ROUTER),
}
"""Name to the verb that follows it, and the server."""
_LAUNCHERS = {
    "torchrun": ("torchrun", syntax.TORCHRUN),
    "deepspeed": ("deepspeed", syntax.DEEPSPEED),
    "mpirun": ("mpirun", syntax.MPIRUN),
    "mpiexec": ("mpirun", syntax.MPIRUN),
    "orterun": ("mpirun", syntax.MPIRUN),
}
_LAUNCHER_MODULES = {
    "torch.distributed.run": ("torchrun", syntax.TORCHRUN),
    "torch.distributed.launch": ("torchrun", syntax.TORCHRUN),
    "accelerate.commands.launch": ("accelerate", syntax.ACCELERATE),
    "deepspeed.launcher.runner": ("deepspeed", syntax.DEEPSPEED),
}
_TOOLS = frozenset({"pip", "venv", "ensurepip", "http.server", "json.tool", "site", "zipfile", "build", "pytest"})
"""Modules that prepare or look, and are not what a container is for."""
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_BESIDE = re.compile(r"router|sidecar|scheduler|-sim\b|simulator|gateway|\bepp\b|controller|operator|benchmark")
"""In an image's name: something beside a server, not the server."""
_IMAGES: tuple[tuple[re.Pattern[str], Server], ...] = (
    (re.compile(r"huggingface-?server"), HUGGINGFACE),
    (re.compile(r"(^|[/_.-])(vllm|llm-d)"), VLLM),
    (re.compile(r"text-generation-inference"), TGI),
    (re.compile(r"text-embeddings-inference"), TEI),
    (re.compile(r"llama\.cpp|llama-cpp-server"), LLAMACPP),
    (re.compile(r"(^|/)ollama/ollama$"), OLLAMA),
)
"""Images whose entrypoint is the server."""
_WEIGHTS = {
    "python": 1,
    "ray": 2,
    "torchrun": 4,
    "accelerate": 4,
    "deepspeed": 4,
    "mpirun": 4,
    "sglang-router": 3,
    "trtllm-build": 3,
}


def commands_of(server: Server) -> list[str]:
    """For the reference: the commands that start a server."""
    return [f"{name} {verb}".strip() for name, (verb, one) in _COMMANDS.items() if one.program == server.program]


def modules_of(server: Server) -> list[str]:
    """For the reference: the Python modules that start a server."""
    return [module for module, one in _MODULES.items() if one.program == server.program]


def launchers() -> dict[str, list[str]]:
    """For the reference: each launcher with what starts it."""
    found: dict[str, list[str]] = {}
    for name, (program, _) in _LAUNCHERS.items():
        found.setdefault(program, []).append(name)
    found["accelerate"] = ["accelerate launch"]
    for module, (program, _) in _LAUNCHER_MODULES.items():
        found[program].append(f"python -m {module}")
    return found | {"ray": ["ray start", "ray job submit"], "python": ["python SCRIPT", "python -m MODULE"]}


def weight(launch: Launch) -> int:
    """How much a launch says of what a container is for."""
    return max(_WEIGHTS.get(launch.program, 5), weight(launch.inner) if launch.inner is not None else 0)


def understand(line: Line, *, depth: int = MAX_NESTED) -> Launch | None:
    """The launch of a simple command; None where its program is not known."""
    words = line.words
    while words and (number := num_wrapping([word.text for word in words])):
        words = words[number:]
    if not words or not depth:
        return None
    name = words[0].text.rpartition("/")[2]
    if _PYTHON.fullmatch(name):
        return _python(words[0], words[1:], line.env, depth)
    if name in _COMMANDS:
        verb, server = _COMMANDS[name]
        if verb and (len(words) < 2 or words[1].text != verb):
            return None
        rest = (
            words[2:] if verb or (name == "trtllm-serve" and len(words) > 1 and words[1].text == "serve") else words[1:]
        )
        return served(server, rest, line.env, words[0].path)
    if name in _LAUNCHERS:
        program, how = _LAUNCHERS[name]
        return _launcher(program, how, words[0], words[1:], line.env, depth)
    if name == "accelerate" and len(words) > 1 and words[1].text == "launch":
        return _launcher("accelerate", syntax.ACCELERATE, words[0], words[2:], line.env, depth)
    if name == "ray":
        return _ray(words, line.env, depth)
    return None


def of_image(image: str, line: Line, path: Path, env_paths: Mapping[str, Path] = NONE) -> Launch | None:
    """What an image's own entrypoint makes of the arguments; None for an image that is not known."""
    name = _name(image)
    if not name or _BESIDE.search(name):
        return None
    for pattern, server in _IMAGES:
        if pattern.search(name):
            words = line.words[1:] if line.words[:1] and line.words[0].text == "serve" else line.words
            return served(server, words, line.env, path, env_paths)
    return None


def served(
    server: Server, words: Sequence[Word], env: Mapping[str, str], path: Path, env_paths: Mapping[str, Path] = NONE
) -> Launch:
    """The launch of a server with these arguments."""
    parsed = parse(words, server.syntax)
    options = parsed.options
    given = {option.name for option in options}
    options = (
        tuple(
            Option(name=name, value=env[variable], path=env_paths.get(variable, ()), written=variable)
            for variable, name in server.env.items()
            if variable in env and name not in given
        )
        + options
    )
    model = ""
    model_path: Path = ()
    if server.is_model_positional and parsed.positional:
        model, model_path = parsed.positional[0].text, parsed.positional[0].path
    else:
        for name in server.model_options:
            option = next((one for one in reversed(options) if one.name == name and one.value), None)
            if option is not None and option.value is not None:
                model, model_path = option.value, option.path
                break
    return Launch(
        program=server.program,
        model=model,
        model_path=model_path,
        options=options,
        positional=tuple(word.text for word in parsed.positional),
        path=path,
    )


def _python(first: Word, words: Sequence[Word], env: Mapping[str, str], depth: int) -> Launch | None:
    at = 0
    while at < len(words) and words[at].text.startswith("-") and words[at].text not in ("-m", "-c", "-"):
        at += 2 if words[at].text in ("-W", "-X") else 1
    if at >= len(words):
        return None
    if words[at].text == "-m":
        if at + 1 >= len(words):
            return None
        module, rest = words[at + 1].text, words[at + 2 :]
        if module == "vllm.entrypoints.cli.main":
            return served(VLLM, rest[1:] if rest[:1] and rest[0].text == "serve" else rest, env, first.path)
        if module in _MODULES:
            return served(_MODULES[module], rest, env, first.path)
        if module in _LAUNCHER_MODULES:
            program, how = _LAUNCHER_MODULES[module]
            return _launcher(program, how, first, rest, env, depth)
        return _of_script(module, rest, first.path) if module not in _TOOLS else None
    if words[at].text == "-c":
        return Launch(program="python", script="-c", path=first.path)
    return _of_script(words[at].text, words[at + 1 :], first.path)


def _of_script(script: str, words: Sequence[Word], path: Path) -> Launch:
    parsed = parse(words, syntax.SCRIPT)
    return Launch(
        program="python",
        script=script,
        options=parsed.options,
        positional=tuple(word.text for word in parsed.positional),
        path=path,
    )


def _launcher(
    program: str, how: Syntax, first: Word, words: Sequence[Word], env: Mapping[str, str], depth: int
) -> Launch:
    """A launcher with what it starts: a Python script or module, or with --no-python or of MPI any program."""
    parsed = parse(words, how)
    names = {option.name for option in parsed.options}
    inner: Launch | None = None
    script = parsed.positional[0].text if parsed.positional else ""
    if parsed.positional:
        if program == "mpirun" or "--no-python" in names:
            inner = understand(Line(words=parsed.positional, env=env), depth=depth - 1)
        else:
            inner = _of_script(script, parsed.positional[1:], parsed.positional[0].path)
    return Launch(program=program, options=parsed.options, script=script, inner=inner, path=first.path)


def _ray(words: Sequence[Word], env: Mapping[str, str], depth: int) -> Launch | None:
    """`ray start …`, and `ray job submit … -- COMMAND`."""
    texts = [word.text for word in words]
    inner: Launch | None = None
    if texts[1:3] == ["job", "submit"] and "--" in texts:
        at = texts.index("--")
        inner = understand(Line(words=tuple(words[at + 1 :]), env=env), depth=depth - 1)
        words = words[:at]
    parsed = parse(words[1:], syntax.RAY)
    return Launch(
        program="ray",
        options=parsed.options,
        positional=tuple(word.text for word in parsed.positional),
        inner=inner,
        path=words[0].path,
    )


def _name(image: str) -> str:
    """An image's name without tag and digest, in lower case."""
    head, slash, last = image.partition("@")[0].rpartition("/")
    return (head + slash + last.partition(":")[0]).lower()
