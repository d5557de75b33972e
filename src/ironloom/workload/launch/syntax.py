"""How the programs that are known read their command lines: long names of options, which of them take a value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from ironloom.workload.manifests.arguments import read_argument
from ironloom.workload.manifests.engine_options import options_of
from ironloom.workload.manifests.lines import Word
from ironloom.workload.workload import NONE, Option

_NUMBER = re.compile(r"-\d+(\.\d+)?")


class Syntax(msgspec.Struct, frozen=True, kw_only=True):
    """How a program reads its command line."""

    aliases: Mapping[str, str] = NONE
    """Short and old names to the long one."""
    switches: frozenset[str] = frozenset()
    """Options, in long form, that take no value."""
    many: frozenset[str] = frozenset()
    """Options that take every word up to the next option."""
    pairs: frozenset[str] = frozenset()
    """Options that take the next two words."""
    has_one_dash: bool = False
    """A long name may begin with one dash: `-bind-to`."""
    keeps_names: bool = False
    """Names stay as written: the options of a script, whose own parser tells `_` from `-`."""
    is_launcher: bool = False
    """What follows the first word that is no option belongs to the program that it starts."""
    table: str = ""
    """The program in the table of servers' options that knows them all."""


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """A command line in its parts."""

    options: tuple[Option, ...]
    positional: tuple[Word, ...]
    """Words that are neither options nor their values; of a launcher the program and all that follows it."""


def parse(words: Sequence[Word], syntax: Syntax) -> Parsed:
    """The options and the other words of a command line, without the program's own name."""
    options: list[Option] = []
    positional: list[Word] = []
    texts = [word.text for word in words] if syntax.table else []
    at = 0
    while at < len(words):
        word = words[at]
        if word.text == "--":
            positional += words[at + 1 :]
            break
        if not _is_option(word.text):
            if syntax.is_launcher:
                positional += words[at:]
                break
            positional.append(word)
            at += 1
            continue
        if syntax.table:
            argument, after = read_argument(texts, at, options_of(syntax.table))
            name = argument.name or argument.word
            options.append(_option(word, name, " ".join(argument.values) if argument.values else None))
            at = after
            continue
        written, equals, value = word.text.partition("=")
        name = _long(written, syntax)
        at += 1
        if equals:
            options.append(_option(word, name, value))
            continue
        end = at
        if name not in syntax.switches:
            most = len(words) if name in syntax.many else at + 1 + (name in syntax.pairs)
            while end < min(most, len(words)) and not _is_option(words[end].text):
                end += 1
        options.append(_option(word, name, " ".join(one.text for one in words[at:end]) if end > at else None))
        at = end
    return Parsed(options=tuple(options), positional=tuple(positional))


def _long(written: str, syntax: Syntax) -> str:
    if syntax.keeps_names:
        return written
    if syntax.has_one_dash and len(written) > 3 and written[1] != "-" and written not in syntax.aliases:
        written = f"-{written}"
    name = written.replace("_", "-") if written.startswith("--") else written
    return syntax.aliases.get(name, name)


def _option(word: Word, name: str, value: str | None) -> Option:
    written = word.text.partition("=")[0]
    return Option(name=name, value=value, path=word.path, offset=word.offset, written=written)


