"""The llama.cpp engine's process.

python -m ironloom.serve.engines.programs.llamacpp_server --model FILE.gguf --served-name NAME --port N
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ironloom.errors import ModelError
from ironloom.fleet.machine import this_machine
from ironloom.serve.engines.llamacpp_memory import fit_context
from ironloom.serve.engines.programs.gguf_vocabulary import read_vocabulary
from ironloom.serve.engines.programs.llamacpp_generator import LlamaCppGenerator, LoadSettings
from ironloom.serve.engines.programs.openai_server import OpenAIServer
from ironloom.serve.engines.programs.running import bind, log_to_stderr, serve_until_signal
from ironloom.serve.engines.programs.sampling_defaults import add_arguments, defaults_of
from ironloom.serve.engines.programs.server_base import ServerOptions
from ironloom.serve.engines.programs.templates import ChatTemplate, find_template
from ironloom.serve.engines.programs.tool_calls import PARSERS

logger = logging.getLogger("ironloom.llamacpp")


def parser() -> argparse.ArgumentParser:
    """The arguments; those that vLLM has too are spelled as there."""
    found = argparse.ArgumentParser(prog="llamacpp_server", allow_abbrev=False)
    add = found.add_argument
    add("--model", type=Path, required=True, help="a GGUF file")
    add("--served-name", required=True, help="the model id that clients send")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--threads", type=int, default=0, help="CPU threads to compute with; 0: all")
    add("--max-model-len", type=int, default=0, help="context length; 0: the model's own, as far as memory goes")
    add("--max-num-seqs", type=int, default=8, help="slots: sequences computed at once")
    add("--max-num-batched-tokens", type=int, default=2048, help="tokens in a batch, prompts included")
    add("--kv-cache-bytes", type=int, default=0, help="most memory for the KV cache; 0: a quarter of what is free")
    add("--no-enable-prefix-caching", dest="prefix_caching", action="store_false")
    add("--chat-template", type=Path, help="a Jinja file, instead of the model's own")
    add("--tool-call-parser", choices=sorted(PARSERS))
    add("--reasoning-parser", choices=("auto", "none", "deepseek_r1", "qwen3"), default="auto")
    add_arguments(found)
    return found


def main(args: list[str]) -> int:
    """Load, serve, end at SIGTERM or SIGINT. Returns the exit status."""
    log_to_stderr()
    options = parser().parse_args(args)
    try:
        sock = bind(options.host, options.port)
    except OSError as error:
        print(f"{options.host}:{options.port} cannot be had: {error.strerror}", file=sys.stderr)
        return 1
    try:
        server = build(options)
    except (ModelError, ValueError, RuntimeError, OSError) as error:
        print(f"{options.model} cannot be loaded: {error}", file=sys.stderr)
        return 1
    serve_until_signal(server, sock)
    return 0


def build(options: argparse.Namespace) -> OpenAIServer:
    """The server with its model loaded. Raises ModelError, ValueError, RuntimeError."""
    header, vocabulary = read_vocabulary(options.model)
    max_model_len = fit_context(
        header,
        asked=options.max_model_len,
        num_seqs=options.max_num_seqs,
        kv_cache_bytes=options.kv_cache_bytes,
        available_memory_bytes=this_machine(gpus=tuple).available_memory_bytes,
    )
    settings = LoadSettings(
        model=options.model,
        max_model_len=max_model_len,
        max_num_seqs=options.max_num_seqs,
        num_threads=options.threads,
        num_batched_tokens=options.max_num_batched_tokens,
        prefix_caching=options.prefix_caching,
    )
    logger.info("%d slots of %d tokens", settings.max_num_seqs, max_model_len)
    template = find_template(options.model, options.chat_template) or vocabulary.chat_template
    served = ServerOptions(
        served_name=options.served_name,
        model_path=str(options.model),
        template=ChatTemplate(template, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token)
        if template
        else None,
        tool_parser=options.tool_call_parser,
        reasoning={"auto": None, "none": False}.get(options.reasoning_parser, True),
        defaults=defaults_of(options, None),
    )
    generator = LlamaCppGenerator(settings, vocabulary)
    return OpenAIServer(generator, served, parkable=generator)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
