"""Writes the generated pages of docs/reference anew: `make docs`. A test compares them with the code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from ironloom import errors
from ironloom.account import events
from ironloom.backends.kubernetes import field_probes, roles
from ironloom.backends.kubernetes import metrics as kubernetes_metrics
from ironloom.check import reference as rules
from ironloom.cli import reference
from ironloom.serve.gateway import metrics
from ironloom.serve.replica import TRANSITIONS
from ironloom.server import error_codes, openapi, run_metrics
from ironloom.train.loop import exits, records
from ironloom.train.run_state import TRANSITIONS as RUN_TRANSITIONS
from ironloom.workload import training_reference
from ironloom.workload.kinds import reference as kinds
from ironloom.workload.manifests import reference as manifests
from ironloom.workload.manifests.annotations import reference_page as annotations_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATED = "<!-- Written by scripts/docs.py from the code: change it there. -->\n\n"


def errors_page() -> str:
    """Every error code, with what it means and the exit status of the command that ends with it."""
    rows = ["# Errors", "", "A command that fails prints one sentence, a blank line and a hint on stderr.", ""]
    rows += ["| code | exit status | what it means |", "|---|---|---|"]
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.IronloomError) and kind not in (errors.IronloomError, errors.RequestError):
            rows.append(f"| `{kind.code}` | {kind.exit_status} | {first_sentence(kind)} |")
    rows += [
        "",
        (
            "An HTTP request that fails is answered with OpenAI's shape: "
            '`{"error": {message, type, param, code, source}}`. '
            "`source` says who failed: `client`, `gateway` or `engine`."
        ),
        "",
        "## Codes of answers",
        "",
        "| code | status | what it means | what to do |",
        "|---|---|---|---|",
    ]
    for one in error_codes.ANSWERS:
        statuses = ", ".join(map(str, one.statuses))
        rows.append(f"| `{one.code}` | {statuses} | {one.meaning} | {one.advice} |")
    rows += [
        "",
        (
            "Another code of the first table comes with status 500. `code` is null where the message alone says it, "
            "and may be another one where vLLM answers. An answer to wait and try again has a Retry-After header."
        ),
        "",
        "## Codes within a batch",
        "",
        "A batch's `errors`, and the lines of its error file:",
        "",
        "| code | what it means | what to do |",
        "|---|---|---|",
    ]
    rows += [f"| `{one.code}` | {one.meaning} | {one.advice} |" for one in error_codes.BATCH_LINES]
    return "\n".join(rows) + "\n"


def events_page() -> str:
    """Every kind of event, every outcome of a request, and the states of a replica."""
    rows = ["# Events and requests", ""]
    rows += ["The event log holds what happened to services and replicas, and one record for each request.", ""]
    rows += ["## Kinds of event", "", *(f"- `{kind.value}`" for kind in events.EventKind), ""]
    rows += [
        "Each event has a sequence number, wall time, monotonic time with the boot's id, the service, the replica, "
    ]
    rows += ["a reason (one word for programs), a message, the devices held from then on, and data.", ""]
    rows += ["## How a request ends", "", "Each request ends exactly once.", ""]
    described = member_docs(events.Outcome)
    rows += ["| outcome | meaning |", "|---|---|"]
    rows += [f"| `{outcome.value}` | {described.get(outcome.name, '')} |" for outcome in events.Outcome]
    rows += ["", "## States of a training run", "", "| from | to |", "|---|---|"]
    rows += [
        f"| `{state.value}` | {', '.join(sorted(f'`{to.value}`' for to in after))} |"
        for state, after in RUN_TRANSITIONS.items()
    ]
    rows += ["", "## States of a replica", "", "| from | to |", "|---|---|"]
    rows += [
        f"| `{state.value}` | {', '.join(sorted(f'`{to.value}`' for to in after)) or 'final'} |"
        for state, after in TRANSITIONS.items()
    ]
    return "\n".join(rows) + "\n"


def first_sentence(kind: type) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def member_docs(kind: type) -> dict[str, str]:
    """The strings that stand under the members of a class."""
    import ast

    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in body.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
            name = ""
    return found


def metrics_page() -> str:
    """Every metric of the gateway, of training runs and of a cluster's API, with its definition."""
    rows = ["# Metrics", "", "`GET /metrics` on the gateway's port, in Prometheus' text format.", ""]
    rows += ["| metric | type | labels | definition |", "|---|---|---|---|"]
    for metric in (*metrics.METRICS, *run_metrics.METRICS, *kubernetes_metrics.METRICS):
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        rows.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    buckets = ", ".join(f"{bound:g}" for bound in metrics.LATENCY_BUCKETS_S)
    rows += ["", f"Buckets of the histograms, in seconds: {buckets}."]
    return "\n".join(rows) + "\n"


def training_page() -> str:
    """Every setting of a training run, what its ranks write down, and how they end."""
    rows = [training_reference.reference_page().rstrip("\n"), "", "## Records", ""]
    rows += [
        "Each rank writes JSON lines to `OUTPUT/logs/rank-K.jsonl`: `kind`, `t` (seconds since the epoch), `attempt`,"
    ]
    rows += ["of a run that a daemon started `run_id` (another run may have written into the same folder before),"]
    rows += ["and, where it belongs to one, `step`. Rank 0 tells of the whole run, every rank of its own failures.", ""]
    described = member_docs(records.Kind)
    rows += ["| kind | what it tells |", "|---|---|"]
    rows += [f"| `{kind.value}` | {described.get(kind.name, '')} |" for kind in records.Kind]
    rows += ["", "## Exit statuses of a rank", "", "| status | meaning |", "|---|---|"]
    rows += [f"| {number} | {text} |" for number, text in exit_docs()]
    return "\n".join(rows) + "\n"


def exit_docs() -> list[tuple[int, str]]:
    """The exit statuses of train/loop/exits.py, with the sentences under them."""
    import ast

    found: list[tuple[int, str]] = []
    is_told = True
    for node in ast.parse(inspect.getsource(exits)).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found.append((int(str(node.value.value)), "Done."))
            is_told = False
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not is_told:
            found[-1] = (found[-1][0], " ".join(str(node.value.value).split()))
            is_told = True
    return found


PAGES: dict[str, Callable[[], str]] = {
    "reference/annotations.md": annotations_page,
    "reference/grounds.md": field_probes.reference_page,
    "reference/manifests.md": manifests.reference_page,
    "reference/cli.md": reference.render,
    "reference/errors.md": errors_page,
    "reference/events.md": events_page,
    "reference/http-api.md": openapi.reference_markdown,
    "reference/kubernetes-rights.md": roles.reference_page,
    "reference/metrics.md": metrics_page,
    "reference/training.md": training_page,
    "reference/workloads.md": kinds.reference_page,
}


RULES = "reference/rules"


def pages() -> dict[str, str]:
    """The whole text of every generated page, by its name below docs/."""
    made = {name: write() for name, write in PAGES.items()} | dict(rules.pages())
    return {name: GENERATED + text for name, text in made.items()}


def main() -> int:
    """Write the pages that are not current, and remove those of rules that are gone."""
    made = pages()
    for name, text in made.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}", file=sys.stderr)
    for path in (DOCS / RULES).glob("*.md"):
        if f"{RULES}/{path.name}" not in made:
            path.unlink()
            print(f"removed {RULES}/{path.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
