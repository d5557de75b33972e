"""Reading and checking, fuzzed by what they run: inputs that reach new lines of Ironloom are kept and changed further.

    python bench/check/fuzz_coverage.py [--target documents|snapshots] [--max-s 60] [--corpus FOLDER] [--write]

Two targets: `documents` (YAML or Python: read, checked by all rules, reported) and `snapshots` (read, shown, checked
against). What changes the inputs is atheris (libFuzzer) where it is installed (`scripts/need_atheris`), mixed with
changes of whole values and lines; without it those alone, and no coverage. An input fails that ends in an exception
other than an IronloomError, in a rule that raises, or takes more than ten seconds or 2 GB.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "check")]

MAX_INPUT_S = 10
MAX_MIB = 2048
MAX_BYTES = 65_536
TARGETS = ("documents", "snapshots")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_COVERED = re.compile(r"cov: (\d+)")


def documents() -> tuple[Callable[[bytes], None], Iterable[bytes], Callable[[bytes, random.Random], bytes]]:
    """(what is done with an input, inputs to begin with, one change)."""
    from bench.check import mutate
    from fuzz import look, settings

    both = settings()

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        result = look(text, both[len(data) % 2], whole=len(data) % 16 < 2)
        if result.faults:
            raise RuntimeError(str(result.faults[0])) from result.faults[0].error

    def change(data: bytes, random_: random.Random) -> bytes:
        return next(mutate.mutated([data.decode("utf-8", "replace")], random_)).encode("utf-8", "replace")

    return run, [text.encode() for text in mutate.seeds()], change


def snapshots() -> tuple[Callable[[bytes], None], Iterable[bytes], Callable[[bytes, random.Random], bytes]]:
    """The same of snapshots, which are changed as a whole: objects, layout, bytes."""
    from bench.check import mutate_snapshots
    from fuzz_snapshots import Target

    target = Target()
    objects = [*mutate_snapshots.fleet_load.objects(2, 2), *target.seed[17:]]
    begin = random.Random(1)

    def run(data: bytes) -> None:
        target.file(data, target.examples[len(data) % len(target.examples) :][:1])

    def change(data: bytes, random_: random.Random) -> bytes:
        if random_.random() < 0.5:
            return mutate_snapshots.damaged(data, random_)
        return mutate_snapshots.laid_out(mutate_snapshots.changed(objects, random_), random_)

    return run, [mutate_snapshots.laid_out(objects, begin) for _ in range(12)], change


def by_mutations(name: str, max_s: float) -> dict[str, Any]:
    """Without coverage: changes of the inputs to begin with, for so many seconds. Raises what an input raises."""
    run, begin, change = globals()[name]()
    end_s = time.monotonic() + max_s
    for num_runs, data in enumerate(_without_end(list(begin), change, random.Random(1))):
        if time.monotonic() > end_s:
            return {"target": name, "engine": "mutations", "num_runs": num_runs}
        try:
            run(data)
        except Exception:
            print(f"the input was {data[:5000]!r}", file=sys.stderr)
            raise
    raise AssertionError


def _without_end(
    begin: list[bytes], change: Callable[[bytes, random.Random], bytes], random_: random.Random
) -> Iterator[bytes]:
    yield from begin
    while True:
        yield change(random_.choice(begin), random_)


def by_coverage(name: str, corpus: Path, max_s: float) -> dict[str, Any]:
    """In a process of its own, which libFuzzer ends. Raises RuntimeError with its last words where an input fails."""
    words = [sys.executable, __file__, "--child", name, str(corpus), f"-max_total_time={int(max_s)}"]
    words += [f"-timeout={MAX_INPUT_S}", f"-rss_limit_mb={MAX_MIB}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
    words.append(f"-artifact_prefix={corpus}/")
    done = subprocess.run(words, capture_output=True, text=True, check=False, errors="replace")
    ended = _DONE.search(done.stderr)
    if done.returncode or ended is None:
        raise RuntimeError((done.stdout + done.stderr)[-5000:])
    covered = [int(found) for found in _COVERED.findall(done.stderr)]
    return {
        "target": name,
        "engine": "atheris",
        "num_runs": int(ended[1]),
        "covered_at_start": covered[0] if covered else 0,
        "covered": max(covered, default=0),
        "num_kept": sum(1 for _ in corpus.iterdir()),
    }


def child(name: str, arguments: list[str]) -> None:
    """The process that libFuzzer runs in."""
    import atheris

    with atheris.instrument_imports(include=["ironloom.check", "ironloom.fleet", "ironloom.workload"]):
        run, begin, change = globals()[name]()
    corpus = Path(arguments[0])
    for number, data in enumerate(begin):
        (corpus / f"begin-{number}").write_bytes(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random_ = random.Random(seed)
        if random_.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return change(data, random_)[:max_size]

    atheris.Setup([sys.argv[0], *arguments], run, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append", help="both by default")
    parser.add_argument("--max-s", type=float, default=60, help="of each target, without its start")
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what reached new lines, for the next run")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.target or TARGETS:
            folder = (options.corpus or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            has_atheris = importlib.util.find_spec("atheris") is not None
            rows.append(by_coverage(name, folder, options.max_s) if has_atheris else by_mutations(name, options.max_s))
            print(rows[-1], flush=True)
    if options.write:
        import record

        print(record.write("check-fuzz-coverage", rows, distributions=["atheris", "pyyaml", "msgspec"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
