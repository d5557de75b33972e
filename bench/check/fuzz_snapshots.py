"""Snapshots changed at random, read and checked against: each ends in a fleet or in a sentence.

    python bench/check/fuzz_snapshots.py [--num 20000] [--seed 1] [--into FILE] [--write]
    python bench/check/fuzz_snapshots.py --num 0 --into FILE --write

A snapshot that can be read is shown as table, picture and data, compared with the one that it was made of, and three of
the rules' examples are checked against it by all rules. Any exception that is no IronloomError is a failure, and so are
a rule that raises and a snapshot that takes two seconds; each is told with the fewest bytes found that still fail.

`--into` adds the run to a file of runs with its commit, and `--write` sums up all that the file holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from bench.check import mutate_snapshots
from bench.check.minimise import minimised

import record
from ironloom.check import registry, reports
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts
from ironloom.errors import IronloomError
from ironloom.fleet import diff, picture, table
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet
from ironloom.fleet.snapshot import read_snapshot
from ironloom.fleet.strip import strip
from ironloom.fleet.view import view

MAX_S = 2.0
"""Of the process's own CPU time, for one snapshot and what is done with it."""
HANG_S = 20.0


class Hang(BaseException):
    """It took longer than HANG_S."""


class RuleFailed(Exception):
    """A rule raised."""


class Target:
    """What is done with a snapshot."""

    def __init__(self) -> None:
        self.rules = tuple(registry.load().values())
        self.examples = [
            text
            for rule in self.rules
            if rule.needs_fleet or rule.example_fleet is not None
            for text in (rule.bad, rule.good)
            if "apiVersion:" in text
        ]
        self.seed = mutate_snapshots.objects()
        self.before = build_fleet(self.seed, name="before", source="the seed")
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "fleet.json"

    def close(self) -> None:
        self._folder.cleanup()

    def file(self, data: bytes, examples: list[str]) -> bool:
        """A file of these bytes read, shown and checked against. False where it ended in a sentence."""
        self._path.write_bytes(data)
        try:
            fleet = read_snapshot([self._path])
        except IronloomError as error:
            error.render()
            return False
        finally:
            gc.unfreeze()  # what read_snapshot keeps from being collected would pile up here
        self._show(fleet)
        self._check(fleet, examples)
        return True

    def hand(self, found: list[Any]) -> bool:
        """The same objects without a file, stripped and as they are: what a live cluster's reader does."""
        objects = [one for one in found if isinstance(one, dict)]
        try:
            for one in objects:
                strip(one)
            build_fleet(objects, name="x", source="y")
        except IronloomError as error:
            error.render()
            return False
        return True

    def _show(self, fleet: Fleet) -> None:
        table.render(fleet, wide=True)
        picture.render(fleet)
        json.dumps(view(fleet))
        diff.render(diff.diff(self.before, fleet))

    def _check(self, fleet: Fleet, examples: list[str]) -> None:
        texts = {f"{number}.yaml": text for number, text in enumerate(examples)}
        result = check(read_texts(texts), self.rules, Setting(fleet=fleet))
        reports.render(result, "text")
        if result.faults:
            raise RuleFailed(f"{result.faults[0]}") from result.faults[0].error


def failure(target: Target, found: list[Any], data: bytes, examples: list[str], counts: Counter[str]) -> str:
    """What is wrong with what becomes of a snapshot; empty for nothing."""
    start_s = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        counts["read" if target.file(data, examples) else "refused"] += 1
        target.hand(found)
    except Hang:
        return f"over {HANG_S:.0f} s"
    except Exception as error:
        where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
        return (
            f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno} in {where.name}: {str(error)[:300]}"
        )
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took_s = time.process_time() - start_s
    return f"slow: {took_s:.1f} s" if took_s > MAX_S else ""


def minimal(target: Target, found: list[Any], data: bytes, examples: list[str], said: str) -> tuple[Any, str]:
    """The fewest objects, else the fewest lines of the file, that fail at the same place."""
    where = said.partition(": ")[0]

    def fails(objects: list[Any], some: bytes) -> bool:
        return failure(target, objects, some, examples, Counter()).startswith(where)

    if fails([], data):
        parts = data.split(b"\n") if data.count(b"\n") > 3 else [data[at : at + 1] for at in range(len(data))]
        joint = b"\n" if data.count(b"\n") > 3 else b""
        left = minimised(parts, lambda some: fails([], joint.join(some)))
        return None, joint.join(left)[:20_000].decode("utf-8", "backslashreplace")
    return minimised(found, lambda some: fails(list(some), b"")), ""


def run(num: int, seed: int) -> dict[str, Any]:
    """One run, as a piece of the results."""
    signal.signal(signal.SIGVTALRM, _hang)
    random_ = random.Random(seed)
    target = Target()
    counts: Counter[str] = Counter()
    bad: dict[str, dict[str, Any]] = {}
    slowest_s, start_s = 0.0, time.monotonic()
    snapshots = mutate_snapshots.mutated(target.seed, random_)
    for done in range(num):
        found, data = next(snapshots)
        examples = random_.sample(target.examples, 3)
        begin_s = time.process_time()
        said = failure(target, found, data, examples, counts)
        slowest_s = max(slowest_s, time.process_time() - begin_s)
        if said:
            counts["failures"] += 1
            where = said.partition(": ")[0]
            if where not in bad:
                objects, text = minimal(target, found, data, examples, said)
                bad[where] = {"what": said, "objects": repr(objects)[:20_000], "text": text, "examples": examples}
                print(said, file=sys.stderr, flush=True)
        if done % 2000 == 1999:
            print(f"{done + 1:,} snapshots, {(done + 1) / (time.monotonic() - start_s):.0f} a second", file=sys.stderr)
    target.close()
    return {
        "commit": record.revision(),
        "seed": seed,
        "num_snapshots": num,
        "read": counts["read"],
        "refused": counts["refused"],
        "num_failures": counts["failures"],
        "failures": list(bad.values()),
        "slowest_cpu_s": round(slowest_s, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _hang(_number: int, _frame: Any) -> None:
    raise Hang


def summed(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a run as one, with what each commit was given."""
    commits: dict[str, dict[str, int]] = {}
    for piece in pieces:
        of = commits.setdefault(piece["commit"], {"num_snapshots": 0, "num_failures": 0})
        for key in of:
            of[key] += piece[key]
    return {
        **{key: sum(piece[key] for piece in pieces) for key in ("num_snapshots", "read", "refused", "num_failures")},
        **{key: max(piece[key] for piece in pieces) for key in ("slowest_cpu_s", "peak_mib")},
        "commits": commits,
        "failures": [{"commit": piece["commit"], **one} for piece in pieces for one in piece["failures"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=20_000, help="0 runs nothing: what --into holds is summed up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, help="add this run to a file of runs, a line each")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pieces = [run(options.num, options.seed)] if options.num else []
    if options.into is not None:
        with options.into.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(piece) + "\n" for piece in pieces)
        pieces = [json.loads(line) for line in options.into.read_text(encoding="utf-8").splitlines()]
    results = summed(pieces)
    print({key: value for key, value in results.items() if key != "failures"})
    if options.write:
        print(record.write("check-fuzz-snapshots", results, distributions=["pyyaml", "msgspec"]))
    return int(bool(results["num_failures"]))


if __name__ == "__main__":
    sys.exit(main())
