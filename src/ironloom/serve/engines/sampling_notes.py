"""What a service's user is told of the sampling that a request gets which does not say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.serve.engines.programs.sampling_defaults import CHOICE, FILE, OVERRIDE, defaults_of_arguments


def sampling_notes(engine_args: Sequence[str], folder: Path | None) -> tuple[str, ...]:
    """One sentence where the model's folder or the arguments say anything, else none.

    Raises UsageError for a file or an argument that cannot be read.
    """
    try:
        told = defaults_of_arguments(engine_args, folder).told()
    except ValueError as error:
        raise UsageError(str(error), hint=f"`{CHOICE} vllm` leaves the model's {FILE} out") from error
    if not told:
        return ()
    values = ", ".join(f"{name} {value:g}" for name, value in told.items())
    by_override = any(argument.replace("_", "-").startswith(OVERRIDE) for argument in engine_args)
    where = f"{FILE} and {OVERRIDE} say" if by_override else f"{FILE} says"
    return (f"A request that does not say otherwise is sampled as {where}: {values}.",)
