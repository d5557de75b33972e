"""`ironloom models`: the model cache of this machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.output import age, output_option, plural, put, put_data, result_option, say, table, tell
from ironloom.cli.progress import Line, bar
from ironloom.units import format_bytes

if TYPE_CHECKING:
    from ironloom.serve.engines.base import LocalModel
    from ironloom.serve.models.cache import CachedModel
    from ironloom.serve.models.progress import Progress


@click.group()
def models() -> None:
    """Pull, list and remove models in the cache.

    A MODEL is hf://owner/name[:revision], owner/name, a short name such as smollm2-135m-instruct, a folder, a GGUF
    file or s3://bucket/prefix. The cache is IRONLOOM_CACHE, else ~/.cache/ironloom.
    """


@models.command()
@click.argument("model")
@click.option("--refresh", is_flag=True, help="Ask for newer files, even when the model is here.")
@result_option
def pull(model: str, refresh: bool, output: str) -> None:
    """Fetch a model, so that its first start need not.

    A pull that is interrupted is taken up where it stopped. Nothing half-written is ever used.
    """
    found = pull_shown(model, refresh=refresh)
    words = f"{found.uri} is here: {format_bytes(found.size_bytes)}, {found.format.value}."
    tell(words, {**_model_data(found), "size_bytes": found.size_bytes}, output)
    if found.note:
        say(f"It {found.note}.")


@models.command("list")
@output_option("table", "json", "yaml")
def list_cached(output: str) -> None:
    """List the models in the cache, most recently used first."""
    from ironloom.serve.models.cache import default_cache_dir, list_models

    cached = list_models(default_cache_dir())
    if output != "table":
        put_data([_as_data(entry) for entry in cached], output)
        return
    if not cached:
        say("The cache is empty.\n\nhint: `ironloom models pull smollm2-135m-instruct` fetches the default model.")
        return
    rows = [
        (
            entry.model.uri,
            entry.model.format.value,
            entry.model.architecture,
            str(entry.model.context_length or "-"),
            format_bytes(entry.size_bytes),
            age(entry.last_used_s),
        )
        for entry in cached
    ]
    put(table(("MODEL", "FORMAT", "ARCHITECTURE", "CONTEXT", "SIZE", "LAST USED"), rows))
    total = format_bytes(sum(entry.size_bytes for entry in cached))
    say(f"\n{plural(len(cached), 'model')}, {total} in {default_cache_dir()}")


@models.command("rm")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@result_option
def remove_models(models: tuple[str, ...], output: str) -> None:
    """Remove models, with the forms that engines made of them. Of a folder or file of your own those forms alone go;
    it stays as it is."""
    from ironloom.cli.manifests import path_of, whole_uri
    from ironloom.errors import ModelNotFound
    from ironloom.serve.models.cache import default_cache_dir, remove

    in_use = _in_use()
    done: list[dict[str, object]] = []
    try:
        for name in models:
            uri = whole_uri(name)
            own = path_of(uri)
            try:
                freed = remove(default_cache_dir(), uri, in_use=in_use)
            except ModelNotFound as error:
                if own is None or not own.exists():
                    raise
                told = f"the cache {default_cache_dir()} has nothing that was made of {own}"
                raise ModelNotFound(told, hint="a folder or file of your own is no part of it, and stays") from error
            done.append({"uri": uri, "freed_bytes": freed})
            if output == "text":
                what = uri if own is None else f"What the cache had of {own} is"
                stays = f"; {own} stays" if own is not None and own.exists() else ""
                put(f"{what} removed, {format_bytes(freed)} given back{stays}")
    finally:  # what went is told, also when the next one could not
        if output != "text":
            put_data(done, output)


def pull_shown(model: str, *, refresh: bool = False) -> LocalModel:
    """Fetch a model into the cache, with its progress on stderr. Raises what `serve.models.pull` raises."""
    from ironloom.cli.manifests import whole_uri
    from ironloom.serve.models.cache import default_cache_dir
    from ironloom.serve.models.pull import pull as fetch

    uri = whole_uri(model)
    with ExitStack() as stack:
        return fetch(uri, cache_dir=default_cache_dir(), progress=_Shown(stack, uri), refresh=refresh)


class _Shown:
    """Reports of a pull as one bar while bytes come, else as one line."""

    def __init__(self, stack: ExitStack, uri: str) -> None:
        self._stack = stack
        self._line = stack.enter_context(Line(uri))
        self._bar: Any = None

    def __call__(self, step: Progress) -> None:
        if step.total_bytes:
            if self._bar is None:
                self._line.clear()
                self._bar = self._stack.enter_context(bar(step.total_bytes, step.phase, "B", scale_bytes=True))
            self._bar.total = step.total_bytes
            self._bar.set_description_str(step.phase, refresh=False)
            self._bar.update(step.done_bytes - self._bar.n)
        elif self._bar is None:
            self._line.show(f"{step.phase} {step.message}".rstrip())


def _in_use() -> dict[str, str]:
    """Models of the services that a running daemon has, and of its runs that are not over: URI → name. None when no
    daemon runs."""
    from ironloom.cli.client import Client, DaemonNotRunning
    from ironloom.cli.manifests import whole_uri
    from ironloom.train.run_state import ENDED_STATES

    client = Client()
    try:
        services, runs = client.services(), client.runs()
    except DaemonNotRunning:
        return {}
    at_work = [view for view in runs if view.state not in ENDED_STATES]
    trained = {whole_uri(view.model): view.name for view in at_work}
    return trained | {view.model.uri: view.name for view in services}


def _as_data(entry: CachedModel) -> dict[str, object]:
    return {
        **_model_data(entry.model),
        "size_bytes": entry.size_bytes,
        "pulled_at_s": entry.pulled_at_s,
        "last_used_s": entry.last_used_s,
    }


def _model_data(model: LocalModel) -> dict[str, object]:
    return {
        "uri": model.uri,
        "path": str(Path(model.path)),
        "format": model.format.value,
        "architecture": model.architecture,
        "task": model.task.value,
        "context_length": model.context_length,
        "note": model.note,
    }
