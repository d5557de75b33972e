"""A text as a Script, or the sentence that says why it is none."""

from __future__ import annotations

import ast
import symtable
import sys
import warnings

from ironloom.errors import ManifestError
from ironloom.workload.scripts.model import Script

MAX_CHARACTERS = 1_000_000
"""Of one file. A syntax tree takes some 100 times its text: 1 MB of text are 100 MB of tree."""
_BYTE_ORDER_MARK = "\ufeff"
_PYTHON_2 = ("Missing parentheses in call to", "multiple exception types must be parenthesized", "leading zeros in")
"""How Python 3 begins its complaints about what Python 2 allows."""


def read_script(text: str, file: str) -> Script:
    """The script of a text. Nothing in it is run.

    Raises ManifestError, with the place, for what this interpreter does not read as Python, and for files that are
    too large or too deeply nested.
    """
    if len(text) > MAX_CHARACTERS:
        raise ManifestError(
            f"the file has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are read as Python",
            hint="leave it out with exclude, or keep its data in another file",
            file=file,
        )
    # A form feed stands for the mark, so that offsets stay what they are: Python skips it at the start of a line.
    source = "\f" + text[1:] if text.startswith(_BYTE_ORDER_MARK) else text
    with warnings.catch_warnings():
        # What Python says of an invalid escape is for whoever runs the file.
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source, file)
            table = symtable.symtable(source, file, "exec")
        except SyntaxError as error:
            if "\0" in text:  # newer Pythons raise this for it, without a line
                raise _of_value_error(text, error, file) from None
            raise _refusal(error, file) from None
        except (RecursionError, MemoryError):
            raise ManifestError(
                "the file nests deeper than Python itself reads",
                hint="write the innermost expressions on lines of their own",
                file=file,
            ) from None
        except ValueError as error:
            raise _of_value_error(text, error, file) from None
    return Script(file=file, text=source, tree=tree, table=table)


def _refusal(error: SyntaxError, file: str) -> ManifestError:
    said = error.msg.strip().rstrip(".")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    hint = f"it is read as Python {version}"
    if said.startswith(_PYTHON_2):
        hint = f"{hint}; this looks like Python 2, which `2to3` or `futurize` translate"
    return ManifestError(
        f"it is no Python: {said}", hint=hint, file=file, line=error.lineno or 0, column=error.offset or 0
    )


def _of_value_error(text: str, error: Exception, file: str) -> ManifestError:
    if "\0" in text:
        place = text.index("\0")
        return ManifestError(
            "the file has a null byte, which Python does not read: it may be binary, or UTF-16",
            file=file,
            line=text.count("\n", 0, place) + 1,
            column=place - text.rfind("\n", 0, place),
        )
    if isinstance(error, UnicodeError):
        return ManifestError("the file has characters that are no valid Unicode", file=file)
    return ManifestError(f"it is no Python: {error}", file=file)