def _is_option(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and _NUMBER.fullmatch(text) is None


VLLM = Syntax(table="vllm")
HUGGINGFACE = Syntax(table="huggingfaceserver")
SCRIPT = Syntax(keeps_names=True)
PYTHON = Syntax(
    is_launcher=True,
    switches=frozenset(
        {"-u", "-O", "-OO", "-B", "-E", "-I", "-s", "-S", "-v", "-q", "-x", "-b", "-bb", "-d", "-i", "-P"}
    ),
)
SGLANG = Syntax(
    aliases={
        "--model": "--model-path",
        "--tp": "--tensor-parallel-size",
        "--tp-size": "--tensor-parallel-size",
        "--pp": "--pipeline-parallel-size",
        "--pp-size": "--pipeline-parallel-size",
        "--dp": "--data-parallel-size",
        "--dp-size": "--data-parallel-size",
        "--ep": "--expert-parallel-size",
        "--ep-size": "--expert-parallel-size",
        "--dist-init": "--dist-init-addr",
        "--nccl-init-addr": "--dist-init-addr",
    },
)
TRTLLM = Syntax(
    aliases={
        "--tp-size": "--tensor-parallel-size",
        "--tp": "--tensor-parallel-size",
        "--pp-size": "--pipeline-parallel-size",
        "--pp": "--pipeline-parallel-size",
        "--ep-size": "--expert-parallel-size",
        "--ep": "--expert-parallel-size",
        "--moe-expert-parallel-size": "--expert-parallel-size",
        "--cp-size": "--context-parallel-size",
        "--free-gpu-memory-fraction": "--kv-cache-free-gpu-memory-fraction",
        "--model-path": "--model",
    },
    switches=frozenset(
        {
            "--trust-remote-code",
            "--fail-fast-on-attention-window-too-large",
            "--enable-chunked-prefill",
            "--enable-attention-dp",
            "--allow-request-chat-template",
            "--grpc",
            "--telemetry",
            "--no-telemetry",
        }
    ),
)
PLAIN = Syntax()
"""A server without positional words that matter."""
TGI = Syntax(switches=frozenset({"--trust-remote-code", "--disable-custom-kernels", "--json-output", "--env"}))
LLAMACPP = Syntax(
    aliases={
        "-m": "--model",
        "-mu": "--model-url",
        "-hf": "--hf-repo",
        "-hfr": "--hf-repo",
        "-hff": "--hf-file",
        "-c": "--ctx-size",
        "-n": "--predict",
        "-ngl": "--n-gpu-layers",
        "--gpu-layers": "--n-gpu-layers",
        "-np": "--parallel",
        "-ts": "--tensor-split",
        "-sm": "--split-mode",
        "-mg": "--main-gpu",
        "-fa": "--flash-attn",
        "-b": "--batch-size",
        "-ub": "--ubatch-size",
        "-t": "--threads",
        "-ctk": "--cache-type-k",
        "-ctv": "--cache-type-v",
        "-a": "--alias",
    },
    switches=frozenset({"--jinja", "--mlock", "--no-mmap", "--embedding", "--embeddings", "--metrics", "--no-webui"}),
)
OLLAMA = Syntax(switches=frozenset({"--verbose", "--insecure"}))
TORCHRUN = Syntax(
    aliases={"-m": "--module", "-r": "--redirects", "-t": "--tee"},
    switches=frozenset({"--standalone", "--module", "--no-python", "--run-path", "--use-env", "--help"}),
    is_launcher=True,
)
ACCELERATE = Syntax(
    aliases={"-m": "--module", "--num-process": "--num-processes"},
    switches=frozenset(
        {
            "--module",
            "--no-python",
            "--multi-gpu",
            "--cpu",
            "--tpu",
            "--use-deepspeed",
            "--use-fsdp",
            "--use-megatron-lm",
            "--use-xpu",
            "--use-parallelism-config",
            "--quiet",
            "--debug",
            "--same-network",
            "--dynamo-use-fullgraph",
            "--dynamo-use-dynamic",
            "--ipex",
            "--standalone",
        }
    ),
    is_launcher=True,
)
DEEPSPEED = Syntax(
    aliases={"-H": "--hostfile", "-i": "--include", "-e": "--exclude"},
    switches=frozenset(
        {"--module", "--no-python", "--no-local-rank", "--force-multi", "--enable-each-rank-log", "--elastic-training"}
    ),
    is_launcher=True,
)
MPIRUN = Syntax(
    aliases={"-np": "--np", "-n": "--np", "-c": "--np", "-N": "--npernode", "-H": "--host", "-gmca": "--mca"},
    pairs=frozenset({"--mca", "--gmca"}),
    has_one_dash=True,
    switches=frozenset(
        {
            "--allow-run-as-root",
            "--tag-output",
            "--oversubscribe",
            "--report-bindings",
            "-v",
            "-q",
            "--verbose",
            "--quiet",
            "--bynode",
            "--nooversubscribe",
            "--display-map",
            "--display-allocation",
            "--merge-stderr-to-stdout",
        }
    ),
    is_launcher=True,
)
RAY = Syntax(switches=frozenset({"--head", "--block", "--no-monitor", "--no-wait"}))
