"""`ironloom check` against documents changed at random: no exception, no rule that fails, none that takes a second.

    python bench/check/fuzz.py [--num 1000000] [--seed 1] [--processes 2] [--expensive] [--into FILE] [--write]
    python bench/check/fuzz.py --num 0 --into FILE --write

Each document is checked by all rules, half of them against a small fleet. Of one in eight every report is written, and
its fixes are put in: what they make must be readable. Texts that are made to be expensive (aliases of aliases, long
lines, deep nesting) are checked once each with `--expensive`, with their time and the memory of a process that does
nothing else.

A long run may be made of pieces, of one commit or of several: `--into` adds a run to a file, a line each, with its
commit, and `--write` sums up all that the file holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from minimise import minimised_text
from mutate import is_script, mutated, seeds

from ironloom.check import patches, registry, reports
from ironloom.check.engine import Result, Setting, check
from ironloom.check.inputs import read_texts
from ironloom.errors import IronloomError
from record import revision, write

MAX_S = 1.0
"""Of the process's own CPU time, for one document."""
HANG_S = 20.0
"""The same, after which a document is given up."""
WHOLE_EVERY = 8
"""Of so many documents one is reported in every format, and fixed."""
EXPENSIVE = {
    "aliases of aliases (a billion laughs)": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    + "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: *a11\n",
    "a line of 1.5 MB, which is read": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + "a" * 1_500_000 + "\n",
    "a line of 4 MB": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + "a" * 4_000_000 + "\n",
    "a line of 5 MB": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + "a" * 5_000_000 + "\n",
    "a line of 50 MB": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + "a" * 50_000_000 + "\n",
    "50 MB of small lines": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n" + "  k: v\n" * 8_000_000,
    "17 MB of small lines": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n"
    + "".join(f"  k{i}: v\n" for i in range(1_300_000)),
    "100,000 brackets": "a: " + "[" * 100_000,
    "3,000 levels": "".join(" " * i + "a:\n" for i in range(3_000)),
    "100,000 documents": "---\n" * 100_000 + "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
    "100,000 variables that multiply": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n"
    "  - name: a\n    image: a\n    env:\n"
    + "".join(f"    - {{name: A{i}, value: $(A{i - 1})$(A{i - 1})}}\n" for i in range(1, 100_000)),
    "5,000 variables that multiply, which are read": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n"
    "  containers:\n  - name: a\n    image: a\n    env:\n"
    + "".join(f"    - {{name: A{i}, value: $(A{i - 1})$(A{i - 1})}}\n" for i in range(1, 5_000)),
    "100 lists of 2,990 entries": "apiVersion: v1\nkind: ConfigMap\n"
    "metadata: {name: a}\ndata:\n" + "".join(f"  k{i}: [{','.join(['1'] * 2_990)}]\n" for i in range(100)),
    "21 lists of 3,000 entries, the most values that are read": "apiVersion: v1\nkind: ConfigMap\n"
    "metadata: {name: a}\ndata:\n" + "".join(f"  k{i}: [{','.join(['1'] * 3_000)}]\n" for i in range(21)),
    "1.5 MB in 63,000 values, the largest object that is read": "apiVersion: v1\nkind: ConfigMap\n"
    "metadata: {name: a}\ndata:\n"
    + "".join(f"  k{i}:\n" + "".join(f"    key{j}: a-longer-text\n" for j in range(2_995)) for i in range(21)),
    "a script of 100,000 brackets": "(" * 100_000,
    "a script of 20,000 additions": "x = " + "+".join(["1"] * 20_000),
}


def settings() -> tuple[Setting, ...]:
    """Without a fleet, and with one of the rules' own examples."""
    fleets = [rule.example_fleet() for rule in registry.load().values() if rule.example_fleet is not None]
    largest = max(fleets, key=lambda fleet: len(fleet.nodes), default=None)
    return Setting(), Setting(fleet=largest)


class Hang(BaseException):
    """A document took longer than HANG_S. No Exception: the engine takes those for a rule's."""


class Broken(Exception):
    """What the fixes of a document made is none."""


def look(text: str, setting: Setting, name: str = "", *, whole: bool = False) -> Result:
    """One text through reading, all rules and a report; `whole`: through every report and its fixes too."""
    file = name or ("fuzz.py" if is_script(text) else "fuzz.yaml")
    rules = tuple(registry.load().values())
    result = check(read_texts({file: text}), rules, setting)
    for output in reports.FORMATS if whole else ("json",):
        reports.render(result, output)
    if whole and not result.is_unreadable:
        for one in patches.fix(result.findings, result.texts, unsafe=True):
            after = check(read_texts({file: one.after}), rules, setting)
            if after.is_unreadable or after.faults or after.num_documents != result.num_documents:
                raise Broken(", ".join(finding.rule for finding in one.mended))
    return result


def trouble(text: str, setting: Setting, *, whole: bool) -> tuple[Result | None, list[tuple[str, str]]]:
    """What a text ends in, and what is wrong with that: its kind and what there is to say."""
    start_s = time.process_time()
    result, bad = None, []
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        result = look(text, setting, whole=whole)
        bad = [("rule failed", str(fault)) for fault in result.faults]
    except IronloomError as error:
        bad.append(("raised", repr(error)))
    except Broken as error:
        bad.append(("fix broke it", str(error)))
    except Hang:
        bad.append(("hang", f"over {HANG_S:.0f} s"))
    except Exception:
        bad.append(("exception", traceback.format_exc()[-1500:]))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took_s = time.process_time() - start_s
    if took_s > MAX_S and not bad:
        bad.append(("slow", f"{took_s:.2f} s"))
    return result, bad


def hang(_number: int, _frame: Any) -> None:
    raise Hang


