"""The Preparer of real models: find it or fetch it, pick the engine, convert where the engine needs that.

A model that is on this machine and whole is found without a process of its own. Downloads and conversions run in
`python -m ironloom.serve.models.prepare`: they are long, import heavy libraries, and may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from ironloom.backends.local.prepare import BringsItsModel, Prepared, Say
from ironloom.errors import IronloomError, ModelCorrupt, ModelError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import Engine, LocalModel
from ironloom.serve.engines.choose import NoEngine, choose
from ironloom.serve.models import prepare as program
from ironloom.serve.models.prepare_lines import decode_line
from ironloom.serve.models.progress import Progress
from ironloom.serve.models.pull import locate
from ironloom.serve.models.source import SourceKind, parse_model
from ironloom.serve.reason import with_last_lines
from ironloom.units import format_bytes
from ironloom.workload.serving import Serving

NUM_LAST_LINES = 20
TRUST_ARGUMENT = "--trust-remote-code"


class ModelPreparer:
    """See the module. One at a time for each model: the cache's own lock sees to that."""

    def __init__(
        self,
        *,
        python: str,
        engines: Callable[[], tuple[Engine, ...]],
        cache_dir: Path,
        node: Callable[[], Node],
        claims: Callable[[str], Mapping[str, Path]],
        env: Callable[[], Mapping[str, str]],
    ) -> None:
        """`claims` gives the folders that stand for a service's volume claims; `env` the child's environment."""
        self._python = python
        self._engines = engines
        self._cache_dir = cache_dir
        self._node = node
        self._claims = claims
        self._env = env

    async def __call__(self, serving: Serving, say: Say) -> Prepared:
        if (own := self._own(serving)) is not None:
            return own
        model = await self._locate(serving)
        if model is None:
            model = await self._run(serving, say, engine_name=None)
        engine, reason = self._choose(model, serving)
        if engine.conversion(model, self._cache_dir) is not None:
            model = await self._run(serving, say, engine_name=engine.name)
        return Prepared(model=model, engine=engine, reason=reason)

    async def check(self, serving: Serving) -> None:
        if self._own(serving) is None and is_local(serving.model_uri):
            await self._locate(serving)

    async def is_quick(self, serving: Serving) -> bool:
        try:
            if self._own(serving) is not None:
                return True
            model = await self._locate(serving)
            return model is not None and self._choose(model, serving)[0].conversion(model, self._cache_dir) is None
        except IronloomError:
            return False  # a start will say why

    def _own(self, serving: Serving) -> Prepared | None:
        named: object = next((engine for engine in self._engines() if engine.name == serving.runtime), None)
        if isinstance(named, BringsItsModel) and (own := named.own_model(serving)) is not None:
            return Prepared(model=own, engine=named, reason=f"{named.name}, as the manifest asks")
        return None

    async def _locate(self, serving: Serving) -> LocalModel | None:
        claims = self._claims(serving.name)
        return await asyncio.to_thread(locate, serving.model_uri, cache_dir=self._cache_dir, pvc=claims)

    def _choose(self, model: LocalModel, serving: Serving) -> tuple[Engine, str]:
        """Raises EngineUnavailable when none of them can."""
        chosen = choose(model, serving, self._node(), self._engines())
        if isinstance(chosen, NoEngine):
            raise chosen.error()
        return chosen.engine, chosen.reason

    async def _run(self, serving: Serving, say: Say, *, engine_name: str | None) -> LocalModel:
        """The child program; its progress goes to `say`. Raises what it says, or ModelError when it dies mute."""
        arguments = program.arguments(
            serving.model_uri,
            self._cache_dir,
            pvc=self._claims(serving.name),
            engine_name=engine_name,
            own_code=TRUST_ARGUMENT in serving.engine_args,
        )
        child = await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            program.MODULE,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self._env(), **serving.env},
            start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        chatter = asyncio.create_task(_last_lines(child.stderr))
        try:
            said: LocalModel | IronloomError | None = None
            async for line in child.stdout:
                match decode_line(line):
                    case Progress() as progress:
                        say(describe(progress))
                    case LocalModel() | IronloomError() as said:
                        pass
            await child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            last = await chatter
        if isinstance(said, IronloomError):
            if isinstance(said, ModelCorrupt) and not is_local(serving.model_uri):
                said.is_final = False  # what came damaged may come whole the next time
            raise said
        if said is None:
            text = f"preparing the model {serving.model_uri} ended with status {child.returncode}"
            raise ModelError(with_last_lines(text, last.splitlines()) if last else text)
        return said


def is_local(uri: str) -> bool:
    """Whether a model is a file or folder of this machine. Raises UsageError for a name that means nothing."""
    return parse_model(uri).kind in (SourceKind.FILE, SourceKind.CLAIM)


def describe(progress: Progress) -> str:
    """For a replica's phase: "pulling 120.0 MiB of 257.0 MiB", "converting safetensors to OpenVINO"."""
    parts = [progress.phase]
    if progress.message:
        parts.append(progress.message)
    if progress.total_bytes:
        parts.append(f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}")
    return " ".join(parts)


async def _last_lines(stream: asyncio.StreamReader) -> str:
    """All of it is read, so that the child never waits for us; the end of it is kept."""
    lines: list[str] = []
    with contextlib.suppress(ValueError):  # a line without end; what is known is enough
        async for line in stream:
            lines = [*lines[-NUM_LAST_LINES + 1 :], line.decode(errors="replace").rstrip()]
    return "\n".join(lines)
