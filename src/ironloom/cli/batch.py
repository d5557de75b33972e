"""`ironloom batch`: an OpenAI batch file through a service, followed to its end."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click

from ironloom.cli.batch_file import multipart, prepare
from ironloom.cli.client import Client
from ironloom.cli.output import plural, put_data, result_option, say, tell
from ironloom.cli.progress import bar
from ironloom.errors import DaemonError, UsageError
from ironloom.units import format_duration

POLL_S = 0.5
COARSE_S = 10.0
"""The daemon tells a batch's moments in whole seconds, as OpenAI does: a shorter span is measured here."""
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@click.command()
@click.argument("model", required=False)
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-O", "--out", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False), metavar="OUT",
              help="Where the answers go; - is stdout. [default: FILE with .out.jsonl]")  # fmt: skip
@click.option("--follow", metavar="ID", help="Follow a batch that already runs.")
@click.option("--cancel", metavar="ID", help="Cancel a batch; rows that are answered stay answered.")
@click.option("--no-wait", is_flag=True, help="Print the batch's id, and leave it to the daemon.")
@result_option
def batch(
    model: str | None,
    file: Path | None,
    out: Path | None,
    follow: str | None,
    cancel: str | None,
    no_wait: bool,
    output: str,
) -> None:
    """Run an OpenAI batch file through a service.

    MODEL is a service's name, or the model that one serves. The batch lives in the daemon: it goes on when this
    command is interrupted, and survives the daemon's own end.
    """
    if output != "text" and str(out) == "-":
        raise UsageError(f"-O - and -o {output} both write to stdout.", hint="give -O a file, or leave -o out.")
    client = Client()
    if cancel:
        cancelled = client.call("POST", f"/v1/batches/{quote(cancel, safe='')}/cancel")
        tell(f"batch/{cancel} is being cancelled", cancelled, output)
        return
    if follow:
        if model or file:
            raise UsageError(
                "--follow takes no MODEL and no FILE: the batch has them.", hint="`ironloom batch --follow ID` is all."
            )
        _follow(client, follow, out or Path(f"{follow}.out.jsonl"), output)
        return
    if model is None or file is None:
        raise UsageError("batch needs MODEL and FILE.", hint="or --follow ID, for a batch that already runs.")
    service = _service(client, model)
    began_s = time.monotonic()
    made = _submit(client, service, file)
    if no_wait:
        tell(str(made["id"]), made, output)
        return
    _follow(client, str(made["id"]), out or Path(f"{file.stem}.out.jsonl"), output, began_s=began_s)


def _service(client: Client, model: str) -> str:
    """The service that MODEL means."""
    services = client.services()
    found = [view.name for view in services if view.name == model]
    found = found or [view.name for view in services if model in (view.model.uri, view.model.uri.removeprefix("hf://"))]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{model} is served by {', '.join(found)}.", hint="name the service.")
    raise UsageError(f"There is no service {model!r}.", hint=f"`ironloom serve {model}` makes one.")


def _submit(client: Client, service: str, file: Path) -> dict[str, Any]:
    """The batch as the daemon has made it."""
    ready = prepare(file, service)
    if ready.num_renamed:
        say(f"{plural(ready.num_renamed, 'row')} named another model; every row goes to {service}.")
    with (
        contextlib.closing(ready.content),
        bar(ready.size_bytes, f"Sending {file.name}", "B", scale_bytes=True) as shown,
    ):
        body, headers = multipart(ready, file.name, uuid.uuid4().hex)

        def counted() -> Any:
            for chunk in body:
                shown.update(len(chunk))
                yield chunk

        sent = client.upload("/v1/files", counted(), headers)
    made: dict[str, Any] = client.call(
        "POST",
        "/v1/batches",
        {"input_file_id": sent["id"], "endpoint": ready.endpoint, "completion_window": "24h"},
    )
    say(f"Batch {made['id']}: {plural(ready.num_rows, 'row')} to {service}.")
    return made


