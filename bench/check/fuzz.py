"""`ironloom check` against documents changed at random: no exception, no rule that fails, none that takes a second.

    python bench/check/fuzz.py [--num 1000000] [--seed 1] [--write]

Each document is checked by all rules, half of them against a small fleet. Two processes share the work. Texts that are
made to be expensive (aliases of aliases, long lines, deep nesting) are checked once each, with their time and the
memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from mutate import is_script, mutated, seeds

from ironloom.check import registry, reports
from ironloom.check.engine import Result, Setting, check
from ironloom.check.inputs import read_texts
from ironloom.errors import IronloomError
from record import write

MAX_S = 1.0
"""Of the process's own CPU time, for one document."""
EXPENSIVE = {
    "aliases of aliases (a billion laughs)": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    + "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: *a11\n",
    "a line of 50 MB": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + "a" * 50_000_000 + "\n",
    "50 MB of small lines": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n" + "  k: v\n" * 8_000_000,
    "100,000 brackets": "a: " + "[" * 100_000,
    "3,000 levels": "".join(" " * i + "a:\n" for i in range(3_000)),
    "100,000 documents": "---\n" * 100_000 + "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
    "100,000 variables that multiply": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n"
    "  - name: a\n    image: a\n    env:\n"
    + "".join(f"    - {{name: A{i}, value: $(A{i - 1})$(A{i - 1})}}\n" for i in range(1, 100_000)),
    "a script of 100,000 brackets": "(" * 100_000,
    "a script of 20,000 additions": "x = " + "+".join(["1"] * 20_000),
}


def settings() -> tuple[Setting, ...]:
    """Without a fleet, and with one of the rules' own examples."""
    fleets = [rule.example_fleet() for rule in registry.load().values() if rule.example_fleet is not None]
    largest = max(fleets, key=lambda fleet: len(fleet.nodes), default=None)
    return Setting(), Setting(fleet=largest)


def look(text: str, setting: Setting, name: str = "") -> Result:
    """One text through reading, all rules and a report."""
    file = name or ("fuzz.py" if is_script(text) else "fuzz.yaml")
    result = check(read_texts({file: text}), tuple(registry.load().values()), setting)
    reports.render(result, "json")
    return result


def work(number: int, num: int, seed: int, queue: Any) -> None:
    random_ = random.Random(f"{seed}-{number}")
    both = settings()
    texts = mutated(seeds(), random_)
    counts: Counter[str] = Counter()
    slowest_s, bad = 0.0, []
    for done in range(num):
        text = next(texts)
        start_s = time.process_time()
        try:
            result = look(text, both[done % 2])
        except IronloomError as error:
            bad.append(("raised", repr(error), text))
        except Exception:
            bad.append(("exception", traceback.format_exc()[-1500:], text))
        else:
            counts.update({finding.rule for finding in result.findings})
            counts["unreadable" if result.is_unreadable else "readable"] += 1
            bad += [("rule failed", str(fault), text) for fault in result.faults]
        took_s = time.process_time() - start_s
        slowest_s = max(slowest_s, took_s)
        if took_s > MAX_S:
            bad.append(("slow", f"{took_s:.2f} s", text))
        if done % 2000 == 1999:
            queue.put(2000)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put({"counts": counts, "slowest_s": slowest_s, "bad": bad[:200], "peak_mib": peak_mib, "num": done + 1})


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    hazards = []
    for name in EXPENSIVE if options.num >= 100_000 else ():
        process = context.Process(target=expensive, args=(name, queue))
        process.start()
        hazards.append(queue.get(timeout=120))
        process.join()
        print(hazards[-1], flush=True)
    share = options.num // options.processes
    workers = [
        context.Process(target=work, args=(number, share, options.seed, queue)) for number in range(options.processes)
    ]
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
    results = {
        "num_documents": sum(one["num"] for one in ended),
        "seed": options.seed,
        "readable": counts.pop("readable", 0),
        "unreadable": counts.pop("unreadable", 0),
        "rules_that_spoke": len(counts),
        "num_rules": len(registry.load()),
        "slowest_cpu_s": round(max(one["slowest_s"] for one in ended), 3),
        "peak_mib": round(max(one["peak_mib"] for one in ended)),
        "exceptions": [{"kind": kind, "what": what, "text": text[:5000]} for kind, what, text in bad],
        "expensive": hazards,
    }
    for kind, what in sorted({(kind, what) for kind, what, _ in bad})[:20]:
        print(kind, what, file=sys.stderr)
    print({key: value for key, value in results.items() if key not in {"exceptions", "expensive"}})
    if options.write:
        print(write("check-fuzz", results, distributions=["pyyaml", "msgspec"], notes=[]))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
