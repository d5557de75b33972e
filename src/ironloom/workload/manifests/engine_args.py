"""The command lines of vLLM and of KServe's Hugging Face server, understood.

What is Ironloom's to set (model, served name, host, port, keys, certificates) is taken out; the rest stays for the
engine, under vLLM's full names. A name or a value that the server does not have is an error: engine_options.py knows.

Source of how arguments are read: vllm/utils/argparse_utils.py (FlexibleArgumentParser), which reads `_` for `-` in
names, `--config.key value` as a part of a value, and `-O3` as a level.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import msgspec

from ironloom.workload.manifests.arguments import BadArgument, BadArguments, Waiver, read_argument, waive_nothing
from ironloom.workload.manifests.engine_options import options_of
from ironloom.workload.manifests.lines import Word, lines_of
from ironloom.workload.manifests.shell import expand


class Server(StrEnum):
    """Which server a container runs."""

    VLLM = "vllm"
    HUGGINGFACE = "huggingface"


_PROGRAMS = {Server.VLLM: "vllm", Server.HUGGINGFACE: "huggingfaceserver"}
"""In the table of options."""


class EngineCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A server's command line, understood. Texts are as written; empty or None is not said."""

    server: Server
    model: str = ""
    """A hub name, a folder in the container, or an URI."""
    revision: str = ""
    tokenizer: str = ""
    served_names: tuple[str, ...] = ()
    port: int | None = None
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    args: tuple[str, ...] = ()
    """The rest, in order."""
    env: tuple[tuple[str, str], ...] = ()
    """Set by the command itself (`NAME=value vllm serve …`)."""
    dropped: tuple[tuple[str, str], ...] = ()
    """(option, why): options that mean nothing here."""


_TAKEN = {
    "--model": "model",
    "--model-tag": "model",
    "--model-id": "model",
    "--model-dir": "model_dir",
    "--model-name": "served_names",
    "--revision": "revision",
    "--model-revision": "revision",
    "--tokenizer": "tokenizer",
    "--served-model-name": "served_names",
    "--port": "port",
    "--http-port": "port",
    "--max-model-len": "max_model_len",
    "--max-length": "max_model_len",
    "--tensor-parallel-size": "tensor_parallel_size",
    "--pipeline-parallel-size": "pipeline_parallel_size",
}
_BY_IRONLOOM = "Ironloom's gateway does this"
_DROPPED = {
    "--host": "engines listen on the loopback address; the gateway listens for clients",
    "--grpc-port": "the Open Inference Protocol over gRPC is not served",
    "--enable-grpc": "the Open Inference Protocol over gRPC is not served",
    "--workers": "one process serves a replica",
    "--api-key": _BY_IRONLOOM + ": `ironloom key create`",
    "--ssl-keyfile": _BY_IRONLOOM,
    "--ssl-certfile": _BY_IRONLOOM,
    "--ssl-ca-certs": _BY_IRONLOOM,
    "--ssl-cert-reqs": _BY_IRONLOOM,
    "--allowed-origins": _BY_IRONLOOM,
    "--allowed-methods": _BY_IRONLOOM,
    "--allowed-headers": _BY_IRONLOOM,
    "--allow-credentials": _BY_IRONLOOM,
    "--root-path": _BY_IRONLOOM,
    "--uvicorn-log-level": "the engine's own HTTP server is not uvicorn everywhere",
    "--disable-log-requests": "requests stand in the event log, not in the engine's output",
    "--tokenizer-revision": "the tokenizer comes with the model, of the same revision",
}
_HUGGINGFACE_ONLY = {
    "--backend": "the engine is picked for the hardware; the annotation ironloom.dev/engine names one",
    "--disable-lower-case": "of encoder models of other tasks",
    "--disable-special-tokens": "of encoder models of other tasks",
    "--tensor-input-names": "of Triton",
    "--return-token-type-ids": "of encoder models of other tasks",
    "--return-offsets-mapping": "of encoder models of other tasks",
    "--return-probabilities": "of encoder models of other tasks",
    "--return-raw-logits": "of encoder models of other tasks",
    "--max-log-len": "requests stand in the event log, not in the engine's output",
    "--predictor-host": "a transformer beside the predictor is not run here",
    "--predictor-protocol": "a transformer beside the predictor is not run here",
}
_KEPT = frozenset({"tensor_parallel_size", "pipeline_parallel_size"})
"""Understood, and the engine's own all the same."""
_HUMAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)")
_HUMAN_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_OURS = frozenset(_TAKEN) | frozenset(_DROPPED)
"""Known whatever the server: a name that only old ones had is no slip."""
_VLLM_MODULES = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.cli.main")


def understand(
    command: Sequence[str],
    args: Sequence[str],
    env: Mapping[str, str],
    *,
    image: str = "",
    waived: Waiver = waive_nothing,
) -> EngineCommand | None:
    """The engine command of a container, or None where it runs neither vLLM nor Hugging Face's server.

    Without a command the image's own entrypoint runs: it is known by the image's name. Raises ValueError for a script
    that cannot be read, BadArguments for arguments that the server would not take.
    """
    for line in lines_of([Word(text, ()) for text in (*command, *args)], env, is_strict=True):
        found = _find([word.text for word in line.words])
        if found is not None:
            server, rest = found
            return parse(rest, server=server, env=tuple(line.own.items()), waived=waived)
    if command:
        return None
    by_image = server_of_image(image)
    if by_image is None:
        return None
    words = [expand(text, env) for text in args]
    if by_image is Server.VLLM and words[:1] == ["serve"]:
        words = words[1:]
    return parse(words, server=by_image, waived=waived)


