"""Several things wrong at once, told together."""

from __future__ import annotations

from collections.abc import Sequence

from ironloom.errors import ManifestError


class ManifestProblems(ManifestError):
    """More than one ManifestError. It stands at the first; `problems` has them all."""

    def __init__(self, problems: Sequence[ManifestError]) -> None:
        first = problems[0]
        super().__init__(
            first.message, hint=first.hint, file=first.file, line=first.line, column=first.column, path=first.path
        )
        self.problems: tuple[ManifestError, ...] = tuple(problems)

    def render(self) -> str:
        """Each on its own line, a hint under the one it belongs to."""
        lines = []
        for problem in self.problems:
            text, _, hint = problem.render().partition("\n\n")
            lines.append(text + (f"\n    {hint}" if hint else ""))
        return "\n".join(lines)


def each(error: ManifestError) -> tuple[ManifestError, ...]:
    """The errors that one stands for: all of a ManifestProblems, else itself."""
    return error.problems if isinstance(error, ManifestProblems) else (error,)


def raise_all(problems: Sequence[ManifestError]) -> None:
    """Raise what there is: nothing, the one error, or all of them as one."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ManifestProblems(problems)
