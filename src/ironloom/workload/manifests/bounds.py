"""How much of a text is read as manifests: far more than real ones have, and little enough to refuse the rest at once.

For comparison: KServe's whole installation of one release, its definitions of kinds included, is 7 MB, 142,000 values,
61 documents, its longest line 846 characters and its longest list 70 entries
(https://github.com/kserve/kserve/blob/v0.20.0/install/v0.20.0-rc1/kserve.yaml).
"""

from __future__ import annotations

import re

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
MAX_OBJECT_CHARACTERS = 3 * MIB // 2
"""Of one object, blanks not counted. etcd takes no request above 1.5 MiB
(https://github.com/etcd-io/etcd/blob/main/server/embed/config.go, DefaultMaxRequestBytes), so that no cluster has a
larger one."""
MAX_OBJECT_VALUES = 65_000
"""Scalars, lists and mappings of one object. The largest that is known has 52,480, the definition of KServe's
LLMInferenceService (https://github.com/kserve/kserve/tree/master/config/crd/full/llmisvc)."""
TOO_LARGE_OBJECT = f"the object has over {format_bytes(MAX_OBJECT_CHARACTERS)}, and etcd keeps no object of that size"
OBJECT_HINT = "large data belong on a volume or into an object store"
_END = re.compile(r"^(?:---|\.\.\.)(?=\s|$)", re.M)
_LIST = re.compile(r"""(?:^|[{,])[ ]*["']?kind["']?[ ]*:[ ]*["']?[A-Za-z]*List["']?[ ]*(?:[,}\r\n]|$)""", re.M)
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


def is_too_large(text: str, start: int) -> bool:
    """Whether the document of a text that begins at an offset is one object, and larger than any may be: a `kind: List`
    holds several."""
    if len(text) - start <= MAX_OBJECT_CHARACTERS:
        return False
    found = _END.search(text, start + 3)
    end = found.start() if found is not None else len(text)
    if end - start <= MAX_OBJECT_CHARACTERS or end - start - text.count(" ", start, end) <= MAX_OBJECT_CHARACTERS:
        return False
    return _LIST.search(text, start, end) is None


def too_large(file: str) -> ManifestError:
    """What is said of a file of more than MAX_BYTES."""
    return ManifestError(f"it is larger than {format_bytes(MAX_BYTES)}, and no more is read", hint=SPLIT, file=file)
