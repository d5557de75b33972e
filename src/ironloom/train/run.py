"""One rank of a training run: `python -m ironloom.train.run CONFIG.json`, or under torchrun.

    python -m ironloom.train.run [CONFIG.json] [--setting=value …]

The configuration is a JSON file, settings over it, or settings alone (docs/reference/training.md). Exit statuses are
those of train/loop/exits.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ironloom.errors import IronloomError, UsageError
from ironloom.train.loop.exits import FAILED, REFUSED
from ironloom.train.loop.ranks import Ranks, from_environment
from ironloom.train.loop.refusal import tell
from ironloom.workload.training import Training
from ironloom.workload.training_settings import check_ranks, flat, from_args, from_json, read_args

USAGE = "usage: python -m ironloom.train.run [CONFIG.json] [--setting=value …]"


def read_configuration(args: Sequence[str]) -> Training:
    """The configuration of a command line. Raises UsageError."""
    if args and not args[0].startswith("-"):
        path, rest = Path(args[0]), args[1:]
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint=USAGE) from error
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}") from error
        training = from_json(values)
        return from_args(rest, base=flat(training)) if rest else training
    said = read_args(args)
    if "output" in said:
        said.setdefault("name", Path(said["output"]).name or "run")
    return from_args((), base=said)


def main(args: Sequence[str]) -> int:
    """Train; the exit status. Bad input ends in a sentence on stderr."""
    if not args or args[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nIts settings: docs/reference/training.md", file=sys.stdout if args else sys.stderr)
        return 0 if args else REFUSED
    ranks = Ranks()
    try:
        ranks = from_environment()
        training = read_configuration(args)
        check_ranks(training, ranks.world)
    except IronloomError as error:
        tell(error.render(), rank=ranks.rank)
        return REFUSED
    try:
        from ironloom.train.loop.rank import run_rank
    except ModuleNotFoundError as error:
        tell(
            f"Training needs {error.name}, not installed here.\n\nhint: pip install 'ironloom[train]'.", rank=ranks.rank
        )
        return REFUSED
    return run_rank(training, ranks)


if __name__ == "__main__":
    status = FAILED
    try:
        status = main(sys.argv[1:])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # threads and process groups of a run that failed may wait for ranks that are gone
