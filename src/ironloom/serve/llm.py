"""`ironloom.LLM`: prompts in, texts out, in one batch on the engine that fits this machine. vLLM's names.

    from ironloom import LLM, SamplingParams
    llm = LLM("smollm2-135m-instruct")
    for output in llm.generate(["Once upon a time"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

On a CPU the engine is OpenVINO, in this process; another engine (vLLM on a GPU) is started as a process of its own
and ended with this one. Arguments that mean nothing there are told once, on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ironloom.errors import UsageError
from ironloom.serve.llm_types import (
    CompletionOutput,
    Embedding,
    EmbeddingRequestOutput,
    Logprob,
    RequestOutput,
    SamplingParams,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironloom.serve.engines.base import Engine, LocalModel
    from ironloom.serve.llm_local import LocalRunner, Progress
    from ironloom.serve.llm_process import ProcessRunner

__all__ = [
    "LLM",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
]

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or vLLM's {"prompt": …} and {"prompt_token_ids": …}."""
Conversation = Sequence[Mapping[str, Any]]


class LLM:
    """A model, loaded. Close it, or use it in a `with`, to give its memory back before the program ends."""

    def __init__(
        self,
        model: str,
        *,
        engine: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        seed: int | None = None,
        env: Mapping[str, str] | None = None,
        **engine_args: Any,
    ) -> None:
        """`model` is a name (owner/name, hf://…, a short name), a folder or a file; it is fetched when it is not here.

        `engine` asks for one by name (openvino, vllm, …). `engine_args` are vLLM's (max_model_len, dtype,
        enable_prefix_caching, …). `seed` makes every request repeatable that brings none of its own.
        Raises ModelError when the model cannot be had, UsageError for an argument that cannot be honoured,
        EngineError when it cannot be loaded.
        """
        from ironloom.serve.models.cache import default_cache_dir

        self._seed = seed
        self._num_requests = 0
        self._cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        arguments = _as_arguments(engine_args)
        local = _located(model, revision, self._cache_dir)
        chosen = _chosen(local, engine, arguments, dict(env or {}))
        _convert(chosen, local, self._cache_dir)
        self.model = local
        self.engine = chosen.name
        self._defaults = _sampling_defaults(arguments, local)
        self._embedder: Any = None
        self._runner: LocalRunner | ProcessRunner
        self._start(chosen, arguments, dict(env or {}))

    def _start(self, engine: Engine, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        from ironloom.serve.engines.base import LaunchOrder, Task
        from ironloom.serve.llm_local import LocalRunner
        from ironloom.serve.llm_process import ProcessRunner, free_port

        port = free_port()
        serving = _serving(self.model.uri, engine.name, arguments, env)
        order = LaunchOrder(model=self.model, serving=serving, port=port, cache_dir=self._cache_dir)
        launch = engine.launch(order)
        for ignored in launch.ignored:
            name, _, value = ignored.lstrip("-").replace("-", "_").partition(" ")
            _note(f"{name}{'=' + value if value else ''} means nothing to the {engine.name} engine, and is ignored.")
        if self.model.note:
            _note(f"The model {self.model.note}.")
        if engine.name != "openvino":
            self._runner = ProcessRunner(launch, port, serving.name)
            return
        folder = Path(launch.args[launch.args.index("--model") + 1])
        rest = _without(launch.args, ("--model", "--served-name", "--port", "--task"))
        if self.model.task is Task.EMBED:
            from ironloom.serve.engines.programs.model_facts import read_facts
            from ironloom.serve.engines.programs.openvino_embedder import OpenVinoEmbedder

            length = read_facts(folder).context_length or 512
            self._embedder = OpenVinoEmbedder(folder, max_model_len=length, num_threads=0, precision="f32")
            return
        self._runner = LocalRunner(folder, rest)

    # --- use ---

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue each prompt; the outputs are in the prompts' order.

        Raises UsageError for parameters that cannot be honoured and prompts that do not fit, EngineError.
        """
        listed = _listed(prompts)
        encoded = [self._encoded(prompt) for prompt in listed]
        return self._run(encoded, self._params(sampling_params, len(listed)), use_tqdm=use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of several."""
        from ironloom.errors import RequestError
        from ironloom.serve.engines.programs.messages import read_messages

        self._require_text()
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Conversation]", [messages] if one else messages)
        encoded: list[tuple[str | None, list[int]]] = []
        for conversation in conversations:
            try:
                checked = read_messages([dict(message) for message in conversation])
            except RequestError as error:
                raise UsageError(error.message) from error
            text = self._runner.render(
                checked,
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                variables=dict(chat_template_kwargs or {}),
            )
            encoded.append((text, self._runner.encode(text, add_special_tokens=False)))
        return self._run(encoded, self._params(sampling_params, len(encoded)), use_tqdm=use_tqdm)

    def embed(self, prompts: str | Sequence[str]) -> list[EmbeddingRequestOutput]:
        """A vector for each text, from an embedding model."""
        if self._embedder is None:
            raise UsageError(f"{self.model.uri} is no embedding model, or its engine embeds over HTTP only")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        inputs = [self.encode(text) for text in texts]
        limit = self._embedder.max_model_len
        for index, ids in enumerate(inputs):
            if not 0 < len(ids) <= limit:
                raise UsageError(
                    f"prompts[{index}] has {len(ids)} tokens; this model's context length is {limit} tokens"
                )
        vectors = self._embedder.embed(inputs)
        return [
            EmbeddingRequestOutput(str(index), ids, Embedding(vector))
            for index, (ids, vector) in enumerate(zip(inputs, vectors, strict=True))
        ]

    def get_default_sampling_params(self) -> SamplingParams:
        """What generate and chat take where they are given none: as the model's generation_config.json says."""
        return SamplingParams(**self._defaults)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        if self._embedder is not None:
            return list(self._embedder.encode(text, add_special_tokens=add_special_tokens))
        return self._runner.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        self._require_text()
        return self._runner.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def sleep(self, level: int = 1) -> None:
        """Give the weights and the KV cache back until wake_up."""
        if level not in {1, 2}:
            raise UsageError(f"level is {level}; it must be 1 or 2")
        (self._embedder.park if self._embedder is not None else self._runner.sleep)()

    def wake_up(self) -> None:
        """Load again."""
        (self._embedder.wake if self._embedder is not None else self._runner.wake_up)()

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if self._embedder is not None:
            self._embedder.park()
        elif hasattr(self, "_runner"):
            self._runner.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- within ---

    def _require_text(self) -> None:
        if self._embedder is not None:
            raise UsageError(f"{self.model.uri} is an embedding model; use embed()")

    def _encoded(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        self._require_text()
        if isinstance(prompt, Mapping):
            unknown = set(prompt) - {"prompt", "prompt_token_ids"}
            if unknown or not prompt:
                raise UsageError(
                    f"a prompt has {', '.join(sorted(unknown)) or 'nothing'}; it takes prompt or prompt_token_ids"
                )
            inner: str | Sequence[int] = prompt["prompt_token_ids" if "prompt_token_ids" in prompt else "prompt"]
            return self._encoded(inner)
        if isinstance(prompt, str):
            return prompt, self._runner.encode(prompt, add_special_tokens=True)
        return None, list(prompt)

    def _params(
        self, given: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
    ) -> list[SamplingParams]:
        from dataclasses import replace

        given = self.get_default_sampling_params() if given is None else given
        params = list(given) if isinstance(given, Sequence) else [given] * num_prompts
        if len(params) != num_prompts:
            raise UsageError(f"there are {num_prompts} prompts and {len(params)} sampling_params")
        if self._seed is None:
            return params
        seeded = []
        for each in params:
            seeded.append(replace(each, seed=self._seed + self._num_requests) if each.seed is None else each)
            self._num_requests += 1
        return seeded

    def _run(
        self, prompts: list[tuple[str | None, list[int]]], params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[RequestOutput]:
        if not prompts:
            return []
        with _bar(len(prompts), shown=use_tqdm) as progress:
            return self._runner.run(prompts, params, progress)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="prompts", unit="prompt") as bar:

        def progress(count: int) -> None:
            bar.update(count)

        yield progress


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _as_arguments(engine_args: Mapping[str, Any]) -> tuple[str, ...]:
    """vLLM's keyword arguments as its command line writes them."""
    arguments: list[str] = []
    for name, value in engine_args.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or (value is False and name not in {"enable_prefix_caching", "enable_chunked_prefill"}):
            continue
        if value is True:
            arguments.append(flag)
        elif value is False:
            arguments.append(f"--no-{flag[2:]}")
        elif isinstance(value, Mapping | list | tuple):
            arguments += [flag, json.dumps(value)]
        else:
            arguments += [flag, str(value)]
    return tuple(arguments)


def _sampling_defaults(arguments: Sequence[str], local: LocalModel) -> dict[str, Any]:
    from ironloom.serve.engines.base import ModelFormat
    from ironloom.serve.engines.programs.sampling_defaults import defaults_of_arguments

    folder = None if local.format is ModelFormat.GGUF else local.path
    try:
        return dict(defaults_of_arguments(arguments, folder).told())
    except ValueError as error:
        raise UsageError(str(error)) from error


def _located(model: str, revision: str | None, cache_dir: Path) -> LocalModel:
    """The model on this machine's disk, fetched when it is not there yet."""
    from ironloom.serve.models.progress import Progress as Pulled
    from ironloom.serve.models.pull import locate, pull
    from ironloom.serve.models.source import parse_model

    source = parse_model(model, shorthands=True)
    if revision:
        if source.revision not in ("", revision):
            raise UsageError(f'revision is "{revision}", and the model {model} names "{source.revision}"')
        source = parse_model(f"{source.uri.removesuffix(f':{source.revision}')}:{revision}")
    found = locate(source.uri, cache_dir=cache_dir)
    if found is not None:
        return found
    said: set[str] = set()

    def report(progress: Pulled) -> None:
        if progress.message and progress.message not in said:
            said.add(progress.message)
            _note(progress.message)

    return pull(source.uri, cache_dir=cache_dir, progress=report)


def _chosen(local: LocalModel, name: str | None, arguments: tuple[str, ...], env: dict[str, str]) -> Engine:
    from ironloom.fleet.machine import this_machine
    from ironloom.serve.engines import engine, engines
    from ironloom.serve.engines.choose import Chosen, choose

    serving = _serving(local.uri, name, arguments, env)
    if name is not None:
        named = engine(name)
        if (missing := named.missing()) is not None:
            from ironloom.errors import EngineUnavailable

            raise EngineUnavailable(missing)
    found = choose(local, serving, this_machine(), engines())
    if not isinstance(found, Chosen):
        raise found.error()
    return found.engine


def _convert(engine: Engine, local: LocalModel, cache_dir: Path) -> None:
    from ironloom.serve.models.convert import run_conversion
    from ironloom.serve.models.progress import Progress as Converted

    conversion = engine.conversion(local, cache_dir)
    if conversion is not None:
        _note(f"once: {conversion.description}")

        def report(_: Converted) -> None:
            return None

        run_conversion(conversion, cache_dir, report)


def _serving(uri: str, engine: str | None, arguments: tuple[str, ...], env: dict[str, str]) -> Any:
    from ironloom.workload.serving import Serving

    return Serving(name="local", kind="LLM", model_uri=uri, runtime=engine, engine_args=arguments, env=env)


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments without these and their values."""
    rest, skip = [], False
    for argument in arguments:
        if skip or argument in names:
            skip = not skip
            continue
        rest.append(argument)
    return rest


def _note(message: str) -> None:
    print(f"ironloom: {message}", file=sys.stderr)
