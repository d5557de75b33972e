"""Runs prompts through an engine's own process: what LLM uses for engines that are not in this one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from ironloom.errors import EngineError, EngineExited, EngineStartTimeout, UsageError
from ironloom.serve.engines.base import Launch
from ironloom.serve.llm_local import Progress
from ironloom.serve.llm_types import CompletionOutput, RequestOutput, SamplingParams, token_logprobs

_START_DEADLINE_S = 1200.0
_NUM_LAST_LINES = 20


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class ProcessRunner:
    """An engine server, started for this program and ended with it."""

    def __init__(self, launch: Launch, port: int, name: str) -> None:
        """Start it and wait. Raises EngineExited and EngineStartTimeout, with its last lines."""
        self._url = f"http://127.0.0.1:{port}"
        self._name = name
        self._names: dict[int, str] = {}
        self._max_concurrency = launch.max_concurrency or 32
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            launch.argv, env={**os.environ, **launch.env}, stdout=self._log, stderr=subprocess.STDOUT
        )
        self._end = weakref.finalize(self, _end, self._process)  # also when the program ends without a close()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            if self._process.poll() is not None:
                raise EngineExited(f"the engine ended with {self._process.returncode}; {self._last_lines()}")
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise EngineStartTimeout(f"the engine was not ready in time; {self._last_lines()}") from None
                time.sleep(0.05)

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = self._log.read().splitlines()[-_NUM_LAST_LINES:]
        return "its last lines:\n" + "\n".join(lines)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        data = json.dumps({"model": self._name, **body}).encode()
        request = urllib.request.Request(f"{self._url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            message = _message(error.read())
            raise (UsageError if error.code < 500 else EngineError)(message) from error
        except OSError as error:
            raise EngineExited(f"the engine went away: {error}; {self._last_lines()}") from error
        return json.loads(content) if content else None

    @cached_property
    def max_model_len(self) -> int:
        """Prompt and generated tokens together, as the engine says."""
        with urllib.request.urlopen(f"{self._url}/v1/models") as response:
            return int(json.load(response)["data"][0]["max_model_len"])

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        answer = self._post("/tokenize", {"prompt": text, "add_special_tokens": add_special_tokens})
        return list(answer["tokens"])

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""
        del skip_special_tokens
        return str(self._post("/detokenize", {"tokens": list(ids)})["prompt"])

    def token_name(self, token_id: int) -> str:
        """A token's text."""
        if token_id not in self._names:
            self._names[token_id] = self.decode([token_id], skip_special_tokens=False)
        return self._names[token_id]

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """A conversation as the model's chat template writes it."""
        body = {name: value for name, value in options.items() if value is not None}
        if "variables" in body:
            body["chat_template_kwargs"] = body.pop("variables")
        tokens = self._post("/tokenize", {"messages": list(messages), **body})["tokens"]
        return self.decode(tokens, skip_special_tokens=False)

    def run(
        self, prompts: Sequence[tuple[str | None, list[int]]], params: Sequence[SamplingParams], progress: Progress
    ) -> list[RequestOutput]:
        """Answer them all, as many at once as the engine runs to good use. Token ids are those of the text, unless log
        probabilities were asked for, which name them."""

        def one(index: int) -> RequestOutput:
            (text, ids), each = prompts[index], params[index]
            body = each.to_request()
            max_tokens = self.max_model_len - len(ids) if each.max_tokens is None else each.max_tokens
            if max_tokens < 1:
                context = f"this model's context length is {self.max_model_len} tokens"
                raise UsageError(f"{context}; prompts[{index}] has {len(ids)} of them")
            if each.logprobs is not None:
                body["return_tokens_as_token_ids"] = True
            answer = self._post("/v1/completions", {"prompt": ids, **body, "max_tokens": max_tokens})
            progress(1)
            outputs = [_output(choice, self, each.logprobs or 0) for choice in answer["choices"]]
            return RequestOutput(str(index), text, ids, outputs)

        with ThreadPoolExecutor(self._max_concurrency) as pool:
            return list(pool.map(one, range(len(prompts))))

    def sleep(self) -> None:
        """Park it, where it can."""
        self._post("/sleep?level=1", {})

    def wake_up(self) -> None:
        """Wake it."""
        self._post("/wake_up", {})

    def close(self) -> None:
        """End it. Idempotent."""
        self._end()
        self._log.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(choice: Mapping[str, Any], runner: ProcessRunner, num_likely: int) -> CompletionOutput:
    text = choice["text"]
    output = CompletionOutput(
        index=choice["index"],
        text=text,
        token_ids=runner.encode(text, add_special_tokens=False) if text else [],
        finish_reason=choice["finish_reason"],
        stop_reason=choice.get("stop_reason"),
    )
    told = choice.get("logprobs")
    if told and told.get("token_logprobs"):
        output.token_ids = [_token_id(name) for name in told["tokens"]]
        output.cumulative_logprob = sum(told["token_logprobs"])
        places = told.get("top_logprobs") or [{}] * len(output.token_ids)
        likely = [_likely(place, num_likely) for place in places]
        output.logprobs = [
            token_logprobs(*place, runner.token_name)
            for place in zip(output.token_ids, told["token_logprobs"], likely, strict=True)
        ]
    return output


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _likely(place: Mapping[str, float] | None, num: int) -> list[tuple[int, float]]:
    """The most probable first. An answer has the chosen token among them even where it is not one of so many."""
    found = [(_token_id(name), value) for name, value in (place or {}).items()]
    return sorted(found, key=lambda pair: -pair[1])[:num]


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:500]
