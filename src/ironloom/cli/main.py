"""The `ironloom` command: the table of its subcommands, and how an error reaches a person.

Exit status: 0 done, 1 failed, 2 bad use, 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ironloom import __version__
from ironloom.cli.group import Entry, LazyGroup, OutputClosed, Session, debug_option
from ironloom.errors import IronloomError

_RUN, _CHECK, _LOOK, _ASK, _KEEP, _HOST, _CLUSTER = (
    "Run", "Check", "Look", "Ask", "Keep", "This machine", "A cluster",
)  # fmt: skip

COMMANDS: dict[str, Entry] = {
    "serve": Entry("ironloom.cli.serve", "serve", _RUN, "Serve a model, and wait until it answers."),
    "train": Entry("ironloom.cli.train", "train", _RUN, "Train a model, and wait until it has."),
    "apply": Entry("ironloom.cli.apply", "apply", _RUN, "Apply manifests from files, folders or stdin."),
    "scale": Entry("ironloom.cli.scale", "scale", _RUN, "Set a service's replicas, park it, or free it again."),
    "delete": Entry("ironloom.cli.delete", "delete", _RUN, "Delete services and training runs."),
    "check": Entry("ironloom.cli.check", "check", _CHECK, "Say what is wrong with manifests before a launch."),
    "explain": Entry("ironloom.cli.explain", "explain", _CHECK, "Explain a rule of check, or list them."),
    "fleet": Entry("ironloom.cli.fleet", "fleet", _CHECK, "Show a fleet: domains, nodes, GPUs used and free."),
    "snapshot": Entry("ironloom.cli.snapshot", "snapshot", _LOOK, "Write a cluster's objects to a file, no secrets."),
    "get": Entry("ironloom.cli.get", "get", _LOOK, "List services, runs, replicas, events or requests."),
    "describe": Entry("ironloom.cli.describe", "describe", _LOOK, "Show one service or run with its events."),
    "logs": Entry("ironloom.cli.logs", "logs", _LOOK, "Print what a service's engines or a run's ranks wrote."),
    "profile": Entry("ironloom.cli.profile", "profile", _LOOK, "Profile the next steps of a training run."),
    "chat": Entry("ironloom.cli.chat", "chat", _ASK, "Talk with a service."),
    "batch": Entry("ironloom.cli.batch", "batch", _ASK, "Run an OpenAI batch file through a service."),
    "models": Entry("ironloom.cli.models", "models", _KEEP, "Pull, list and remove models in the cache."),
    "key": Entry("ironloom.cli.key", "key", _KEEP, "Create, list and revoke API keys."),
    "up": Entry("ironloom.cli.daemon", "up", _HOST, "Start the daemon: gateway, autoscaler, page."),
    "down": Entry("ironloom.cli.daemon", "down", _HOST, "Stop the daemon."),
    "status": Entry("ironloom.cli.daemon", "status", _HOST, "Say whether the daemon runs, and on what machine."),
    "install": Entry("ironloom.cli.install", "install", _CLUSTER, "Install the gateway in a Kubernetes cluster."),
    "uninstall": Entry("ironloom.cli.install", "uninstall", _CLUSTER, "Remove the gateway from a cluster."),
    "demo": Entry("ironloom.cli.demo", "demo", _HOST, "Show the whole story in under three minutes."),
    "completion": Entry("ironloom.cli.completion", "completion", _HOST, "Print a shell's completion script."),
}


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[debug_option()],
    epilog="Commands act on this machine, or with --context on a Kubernetes cluster, which nothing else names. "
    "IRONLOOM_URL and IRONLOOM_API_KEY name a daemon elsewhere.",
)
@click.version_option(__version__, "--version", message="ironloom %(version)s", help="Print the version.")
def cli() -> None:
    """Serve and train models from standard manifests, on this machine or a Kubernetes cluster."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, and raises nothing but what ends the interpreter anyway."""
    session = Session(debug=bool(os.environ.get("IRONLOOM_DEBUG")))
    try:
        result = cli.main(args, prog_name="ironloom", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except (OutputClosed, BrokenPipeError):
        # What is still buffered must go nowhere, or the interpreter complains of it as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        _tell(error.format_message())
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "ironloom"
        _tell(f"{_sentence(error.format_message())}\n\nhint: `{path} --help` shows what there is.")
        return error.exit_code
    except click.ClickException as error:
        _tell(_sentence(error.format_message()))
        return error.exit_code
    except IronloomError as error:
        if session.debug:
            _traceback()
        _tell(error.render())
        return error.exit_status
    except OSError as error:
        if session.debug:
            _traceback()
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"{where}{error.strerror or error}.")
        return 1
    except Exception as error:  # the last stop: a fault of ours still ends in a sentence
        if session.debug:
            _traceback()
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _tell(f"Something went wrong inside ironloom ({said}).\n\nhint: run it again with --debug for the traceback.")
        return 1
    return result if isinstance(result, int) else 0


def _sentence(text: str) -> str:
    """Click ends some of its messages without a full stop."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
