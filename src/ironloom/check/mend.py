"""Fixes put in and checked again, in memory, until there is nothing more to put in: a fix may make room for another."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ironloom.check import patches
from ironloom.check.engine import Result
from ironloom.check.inputs import Inputs
from ironloom.check.patches import Fixed

MAX_ROUNDS = 10
"""A fix that makes another finding of its own rule must not go on for ever."""


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What fixing comes to."""

    files: tuple[Fixed, ...]
    """The files that change, each as it was and as it is after the last round."""
    result: Result
    """What is left to say of them."""
    num_mended: int


def mend(inputs: Inputs, look: Callable[[Inputs], Result], *, unsafe: bool = False) -> Mended:
    """Put in every fix that can be; writes nothing. `look` checks; `unsafe` takes what a person must choose too."""
    result = look(inputs)
    files: dict[str, Fixed] = {}
    for _ in range(MAX_ROUNDS):
        fixed = [one for one in patches.fix(result.findings, result.texts, unsafe=unsafe) if one.mended]
        if not fixed:
            break
        for one in fixed:
            first = files.get(one.file)
            if first is not None:
                one = msgspec.structs.replace(one, before=first.before, mended=(*first.mended, *one.mended))
            files[one.file] = one
        result = look(inputs.with_texts({file: one.after for file, one in files.items()}))
    made = tuple(files.values())
    return Mended(files=made, result=result, num_mended=sum(len(one.mended) for one in made))
