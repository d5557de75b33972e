"""How much of a text is read as manifests: far more than real ones have, and little enough to refuse the rest at once.

For comparison: KServe's whole installation of one release, its definitions of kinds included, is 7 MB, 142,000 values,
61 documents, its longest line 846 characters and its longest list 70 entries
(https://github.com/kserve/kserve/blob/v0.20.0/install/v0.20.0-rc1/kserve.yaml).
"""

from __future__ import annotations

from ironloom.errors import ManifestError
from ironloom.units import MIB, format_bytes

MAX_BYTES = 16 * MIB
MAX_LINE = 4 * MIB
"""Characters of one line. An API server takes no request above 3 MiB
(https://github.com/kubernetes/apiserver/blob/master/pkg/server/config.go, MaxRequestBodyBytes)."""
MAX_VALUES = 300_000
"""Scalars, lists and mappings of one text."""
MAX_ENTRIES = 5_000
"""Of one list or mapping; documents of one text."""
SPLIT = "make several files of it, split between two documents or two items of its List"


def bounded(text: str, file: str) -> str:
    """The text as it is. Raises ManifestError for one that is too large, or has a line that is."""
    if len(text) > MAX_BYTES:
        raise too_large(file)
    start = 0
    while len(text) - start > MAX_LINE:
        end = text.rfind("\n", start, start + MAX_LINE + 1)
        if end < 0:
            raise ManifestError(
                f"the line has over {MAX_LINE:,} characters, and no longer ones are read",
                hint="break it into lines, as `jq .` does with JSON",
                file=file,
                line=text.count("\n", 0, start) + 1,
                column=1,
            )
        start = end + 1
    return text


def too_large(file: str) -> ManifestError:
    """What is said of a file of more than MAX_BYTES."""
    return ManifestError(f"it is larger than {format_bytes(MAX_BYTES)}, and no more is read", hint=SPLIT, file=file)
