"""The OpenVINO engine's process.

    python -m ironloom.serve.engines.programs.openvino_server --model FOLDER --served-name NAME --port N

`main(args)` is the same for a launcher that forks with the imports done.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ironloom.fleet.machine import this_machine
from ironloom.serve.engines.programs.model_facts import ModelFacts, read_facts
from ironloom.serve.engines.programs.openvino_park import Swap, supported
from ironloom.serve.engines.programs.openvino_pipeline import (
    DEFAULT_CONTEXT_TOKENS,
    Loaded,
    LoadSettings,
    default_kv_cache_bytes,
    kv_cache_tokens,
    load,
)
from ironloom.serve.engines.programs.sampling_defaults import add_arguments, defaults_of
from ironloom.serve.engines.programs.server_base import BaseServer, ServerOptions
from ironloom.serve.engines.programs.templates import ChatTemplate, find_template
from ironloom.serve.engines.programs.tool_calls import PARSERS
from ironloom.units import format_bytes, parse_bytes

logger = logging.getLogger("ironloom.openvino")

Prepare = Callable[[asyncio.AbstractEventLoop], None]


def parser() -> argparse.ArgumentParser:
    """The arguments; those that vLLM has too are spelled as there."""
    found = argparse.ArgumentParser(prog="openvino_server", allow_abbrev=False)
    add = found.add_argument
    add("--model", type=Path, required=True, help="folder with openvino_model.xml")
    add("--served-name", required=True, help="the model id that clients send")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--task", choices=("generate", "embed"), default="generate")
    add("--threads", type=int, default=0, help="CPU threads to compute with; 0: all")
    add("--max-model-len", type=int, default=0, help="context length; 0: the model's own")
    add("--max-num-seqs", type=int, default=64, help="sequences in a batch")
    add("--max-num-batched-tokens", type=int, default=256, help="tokens in a step, prompts included")
    add("--kv-cache-bytes", type=parse_bytes, default=0, help="0: from the model and the memory that is free")
    add("--precision", choices=("f32", "bf16", "auto"), default="f32")
    add("--no-enable-prefix-caching", dest="prefix_caching", action="store_false")
    add("--chat-template", type=Path, help="a Jinja file, instead of the model's own")
    add("--tool-call-parser", choices=sorted(PARSERS))
    add("--reasoning-parser", choices=("auto", "none", "deepseek_r1", "qwen3"), default="auto")
    add_arguments(found)
    add("--lean", type=Path, help="the model's lean form (see openvino_lean), which loads faster")
    add("--swap-dir", type=Path, help="a folder on a disk: parking swaps the model to it, so that a wake is quick")
    return found


def main(args: list[str]) -> int:
    """Load, serve, and end at SIGTERM or SIGINT. Returns the exit status."""
    import_module("ironloom.serve.engines.programs.openvino_preload")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    options = parser().parse_args(args)
    try:
        sock = _bind(options.host, options.port)
    except OSError as error:
        print(f"{options.host}:{options.port} cannot be had: {error.strerror}", file=sys.stderr)
        return 1
    try:
        server, prepare = _embed_server(options) if options.task == "embed" else _text_server(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{options.model} cannot be loaded: {error}", file=sys.stderr)
        return 1
    gc.collect()
    gc.freeze()
    _run(_serve(server, prepare, sock))
    return 0


def _text_server(options: argparse.Namespace) -> tuple[BaseServer, Prepare]:
    from ironloom.serve.engines.programs.openai_server import OpenAIServer
    from ironloom.serve.engines.programs.openvino_generator import OpenVinoGenerator

    facts = read_facts(options.model)
    settings = settings_of(options, facts)
    swap = _swap(options.swap_dir)
    loaded = load(settings, facts)
    generator = OpenVinoGenerator(settings, facts, loaded, swap=swap)
    served = ServerOptions(
        served_name=options.served_name,
        model_path=str(options.model),
        template=template_of(options, facts, loaded),
        tool_parser=options.tool_call_parser,
        reasoning={"auto": None, "none": False}.get(options.reasoning_parser, True),
        defaults=defaults_of(options, options.model),
    )
    return OpenAIServer(generator, served, parkable=generator), generator.pump_in


def _swap(folder: Path | None) -> Swap | None:
    """None where it was not asked for or cannot be; a parked model is then let go of, and loaded again."""
    if folder is None:
        return None
    why_not = supported(folder)
    if why_not is not None:
        logger.info("parking will let go of the model: %s", why_not)
        return None
    try:
        return Swap(folder)
    except OSError as error:
        logger.warning("parking will let go of the model: %s", error)
        return None


def settings_of(options: argparse.Namespace, facts: ModelFacts) -> LoadSettings:
    """The arguments, the model and the free memory put together. Raises ValueError when they do not fit."""
    max_model_len = options.max_model_len or facts.context_length or DEFAULT_CONTEXT_TOKENS
    if facts.context_length and max_model_len > facts.context_length:
        raise ValueError(f"--max-model-len is {max_model_len}; the model's context is {facts.context_length} tokens")
    kv_cache_bytes = options.kv_cache_bytes or default_kv_cache_bytes(
        facts, max_model_len, this_machine(gpus=tuple).available_memory_bytes
    )
    num_tokens = kv_cache_tokens(facts, kv_cache_bytes)
    if num_tokens and num_tokens < max_model_len:
        cache = f"a KV cache of {format_bytes(kv_cache_bytes)} holds {num_tokens} tokens"
        if options.max_model_len:
            raise ValueError(f"--max-model-len is {max_model_len}, and {cache}")
        logger.warning("the context is cut from %d to %d tokens: %s", max_model_len, num_tokens, cache)
        max_model_len = num_tokens
    return LoadSettings(
        model=options.model,
        max_model_len=max_model_len,
        kv_cache_bytes=kv_cache_bytes,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        num_threads=options.threads,
        precision=options.precision,
        prefix_caching=options.prefix_caching,
        lean=options.lean,
    )


def template_of(options: argparse.Namespace, facts: ModelFacts, loaded: Loaded) -> ChatTemplate | None:
    source = find_template(options.model, options.chat_template) or loaded.tokenizer.get_original_chat_template()
    if not source:
        return None
    return ChatTemplate(
        source,
        bos_token=facts.bos_token or loaded.tokenizer.get_bos_token(),
        eos_token=facts.eos_token or loaded.tokenizer.get_eos_token(),
    )


def _embed_server(options: argparse.Namespace) -> tuple[BaseServer, Prepare]:
    from ironloom.serve.engines.programs.embed_server import EmbedServer
    from ironloom.serve.engines.programs.openvino_embedder import OpenVinoEmbedder

    facts = read_facts(options.model)
    embedder = OpenVinoEmbedder(
        options.model,
        max_model_len=options.max_model_len or facts.context_length or 512,
        num_threads=options.threads,
        precision=options.precision,
    )
    served = ServerOptions(served_name=options.served_name, model_path=str(options.model))
    return EmbedServer(embedder, served, parkable=embedder), _nothing


def _nothing(_: asyncio.AbstractEventLoop) -> None:
    """Vectors are computed in a worker thread: the loop has nothing to pump."""


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket, before the model is loaded: a taken port is told at once."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


async def _serve(server: BaseServer, prepare: Prepare, sock: socket.socket) -> None:
    from ironloom.serve.http.server import serve

    loop = asyncio.get_running_loop()
    prepare(loop)
    listening = await serve(server.handle, sock=sock)
    logger.info("ready: %s on port %d", server.options.served_name, sock.getsockname()[1])
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await stop.wait()
    await listening.close(patience_s=5.0)


def _run(work: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