def work(number: int, num: int, seed: int, queue: Any) -> None:
    signal.signal(signal.SIGVTALRM, hang)
    random_ = random.Random(f"{seed}-{number}")
    both = settings()
    texts = mutated(seeds(), random_)
    counts: Counter[str] = Counter()
    slowest_s = 0.0
    bad: list[tuple[str, str, str]] = []
    for done in range(num):
        text = next(texts)
        setting, whole = both[done % 2], done % (2 * WHOLE_EVERY) < 2
        start_s = time.process_time()
        result, wrong = trouble(text, setting, whole=whole)
        slowest_s = max(slowest_s, time.process_time() - start_s)
        if result is not None:
            counts.update({finding.rule for finding in result.findings})
            counts["unreadable" if result.is_unreadable else "readable"] += 1
        for kind, what in wrong:
            bad.append((kind, what, minimal(text, setting, kind, whole=whole) if len(bad) < 20 else text))
        if done % 2000 == 1999:
            queue.put(2000)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put({"counts": counts, "slowest_s": slowest_s, "bad": bad[:200], "peak_mib": peak_mib, "num": num})


def minimal(text: str, setting: Setting, kind: str, *, whole: bool) -> str:
    """The least of a text that fails in the same way; a slow one stays as it is."""
    if kind in ("slow", "hang"):
        return text
    return minimised_text(text, lambda less: kind in dict(trouble(less, setting, whole=whole)[1]))


def expensive(name: str, queue: Any) -> None:
    start_s = time.process_time()
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = look(EXPENSIVE[name], Setting(), "fuzz.py" if "script" in name else "fuzz.yaml")
    queue.put(
        {
            "name": name,
            "cpu_s": round(time.process_time() - start_s, 2),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib),
            "faults": [str(fault) for fault in said.faults],
            "first": said.findings[0].message[:200] if said.findings else "",
        }
    )


def run(num: int, seed: int, num_processes: int, *, with_expensive: bool) -> dict[str, Any]:
    """One run, as a piece of the results."""
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    hazards = []
    for name in EXPENSIVE if with_expensive else ():
        process = context.Process(target=expensive, args=(name, queue))
        process.start()
        hazards.append(queue.get(timeout=120))
        process.join()
        print(hazards[-1], flush=True)
    share = num // num_processes
    workers = [context.Process(target=work, args=(number, share, seed, queue)) for number in range(num_processes)]
    start_s = time.monotonic()
    for worker in workers:
        worker.start()
    ended: list[dict[str, Any]] = []
    done = 0
    while len(ended) < len(workers):
        message = queue.get(timeout=600)
        if isinstance(message, int):
            done += message
            if done % 20_000 == 0:
                print(f"{done:,} documents, {done / (time.monotonic() - start_s):.0f} a second", file=sys.stderr)
        else:
            ended.append(message)
    for worker in workers:
        worker.join()
    counts: Counter[str] = sum((one["counts"] for one in ended), Counter())
    bad = [row for one in ended for row in one["bad"]]
    for kind, what in sorted({(kind, what) for kind, what, _ in bad})[:20]:
        print(kind, what, file=sys.stderr)
    return {
        "commit": revision(),
        "seed": seed,
        "num_documents": sum(one["num"] for one in ended),
        "readable": counts.pop("readable", 0),
        "unreadable": counts.pop("unreadable", 0),
        "rules_that_spoke": sorted(counts),
        "num_rules": len(registry.load()),
        "slowest_cpu_s": round(max(one["slowest_s"] for one in ended), 3),
        "peak_mib": round(max(one["peak_mib"] for one in ended)),
        "exceptions": [{"kind": kind, "what": what, "text": text[:5000]} for kind, what, text in bad],
        "expensive": hazards,
    }


def summed(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a run as one, with what each commit was given."""
    commits: dict[str, dict[str, int]] = {}
    for piece in pieces:
        of = commits.setdefault(piece["commit"], {"num_documents": 0, "exceptions": 0})
        of["num_documents"] += piece["num_documents"]
        of["exceptions"] += len(piece["exceptions"])
    return {
        "num_documents": sum(piece["num_documents"] for piece in pieces),
        "readable": sum(piece["readable"] for piece in pieces),
        "unreadable": sum(piece["unreadable"] for piece in pieces),
        "rules_that_spoke": len({rule for piece in pieces for rule in piece["rules_that_spoke"]}),
        "num_rules": pieces[-1]["num_rules"],
        "slowest_cpu_s": max(piece["slowest_cpu_s"] for piece in pieces),
        "peak_mib": max(piece["peak_mib"] for piece in pieces),
        "commits": commits,
        "exceptions": [
            {"commit": piece["commit"], "seed": piece["seed"], **one} for piece in pieces for one in piece["exceptions"]
        ],
        "expensive": next((piece["expensive"] for piece in reversed(pieces) if piece["expensive"]), []),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1_000_000, help="0 runs nothing: what --into holds is summed up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--expensive", action="store_true", help="the texts that are made to be expensive too")
    parser.add_argument("--into", type=Path, help="add this run to a file of runs, a line each")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pieces = []
    if options.num or options.expensive:
        pieces = [run(options.num, options.seed, options.processes, with_expensive=options.expensive)]
    if options.into is not None:
        with options.into.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(piece) + "\n" for piece in pieces)
        pieces = [json.loads(line) for line in options.into.read_text(encoding="utf-8").splitlines()]
    results = summed(pieces)
    print({key: value for key, value in results.items() if key not in {"exceptions", "expensive"}})
    if options.write:
        print(write("check-fuzz", results, distributions=["pyyaml", "msgspec"], notes=[]))
    return int(bool(results["exceptions"]))


if __name__ == "__main__":
    sys.exit(main())
