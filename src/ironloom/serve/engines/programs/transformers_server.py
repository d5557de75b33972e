"""The Transformers engine's process.

python -m ironloom.serve.engines.programs.transformers_server --model FOLDER --served-name NAME --port N
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from ironloom.serve.engines.programs.model_facts import read_facts
from ironloom.serve.engines.programs.openai_server import OpenAIServer
from ironloom.serve.engines.programs.running import bind, log_to_stderr, serve_until_signal
from ironloom.serve.engines.programs.sampling_defaults import add_arguments, defaults_of
from ironloom.serve.engines.programs.server_base import ServerOptions
from ironloom.serve.engines.programs.templates import ChatTemplate, find_template
from ironloom.serve.engines.programs.tool_calls import PARSERS

DEFAULT_CONTEXT_TOKENS = 4096
"""For a model that does not say how long its context is."""
logger = logging.getLogger("ironloom.transformers")


def parser() -> argparse.ArgumentParser:
    """The arguments; those that vLLM has too are spelled as there."""
    found = argparse.ArgumentParser(prog="transformers_server", allow_abbrev=False)
    add = found.add_argument
    add("--model", type=Path, required=True, help="a folder with safetensors")
    add("--served-name", required=True, help="the model id that clients send")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--threads", type=int, default=0, help="CPU threads to compute with; 0: all")
    add("--device", default="cpu", help="cpu, or cuda for the GPU that CUDA_VISIBLE_DEVICES shows")
    add("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    add("--max-model-len", type=int, default=0, help="context length; 0: the model's own")
    add("--max-num-seqs", type=int, default=32, help="sequences in a batch")
    add("--trust-remote-code", action="store_true", help="run the model's own Python code")
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
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        server = build(options, loop)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{options.model} cannot be loaded: {error}", file=sys.stderr)
        return 1
    serve_until_signal(server, sock, loop)
    return 0


def build(options: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> OpenAIServer:
    """The server with its model loaded. Raises ValueError, OSError, RuntimeError."""
    import torch

    from ironloom.serve.engines.programs.transformers_generator import LoadSettings, TransformersGenerator

    if options.threads:
        torch.set_num_threads(options.threads)
    facts = read_facts(options.model)
    own = facts.context_length
    if options.max_model_len and own and options.max_model_len > own:
        raise ValueError(f"--max-model-len is {options.max_model_len}; the model's context is {own} tokens")
    settings = LoadSettings(
        model=options.model,
        max_model_len=options.max_model_len or own or DEFAULT_CONTEXT_TOKENS,
        max_num_seqs=options.max_num_seqs,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    generator = TransformersGenerator(settings, loop)
    tokenizer = generator.tokenizer
    own_template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
    source = find_template(options.model, options.chat_template) or own_template
    served = ServerOptions(
        served_name=options.served_name,
        model_path=str(options.model),
        template=ChatTemplate(source, bos_token=tokenizer.bos_token or "", eos_token=tokenizer.eos_token or "")
        if source
        else None,
        tool_parser=options.tool_call_parser,
        reasoning={"auto": None, "none": False}.get(options.reasoning_parser, True),
        defaults=defaults_of(options, options.model),
    )
    return OpenAIServer(generator, served, parkable=generator)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