def _follow(client: Client, batch_id: str, out: Path, output: str, *, began_s: float | None = None) -> None:
    """Wait for a batch, and fetch what comes out. `began_s`: when it was submitted (monotonic), if it was just now."""
    try:
        state = _wait(client, batch_id)
        took_s = _ended_at(state) - (state.get("in_progress_at") or state["created_at"])
        if took_s < COARSE_S:
            took_s = max(took_s, 1.0) if began_s is None else time.monotonic() - began_s
        counts = state.get("request_counts") or {}
        if state["status"] == "failed":
            _raise_failed(batch_id, state)
        output_path: str | None = None
        error_path: str | None = None
        if state.get("output_file_id"):
            output_path = str(out)
            _download(client, state["output_file_id"], out)
        if state.get("error_file_id"):
            errors = out if str(out) == "-" else out.with_name(f"{out.name.removesuffix('.jsonl')}.errors.jsonl")
            _download(client, state["error_file_id"], errors)
            error_path = str(errors)
            say(f"The answers that are errors stand in {errors}.")
    except KeyboardInterrupt:
        say(f"\nBatch {batch_id} goes on in the daemon.")
        say(f"\nhint: `ironloom batch --follow {batch_id} -O {out}` takes it up again.")
        raise
    say(_summary(state, counts, took_s, out))
    if output != "text":
        took = {"took_s": round(took_s, 3), "output_path": output_path, "error_path": error_path}
        put_data({**state, **took}, output)
    if state["status"] != "completed" or counts.get("failed"):
        click.get_current_context().exit(1)


def _wait(client: Client, batch_id: str) -> dict[str, Any]:
    path = f"/v1/batches/{quote(batch_id, safe='')}"
    state: dict[str, Any] = client.call("GET", path)
    total = (state.get("request_counts") or {}).get("total") or None
    with bar(total, batch_id, "row") as shown:
        began_s, first_tokens = time.monotonic(), _output_tokens(state)
        while True:
            counts = state.get("request_counts") or {}
            if counts.get("total"):
                shown.total = counts["total"]
            shown.n = counts.get("completed", 0) + counts.get("failed", 0)
            tokens, took_s = _output_tokens(state), time.monotonic() - began_s
            if tokens > first_tokens and took_s > 0:
                shown.set_postfix_str(f"{(tokens - first_tokens) / took_s:.0f} tokens/s", refresh=False)
            shown.refresh()
            if state["status"] in _ENDED:
                return state
            time.sleep(POLL_S)
            state = client.call("GET", path)


def _output_tokens(state: dict[str, Any]) -> int:
    return int((state.get("usage") or {}).get("output_tokens") or 0)


def _ended_at(state: dict[str, Any]) -> float:
    moments = [state.get(f"{status}_at") for status in ("completed", "cancelled", "expired", "failed")]
    return next((float(at) for at in moments if at), time.time())


def _summary(state: dict[str, Any], counts: dict[str, Any], took_s: float, out: Path) -> str:
    done = f"{counts.get('completed', 0)} of {plural(counts.get('total', 0), 'row')} answered"
    failed = f", {counts['failed']} failed" if counts.get("failed") else ""
    usage = state.get("usage") or {}
    tokens = ""
    if usage:
        tokens = f", {usage.get('input_tokens', 0)} tokens in and {usage.get('output_tokens', 0)} out"
        if took_s:
            tokens += f" ({usage.get('output_tokens', 0) / took_s:.0f} out a second)"
    where = "" if str(out) == "-" or not state.get("output_file_id") else f"; the answers stand in {out}"
    return f"Batch {state['id']} {state['status']}: {done}{failed} in {format_duration(took_s)}{tokens}{where}."


def _download(client: Client, file_id: str, out: Path) -> None:
    """A file's content, whole or not at all."""
    path = f"/v1/files/{quote(file_id, safe='')}/content"
    if str(out) == "-":
        sys.stdout.buffer.writelines(client.chunks(path))
        return
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.writelines(client.chunks(path))
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.", hint="-O names another place.") from error
    finally:
        partial.unlink(missing_ok=True)


def _raise_failed(batch_id: str, state: dict[str, Any]) -> NoReturn:
    errors = (state.get("errors") or {}).get("data") or []
    said = "; ".join(
        f"line {error['line']}: {error['message']}" if error.get("line") else str(error.get("message"))
        for error in errors[:3]
    )
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    raise DaemonError(
        f"Batch {batch_id} failed: {said or 'no reason is known'}{more}.",
        hint="nothing of it was run; mend the file and submit it again.",
    )