def server_of_image(image: str) -> Server | None:
    """Which server an image's entrypoint starts, by its name: `vllm/vllm-openai:v0.20`, `kserve/huggingfaceserver`."""
    path = image.partition("@")[0]
    head, slash, last = path.rpartition("/")
    name = (head + slash + last.partition(":")[0]).lower()
    if "huggingfaceserver" in name or "huggingface-server" in name:
        return Server.HUGGINGFACE
    return Server.VLLM if re.search(r"(^|[/_.-])(vllm|llm-d)", name) else None


def parse(
    words: Sequence[str],
    *,
    server: Server,
    env: tuple[tuple[str, str], ...] = (),
    waived: Waiver = waive_nothing,
) -> EngineCommand:
    """A server's arguments. Raises BadArguments, with every one that it would not take."""
    options = options_of(_PROGRAMS[server])
    values: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    problems: list[BadArgument] = []
    rest: list[str] = []
    dropped: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-") or word == "-":
            if server is Server.VLLM and "model" not in values:
                values["model"] = [word]
            else:
                problems.append(BadArgument(f"{word!r} stands where an option was expected", word))
            position += 1
            continue
        argument, position = read_argument(words, position, options, also=_OURS)
        field = _TAKEN.get(argument.name)
        if field is not None and not (server is Server.VLLM and argument.name in ("--model-name", "--max-length")):
            if not argument.values:
                problems.append(BadArgument(f"{argument.name} has no value", word))
                continue
            values[field] = list(argument.values)
            given[field] = word
            if field in _KEPT:
                rest += [argument.name, *argument.values]
        elif argument.name in _DROPPED or (server is Server.HUGGINGFACE and argument.name in _HUGGINGFACE_ONLY):
            dropped.append((argument.name, _DROPPED.get(argument.name) or _HUGGINGFACE_ONLY[argument.name]))
        elif argument.fault is not None and not (waived(argument.word) or waived(argument.name)):
            problems.append(BadArgument(argument.fault, word, argument.hint))
        else:
            rest += argument.written()

    def one(field: str) -> str:
        return values[field][-1] if field in values else ""

    def number(field: str, option: str, read: Callable[[str, str], int | None]) -> int | None:
        try:
            return read(option, one(field)) if field in values else None
        except ValueError as error:
            problems.append(BadArgument(str(error), given[field]))
            return None

    port = number("port", "--port", _positive)
    max_model_len = number("max_model_len", "--max-model-len", _human)
    tensor = number("tensor_parallel_size", "--tensor-parallel-size", _positive)
    pipeline = number("pipeline_parallel_size", "--pipeline-parallel-size", _positive)
    if problems:
        raise BadArguments(problems)
    return EngineCommand(
        server=server,
        model=one("model") or one("model_dir"),
        revision=one("revision"),
        tokenizer=one("tokenizer"),
        served_names=tuple(values.get("served_names", ())),
        port=port,
        max_model_len=max_model_len,
        tensor_parallel_size=tensor or 1,
        pipeline_parallel_size=pipeline or 1,
        args=tuple(rest),
        env=env,
        dropped=tuple(dropped),
    )


def understood_options() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """For the reference: options that are taken out and used, and those left out, each with why."""
    taken = tuple(sorted(option for option, field in _TAKEN.items() if field not in _KEPT))
    return taken, tuple(sorted((_DROPPED | _HUGGINGFACE_ONLY).items()))


def _find(words: Sequence[str]) -> tuple[Server, Sequence[str]] | None:
    """The server in a command, after wrappers such as `exec`, `env`, `numactl …`, and its arguments."""
    for number, word in enumerate(words):
        name = word.rpartition("/")[2]
        following = words[number + 1] if number + 1 < len(words) else ""
        if name == "vllm" and following == "serve":
            return Server.VLLM, words[number + 2 :]
        if word == "-m":
            if following in _VLLM_MODULES:
                rest = words[number + 2 :]
                return Server.VLLM, rest[1:] if rest[:1] == ["serve"] else rest
            if following == "huggingfaceserver":
                return Server.HUGGINGFACE, words[number + 2 :]
    return None


def _positive(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < 1:
        raise ValueError(f"{option} = {text!r}, must be a whole number of at least 1")
    return int(text)


def _human(option: str, text: str) -> int | None:
    """vLLM's numbers: `32768`, `32k` is 32,000, `32K` is 32,768; `auto` and -1 leave it to the engine."""
    if text in ("auto", "-1"):
        return None
    match = _HUMAN.fullmatch(text)
    if match is None or len(text) > 15 or float(match[1]) * _HUMAN_FACTORS[match[2]] < 1:
        raise ValueError(f"{option} = {text!r}, must be a number of tokens such as 8192, 32k or 32K")
    return int(float(match[1]) * _HUMAN_FACTORS[match[2]])
