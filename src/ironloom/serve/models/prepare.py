"""The program that makes a model ready in a process of its own: `python -m ironloom.serve.models.prepare URI …`.

Downloads and conversions are long, import heavy libraries and can be killed; none of it belongs into the daemon.
Prints the lines of `prepare_lines`; ends with status 0 after the model, 1 after an error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ironloom.errors import IronloomError
from ironloom.serve.engines import engine
from ironloom.serve.engines.base import LocalModel
from ironloom.serve.models.cache import find_record, write_record
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.prepare_lines import encode_line
from ironloom.serve.models.progress import Progress
from ironloom.serve.models.pull import pull

MODULE = "ironloom.serve.models.prepare"


def arguments(
    uri: str,
    cache_dir: Path,
    *,
    pvc: Mapping[str, Path] | None = None,
    engine_name: str | None = None,
    own_code: bool = False,
    refresh: bool = False,
) -> list[str]:
    """The program's arguments, for a caller that starts it with `python -m MODULE`."""
    args = [uri, "--cache-dir", str(cache_dir)]
    for claim, folder in (pvc or {}).items():
        args += ["--pvc", f"{claim}={folder}"]
    if engine_name:
        args += ["--engine", engine_name]
    return args + ["--own-code"] * own_code + ["--refresh"] * refresh


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--pvc", action="append", default=[], metavar="CLAIM=FOLDER")
    parser.add_argument("--engine", help="also convert the model for this engine, where it needs that")
    parser.add_argument("--own-code", action="store_true", help="fetch the model's own Python files too")
    parser.add_argument("--refresh", action="store_true", help="ask for a newer commit")
    options = parser.parse_args(argv)
    claims = {claim: Path(folder) for claim, _, folder in (item.partition("=") for item in options.pvc)}

    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between the lines

    def say(said: Progress | LocalModel | IronloomError) -> None:
        out.write(encode_line(said))

    try:
        model = pull(
            options.uri,
            cache_dir=options.cache_dir,
            progress=say,
            pvc=claims,
            refresh=options.refresh,
            own_code=options.own_code,
        )
        if options.engine:
            conversion = engine(options.engine).conversion(model, options.cache_dir)
            if conversion is not None:
                run_conversion(conversion, options.cache_dir, say)
                if find_record(options.cache_dir, model.uri) is None:  # so that its converted form is listed
                    write_record(options.cache_dir, model, model.path, {})
    except IronloomError as error:
        say(error)
        return 1
    except BrokenPipeError:
        return 1  # nobody listens any more; what was fetched is kept
    say(model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
