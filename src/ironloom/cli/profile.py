"""`ironloom profile`: a trace of a training run's next steps, while it goes on."""

from __future__ import annotations

import time

import click

from ironloom.cli.client import Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import put, put_data, result_option, say
from ironloom.cli.progress import Line
from ironloom.cli.run_waiting import ENDED, POLL_S
from ironloom.errors import DaemonError, UsageError
from ironloom.train.loop.profile_ask import MAX_STEPS, NAME


@click.command()
@click.argument("name", type=SERVICE_NAME)
@click.option(
    "--steps", type=click.IntRange(1, MAX_STEPS), default=3, show_default=True, help="So many, from the next."
)
@result_option
@cluster_options
def profile(name: str, steps: int, output: str, context: str | None, namespace: str | None) -> None:
    """Profile the next steps of a training run.

    Each rank writes a trace into the run's logs, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open;
    the run goes on. Prints the paths once they are written. Steps that are profiled are slower.
    """
    refuse_alone(context, namespace)
    if context is not None:
        raise UsageError(
            "A run in a cluster takes no question from here: it is asked in its own output folder.",
            hint=f"kubectl --context {context}{f' -n {namespace}' if namespace else ''} exec POD -- "
            f"sh -c 'echo {steps} > OUTPUT/logs/{NAME}' in any pod of it; `ironloom describe` has their names",
        )
    client = Client()
    request = client.profile_run(name, steps).request
    attempt = client.run(name).attempt
    with Line(f"Profiling {name}") as line:
        while (view := client.run(name)).profile.get("request") != request:
            if view.state in ENDED or view.attempt != attempt:
                how = view.state if view.state in ENDED else "began another attempt"
                raise DaemonError(
                    f"{name} {how} before its profile was written.",
                    hint="ask again once it steps; --set watch.profile_steps=1,3 profiles a run's first steps",
                )
            line.show(f"step {view.step} of {view.num_steps}")
            time.sleep(POLL_S)
    if output != "text":
        put_data(view.profile, output)
        return
    for path in view.profile["paths"]:
        put(path)
    first, last = view.profile["first_step"], view.profile["last_step"]
    say(f"Steps {first} to {last} of {name}.\n\nhint: https://ui.perfetto.dev opens a trace.")
