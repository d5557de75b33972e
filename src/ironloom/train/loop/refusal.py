"""What a rank says when it fails: on stderr, and where torchrun started it in torchrun's own report, its last words.

Source: https://docs.pytorch.org/docs/stable/elastic/errors.html (the environment variable and the file's form)
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def tell(sentence: str, *, rank: int) -> None:
    """A failure in words. Under torchrun ranks but the first leave it to the report, as all mostly say the same."""
    file = os.environ.get(ERROR_FILE)
    if file:
        # The form of torch's own handler, which puts the call stack's place in the report.
        extra = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):  # without it the report has the exit status alone
            Path(file).write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))
    if rank == 0 or not file:
        print(sentence, file=sys.stderr)
